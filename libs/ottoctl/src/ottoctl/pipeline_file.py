"""Pipeline files: YAML in, a PipelineRequest out, or every mistake with its line.

A file is a list of jobs, as otto-front writes them, or a mapping with the pipeline's own fields and the jobs under `stages` or `jobs`.
Scalars are taken as they are written (`1.10`, `true`, `on` stay what they are), which is why the file is read as nodes and never as values.
"""

from __future__ import annotations  # ValueType exists in the generated stubs only

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import yaml

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageType

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
DEFAULT_TIMEOUT_SECONDS = 600
"""What otto-handler's converter uses when a job names none."""
TYPE_WORDS = (
    # Not "approv…": that type waits for somebody, and a name should not stop a pipeline.
    ("test", StageType.STAGE_TYPE_TEST),
    ("lint", StageType.STAGE_TYPE_TEST),
    ("build", StageType.STAGE_TYPE_BUILD),
    ("deploy", StageType.STAGE_TYPE_DEPLOY),
    ("setup", StageType.STAGE_TYPE_SETUP),
    ("install", StageType.STAGE_TYPE_SETUP),
    ("clean", StageType.STAGE_TYPE_CLEANUP),
    ("notify", StageType.STAGE_TYPE_NOTIFY),
)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """Something wrong in a file, at a line and a column, both from 1."""

    line: int
    column: int
    text: str


class PipelineFileError(Exception):
    """The file can't be taken. `mistakes` has all that is wrong, in the order of the file."""

    def __init__(self, name: str, mistakes: list[Mistake]) -> None:
        self.mistakes = sorted(mistakes)
        super().__init__("\n".join(f"{name}:{m.line}:{m.column}: {m.text}" for m in self.mistakes))


Node = yaml.Node


