"""When something is to be done about a worker if nothing changes: it is pending or pulling for too long, runs for too long, has ended and
its pod has not, or is lost with its node.

Pure bookkeeping. Lengths of time are measured on a clock that nobody sets, from when a thing was seen here; only for what began before
this service, and was found, by the time of day that the cluster has written down.
"""

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from otto_scaler.backends.kubernetes import marks
from otto_scaler.backends.kubernetes.judging import abandoned
from otto_scaler.backends.kubernetes.pods import WorkerPod, began
from otto_scaler.backends.kubernetes.trouble import Patience, Trouble, trouble
from otto_scaler.worker import Cause

SHORT_SECONDS = 10.0
PULL_SECONDS = 60.0
"""Enough for the kubelet to try a pull three times."""
REST_SECONDS = 5.0
"""How long other containers may go on after the worker's own: kubelets look once a second, and what knows that it is to end does."""
LOST_SECONDS = 30.0
"""After the time at which a deleted pod should have been gone, or one that is to stop should have ended."""


class Action(enum.Enum):
    """What is to be done."""

    GIVE_UP = "GIVE_UP"
    """It does not come to run: make it end, with the cause that the cluster gives."""
    TIME_OUT = "TIME_OUT"
    """It has run for too long: make it end."""
    STOP_REST = "STOP_REST"
    """It has ended, and other containers keep its pod from ending: make them end."""
    LOSE = "LOSE"
    """It was to be deleted, or to stop, and its node does not say that it has ended: it counts as lost."""


class Due(NamedTuple):
    """What is to be done when; `cause` and `words` are for clients."""

    at: float
    action: Action
    cause: Cause
    words: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Now."""

    steady: float
    """Seconds, of the clock that nobody sets."""
    clock: float
    """Seconds since the epoch."""
    live: bool
    """What is seen has just happened; otherwise it was found."""

    def since(self, when: datetime | None) -> float:
        """When that was, on the steady clock."""
        return self.steady if self.live or when is None else self.steady - max(0.0, self.clock - when.timestamp())


class Deadlines:
    """Those of one worker."""

    def __init__(self, pending_timeout: float) -> None:
        """Seconds."""
        self._pending = pending_timeout
        self._waiting: float | None = None
        self._troubled: tuple[Cause, float] | None = None
        self._running: float | None = None
        self._ended: float | None = None
        self._deleted: float | None = None
        self._stopping: float | None = None
        self.due: Due | None = None

    def look(self, pod: WorkerPod, now: Moment) -> None:
        """Takes over how the pod stands."""
        self.due = None if pod.terminal else self._deletion(pod, now) or self._earliest(pod, now)

    def _deletion(self, pod: WorkerPod, now: Moment) -> Due | None:
        due = pod.metadata.deletion_timestamp
        if due is None:
            return None
        if self._deleted is None:
            self._deleted = now.steady + due.timestamp() - now.clock
            if now.live:
                self._deleted = max(self._deleted, now.steady)
        return Due(self._deleted + LOST_SECONDS, Action.LOSE, Cause.NODE_LOST, f"its node {pod.spec.node_name} does not answer")

    def _earliest(self, pod: WorkerPod, now: Moment) -> Due | None:
        if pod.held or marks.rest_stopped(pod.metadata):
            return None
        if (stop := marks.stop(pod.metadata)) is not None:
            return self._stop(pod, *stop, now)
        if left := pod.left_running:
            return self._rest(pod, left, now)
        limits = [limit for limit in (self._timeout(pod, now), self._start(pod, now)) if limit is not None]
        return min(limits, default=None)

    def _stop(self, pod: WorkerPod, cause: Cause, words: str, now: Moment) -> Due | None:
        """A node that answers stops it; another one may be back before pods are evicted from it, which some tolerate for ever."""
        if self._stopping is None:
            self._stopping = now.steady
        if not abandoned(pod):
            return None
        grace = pod.spec.termination_grace_period_seconds
        return Due(self._stopping + grace + LOST_SECONDS, Action.LOSE, cause, f"{words}; its node {pod.spec.node_name} does not answer")

    def _rest(self, pod: WorkerPod, left: tuple[str, ...], now: Moment) -> Due:
        if self._ended is None:
            ended = pod.worker.state.terminated if pod.worker is not None else None
            self._ended = now.since(ended.finished_at if ended is not None else None)
        return Due(self._ended + REST_SECONDS, Action.STOP_REST, Cause.UNSPECIFIED, ", ".join(left))

    def _timeout(self, pod: WorkerPod, now: Moment) -> Due | None:
        started = min((moment for moment in (began(pod.checkout), began(pod.worker)) if moment is not None), default=None)
        seconds = marks.timeout(pod.metadata)
        if started is None or seconds is None:
            return None
        if self._running is None:
            self._running = now.since(started)
        return Due(self._running + seconds, Action.TIME_OUT, Cause.TIMEOUT, f"ran longer than {seconds:g} s")

    def _start(self, pod: WorkerPod, now: Moment) -> Due | None:
        """How long it may take until the worker's own container runs; a checkout that runs is no waiting."""
        checks_out = pod.checkout is not None and pod.checkout.state.running is not None
        if checks_out or began(pod.worker) is not None:
            self._waiting = self._troubled = None
            return None
        if self._waiting is None:
            self._waiting = now.since(None if began(pod.checkout) else _admitted(pod) or pod.metadata.creation_timestamp)
        why = trouble(pod)
        if why.patience is Patience.PENDING:
            self._troubled = None
        elif self._troubled is None or self._troubled[0] is not why.cause:
            self._troubled = (why.cause, now.steady)
        at = self._waiting + self._pending
        if self._troubled is not None:
            at = min(at, self._troubled[1] + _seconds(why))
        return Due(at, Action.GIVE_UP, why.cause, why.words)


def _seconds(why: Trouble) -> float:
    return {Patience.NONE: 0.0, Patience.SHORT: SHORT_SECONDS, Patience.PULL: PULL_SECONDS}[why.patience]


def _admitted(pod: WorkerPod) -> datetime | None:
    try:
        return datetime.fromisoformat(pod.metadata.annotations.get(marks.STARTED, "")).astimezone(UTC)
    except ValueError:
        return None
