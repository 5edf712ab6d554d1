"""Pipeline files: YAML in, a PipelineRequest out, or every mistake with its line.

A file is a list of jobs, as otto-front writes them, or a mapping with the pipeline's own fields and the jobs under `stages` or `jobs`.
Scalars are taken as they are written (`1.10`, `true`, `on` stay what they are), which is why the file is read as nodes and never as values.
"""

from __future__ import annotations  # ValueType exists in the generated stubs only

import difflib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import yaml

from ottoctl.yaml_nodes import Mistake, Node, Reader, composed, kind_of
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageType

MAX_BYTES = 1_000_000
CHECKOUT = "otto.checkout"
"""The stage that a repository brings: a job may wait for it by this name."""
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


class PipelineFileError(Exception):
    """The file can't be taken. `mistakes` has all that is wrong, in the order of the file."""

    def __init__(self, name: str, mistakes: list[Mistake]) -> None:
        self.mistakes = sorted(mistakes)
        super().__init__("\n".join(f"{name}:{m.line}:{m.column}: {m.text}" for m in self.mistakes))


def guessed_type(name: str) -> StageType.ValueType:
    """What a stage is for, by words in its name; only displays depend on it."""
    lowered = name.lower()
    return next((kind for word, kind in TYPE_WORDS if word in lowered), StageType.STAGE_TYPE_CUSTOM)


_FIELDS = {
    "name": ("name",),
    "id": ("stage_id",),
    "type": ("type",),
    "image": ("image",),
    "commands": ("command", "args"),
    "dependencies": ("depends_on",),
    "worker_count": ("worker_count",),
    "timeout": ("timeout_seconds",),
    "config": ("config",),
    "retry": ("retry_policy",),
}
"""The request's fields that come from a key of a job."""
_RETRY_FIELDS = {
    "maxAttempts": "max_attempts",
    "delaySeconds": "retry_delay_seconds",
    "retryableFailures": "retryable_failures",
    "backoffMultiplier": "backoff_multiplier",
    "maxDelaySeconds": "max_delay_seconds",
    "jitter": "jitter",
}


@dataclass(slots=True)
class _Job:
    """A job that is being read, and where its parts stand."""

    stage: PipelineStage
    node: Node
    needs: list[tuple[str, Node]]


class _JobReader(Reader):
    """Reads jobs, and notes where each field of the request stands."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, tuple[int, int]] = {}
        self._where = ""

    def at(self, path: str, node: Node) -> None:
        """Notes where a field of the request stands."""
        self.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)

    def job(self, node: Node, where: str) -> _Job | None:
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, f"a job has to be a mapping like {{name: build, commands: make}}, not a {kind_of(node)}")
            return None
        stage = PipelineStage(worker_count=1, timeout_seconds=DEFAULT_TIMEOUT_SECONDS)
        job = _Job(stage, node, [])
        self._where = where
        self.at(where, node)
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
        for key, value in entries.items():
            for part in _FIELDS.get(key, ()):
                self.at(f"{where}.{part}", value)
        if "id" not in entries and "name" in entries:
            self.at(f"{where}.stage_id", entries["name"])
        waits = stage.type == StageType.STAGE_TYPE_APPROVAL or "otto.approvers" in stage.config
        if waits and "timeout" not in entries:
            stage.timeout_seconds = 0  # the service's own default: for an approval a day
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
        # With -e, as other CI systems do: a command that fails ends its script, so that no later one hides it.
        stage.command[:], stage.args[:] = ["sh", "-e", "-c"], [script]

    def _config(self, stage: PipelineStage, node: Node) -> None:
        for key, value in self.mapping(node, "config").items():
            if not key.startswith("retry."):
                self.at(f'{self._where}.config["{key}"]', value)
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
        known = self._retry_readers(policy)

        def placed(key: str) -> Callable[[Node], None]:
            def read(node: Node) -> None:
                self.at(f"{self._where}.retry_policy.{_RETRY_FIELDS[key]}", node)
                known[key](node)

            return read

        return {key: placed(key) for key in known}

    def _retry_readers(self, policy: RetryPolicy) -> dict[str, Callable[[Node], None]]:
        return {
            "maxAttempts": lambda n: _set(policy, "max_attempts", self.number(n, "maxAttempts", 0, 1000)),
            "delaySeconds": lambda n: _set(policy, "retry_delay_seconds", self.number(n, "delaySeconds", 0, 86_400)),
            "retryableFailures": lambda n: self._failures(policy, n),
            "backoffMultiplier": lambda n: _set(policy, "backoff_multiplier", self.decimal(n, "backoffMultiplier", 1, 100)),
            "maxDelaySeconds": lambda n: _set(policy, "max_delay_seconds", self.number(n, "maxDelaySeconds", 1, 86_400)),
            "jitter": lambda n: _set(policy, "jitter", self.decimal(n, "jitter", 0, 1)),
        }

    def _failures(self, policy: RetryPolicy, node: Node) -> None:
        for text, where in self.texts(node, "retryableFailures"):
            for word in filter(None, map(str.strip, text.split(","))):
                self.at(f"{self._where}.retry_policy.retryable_failures[{len(policy.retryable_failures)}]", where)
                policy.retryable_failures.append(word)


def _set(message: PipelineStage | RetryPolicy | PipelineRequest, name: str, value: object) -> None:
    setattr(message, name, value)


@dataclass(slots=True)
class PipelineFile:
    """A file as it was read: the request that it stands for, all that is wrong with it, and where each part of the request stands."""

    name: str
    """What messages call it."""
    stem: str
    """What runs of it are named after."""
    request: PipelineRequest = field(default_factory=PipelineRequest)
    mistakes: list[Mistake] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Line and column by the field of the request, as the service names fields."""
    elsewhere: set[str] = field(default_factory=set)
    """Fields that were not taken from the file but given on the command line."""

    def whole(self) -> PipelineFile:
        """Itself. Raises PipelineFileError if anything is wrong with it."""
        if self.mistakes:
            raise PipelineFileError(self.name, self.mistakes)
        return self

    def place(self, path: str) -> tuple[int, int] | None:
        """Where a field stands, or what it is part of; None if it does not come from the file."""
        while path:
            if path in self.elsewhere:
                return None
            if path in self.places:
                return self.places[path]
            path = _PART.sub("", path)
        return self.places.get("", (1, 1))


