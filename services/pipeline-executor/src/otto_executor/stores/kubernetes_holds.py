"""Our finalizer on runs: it comes with a run's beginning and is taken off once its end is stored.

A run that has ended needs nobody: its pods and its claim belong to its object and go with it. With the finalizer it could not go, nor could
its namespace, where no executor is left to take it off.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from otto_executor.errors import RunGoneError, StoreUnavailableError
from otto_executor.stores.kubernetes_objects import RunObjects
from otto_executor.stores.kubernetes_picture import Known, Picture
from otto_executor.stores.object_size import fitted, status_room
from otto_executor.stores.packed_state import unpack_record
from otto_executor.stores.packing import DamagedError
from otto_executor.stores.pipelinerun import FINALIZER, WholeRun
from otto_runtime.tasks import Backoff

log = logging.getLogger(__name__)


class Holds:
    """Takes the finalizer off ended runs, one after the other: nobody waits for it. Bounded by the runs that there are."""

    def __init__(self, objects: RunObjects, picture: Picture) -> None:
        """What is to be done follows from the picture by then."""
        self._objects = objects
        self._picture = picture
        self._due: dict[str, None] = {}
        self._any = asyncio.Event()

    def seen(self, known: Known) -> None:
        """An object is like this by now, in the API server's words."""
        if _due(known):
            self._due[known.name] = None
            self._any.set()

    async def run(self) -> None:
        """Until cancelled; what fails is tried again, after the others."""
        backoff = Backoff(1.0, 60.0)
        while True:
            await self._any.wait()
            self._any.clear()
            for name in list(self._due):
                del self._due[name]
                try:
                    await self._let_go(name)
                    backoff.reset()
                except StoreUnavailableError as error:
                    log.warning("executor.run.still_held", extra={"run": name, "reason": error.reason})
                    self._due[name] = None
                    self._any.set()
                    await backoff.wait()

    async def _let_go(self, name: str) -> None:
        known = self._picture.named(name)
        if known is None or not _due(known):
            return
        try:
            if not known.version:
                known = await self._saved(known)
            found = await self.take_off(known)
        except RunGoneError:
            return
        except DamagedError as error:
            log.warning("executor.run.unreadable", extra={"pipeline": known.pipeline_id, "reason": str(error)})
            return
        self._picture.put(Known.of(found.metadata, known.pipeline_id, found.status.memory, known.summary))

    async def _saved(self, known: Known) -> Known:
        """A run that ended as it began has a record and no status: without the finalizer nothing would tell that it was begun."""
        found = await self._objects.get(known.name)
        if found is None or found.metadata.uid != known.uid:
            raise RunGoneError(known.pipeline_id)
        definition, _, state, _ = unpack_record(found.record)
        fit = fitted(definition, state, (), status_room(found.record, found.spec))
        change = {"status": {**fit.readable, "memory": {"version": 1, "summary": fit.summary}}}
        found = await self._objects.change(known, change, "status", lambda there: bool(there.status.memory.version))
        return Known.of(found.metadata, known.pipeline_id, found.status.memory, known.summary)

    async def take_off(self, known: Known, *, deleting_too: bool = False) -> WholeRun:
        """The object without the finalizer, the others' left on it.

        What turns out to be deleted meanwhile keeps it unless `deleting_too`: its workspace is to be deleted first. Raises RunGoneError and
        StoreUnavailableError.
        """
        metadata: dict[str, Any] = {"finalizers": others(known.finalizers)}

        def done(there: WholeRun) -> bool:
            metadata["finalizers"] = others(there.metadata.finalizers)
            deleting = there.metadata.deletion_timestamp is not None
            return FINALIZER not in there.metadata.finalizers or (deleting and not deleting_too)

        return await self._objects.change(known, {"metadata": metadata}, "", done)


def _due(known: Known) -> bool:
    return known.held and known.ended and not known.deleting


def others(finalizers: Iterable[str]) -> list[str]:
    """Those that are not ours."""
    return [finalizer for finalizer in finalizers if finalizer != FINALIZER]
