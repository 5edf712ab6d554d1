"""Runs that come and go from outside: those that somebody puts into the memory of runs are begun, those that somebody takes out are ended.

The memory says what there is to look at, as often as it likes; what is to be done follows from how things stand then.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from otto_executor.definition import Definition
from otto_executor.errors import (
    ExecutorError,
    InvalidRequestError,
    PipelineExistsError,
    RunTooLargeError,
    SaveConflictError,
    StoreUnavailableError,
    TooManyRunsError,
    WorkersUnavailableError,
)
from otto_executor.orders import Workers
from otto_executor.stores import Arrival, Departure, Left, News, Outside, Remains, RunStore
from otto_runtime.tasks import Backoff

log = logging.getLogger(__name__)
AT_ONCE = 16
"""Runs that are looked at at a time: each costs a few calls to the memory."""
ROOM_PATIENCE = 5.0
"""Seconds after which a run for which there was no room is looked at again."""
DELETED = "its PipelineRun was deleted"
Understand = Callable[[Mapping[str, Any], str], tuple[Definition, bytes]]
"""What a request in JSON asks for, given the run's id, and that request as clients send it. Raises InvalidRequestError."""


class Host(Protocol):
    """Whoever drives runs."""

    async def adopt(self, arrival: Arrival, definition: Definition, request: bytes) -> None:
        """Begins the run. Raises what storing its beginning raises, and TooManyRunsError."""

    async def take_up(self, pipeline_id: str) -> None:
        """Goes on with a run that was begun, unless that is done already."""

    async def end(self, pipeline_id: str, words: str) -> None:
        """Stops the run and waits until it has ended; nothing if it does not go on."""


class Comings:
    """Looks at what the memory tells, several runs at a time, each by one task."""

    def __init__(self, outside: Outside, understand: Understand, host: Host, store: RunStore, workers: Workers) -> None:
        """`outside` is the memory `store`, as far as others can reach it."""
        self._outside = outside
        self._understand = understand
        self._host = host
        self._store = store
        self._workers = workers
        self._room = asyncio.Semaphore(AT_ONCE)
        self._looked_at: dict[str, bool] = {}
        """What is being looked at, and whether there was news of it meanwhile."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group, aclosing(self._outside.news()) as news:
            group.create_task(self._outside.tidy(), name="let go of ended runs")
            async for event in news:
                key = _subject(event)
                if key in self._looked_at:
                    self._looked_at[key] = True
                    continue
                self._looked_at[key] = False
                group.create_task(self._look(key, event), name=f"look at {key}")

    async def _look(self, key: str, event: News) -> None:
        try:
            if isinstance(event, Arrival):
                async with self._room:
                    await self._arrived(event)
            elif isinstance(event, Left):
                await self._patiently(event.pipeline_id, lambda: self._host.take_up(event.pipeline_id))
            elif isinstance(event, Remains):
                await self._patiently(event.pipeline_id, lambda: self._workers.delete_workspace(event.workspace))
                log.info("executor.workspace.deleted", extra={"pipeline": event.pipeline_id, "workspace": event.workspace})
            else:
                await self._departed(event)
        finally:
            again = self._looked_at.pop(key)
        if again and isinstance(event, Arrival):
            self._outside.again(event.name)

    async def _arrived(self, arrival: Arrival) -> None:
        try:
            definition, request = self._understand(arrival.request, arrival.pipeline_id)
            await self._host.adopt(arrival, definition, request)
        except SaveConflictError:
            return  # it is gone, or somebody else's
        except StoreUnavailableError as error:
            log.warning("executor.arrival.delayed", extra={"run": arrival.name, "reason": error.reason})
            self._later(arrival.name, 2.0)
        except TooManyRunsError:
            await self._answer(arrival, "Pending", "waits until fewer pipelines are unfinished")
            self._later(arrival.name, ROOM_PATIENCE)
        except (InvalidRequestError, PipelineExistsError, RunTooLargeError) as error:
            log.info("executor.arrival.refused", extra={"run": arrival.name, "reason": str(error)})
            await self._answer(arrival, "Refused", f"{error}\nTo mend it delete this object and apply it again.")
        except ExecutorError as error:
            log.warning("executor.arrival.delayed", extra={"run": arrival.name, "reason": str(error)})
            self._later(arrival.name, 2.0)

    async def _answer(self, arrival: Arrival, state: str, words: str) -> None:
        try:
            await self._outside.answer(arrival, state, words)
        except StoreUnavailableError as error:
            log.warning("executor.arrival.delayed", extra={"run": arrival.name, "reason": error.reason})
            self._later(arrival.name, 2.0)

    def _later(self, name: str, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._outside.again, name)

    async def _departed(self, departure: Departure) -> None:
        """Has the run ended and its workspace deleted, however long that takes, then lets it go."""
        pipeline_id = departure.pipeline_id
        await self._host.end(pipeline_id, DELETED)
        if departure.gone:
            return
        await self._patiently(pipeline_id, lambda: self._cleaned(pipeline_id))
        log.info("executor.run.deleted", extra={"pipeline": pipeline_id})

    async def _cleaned(self, pipeline_id: str) -> None:
        short = await self._store.summary(pipeline_id)
        if short is not None and await self._store.condemn_workspace(pipeline_id):
            await self._workers.delete_workspace(short.workspace)
        await self._outside.let_go(pipeline_id)

    async def _patiently(self, pipeline_id: str, step: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(0.5, 30.0)
        while True:
            try:
                await step()
                return
            except (StoreUnavailableError, WorkersUnavailableError) as error:
                words = error.reason if isinstance(error, StoreUnavailableError) else error.words
                log.warning("executor.departure.delayed", extra={"pipeline": pipeline_id, "reason": words})
            await backoff.wait()


def _subject(event: News) -> str:
    """What is looked at by one task at a time."""
    match event:
        case Arrival(name=name):
            return f"arrival {name}"
        case Remains(workspace=workspace):
            return f"workspace {workspace}"
        case _:
            return f"run {event.pipeline_id}"
