"""A graph as text for people: a row a stage, by steps, so that wide ones and deep ones fit a terminal alike."""

import unicodedata
from collections.abc import Iterator

from ottoctl.graph import Graph, Node
from ottoctl.progress import duration, status_word
from ottoscaler.v1.stage_pb2 import StageStatus

SYMBOLS = {
    StageStatus.STAGE_PENDING: "·",
    StageStatus.STAGE_RUNNING: "▶",
    StageStatus.STAGE_COMPLETED: "✔",
    StageStatus.STAGE_FAILED: "✘",
    StageStatus.STAGE_CANCELLED: "■",
    StageStatus.STAGE_SKIPPED: "↷",
    StageStatus.STAGE_RETRYING: "↻",
}
NAME_CELLS = 36
"""A longer name takes a row of its own, so that one does not push all others to the right."""


def rows(graph: Graph, width: int) -> Iterator[str]:
    """The lines, none wider than `width` cells unless a single word is."""
    steps = graph.steps()
    count = len(graph.nodes)
    yield f"{graph.title}: {count} stage{'s' * (count != 1)} in {len(steps)} step{'s' * (len(steps) != 1)}"
    names = {node.stage_id: _name(node) for node in graph.nodes}
    column = min(NAME_CELLS, max((cells(_label(node)) for node in graph.nodes), default=0))
    margin = len(str(len(steps)))
    for number, step in enumerate(steps, start=1):
        yield ""
        for index, node in enumerate(step):
            rail = "─" if len(step) == 1 else "┬" if index == 0 else "├" if index < len(step) - 1 else "└"
            after = "│" if len(step) - 1 - index > 0 else " "
            begin = f"{number if index == 0 else '':>{margin}} {rail} {_symbol(node)} "
            hang = f"{'':>{margin}} {after}   "
            yield from _row(node, begin, hang, column, width, _needs(node, steps, number, names))


def _row(node: Node, begin: str, hang: str, column: int, width: int, needs: str) -> Iterator[str]:
    label = _label(node)
    remarks = [*_state(node), *([needs] if needs else []), *node.remarks()]
    if not remarks:
        yield begin + label
        return
    line = begin + padded(label, column)
    if cells(label) > column:
        yield begin + label
        line = hang + " " * column
    if width - cells(hang) - column < 24:  # a narrow terminal: what is to be said goes below the name
        if line.startswith(begin):
            yield begin + label
        column = 0
        line = hang
    told = " · ".join(remarks)
    room = width - cells(hang) - column - 2
    for part in _folded(told, max(20, room)):
        yield f"{line}  {part}".rstrip()
        line = hang + " " * column


def _label(node: Node) -> str:
    return _name(node) + (f" ×{node.workers}" if node.workers > 1 else "")


def _name(node: Node) -> str:
    return node.name.replace("\n", "↵")


def _symbol(node: Node) -> str:
    if node.status is not None:
        return SYMBOLS.get(node.status, "?")
    return "◇" if node.approval else "○"


def _state(node: Node) -> list[str]:
    if node.status is None:
        return []
    took = f" in {duration(node.seconds)}" if node.seconds is not None and node.attempt else ""
    attempt = f" (attempt {node.attempt})" if node.attempt > 1 else ""
    return [status_word(node.status).lower() + took + attempt]


def _needs(node: Node, steps: list[list[Node]], number: int, names: dict[str, str]) -> str:
    """Who it waits for; a whole step by its number where that says the same shorter."""
    left = list(node.needs)
    told = []
    for earlier, step in enumerate(steps[: number - 1], start=1):
        ids = [one.stage_id for one in step]
        if len(ids) > 2 and set(ids) <= set(left):
            left = [need for need in left if need not in ids]
            told.append(f"all of {earlier}")
    told += [names.get(need, need) for need in left]
    return f"after {', '.join(told)}" if told else ""


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) == "Cf" else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def padded(text: str, width: int) -> str:
    """The text with spaces up to a width in columns."""
    return text + " " * (width - cells(text))


def _folded(text: str, width: int) -> Iterator[str]:
    """The text in lines of at most `width` columns, broken at spaces."""
    line = ""
    for word in text.split(" "):
        if line and cells(line) + 1 + cells(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line