_PART = re.compile(r"""(?:\["(?:[^\\]|\\.)*"\]|\[\d+\]|\.?[^.\[\]]*)$""", re.DOTALL)
"""The last part of a field's path: `["key"]`, `[0]` or `.name`."""


def load(path: Path) -> PipelineFile:
    """A pipeline file without mistakes; its request has no id unless the file names one.

    Raises PipelineFileError with every mistake, OSError when the file can't be read.
    """
    return read(path).whole()


def read(path: Path) -> PipelineFile:
    """As `load`, but mistakes are in the answer; what they are about is left out of the request. `-` is standard input."""
    if str(path) == "-":
        name, stem, content = "standard input", "stdin", sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        name, stem = str(path), path.stem
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return PipelineFile(name, stem, mistakes=[Mistake(1, 1, f"the file is larger than {MAX_BYTES} bytes")])
    return read_text(content, name, stem)


def parse(content: bytes, name: str) -> PipelineRequest:
    """The request of a file's content; raises PipelineFileError. `name` is what messages call it."""
    return read_text(content, name, name).whole().request


def read_text(content: bytes, name: str, stem: str) -> PipelineFile:
    """As `read`, from a file's content."""
    root = composed(content)
    if isinstance(root, Mistake):
        return PipelineFile(name, stem, mistakes=[root])
    reader = _JobReader()
    request = PipelineRequest()
    jobs_node: Node | None = root
    if isinstance(root, yaml.MappingNode):
        jobs_node = _header(reader, root, request)
    jobs: list[_Job] = []
    if isinstance(jobs_node, yaml.SequenceNode):
        reader.at("stages", jobs_node)
        for node in jobs_node.value:
            if (job := reader.job(node, f"stages[{len(jobs)}]")) is not None:
                jobs.append(job)
        if not jobs_node.value:
            reader.wrong(jobs_node, "a pipeline needs at least one job")
    elif jobs_node is not None:
        reader.wrong(jobs_node, f"a pipeline is a list of jobs, not a {kind_of(jobs_node)}")
    _check_graph(reader, jobs)
    for number, job in enumerate(jobs):
        job.stage.depends_on[:] = [need for need, _ in job.needs]
        for place, (_, node) in enumerate(job.needs):
            reader.at(f"stages[{number}].depends_on[{place}]", node)
    request.stages.extend(job.stage for job in jobs)
    return PipelineFile(name, stem, request, sorted(reader.mistakes), reader.places)


def _header(reader: _JobReader, root: Node, request: PipelineRequest) -> Node | None:
    jobs: list[Node] = []

    def metadata(node: Node) -> None:
        for key, value in reader.mapping(node, "metadata").items():
            reader.at(f'metadata["{key}"]', value)
            request.metadata[key] = reader.config_value(value)

    entries = reader.mapping(
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
    for key, path in (("id", "pipeline_id"), ("name", "name"), ("repository", "repository"), ("commit", "commit_sha")):
        if key in entries:
            reader.at(path, entries[key])
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
            if (
                need not in by_id and need != CHECKOUT
            ):  # whether there is a checkout is the service's to say: a repository may still be given
                near = difflib.get_close_matches(need, by_id, n=1)
                reader.wrong(node, f"there is no job named {need!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    needs = {name: [need for need, _ in job.needs if need in by_id] for name, job in by_id.items()}
    while path := cycle(needs):
        words = "this job waits for itself" if len(path) == 2 else "these jobs wait for each other: " + " → ".join(path)
        reader.wrong(by_id[path[0]].node, words)
        needs = {name: [need for need in of if need not in path] for name, of in needs.items() if name not in path}


def cycle(needs: dict[str, list[str]]) -> list[str]:
    """A path of jobs that ends where it began, or nothing."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []
