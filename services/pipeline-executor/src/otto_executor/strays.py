"""Workers that run though nobody needs them any more: they are stopped, a task for each stage."""

import asyncio
import logging

from otto_executor.errors import RunUnreadableError, StoreUnavailableError, WorkersUnavailableError
from otto_executor.orders import Workers
from otto_executor.stores import RunStore
from otto_runtime.tasks import Backoff

log = logging.getLogger(__name__)
TRIES = 10


class Strays:
    """Live workers of runs that do not go on here. Those of runs that may go on elsewhere are left alone."""

    def __init__(self, store: RunStore, workers: Workers) -> None:
        """Asks the store what has become of their runs."""
        self._store = store
        self._workers = workers
        self._known: set[tuple[str, str]] = set()

    def seen(self, group: asyncio.TaskGroup, pipeline_id: str, stage_id: str) -> None:
        """A live worker was heard of: it is stopped if its run has ended."""
        self._begin(group, pipeline_id, stage_id, gone=False)

    def left(self, group: asyncio.TaskGroup, pipeline_id: str, stage_id: str) -> None:
        """The run was taken out of the memory while the stage had workers: they are stopped unless there is such a run again."""
        self._begin(group, pipeline_id, stage_id, gone=True)

    def _begin(self, group: asyncio.TaskGroup, pipeline_id: str, stage_id: str, *, gone: bool) -> None:
        key = (pipeline_id, stage_id)
        if key not in self._known:
            self._known.add(key)
            group.create_task(self._stop(pipeline_id, stage_id, gone=gone), name=f"stop stray {key}")

    async def _stop(self, pipeline_id: str, stage_id: str, *, gone: bool) -> None:
        backoff = Backoff(0.5, 10.0)
        try:
            for _ in range(TRIES):
                try:
                    found = await self._store.summary(pipeline_id)
                    if found is None and gone:
                        await self._workers.stop(pipeline_id, stage_id, "its pipeline was deleted")
                    elif found is not None and found.ended_at is not None:
                        await self._workers.stop(pipeline_id, stage_id, "its pipeline has ended")
                    else:
                        return
                    log.warning("executor.worker.stray", extra={"pipeline": pipeline_id, "stage": stage_id})
                    return
                except (WorkersUnavailableError, StoreUnavailableError):
                    await backoff.wait()
                except RunUnreadableError:
                    return
        finally:
            self._known.discard((pipeline_id, stage_id))
