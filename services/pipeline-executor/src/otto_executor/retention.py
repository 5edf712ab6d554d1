"""What is tidied away after runs have ended: their workspaces, then the runs themselves."""

import asyncio
import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from otto_executor.errors import StoreUnavailableError, WorkersUnavailableError
from otto_executor.orders import Workers
from otto_executor.stores import RunStore, Workspace
from otto_runtime.tasks import Backoff
from otto_runtime.times import SteadyDay

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long things are kept after a run's end, in seconds, and how many ended runs at most."""

    workspace: float = 3600.0
    runs: float = 2_592_000.0
    count: int = 10_000
    sweep: float = 600.0
    """Seconds between looks for runs to forget."""


@dataclass(order=True, slots=True)
class _Due:
    """A workspace to be deleted, when in seconds of the steady clock, and how it fares where that fails."""

    at: float
    workspace: Workspace
    backoff: Backoff = field(default_factory=lambda: Backoff(1.0, 600.0), compare=False)


class Retention:
    """Deletes workspaces when they are due and forgets old runs. What can't be deleted waits for its next try and holds up nothing else."""

    def __init__(
        self, store: RunStore, workers: Workers, keeping: Keeping, clock: Callable[[], float], steady: Callable[[], float]
    ) -> None:
        """`clock` gives seconds since the epoch and may be set; `steady` gives seconds as they pass: how long things are kept."""
        self._store = store
        self._workers = workers
        self._keeping = keeping
        self._clock = clock
        self._steady = steady
        self._day = SteadyDay(clock, steady)
        self._due: list[_Due] = []
        """A heap; a workspace that was taken over since is passed over."""
        self._news = asyncio.Event()

    def ended(self, workspace: Workspace) -> None:
        """A run has ended: its workspace is due after the time that it is kept."""
        heapq.heappush(self._due, _Due(self._due_at(workspace), workspace))
        self._news.set()

    def _due_at(self, workspace: Workspace) -> float:
        left = workspace.ended_at + self._keeping.workspace - self._clock()
        return self._steady() + min(left, self._keeping.workspace)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._delete_workspaces(), name="delete workspaces")
            group.create_task(self._forget_runs(), name="forget runs")

    async def _delete_workspaces(self) -> None:
        await self._load()
        pause = Backoff(0.05, 5.0)
        while True:
            self._news.clear()
            delay = self._due[0].at - self._steady() if self._due else None
            if delay is not None and delay <= 0:
                if await self._deleted(heapq.heappop(self._due)):
                    pause.reset()
                else:
                    await pause.wait()  # or a scaler that is away would be asked for all of them without a break
                continue
            try:
                async with asyncio.timeout(delay):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _load(self) -> None:
        backoff = Backoff(0.5, 60.0)
        while True:
            try:
                workspaces = await self._store.workspaces()
            except StoreUnavailableError as error:
                log.warning("executor.workspaces.unknown", extra={"reason": error.reason})
                await backoff.wait()
                continue
            self._due = [_Due(self._due_at(workspace), workspace) for workspace in workspaces]
            heapq.heapify(self._due)
            return

    async def _deleted(self, due: _Due) -> bool:
        """Deletes a workspace, or has it tried again later; whether it is gone."""
        workspace = due.workspace
        try:
            if await self._store.condemn_workspace(workspace.pipeline_id):
                await self._workers.delete_workspace(workspace.name)
                await self._store.workspace_deleted(workspace.pipeline_id)
                log.info("executor.workspace.deleted", extra={"pipeline": workspace.pipeline_id, "workspace": workspace.name})
        except (StoreUnavailableError, WorkersUnavailableError) as error:
            words = error.reason if isinstance(error, StoreUnavailableError) else error.words
            fields = {"pipeline": workspace.pipeline_id, "workspace": workspace.name, "reason": words}
            log.warning("executor.workspace.not_deleted", extra=fields)
            due.at = self._steady() + due.backoff.next_delay()
            heapq.heappush(self._due, due)
            return False
        return True

    async def _forget_runs(self) -> None:
        while True:
            try:
                while count := await self._store.forget(self._day.now() - self._keeping.runs, self._keeping.count):
                    log.info("executor.runs.forgotten", extra={"count": count})
                    await asyncio.sleep(0.05)
            except StoreUnavailableError as error:
                log.warning("executor.runs.not_forgotten", extra={"reason": error.reason})
            await asyncio.sleep(self._keeping.sweep)
