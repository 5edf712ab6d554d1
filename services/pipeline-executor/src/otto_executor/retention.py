"""What is tidied away after runs have ended: their workspaces, then the runs themselves."""

import asyncio
import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass

from otto_executor.errors import StoreUnavailableError, WorkersUnavailableError
from otto_executor.orders import Workers
from otto_executor.stores import RunStore, Workspace
from otto_runtime.tasks import Backoff

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long things are kept after a run's end, in seconds, and how many ended runs at most."""

    workspace: float = 3600.0
    runs: float = 2_592_000.0
    count: int = 10_000
    sweep: float = 600.0
    """Seconds between looks for runs to forget."""


class Retention:
    """Deletes workspaces when they are due and forgets old runs."""

    def __init__(self, store: RunStore, workers: Workers, keeping: Keeping, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since the epoch."""
        self._store = store
        self._workers = workers
        self._keeping = keeping
        self._clock = clock
        self._due: list[Workspace] = []
        """A heap by the time of the end; one that was taken over since is passed over."""
        self._news = asyncio.Event()

    def ended(self, workspace: Workspace) -> None:
        """A run has ended: its workspace is due after the time that it is kept."""
        heapq.heappush(self._due, workspace)
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._delete_workspaces(), name="delete workspaces")
            group.create_task(self._forget_runs(), name="forget runs")

    async def _delete_workspaces(self) -> None:
        backoff = Backoff(0.5, 60.0)
        loaded = False
        while True:
            try:
                if not loaded:
                    self._due = await self._store.workspaces()
                    heapq.heapify(self._due)
                    loaded = True
                await self._delete_due()
                backoff.reset()
            except (StoreUnavailableError, WorkersUnavailableError) as error:
                log.warning("executor.workspace.not_deleted", extra={"reason": str(error)})
                await backoff.wait()
                continue
            self._news.clear()
            delay = min(max(0.0, self._next_due() - self._clock()), self._keeping.sweep) if self._due else None
            try:
                async with asyncio.timeout(delay):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _next_due(self) -> float:
        return self._due[0].ended_at + self._keeping.workspace

    async def _delete_due(self) -> None:
        while self._due and self._next_due() <= self._clock():
            workspace = heapq.heappop(self._due)
            try:
                await self._delete(workspace)
            except (StoreUnavailableError, WorkersUnavailableError):
                heapq.heappush(self._due, workspace)
                raise

    async def _delete(self, workspace: Workspace) -> None:
        if await self._store.condemn_workspace(workspace.pipeline_id):
            await self._workers.delete_workspace(workspace.name)
            await self._store.workspace_deleted(workspace.pipeline_id)
            log.info("executor.workspace.deleted", extra={"pipeline": workspace.pipeline_id, "workspace": workspace.name})

    async def _forget_runs(self) -> None:
        while True:
            try:
                while count := await self._store.forget(self._clock() - self._keeping.runs, self._keeping.count):
                    log.info("executor.runs.forgotten", extra={"count": count})
                    await asyncio.sleep(0.05)
            except StoreUnavailableError as error:
                log.warning("executor.runs.not_forgotten", extra={"reason": str(error)})
            await asyncio.sleep(self._keeping.sweep)
