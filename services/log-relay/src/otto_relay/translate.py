"""Proto messages ↔ our words, and the checks of requests. Pure."""

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from otto_relay.build_log import Part
from otto_relay.collector import FINISHED, PENDING, RUNNING, Observed
from otto_relay.errors import InvalidRequestError
from otto_relay.levels import LEVELS
from otto_relay.notices import Notice, Sighting
from otto_relay.push import Pushed
from otto_relay.selection import SOURCES, Selection
from otto_relay.tracking import Progress
from otto_relay.worker_log import Facts
from otto_runtime import spans
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, LogSelection, WorkerIdentifier, WorkerMetadata
from ottoscaler.v1.otto_handler_log_service_pb2 import WorkerLogEntry, WorkerStatusNotification
from ottoscaler.v1.pipeline_pb2 import PipelineProgress
from ottoscaler.v1.stage_pb2 import STAGE_CANCELLED, STAGE_COMPLETED, STAGE_FAILED
from ottoscaler.v1.worker_pb2 import FailureCause, WorkerPodStatus

_MOST_WORDS = 100
"""Each line is searched for each of them."""
_LONGEST_WORD = 1000
_PHASES = {"pending": PENDING, "running": RUNNING, "succeeded": FINISHED, "failed": FINISHED}


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """A worker, or all workers of a task."""

    worker_id: str
    task_id: str
    selection: Selection


@dataclass(frozen=True, slots=True)
class BuildTarget:
    """A pipeline or a part of it."""

    pipeline_id: str
    part: Part
    selection: Selection


def worker_target(request: WorkerIdentifier, max_tail_lines: int, path: str = "") -> WorkerTarget:
    """Raises InvalidRequestError that names every wrong field; `path` is put before their names."""
    problems: list[str] = []
    if not request.worker_id and not request.task_id:
        problems.append(f"{path}worker_id: give a worker_id or a task_id")
    chosen = _selection(request.selection, max_tail_lines, f"{path}selection.", problems)
    if not request.worker_id and request.selection.after_sequence:
        problems.append(f"{path}selection.after_sequence: not for a whole task; sequences count per worker")
    _check(problems)
    return WorkerTarget(request.worker_id, request.task_id, chosen)


def build_target(request: BuildIdentifier, max_tail_lines: int, path: str = "") -> BuildTarget:
    """Raises InvalidRequestError that names every wrong field; `path` is put before their names."""
    problems: list[str] = []
    if not request.pipeline_id:
        problems.append(f"{path}pipeline_id: must not be empty")
    if request.attempt < 0:
        problems.append(f"{path}attempt: must not be negative; 0 means all")
    chosen = _selection(request.selection, max_tail_lines, f"{path}selection.", problems)
    _check(problems)
    return BuildTarget(request.pipeline_id, Part(request.stage_id, request.attempt, request.worker_id), chosen)


def _check(problems: list[str]) -> None:
    if problems:
        raise InvalidRequestError("; ".join(problems))


def _selection(request: LogSelection, max_tail_lines: int, path: str, problems: list[str]) -> Selection:
    if request.tail_lines < 0 or request.tail_lines > max_tail_lines:
        problems.append(f"{path}tail_lines: must be from 0 (all) to {max_tail_lines}")
    if request.after_sequence < 0:
        problems.append(f"{path}after_sequence: must not be negative")
    for index, level in enumerate(request.levels):
        if level.upper() not in LEVELS:
            problems.append(f"{path}levels[{index}]: {level!r} is none of {', '.join(LEVELS)}")
    for index, source in enumerate(request.sources):
        if source.lower() not in SOURCES:
            problems.append(f"{path}sources[{index}]: {source!r} is none of {', '.join(SOURCES)}")
    if len(request.keywords) > _MOST_WORDS:
        problems.append(f"{path}keywords: at most {_MOST_WORDS}")
    for index, word in enumerate(request.keywords):
        if not word or len(word) > _LONGEST_WORD:
            problems.append(f"{path}keywords[{index}]: must have 1 to {_LONGEST_WORD} characters")
    since = _time(request.since_time, f"{path}since_time", problems) if request.HasField("since_time") else None
    until = _time(request.until_time, f"{path}until_time", problems) if request.HasField("until_time") else None
    if since is not None and until is not None and since >= until:
        problems.append(f"{path}until_time: must be after since_time")
    return Selection(
        follow=not request.no_follow,
        tail_lines=request.tail_lines,
        since=since,
        until=until,
        after_sequence=request.after_sequence,
        levels=frozenset(level.upper() for level in request.levels),
        sources=frozenset(source.lower() for source in request.sources),
        keywords=tuple(request.keywords),
    )


