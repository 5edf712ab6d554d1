"""Ended workers that the executor needs no longer: told to the scaler in batches until it has taken them. Nothing of it is stored: what was
not told before a crash is found again among the workers, whose ends are stored with their runs.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable

from otto_executor.errors import RunUnreadableError, StoreUnavailableError, WorkersUnavailableError
from otto_executor.orders import WorkerReport, Workers
from otto_executor.stores import RunStore
from otto_runtime.tasks import Backoff

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.2
"""How long names are gathered before they are told: nobody waits for it."""
MOST_NAMES = 1000


class Releases:
    """Names of ended workers on their way to the scaler. Bounded by the workers that there are."""

    def __init__(self, store: RunStore, workers: Workers) -> None:
        """Asks the store whether runs that do not go on here have ended."""
        self._store = store
        self._workers = workers
        self._names: dict[str, None] = {}
        self._leftover: dict[str, set[str]] = {}
        self._news = asyncio.Event()

    def add(self, names: Iterable[str]) -> None:
        """How these workers ended is stored."""
        before = len(self._names)
        self._names |= dict.fromkeys(names)
        if len(self._names) > before:
            self._news.set()

    def left_over(self, report: WorkerReport) -> None:
        """An ended worker of a run that does not go on here: nobody will ask for its end once that run has ended, or is not known."""
        self._leftover.setdefault(report.pipeline_id, set()).add(report.name)
        self._news.set()

    async def run(self) -> None:
        """Tells the scaler, until cancelled."""
        backoff = Backoff(0.2, 10.0)
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._news.clear()
            try:
                await self._look_at_leftovers()
                while names := list(self._names)[:MOST_NAMES]:
                    await self._workers.release(names)
                    self._forget(names)
                backoff.reset()
            except (StoreUnavailableError, WorkersUnavailableError) as error:
                log.warning("executor.release.retried", extra={"count": len(self._names), "reason": str(error)})
                self._news.set()
                await backoff.wait()

    def _forget(self, names: Collection[str]) -> None:
        for name in names:
            self._names.pop(name, None)

    async def _look_at_leftovers(self) -> None:
        while self._leftover:
            pipeline_id = next(iter(self._leftover))
            try:
                found = await self._store.summary(pipeline_id)
            except RunUnreadableError:
                found = None
                self._leftover[pipeline_id].clear()  # somebody may mend that run, and will then want to know
            names = self._leftover.pop(pipeline_id)
            if found is None or found.ended_at is not None:
                self._names |= dict.fromkeys(names)
