"""How long finished workers are kept: until whoever needs something of them has said that it has it. Pure bookkeeping.

Ages are measured on a clock that nobody sets, from the moment a worker was seen finished here: a machine that slept, a clock that was put
right, or a service that was away for a day make nothing old that those who need it had no chance to take.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from otto_scaler.worker import Cause, Worker


class Need(enum.Flag):
    """What somebody takes from a finished worker before it may go."""

    LINES = enum.auto()
    """Its log lines, which whoever keeps logs stores."""
    END = enum.auto()
    """How it ended, which the pipeline that it is part of stores."""


class Verdict(enum.Enum):
    """What is to become of a finished worker now."""

    KEEP = "KEEP"
    REMOVE = "REMOVE"
    GIVE_UP = "GIVE_UP"
    """Remove it, though not everything was taken from it in all that time."""


@dataclass(slots=True)
class _Kept:
    seen: float
    """When it was seen finished."""
    aged: float
    """How old its end was then."""
    taken: Need


def needed(worker: Worker) -> Need:
    """What is taken from this worker: an end if it is a stage's, lines if it can have any."""
    need = Need(0)
    if worker.identity.pipeline_id and worker.identity.stage_id:
        need |= Need.END
    if worker.cause not in {Cause.DELETED, Cause.REJECTED}:
        need |= Need.LINES
    return need


class Keeping:
    """The finished workers, by what makes each of them this one (its uid): a later one of the same name is another."""

    def __init__(self, ttl: float, limit: float, peer_grace: float, clock: Callable[[], float]) -> None:
        """Seconds: `ttl` that a worker stays visible, `limit` that one is waited for, `peer_grace` before that waiting begins at a start.

        `clock` gives seconds and never jumps.
        """
        self._ttl = ttl
        self._limit = limit
        self._grace = peer_grace
        self._clock = clock
        self._from = clock()
        self._kept: dict[str, _Kept] = {}

    def begin(self) -> None:
        """All workers are known: from now on others can see them, and take what they need."""
        self._from = self._clock() + self._grace

    def ended(self, worker: Worker, age: float) -> None:
        """A worker was seen finished; `age`: seconds since its end, by the machine's time."""
        self._kept.setdefault(worker.uid, _Kept(self._clock(), max(0.0, age), Need(0)))

    def taken(self, worker: Worker, what: Need) -> None:
        """Somebody has what they need of a finished worker."""
        if (kept := self._kept.get(worker.uid)) is not None:
            kept.taken |= what

    def forget(self, worker: Worker) -> None:
        """It is gone."""
        self._kept.pop(worker.uid, None)

    def verdict(self, worker: Worker) -> Verdict:
        """What is to become of it now."""
        kept = self._kept.get(worker.uid)
        if kept is None:
            return Verdict.KEEP
        here = self._clock() - kept.seen
        if here + kept.aged < self._ttl:
            return Verdict.KEEP
        if needed(worker) in kept.taken:
            return Verdict.REMOVE
        return Verdict.GIVE_UP if self._clock() - max(kept.seen, self._from) >= self._limit else Verdict.KEEP
