"""RunStore, and what it keeps and gives."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from otto_executor.definition import Definition
from otto_executor.orders import Owner
from otto_executor.progress import Progress
from otto_executor.run_state import RunState
from otto_executor.stage import StageStatus


@dataclass(slots=True)
class StoredRun:
    """A run as it is kept. `request` is what the client sent, byte for byte; `version` counts the saves."""

    definition: Definition
    request: bytes
    state: RunState
    version: int = 1
    owner: Owner | None = field(default=None, compare=False)
    """What the run's workers and workspace go with; None where runs are no objects."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in short."""

    pipeline_id: str
    name: str
    status: StageStatus
    percentage: int
    stages: int
    awaiting_approval: tuple[str, ...]
    created_at: float
    ended_at: float | None
    error: str
    triggered_by: str
    repository: str
    commit_sha: str
    repeats: str = ""
    workspace: str = ""
    """Empty in what an earlier version stored: it follows from the id then."""


class Workspace(NamedTuple):
    """The directory of an ended run that has not been deleted."""

    ended_at: float
    pipeline_id: str
    name: str


class Key(NamedTuple):
    """Where a run stands in the list of all: runs are ordered by these, newest first."""

    created_at: float
    pipeline_id: str


def summary(definition: Definition, state: RunState) -> Summary:
    """The run in short, as it stands."""
    return Summary(
        pipeline_id=definition.pipeline_id,
        name=definition.name or definition.pipeline_id,
        status=state.status,
        percentage=state.percentage,
        stages=len(definition.stages),
        awaiting_approval=state.awaiting_approval(),
        created_at=state.created_at,
        ended_at=state.ended_at,
        error=state.error,
        triggered_by=definition.triggered_by,
        repository=definition.repository,
        commit_sha=definition.commit_sha,
        repeats=definition.repeats,
        workspace=definition.workspace,
    )


class RunStore(Protocol):
    """Keeps runs and their messages. Every method raises StoreUnavailableError when the memory can't be used now: nothing was done then."""

    async def create(self, run: StoredRun, progress: Sequence[Progress], *, takes_workspace_of: str = "") -> None:
        """Keeps a new run with its first messages, surviving a power cut. Raises PipelineExistsError if the id is known.

        With `takes_workspace_of` the workspace of that ended run counts as gone from then on, because it is the new run's: both or neither.
        Raises WorkspaceGoneError if it is gone already, is to be deleted, or was taken over.
        """

    async def save(self, run: StoredRun, progress: Sequence[Progress], *, edge: bool) -> None:
        """Keeps the run's state with the messages it adds, both or neither, and counts `run.version` up.

        With `edge` it survives a power cut, without it at least the death of the process.
        Raises SaveConflictError if the kept version is another one than the run's.
        """

    async def load(self, pipeline_id: str) -> StoredRun | None:
        """The run as it was saved last, a copy; None if it is not known."""

    async def summary(self, pipeline_id: str) -> Summary | None:
        """The run in short; None if it is not known."""

    async def unfinished(self) -> list[str]:
        """The ids of all runs that have not ended, oldest first."""

    async def progress(self, pipeline_id: str, after: int, limit: int) -> list[Progress]:
        """At most `limit` messages with a sequence over `after`, in order."""

    async def page(self, statuses: Collection[StageStatus], after: Key | None, limit: int) -> list[Summary]:
        """At most `limit` runs, newest first, from the one that follows `after`; no statuses: any."""

    async def workspaces(self) -> list[Workspace]:
        """The workspaces of ended runs that have not been deleted, the longest ended first."""

    async def condemn_workspace(self, pipeline_id: str) -> bool:
        """Notes that the ended run's workspace is about to be deleted, so that nobody takes it over; False if it is gone or taken."""

    async def workspace_deleted(self, pipeline_id: str) -> None:
        """Notes that the run's workspace is gone."""

    async def forget(self, ended_before: float, keep: int) -> int:
        """Deletes runs that ended before a time, and the oldest ended ones beyond the `keep` newest; those with a workspace stay.

        What people put there and what was refused counts as ended when it came. Returns how many were deleted, a bounded number per call:
        call again until it is 0.
        """

    def pause(self, pipeline_id: str) -> float:
        """Seconds that should lie between two saves of the run which are no edges: 0 where a save costs next to nothing."""

    async def close(self) -> None:
        """Lets go of everything."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A run that somebody has put into the memory and nobody has begun. `request` is a PipelineRequest in JSON, without its id."""

    name: str
    uid: str
    pipeline_id: str
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Left:
    """A run that was begun and has not ended, and that may be unknown here: its beginning was stored though it seemed that it was not."""

    pipeline_id: str


@dataclass(frozen=True, slots=True)
class Departure:
    """Somebody wants the run gone: it is to be stopped and cleaned up after, then to be let go. `gone`: it is gone already."""

    pipeline_id: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Remains:
    """Somebody has taken an ended run out whose workspace was still kept: nobody else knows of it any more."""

    pipeline_id: str
    workspace: str


News: TypeAlias = Arrival | Left | Departure | Remains


class Outside(Protocol):
    """What others do with the memory of runs, where they can reach it: they put runs in and take runs out."""

    def news(self) -> AsyncGenerator[News]:
        """What is to be looked at: what there is at first, then what changes. The same may be told more than once. Never ends."""

    async def accept(self, arrival: Arrival, run: StoredRun, progress: Sequence[Progress]) -> None:
        """Keeps the run as begun, with its first messages.

        Raises PipelineExistsError if its id is another run's, SaveConflictError if it is gone or somebody else has begun it, and
        StoreUnavailableError.
        """

    async def answer(self, arrival: Arrival, state: str, words: str) -> None:
        """Tells whoever put it there what is wrong with it (`state` Refused) or what it waits for (Pending).

        Raises StoreUnavailableError.
        """

    async def let_go(self, pipeline_id: str) -> None:
        """The run may be gone: everything about it is done. Raises StoreUnavailableError."""

    async def tidy(self) -> None:
        """Until cancelled: lets go of every run that has ended, so that it may be taken out whoever is there then."""

    def again(self, name: str) -> None:
        """Has an arrival told again."""
