"""What the fleet needs of whatever runs workers."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from otto_scaler.worker import Worker, WorkerSpec


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker is there and stands like this."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker is not there any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Synced:
    """Every worker there is has been seen since `observe` was called."""


Observation = Seen | Gone | Synced


class WorkerBackend(Protocol):
    """Runs workers, and is the only one that knows the truth about them.

    Shaped after what a cluster can do: workers are created under names of ours, and are observed rather than asked about. All calls but
    `observe` may be repeated at any time, and after a crash in the middle of them.
    """

    def unsupported(self, spec: WorkerSpec) -> list[tuple[str, str]]:
        """What `spec` asks for that this backend can't do: pairs of a WorkerSpec field's proto name and words for the client."""
        ...

    def place(self, worker: Worker) -> Mapping[str, str]:
        """Where a worker runs, as attributes of its span."""
        ...

    async def run(self) -> None:
        """What goes on beside the calls, until cancelled; without it, what takes time is not done. Runs once, beside `observe`."""
        ...

    def observe(self) -> AsyncIterator[Observation]:
        """Every worker as Seen, then Synced, then each change in its order, for ever.

        A finished worker is seen finished only when its log is complete. If it ends or raises, it is called again, and starts anew with
        everything. One caller at a time. Raises BackendError.
        """
        ...

    async def create(self, spec: WorkerSpec, *, held: bool) -> None:
        """Creates a worker, which runs as soon as it can, or with `held` not before `start`; it is observed soon.

        Returns once it is accepted; one that is there already is left as it is. Raises RefusedError. Cancelled midway, it is there whole
        or not at all.
        """
        ...

    async def start(self, name: str) -> None:
        """Lets a held worker run. Harmless for one that isn't held or isn't there. What goes wrong is observed as its failure."""
        ...

    async def stop(self, name: str, reason: str) -> None:
        """Asks a worker to end: SIGTERM, its grace, SIGKILL; one that has not run yet ends at once. It is observed as failed with
        Cause.CANCELLED, or Gone. Returns when that is noted for good, not when it is done. Harmless for one that has ended or isn't there.
        Raises BackendError when it can't be noted: then nothing has happened.
        """
        ...

    async def remove(self, name: str) -> None:
        """Deletes all of a finished worker, then it is observed as Gone. Harmless for one that isn't there; refused (ValueError) for a
        live one. Raises BackendError.
        """
        ...

    async def delete_workspace(self, workspace: str) -> None:
        """Deletes a workspace once no unfinished worker names it; returns when that is noted for good. Harmless for one that isn't
        there. Raises BackendError.
        """
        ...