def _time(value: Timestamp, path: str, problems: list[str]) -> int:
    if not 0 <= value.nanos < 1_000_000_000 or not -62135596800 <= value.seconds <= 253402300799:
        problems.append(f"{path}: is no time between the years 1 and 9999")
    return value.seconds * 1_000_000_000 + value.nanos


def observed(worker: WorkerPodStatus) -> Observed:
    """A worker as the scaler shows it. A status that is not known counts as running: its lines are wanted."""
    return Observed(
        worker.pod_name,
        worker.task_id,
        worker.pipeline_id,
        worker.stage_id,
        max(worker.attempt, 1) if worker.stage_id else 0,
        worker.uid,
        _PHASES.get(worker.status, RUNNING),
        bool(worker.started_at),
        Sighting(
            worker.status,
            worker.created_at,
            worker.started_at,
            worker.completed_at,
            worker.node_name,
            _cause(worker.failure_cause),
            worker.exit_code if worker.HasField("exit_code") else None,
            worker.error_message,
        ),
        worker.traceparent if spans.valid(worker.traceparent) else "",
    )


def _cause(number: FailureCause.ValueType) -> str:
    """The name of a cause of failure; a number that is not known here is a failure too."""
    name = FailureCause.Name(number) if number in FailureCause.values() else "FAILURE_CAUSE_INTERNAL"
    return "" if name == "FAILURE_CAUSE_UNSPECIFIED" else name.removeprefix("FAILURE_CAUSE_")


def progress_of(message: PipelineProgress) -> Progress:
    """One message of a run. A stage whose result is kept from another run has no attempt, and no line, in this one."""
    if message.kept_from:
        return Progress(message.stage_id, message.stage_type, message.status, 0, ())
    return Progress(message.stage_id, message.stage_type, message.status, message.attempt, tuple(message.worker_pod_names))


def is_final(message: PipelineProgress) -> bool:
    """Whether it is a run's last message."""
    return not message.stage_id and message.status in {STAGE_COMPLETED, STAGE_FAILED, STAGE_CANCELLED}


def pushed(entry: LogEntry | WorkerLogEntry) -> Pushed:
    """A line that its worker sends itself."""
    return Pushed(entry.worker_id, entry.task_id, entry.timestamp, entry.level, entry.source, entry.message, dict(entry.metadata))


def forwarded(entry: bytes, facts: Facts, created_at: str, sequence: int, dropped: int, *, traced: bool = False) -> WorkerLogEntry:
    """An encoded LogEntry as otto-handler gets it: what its message has no field for stands in the metadata, `traced` its trace too."""
    line = LogEntry.FromString(entry)
    metadata = {**line.metadata, "otto.sequence": str(sequence), **_identity(facts)}
    if dropped:
        metadata["otto.dropped_before"] = str(dropped)
    if traced and facts.traceparent:
        metadata["traceparent"] = facts.traceparent
    return WorkerLogEntry(
        worker_id=line.worker_id,
        task_id=line.task_id,
        timestamp=line.timestamp,
        level=line.level,
        source=line.source,
        message=line.message,
        pod_metadata=WorkerMetadata(pod_name=line.worker_id, created_at=created_at),
        metadata=metadata,
    )


def notification(facts: Facts, notice: Notice) -> WorkerStatusNotification:
    """A notice as otto-handler gets it."""
    return WorkerStatusNotification(
        worker_id=facts.worker_id,
        task_id=facts.task_id,
        status=WorkerStatusNotification.StatusType.Value(notice.kind),
        timestamp=notice.timestamp,
        reason=notice.reason,
        metadata={**notice.metadata, "otto.notice_sequence": str(notice.number), **_identity(facts)},
    )


def _identity(facts: Facts) -> dict[str, str]:
    found = {"otto.pipeline_id": facts.pipeline_id, "otto.stage_id": facts.stage_id}
    if facts.attempt:
        found["otto.attempt"] = str(facts.attempt)
    return {key: value for key, value in found.items() if value}
