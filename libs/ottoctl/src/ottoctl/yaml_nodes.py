"""YAML as nodes with their places: what stands where, and what is wrong with it, with its line and column."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import yaml

MAX_DEPTH = 20
Node = yaml.Node
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """Something wrong in a file, at a line and a column, both from 1."""

    line: int
    column: int
    text: str


def composed(content: bytes) -> Node | Mistake:
    """The root of a YAML text, or why there is none."""
    try:
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        return Mistake(content[: error.start].count(b"\n") + 1, 1, "the file is not UTF-8")
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or ""
        mark = error.problem_mark or error.context_mark
        if error.context_mark is not None and ("unexpected end of stream" in problem or "<stream end>" in problem):
            # What is not closed is noticed at the end of the file; what has to be mended is where it began.
            mark, problem = error.context_mark, f"{error.context}: it is never closed"
        elif error.context_mark is not None and mark is not None and error.context_mark.line != mark.line:
            problem += f" (in what begins in line {error.context_mark.line + 1})"
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return Mistake(*where, f"no valid YAML: {problem}")
    except (yaml.YAMLError, RecursionError) as error:
        return Mistake(1, 1, f"no valid YAML: {type(error).__name__}")
    if root is None:
        return Mistake(1, 1, "the file is empty; a pipeline is a list of jobs")
    if too_deep_or_shared(root):
        return Mistake(1, 1, f"aliases, or more than {MAX_DEPTH} levels of nesting, are not taken")
    return root


def too_deep_or_shared(root: Node) -> bool:
    """Whether a node is used twice (an alias: a way to make a small file huge) or lies too deep."""
    seen: set[int] = set()
    pending = [(root, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH or id(node) in seen:
            return True
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += [(item, depth + 1) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            pending += [(part, depth + 1) for pair in node.value for part in pair]
    return False


class Reader:
    """Collects mistakes while it reads; what can't be read is left out, so that one run finds them all."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def wrong(self, node: Node, text: str) -> None:
        """Notes a mistake where the node stands."""
        self.mistakes.append(Mistake(node.start_mark.line + 1, node.start_mark.column + 1, text))

    def text(self, node: Node, what: str) -> str:
        """A scalar as it is written."""
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        self.wrong(node, f"{what} has to be a text, not a {kind_of(node)}")
        return ""

    def number(self, node: Node, what: str, low: int, high: int) -> int:
        """A whole number within limits; `low` if it is none."""
        return self._bounded(node, what, int, "a whole number", "d", low, high)

    def decimal(self, node: Node, what: str, low: float, high: float) -> float:
        """A number within limits; `low` if it is none."""
        return self._bounded(node, what, float, "a number", "g", low, high)

    def _bounded(self, node: Node, what: str, read: Callable[[str], N], kind: str, form: str, low: N, high: N) -> N:
        value = self.text(node, what)
        try:
            number = read(value)
        except ValueError:
            if value or isinstance(node, yaml.ScalarNode):
                self.wrong(node, f"{what} has to be {kind}, not {value[:40]!r}")
            return low
        if not low <= number <= high:
            self.wrong(node, f"{what} has to be from {low:{form}} to {high:{form}}, not {number:{form}}")
            return low
        return number

    def boolean(self, node: Node, what: str) -> bool:
        """True or false."""
        value = self.text(node, what).lower()
        if value not in {"true", "false"}:
            self.wrong(node, f"{what} has to be true or false, not {value[:40]!r}")
        return value == "true"

    def texts(self, node: Node, what: str) -> list[tuple[str, Node]]:
        """A list of texts, or one text."""
        if isinstance(node, yaml.SequenceNode):
            return [(self.text(item, f"each of {what}"), item) for item in node.value]
        return [(self.text(node, what), node)]

    def mapping(self, node: Node, what: str, known: dict[str, Callable[[Node], None]] | None = None) -> dict[str, Node]:
        """The entries of a mapping by key; with `known`, each is given to its reader and other keys are mistakes."""
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"{what} has to be a mapping, not a {kind_of(node)}")
            return {}
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = self.text(key_node, f"a key of {what}")
            if key in found:
                self.wrong(key_node, f"{key!r} stands twice in {what}")
            found[key] = value_node
            if known is None:
                continue
            if key in known:
                known[key](value_node)
            else:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; {what} has: {', '.join(sorted(known))}"
                self.wrong(key_node, f"{what} has no {key!r}{hint}")
        return found

    def plain(self, node: Node) -> object:
        """A node as a JSON value: lists and mappings as such, scalars by YAML's core types."""
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return {self.text(k, "a key"): self.plain(v) for k, v in node.value}
        if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() in {"true", "false"}:
            return bool(node.value.lower() == "true")
        if node.tag == "tag:yaml.org,2002:null":
            return None
        if node.tag in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}:
            try:
                return json.loads(node.value)
            except ValueError:
                return str(node.value)
        return str(node.value)

    def config_value(self, node: Node) -> str:
        """A config value as it goes over the wire: a scalar verbatim, anything else as JSON text."""
        return str(node.value) if isinstance(node, yaml.ScalarNode) else json.dumps(self.plain(node), ensure_ascii=False)


def kind_of(node: Node) -> str:
    """A node's kind in words."""
    return "list" if isinstance(node, yaml.SequenceNode) else "mapping" if isinstance(node, yaml.MappingNode) else "text"
