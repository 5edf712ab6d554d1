"""Keeps the picture of all runs true, and notes which objects there is news of."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from otto_executor.errors import StoreUnavailableError
from otto_executor.stores.kubernetes_objects import REMEDY, RunObjects
from otto_executor.stores.kubernetes_picture import Known, Picture, ours
from otto_executor.stores.packed_state import unpack_record
from otto_executor.stores.packing import DamagedError
from otto_executor.stores.pipelinerun import SeenRun
from otto_executor.stores.protocol import Summary, summary
from otto_kubekit.watching import Added, Deleted, Interrupted, Modified, Synced

log = logging.getLogger(__name__)


class PictureWatch:
    """Writes what the API server tells into the picture; `tell` gets the name of each object that changed, and how it was if it is gone."""

    def __init__(self, objects: RunObjects, picture: Picture, instance: str, tell: Callable[[str, Known | None], None]) -> None:
        """Objects with another installation's label are none of ours."""
        self._objects = objects
        self._picture = picture
        self._instance = instance
        self._tell = tell
        self.known = asyncio.Event()
        """Everything was read once."""
        self._trouble = "it has not been read yet"

    def check(self) -> None:
        """Raises StoreUnavailableError until everything was read once."""
        if not self.known.is_set():
            raise StoreUnavailableError("the cluster's memory of runs is not known yet", self._trouble, REMEDY)

    async def run(self) -> None:
        """Until cancelled."""
        async for change in self._objects.watch():
            match change:
                case Added(found) | Modified(found):
                    await self._seen(found)
                case Deleted(found):
                    was = self._picture.named(found.metadata.name)
                    if self._picture.gone(found.metadata.name, found.metadata.uid):
                        self._tell(found.metadata.name, was)
                case Synced():
                    if not self.known.is_set():
                        log.info("executor.store.synced", extra={"count": len(self._picture)})
                    self.known.set()
                case Interrupted(error):
                    self._trouble = str(error)
                    log.warning("executor.store.watch_interrupted", extra={"reason": str(error)})

    async def _seen(self, found: SeenRun) -> None:
        meta = found.metadata
        before = self._picture.named(meta.name)
        if not ours(meta, self._instance):
            if before is not None:
                self._picture.gone(meta.name, before.uid)
            return
        known = Known.of(meta, found.spec.pipeline_id, found.status.memory, state=found.status.state)
        if known.begun and known.summary is None:
            short = before.summary if before is not None and before.uid == known.uid else None
            known = replace(known, summary=short or await self._first_summary(known))
        if self._picture.put(known):
            self._tell(meta.name, before if before is not None and before.uid != known.uid else None)

    async def _first_summary(self, known: Known) -> Summary | None:
        """The summary of a run that was begun and never saved; None if it can't be had."""
        backoff = 0.2
        while True:
            try:
                found = await self._objects.get(known.name)
                if found is None or found.metadata.uid != known.uid:
                    return None
                definition, _, state, _ = unpack_record(found.record)
                return summary(definition, state)
            except DamagedError as error:
                log.warning("executor.run.unreadable", extra={"pipeline": known.pipeline_id, "reason": str(error)})
                return None
            except StoreUnavailableError as error:
                self._trouble = error.reason
            await asyncio.sleep(backoff)
            backoff = min(5.0, 2 * backoff)
