"""What the service holds of one worker. What it has seen or done itself it keeps in memory and believes; a worker's files are read when
there is nothing else: when it is found, and when its supervisor has ended.
"""

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from otto_scaler.backends.process.directory import HELD_REASON, STARTING_REASON, Record, WorkerDirectory
from otto_scaler.backends.process.own import OwnDirectory
from otto_scaler.backends.process.processes import Supervisor
from otto_scaler.backends.process.supervisor import report
from otto_scaler.backends.process.supervisor.control import UnreadableError
from otto_scaler.backends.process.supervisor.report import CLAIMED_ELSEWHERE, Ending
from otto_scaler.backends.process.supervisor.usage import MICRO
from otto_scaler.backends.process.supervisor.usage import Usage as Measured
from otto_scaler.backends.process.watchdog import Watchdog
from otto_scaler.worker import Cause, State, Usage, Worker


@dataclass(slots=True, eq=False)
class Entry:
    """A worker of ours, and what we hold of it."""

    record: Record
    directory: WorkerDirectory
    own: OwnDirectory
    node: str
    held: bool
    started: int = 0
    """When it started; 0: it has not."""
    reason: str = ""
    """Why it was asked to stop; empty: it was not."""
    supervisor: Supervisor | None = None
    running: int = -1
    """The descriptor on which its supervisor says that it runs; -1: none."""
    starting: bool = False
    """It has one of the places of those that are starting."""
    watchdog: Watchdog | None = None
    over: bool = False
    """Its supervisor has ended, and it is to be found out how."""
    restarted: bool = False
    """Its supervisor began before the machine last started."""
    status: int | None = None
    """The supervisor's wait status, if it was a child of this process."""
    announced: bool = False
    """The observer knows of it: from now on changes are events."""
    vanished: bool = False
    """Its directory is gone, and its supervisor was told to look."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Orders start, stop and removal."""
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.worker = self.standing()

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.record.spec.identity.name

    @property
    def killed(self) -> bool:
        """Its supervisor is known to have ended by a signal."""
        return self.status is not None and os.WIFSIGNALED(self.status)

    def standing(self, ending: Ending | None = None) -> Worker:
        """How the worker stands, or ended."""
        identity, uid, created = self.record.spec.identity, self.record.uid, self.record.created
        if ending is None:
            state = State.RUNNING if self.started else State.PENDING
            why = "" if self.started else HELD_REASON if self.held else STARTING_REASON
            return Worker(
                identity,
                uid,
                state,
                created,
                started=self.started,
                held=self.held,
                stopping=bool(self.reason),
                pending_reason=why,
                node=self.node,
            )
        return Worker(
            identity,
            uid,
            State.FAILED if ending.cause else State.SUCCEEDED,
            created,
            started=self.started or ending.started,
            ended=ending.ended or created,
            stopping=bool(self.reason),
            exit_code=ending.code,
            cause=Cause[ending.cause] if ending.cause else Cause.UNSPECIFIED,
            error=ending.message,
            node=self.node,
            usage=None if ending.usage is None else _usage(ending.usage),
        )

    def reported(self) -> Ending | None:
        """How it ended, as its supervisor left it; None if that was killed, whatever lies there, or left nothing. Raises OSError."""
        if self.killed:
            return None
        try:
            ending = self.directory.ending()
        except UnreadableError as error:
            ending = self.failure(Cause.INTERNAL, f"its end was not recorded well: {error}")
            report.write_ending(str(self.directory.path), ending)
        if ending is not None and self.reason and ending.cause == Cause.EVICTED.name:
            # The supervisor could not read why it was told to stop.
            return Ending(ending.code, Cause.CANCELLED.name, self.reason, ending.started, ending.ended, ending.usage)
        return ending

    def when_ready(self, descriptor: int, callback: "Callable[[Entry], None]") -> None:
        """Calls back when a descriptor can be read, in a context of its own: the worker outlives the call that may have asked for it."""
        contextvars.Context().run(asyncio.get_running_loop().add_reader, descriptor, callback, self)

    def claimed_elsewhere(self) -> bool:
        """Whether the supervisor ended because another one runs the worker."""
        return self.status is not None and os.WIFEXITED(self.status) and os.WEXITSTATUS(self.status) == CLAIMED_ELSEWHERE

    def mourning(self, killed: int) -> Ending:
        """How it ended when its supervisor is gone and left no report; `killed` processes of it were still there."""
        if self.watchdog is not None and (verdict := self.watchdog.verdict(time.monotonic())) is not None:
            return self.failure(*verdict)
        if self.reason:
            return self.failure(Cause.CANCELLED, self.reason)
        if self.restarted and not killed:
            return self.failure(Cause.NODE_LOST, "the machine was restarted while it ran")
        return self.failure(Cause.INTERNAL, "its supervisor was killed or failed")

    def failure(self, cause: Cause, message: str) -> Ending:
        """An end that no supervisor reports."""
        return Ending(None, cause.name, message, self.started, max(self.started, time.time_ns()))


def _usage(measured: Measured) -> Usage:
    return Usage(measured.cpu_average / MICRO, measured.cpu_peak / MICRO, measured.memory_average, measured.memory_peak)
