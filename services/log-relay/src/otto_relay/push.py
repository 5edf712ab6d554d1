"""Workers that send their lines themselves (StreamLogs, ForwardWorkerLogs) instead of being followed.

Such a worker ends when NotifyWorkerStatus says so, or when no stream that brought its lines has been open for the configured time. One
that has ended and sends again is open again. It has no values to mask: only the scaler knows those.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from otto_relay.answer import Answer
from otto_relay.encoder import Fresh
from otto_relay.errors import SpoolWriteError
from otto_relay.levels import LEVELS, level_of
from otto_relay.records import LEVEL_SHIFT, STDERR
from otto_relay.registry import Registry
from otto_relay.sources.cri import Times
from otto_relay.wire import metadata_fields
from otto_relay.worker_log import FOLLOWED, PUSHED, Facts, WorkerLog

log = logging.getLogger(__name__)

_LONGEST_NAME = 1000
"""Characters of a worker's or a task's name: far beyond a pod's 253, and short enough to stand in every line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of something that was sent."""

    answer: Answer
    message: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Pushed:
    """A line as it was sent."""

    worker_id: str
    task_id: str
    timestamp: str
    level: str
    source: str
    message: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Notification:
    """What a worker says of itself."""

    status: str
    over: bool
    """It will send nothing more."""
    timestamp: str
    reason: str


_FINAL = frozenset({"COMPLETED", "FAILED", "TERMINATED"})
"""What a worker that has ended says last; nothing it says after that counts."""


@dataclass(slots=True, eq=False)
class Session:
    """An open stream, and whose lines came through it. Two streams of the same workers are two."""

    workers: set[str] = field(default_factory=set)


class Pushes:
    """All workers that send their lines themselves."""

    def __init__(
        self,
        registry: Registry,
        limit: int,
        max_line_bytes: int,
        max_metadata_bytes: int,
        idle: float,
    ) -> None:
        """`limit`: how many may be open at once; `idle` in seconds."""
        self._told: Callable[[str, Notification], None] | None = None
        self._registry = registry
        self._limit = limit
        self._max_line_bytes = max_line_bytes
        self._max_metadata_bytes = max_metadata_bytes
        self._idle = idle
        self._times = Times()
        self._sessions: list[Session] = []
        self._quiet: dict[str, float] = {}
        """Open workers, and since when (monotonic seconds) no stream of theirs is."""
        self._retried: dict[str, None] = {}
        self._half_told: dict[str, str] = {}
        """Workers whose end was passed on and could not be written down, and as what: it is sent again, and not passed on again."""
        self.lines = 0
        """That were stored since the start, and the bytes of their texts."""
        self.bytes = 0

    def tell(self, told: Callable[[str, Notification], None]) -> None:
        """`told` gets the name of a worker and what is news of it; it raises SpoolWriteError."""
        self._told = told

    def resume(self) -> None:
        """Takes up the workers that had not ended when the process did."""
        for name, known in self._registry.workers.items():
            if known.facts.origin == PUSHED and not known.ended:
                self._quiet[name] = time.monotonic()

    def open(self) -> Session:
        """A stream begins."""
        session = Session()
        self._sessions.append(session)
        return session

    def close(self, session: Session) -> None:
        """A stream has ended."""
        self._sessions.remove(session)
        for worker_id in session.workers:
            if worker_id in self._quiet:
                self._quiet[worker_id] = time.monotonic()

    def register(self, worker_id: str, task_id: str) -> tuple[WorkerLog | None, bool, Verdict]:
        """The log of a worker, whether it was there before, and what to tell the sender."""
        if not worker_id or len(worker_id) > _LONGEST_NAME:
            return None, False, Verdict(Answer.NEVER, f"worker_id: must have 1 to {_LONGEST_NAME} characters")
        if len(task_id) > _LONGEST_NAME:
            return None, False, Verdict(Answer.NEVER, f"task_id: must have at most {_LONGEST_NAME} characters")
        known = self._registry.workers.get(worker_id)
        if known is not None and known.facts.origin == FOLLOWED:
            return None, True, Verdict(Answer.NEVER, f"the lines of worker {worker_id!r} are read from its log already")
        if known is not None and task_id and known.facts.task_id != task_id:
            return None, True, Verdict(Answer.NEVER, f"task_id: worker {worker_id!r} belongs to task {known.facts.task_id!r}")
        if known is not None and not known.ended:
            return known, True, Verdict(Answer.STORED)
        if len(self._quiet) >= self._limit:
            return None, known is not None, Verdict(Answer.AGAIN, f"{self._limit} workers send their lines already; try again later")
        try:
            if known is None:
                fresh = self._registry.add(Facts(worker_id, task_id, origin=PUSHED))
                self._quiet[worker_id] = time.monotonic()
                return fresh, False, Verdict(Answer.STORED)
            known.reopen("")
        except SpoolWriteError as error:
            return None, known is not None, self._refused(worker_id, error)
        self._quiet[worker_id] = time.monotonic()
        return known, True, Verdict(Answer.STORED)

    def store(self, session: Session, line: Pushed) -> Verdict:
        """One line of a stream."""
        known = self._registry.workers.get(line.worker_id)
        if known is not None and line.task_id and known.facts.origin == PUSHED and known.facts.task_id != line.task_id:
            return Verdict(Answer.NEVER, f"task_id: worker {line.worker_id!r} belongs to task {known.facts.task_id!r}")
        if known is None or known.ended or known.facts.origin == FOLLOWED or line.worker_id not in session.workers:
            known, _, verdict = self.register(line.worker_id, line.task_id)
            if known is None:
                return verdict
            session.workers.add(line.worker_id)
        message = line.message.encode()
        if len(message) > self._max_line_bytes:
            return Verdict(Answer.NEVER, f"message: {len(message)} bytes are more than the {self._max_line_bytes} that a line may have")
        metadata = metadata_fields(line.metadata)
        if len(metadata) > self._max_metadata_bytes:
            return Verdict(
                Answer.NEVER, f"metadata: {len(metadata)} bytes are more than the {self._max_metadata_bytes} that a line may have"
            )
        stderr = line.source.lower() == "stderr"
        level = line.level.upper()
        number = LEVELS.index(level) if level in LEVELS else level_of(message, stderr=stderr)
        # Line ends would make two lines of one for every reader.
        message = message.rstrip(b"\r\n")
        at = self._times.nanoseconds(line.timestamp.encode())
        if at is None:
            at = time.time_ns()
        try:
            sequence = known.append([Fresh(at, number << LEVEL_SHIFT | (STDERR if stderr else 0), message, metadata=metadata)])
        except SpoolWriteError as error:
            return self._refused(line.worker_id, error)
        self.lines += 1
        self.bytes += len(message)
        self._retried.pop(line.worker_id, None)
        return Verdict(Answer.STORED, sequence=sequence)

    def notify(self, worker_id: str, task_id: str, said: Notification) -> Verdict:
        """A worker's state changed. AGAIN stands for "nothing new", NEVER for "can't be taken"."""
        status, over = said.status, said.over
        for name, text in (("reason", said.reason), ("timestamp", said.timestamp)):
            if (size := len(text.encode())) > self._max_line_bytes:  # otto-handler would not take it, and what comes after it would wait
                return Verdict(Answer.NEVER, f"{name}: {size} bytes are more than the {self._max_line_bytes} that it may have")
        known = self._registry.workers.get(worker_id)
        if known is not None and known.facts.origin == FOLLOWED:
            return Verdict(Answer.AGAIN, "the scaler tells of this worker")
        if known is not None and known.facts.status == status and known.ended == over:
            return Verdict(Answer.AGAIN, "known already")
        if known is not None and known.ended and known.facts.status in _FINAL:
            return Verdict(Answer.AGAIN, f"this worker has ended already: {known.facts.status}")
        if known is None or not known.ended:
            known, _, verdict = self.register(worker_id, task_id)
            if known is None:
                return Verdict(Answer.NEVER, verdict.message)
        elif not over:
            return Verdict(Answer.AGAIN, "this worker has ended")
        try:
            if self._told is not None and self._half_told.get(worker_id) != status:
                self._told(worker_id, said)
            known.facts.status = status
            if over:
                self._half_told[worker_id] = status
                self._end(known)
            else:
                self._half_told.pop(worker_id, None)
                known.save()
        except SpoolWriteError as error:
            return Verdict(Answer.NEVER, self._refused(worker_id, error).message)
        return Verdict(Answer.STORED)

    def end_idle(self) -> None:
        """Ends the workers that have no stream for too long."""
        for session in self._sessions:
            session.workers.intersection_update(self._quiet)
        busy = {worker_id for session in self._sessions for worker_id in session.workers}
        now = time.monotonic()
        for worker_id, since in list(self._quiet.items()):
            known = self._registry.workers.get(worker_id)
            if known is None or known.ended or known.facts.origin == FOLLOWED:
                del self._quiet[worker_id]
            elif worker_id not in busy and now - since >= self._idle:
                try:
                    self._end(known)
                except SpoolWriteError as error:
                    log.warning("relay.collect.retried", extra={"worker": worker_id, "reason": str(error)})

    def session_id(self, known: WorkerLog) -> str:
        """Names a registration: the same as long as the worker is known."""
        return hashlib.sha256(f"{known.worker_id}\0{known.facts.created}".encode()).hexdigest()[:32]

    def _end(self, known: WorkerLog) -> None:
        known.end()
        self._quiet.pop(known.worker_id, None)
        self._half_told.pop(known.worker_id, None)
        log.info("relay.worker.collected", extra={"worker": known.worker_id, "lines": known.spool.last})

    def _refused(self, worker_id: str, error: SpoolWriteError) -> Verdict:
        if worker_id not in self._retried:
            self._retried[worker_id] = None
            while len(self._retried) > self._limit:
                self._retried.pop(next(iter(self._retried)))
            log.warning("relay.push.refused", extra={"worker": worker_id, "reason": str(error)})
        return Verdict(Answer.AGAIN, "the disk takes no more lines now; send it again")
