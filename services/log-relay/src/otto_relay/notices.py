"""What otto-handler is told of a worker's life: which notices are due, given what the scaler shows and what was noted before. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field

CREATED, RUNNING, COMPLETED, FAILED, TERMINATED = "CREATED", "RUNNING", "COMPLETED", "FAILED", "TERMINATED"
ENDS = frozenset({COMPLETED, FAILED, TERMINATED})
_STOPPED = frozenset({"CANCELLED", "DELETED"})
"""Causes of failure that are nobody's failure: the worker was stopped or removed."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A worker as the scaler shows it."""

    status: str
    """pending, running, succeeded or failed."""
    created_at: str = ""
    """RFC 3339, as the others; empty: not yet."""
    started_at: str = ""
    completed_at: str = ""
    node_name: str = ""
    cause: str = ""
    """Why it failed, as a name of the contract without its prefix."""
    exit_code: int | None = None
    error: str = ""
    """Why it failed, in words."""


@dataclass(slots=True)
class Notice:
    """One thing that happened to a worker."""

    kind: str
    number: int
    """Per worker, from 1: who gets the same one twice can tell."""
    timestamp: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


def due(seen: Sighting, told: Collection[str], number: int, now: str) -> list[Notice]:
    """The notices that follow from a sighting and are not among the kinds `told`; numbered behind `number`.

    A worker that is seen late still was created first, and ran if it ever started.
    """
    found: list[Notice] = []

    def add(kind: str, timestamp: str, reason: str = "", metadata: dict[str, str] | None = None) -> None:
        found.append(Notice(kind, number + len(found) + 1, timestamp or now, reason, metadata or {}))

    if ENDS.intersection(told):
        return found
    if CREATED not in told:
        add(CREATED, seen.created_at)
    if RUNNING not in told and (seen.started_at or seen.status == "running"):
        add(RUNNING, seen.started_at, metadata={"otto.node": seen.node_name} if seen.node_name else None)
    if seen.status in {"succeeded", "failed"}:
        metadata = {} if seen.exit_code is None else {"otto.exit_code": str(seen.exit_code)}
        if seen.status == "succeeded":
            add(COMPLETED, seen.completed_at, metadata=metadata)
        else:
            metadata["otto.failure_cause"] = seen.cause or "INTERNAL"
            reason = ": ".join(part for part in (seen.cause, seen.error) if part)
            add(TERMINATED if seen.cause in _STOPPED else FAILED, seen.completed_at, reason, metadata)
    return found


def vanished(told: Collection[str], number: int, now: str) -> list[Notice]:
    """The notice for a worker that nobody has any more, unless its end was told."""
    if ENDS.intersection(told):
        return []
    reason = "DELETED: the worker was removed before it was seen to end"
    return [Notice(TERMINATED, number + 1, now, reason, {"otto.failure_cause": "DELETED"})]