class _Reader:
    """Collects mistakes while it reads; what can't be read is left out, so that one run finds them all."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def wrong(self, node: Node, text: str) -> None:
        self.mistakes.append(Mistake(node.start_mark.line + 1, node.start_mark.column + 1, text))

    def text(self, node: Node, what: str) -> str:
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        self.wrong(node, f"{what} has to be a text, not a {kind_of(node)}")
        return ""

    def number(self, node: Node, what: str, low: int, high: int) -> int:
        value = self.text(node, what)
        try:
            number = int(value)
        except ValueError:
            if value or isinstance(node, yaml.ScalarNode):
                self.wrong(node, f"{what} has to be a whole number, not {value[:40]!r}")
            return low
        if not low <= number <= high:
            self.wrong(node, f"{what} has to be from {low} to {high}, not {number}")
            return low
        return number

    def decimal(self, node: Node, what: str, low: float, high: float) -> float:
        value = self.text(node, what)
        try:
            number = float(value)
        except ValueError:
            if value or isinstance(node, yaml.ScalarNode):
                self.wrong(node, f"{what} has to be a number, not {value[:40]!r}")
            return low
        if not low <= number <= high:
            self.wrong(node, f"{what} has to be from {low:g} to {high:g}, not {number:g}")
            return low
        return number

    def boolean(self, node: Node, what: str) -> bool:
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


def guessed_type(name: str) -> StageType.ValueType:
    """What a stage is for, by words in its name; only displays depend on it."""
    lowered = name.lower()
    return next((kind for word, kind in TYPE_WORDS if word in lowered), StageType.STAGE_TYPE_CUSTOM)


@dataclass(slots=True)
class _Job:
    """A job that is being read, and where its parts stand."""

    stage: PipelineStage
    node: Node
    needs: list[tuple[str, Node]]


class _JobReader(_Reader):
    def job(self, node: Node) -> _Job | None:
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"a job has to be a mapping like {{name: build, commands: make}}, not a {kind_of(node)}")
            return None
        stage = PipelineStage(worker_count=1, timeout_seconds=DEFAULT_TIMEOUT_SECONDS)
        job = _Job(stage, node, [])
        entries = self.mapping(
            node,
            "a job",
            {
                "name": lambda n: _set(stage, "name", self.text(n, "name")),
                "id": lambda n: _set(stage, "stage_id", self.text(n, "id")),
                "type": lambda n: self._type(stage, n),
                "image": lambda n: _set(stage, "image", self.text(n, "image")),
                "commands": lambda n: self._commands(stage, n),
                "dependencies": lambda n: job.needs.extend(self.texts(n, "dependencies")),
                "worker_count": lambda n: _set(stage, "worker_count", self.number(n, "worker_count", 1, 1_000_000)),
                "timeout": lambda n: _set(stage, "timeout_seconds", self.number(n, "timeout (seconds)", 1, 2**31 - 1)),
                "config": lambda n: self._config(stage, n),
                "retry": lambda n: self._retry(stage, n),
            },
        )
        name = stage.stage_id or stage.name
        if not name.strip():
            self.wrong(entries.get("name", node), "a job needs a name")
        stage.stage_id, stage.name = name, stage.name or name
        if "type" not in entries:
            stage.type = guessed_type(name)
        return job

    def _type(self, stage: PipelineStage, node: Node) -> None:
        word = self.text(node, "type")
        try:
            stage.type = StageType.Value(f"STAGE_TYPE_{word.upper()}")
        except ValueError:
            words = ", ".join(
                sorted(n.removeprefix("STAGE_TYPE_").lower() for n in StageType.DESCRIPTOR.values_by_name if "UNSPECIFIED" not in n)
            )
            self.wrong(node, f"type {word[:40]!r} is not one of {words}")

    def _commands(self, stage: PipelineStage, node: Node) -> None:
        script = "\n".join(line for line, _ in self.texts(node, "commands"))
        stage.command[:], stage.args[:] = ["sh", "-c"], [script]

    def _config(self, stage: PipelineStage, node: Node) -> None:
        for key, value in self.mapping(node, "config").items():
            if not key.startswith("retry."):
                stage.config[key] = self.config_value(value)
                continue
            known = self._retry_keys(stage.retry_policy)
            read = known.get(key.removeprefix("retry."))
            if read is not None:
                read(value)
            else:
                self.wrong(value, f"config has no {key!r}; it has {', '.join(f'retry.{name}' for name in known)}")

    def _retry(self, stage: PipelineStage, node: Node) -> None:
        self.mapping(node, "retry", self._retry_keys(stage.retry_policy))

    def _retry_keys(self, policy: RetryPolicy) -> dict[str, Callable[[Node], None]]:
        return {
            "maxAttempts": lambda n: _set(policy, "max_attempts", self.number(n, "maxAttempts", 0, 1000)),
            "delaySeconds": lambda n: _set(policy, "retry_delay_seconds", self.number(n, "delaySeconds", 0, 86_400)),
            "retryableFailures": lambda n: self._failures(policy, n),
            "backoffMultiplier": lambda n: _set(policy, "backoff_multiplier", self.decimal(n, "backoffMultiplier", 1, 100)),
            "maxDelaySeconds": lambda n: _set(policy, "max_delay_seconds", self.number(n, "maxDelaySeconds", 1, 86_400)),
            "jitter": lambda n: _set(policy, "jitter", self.decimal(n, "jitter", 0, 1)),
        }

    def _failures(self, policy: RetryPolicy, node: Node) -> None:
        for text, _ in self.texts(node, "retryableFailures"):
            policy.retryable_failures.extend(word.strip() for word in text.split(",") if word.strip())


def _set(message: PipelineStage | RetryPolicy | PipelineRequest, name: str, value: object) -> None:
    setattr(message, name, value)


def load(path: Path) -> PipelineRequest:
    """The request that a pipeline file stands for, without an id unless it names one.

    Raises PipelineFileError with every mistake, OSError when the file can't be read.
    """
    name = str(path)
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PipelineFileError(name, [Mistake(1, 1, f"the file is larger than {MAX_BYTES} bytes")])
    return parse(content, name)


def parse(content: bytes, name: str) -> PipelineRequest:
    """As `load`, from the file's content; `name` is what messages call it."""
    try:
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PipelineFileError(name, [Mistake(line, 1, "the file is not UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise PipelineFileError(name, [Mistake(*where, f"no valid YAML: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise PipelineFileError(name, [Mistake(1, 1, f"no valid YAML: {type(error).__name__}")]) from None
    reader = _JobReader()
    request = PipelineRequest()
    if root is None:
        raise PipelineFileError(name, [Mistake(1, 1, "the file is empty; a pipeline is a list of jobs")])
    if too_deep_or_shared(root):
        raise PipelineFileError(name, [Mistake(1, 1, f"aliases, or more than {MAX_DEPTH} levels of nesting, are not taken")])
    jobs_node: Node | None = root
    if isinstance(root, yaml.MappingNode):
        jobs_node = _header(reader, root, request)
    jobs = []
    if isinstance(jobs_node, yaml.SequenceNode):
        jobs = [job for job in map(reader.job, jobs_node.value) if job is not None]
        if not jobs_node.value:
            reader.wrong(jobs_node, "a pipeline needs at least one job")
    elif jobs_node is not None:
        reader.wrong(jobs_node, f"a pipeline is a list of jobs, not a {kind_of(jobs_node)}")
    _check_graph(reader, jobs)
    if reader.mistakes:
        raise PipelineFileError(name, reader.mistakes)
    for job in jobs:
        job.stage.depends_on[:] = [need for need, _ in job.needs]
    request.stages.extend(job.stage for job in jobs)
    return request


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


def _header(reader: _JobReader, root: Node, request: PipelineRequest) -> Node | None:
    jobs: list[Node] = []

    def metadata(node: Node) -> None:
        for key, value in reader.mapping(node, "metadata").items():
            request.metadata[key] = reader.config_value(value)

    reader.mapping(
        root,
        "a pipeline",
        {
            "id": lambda n: _set(request, "pipeline_id", reader.text(n, "id")),
            "name": lambda n: _set(request, "name", reader.text(n, "name")),
            "repository": lambda n: _set(request, "repository", reader.text(n, "repository")),
            "commit": lambda n: _set(request, "commit_sha", reader.text(n, "commit")),
            "metadata": metadata,
            "stages": jobs.append,
            "jobs": jobs.append,
        },
    )
    if len(jobs) != 1:
        reader.wrong(
            root, "a pipeline needs its jobs, a list under `stages`" if not jobs else "`stages` and `jobs` mean the same: keep one"
        )
        return None
    return jobs[0]


def _check_graph(reader: _JobReader, jobs: list[_Job]) -> None:
    by_id: dict[str, _Job] = {}
    for job in jobs:
        name = job.stage.stage_id
        if name and name in by_id:
            reader.wrong(job.node, f"there is a job named {name!r} already, in line {by_id[name].node.start_mark.line + 1}")
        by_id.setdefault(name, job)
    for job in jobs:
        for need, node in job.needs:
            if need not in by_id:
                near = difflib.get_close_matches(need, by_id, n=1)
                reader.wrong(node, f"there is no job named {need!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if path := cycle({name: [need for need, _ in job.needs if need in by_id] for name, job in by_id.items()}):
        reader.wrong(by_id[path[0]].node, "these jobs wait for each other: " + " → ".join(path))


def cycle(needs: dict[str, list[str]]) -> list[str]:
    """A path of jobs that ends where it began, or nothing."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []
