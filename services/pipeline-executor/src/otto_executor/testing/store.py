"""A RunStore in memory, and one that stops a process at a chosen step."""

import asyncio
import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from otto_executor.errors import PipelineExistsError, SaveConflictError, StoreUnavailableError, WorkspaceGoneError
from otto_executor.progress import Progress
from otto_executor.stage import StageStatus
from otto_executor.stores import Key, StoredRun, Summary, Workspace, summary


@dataclass
class _Kept:
    run: StoredRun
    progress: list[Progress] = field(default_factory=list)
    workspace: str = "kept"
    """kept, condemned or gone."""


class MemoryStore:
    """Keeps copies, so nothing that is changed later changes what was saved. `unavailable` makes every call fail."""

    def __init__(self) -> None:
        """Empty."""
        self.unavailable = False
        self.saves = 0
        self._runs: dict[str, _Kept] = {}

    async def create(self, run: StoredRun, progress: Sequence[Progress], *, takes_workspace_of: str = "") -> None:
        """See RunStore."""
        self._check()
        pipeline_id = run.definition.pipeline_id
        if (known := self._runs.get(pipeline_id)) is not None:
            raise PipelineExistsError(pipeline_id, known.run.state.status.lower(), ended=known.run.state.ended)
        if takes_workspace_of:
            old = self._runs.get(takes_workspace_of)
            if old is None or not old.run.state.ended or old.workspace != "kept":
                raise WorkspaceGoneError(takes_workspace_of)
            old.workspace = "gone"
        self._runs[pipeline_id] = _Kept(copy.deepcopy(run), list(progress))

    async def save(self, run: StoredRun, progress: Sequence[Progress], *, edge: bool) -> None:  # noqa: ARG002  nothing in memory survives anything
        """See RunStore."""
        self._check()
        kept = self._runs.get(run.definition.pipeline_id)
        if kept is None or kept.run.version != run.version:
            raise SaveConflictError(run.definition.pipeline_id)
        self.saves += 1
        run.version += 1
        kept.run = copy.deepcopy(run)
        kept.progress += progress

    async def load(self, pipeline_id: str) -> StoredRun | None:
        """See RunStore."""
        self._check()
        kept = self._runs.get(pipeline_id)
        return copy.deepcopy(kept.run) if kept is not None else None

    async def summary(self, pipeline_id: str) -> Summary | None:
        """See RunStore."""
        self._check()
        kept = self._runs.get(pipeline_id)
        return summary(kept.run.definition, kept.run.state) if kept is not None else None

    async def unfinished(self) -> list[str]:
        """See RunStore."""
        self._check()
        going_on = [kept.run for kept in self._runs.values() if not kept.run.state.ended]
        return [r.definition.pipeline_id for r in sorted(going_on, key=lambda r: (r.state.created_at, r.definition.pipeline_id))]

    async def progress(self, pipeline_id: str, after: int, limit: int) -> list[Progress]:
        """See RunStore."""
        self._check()
        kept = self._runs.get(pipeline_id)
        return [p for p in kept.progress if p.sequence > after][:limit] if kept is not None else []

    async def page(self, statuses: Collection[StageStatus], after: Key | None, limit: int) -> list[Summary]:
        """See RunStore."""
        self._check()
        every = [summary(kept.run.definition, kept.run.state) for kept in self._runs.values()]
        every.sort(key=lambda s: (s.created_at, s.pipeline_id), reverse=True)
        found = [s for s in every if not statuses or s.status in statuses]
        return [s for s in found if after is None or (s.created_at, s.pipeline_id) < after][:limit]

    async def workspaces(self) -> list[Workspace]:
        """See RunStore."""
        self._check()
        there = [(k.run.state.ended_at, i, k.run.definition.workspace) for i, k in self._runs.items() if k.workspace != "gone"]
        return sorted(Workspace(at, i, name) for at, i, name in there if at is not None)

    async def condemn_workspace(self, pipeline_id: str) -> bool:
        """See RunStore."""
        self._check()
        kept = self._runs.get(pipeline_id)
        if kept is None or not kept.run.state.ended or kept.workspace == "gone":
            return False
        kept.workspace = "condemned"
        return True

    async def workspace_deleted(self, pipeline_id: str) -> None:
        """See RunStore."""
        self._check()
        if pipeline_id in self._runs:
            self._runs[pipeline_id].workspace = "gone"

    async def forget(self, ended_before: float, keep: int) -> int:
        """See RunStore."""
        self._check()
        ended = [(k.run.state.ended_at, i) for i, k in self._runs.items() if k.run.state.ended_at is not None]
        times = sorted((at for at, _ in ended), reverse=True)
        oldest = times[keep - 1] if len(times) >= keep else 0.0
        gone = [i for at, i in ended if self._runs[i].workspace == "gone" and (at < ended_before or at < oldest)]
        for pipeline_id in gone[:100]:
            del self._runs[pipeline_id]
        return len(gone[:100])

    def pause(self, pipeline_id: str) -> float:  # noqa: ARG002  the same for all
        """See RunStore."""
        return 0.0

    async def close(self) -> None:
        """See RunStore."""

    def _check(self) -> None:
        if self.unavailable:
            raise StoreUnavailableError("the memory of runs can't be written now", "told so by a test")


class Crash:
    """Stops a process at its N-th step, counting each store write and each call to the scaler twice: before and after it has its effect.

    Whoever reaches that step hangs, as in a process that is gone; `reached` is set, and everything of that process is to be cancelled.
    """

    def __init__(self, at: int) -> None:
        """`at` counts from 0."""
        self._left = at
        self.reached = asyncio.Event()

    async def step(self) -> None:
        """A step; hangs from the chosen one on."""
        if self._left <= 0:
            self.reached.set()
            await asyncio.Event().wait()
        self._left -= 1


class CrashingStore(MemoryStore):
    """A view of another store's memory that hangs where `crash` says."""

    def __init__(self, memory: MemoryStore, crash: Crash) -> None:
        """Shares the memory of `memory`."""
        super().__init__()
        self._runs = memory._runs
        self._crash = crash

    async def create(self, run: StoredRun, progress: Sequence[Progress], *, takes_workspace_of: str = "") -> None:
        """See RunStore."""
        await self._crash.step()
        await super().create(run, progress, takes_workspace_of=takes_workspace_of)
        await self._crash.step()

    async def save(self, run: StoredRun, progress: Sequence[Progress], *, edge: bool) -> None:
        """See RunStore."""
        await self._crash.step()
        await super().save(run, progress, edge=edge)
        await self._crash.step()
