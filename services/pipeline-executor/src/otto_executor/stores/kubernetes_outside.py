"""What others do with PipelineRuns: those that kubectl applied, those that it deleted, and those that we may have begun or not."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

from otto_executor.errors import (
    PipelineExistsError,
    RunGoneError,
    RunTooLargeError,
    SaveConflictError,
    StoreUnavailableError,
    TooLargeToStoreError,
)
from otto_executor.progress import Progress, shortened
from otto_executor.stores.kubernetes_holds import Holds, others
from otto_executor.stores.kubernetes_objects import RunObjects
from otto_executor.stores.kubernetes_picture import Known, Picture, ours
from otto_executor.stores.pipelinerun import FINALIZER, REFUSED, WholeRun
from otto_executor.stores.protocol import Arrival, Departure, Left, News, Remains, StoredRun

MOST_WORDS, FEWEST_WORDS = 32_000, 200
"""Characters of what is wrong with a spec, and of an object that is full."""
TOO_LARGE = "the cluster does not take an object as large as this pipeline's. Move long scripts and values into files of the repository"
AGAIN = 2.0
"""Seconds after which an object is looked at again that could not be read."""


class KubernetesOutside:
    """The store's `Outside`. Level-triggered: what there is news of is looked at as it is by then."""

    def __init__(
        self,
        objects: RunObjects,
        picture: Picture,
        instance: str,
        body: Callable[[StoredRun, Sequence[Progress], Mapping[str, Any]], dict[str, Any]],
        begun: Callable[[WholeRun, StoredRun, Sequence[Progress]], None],
    ) -> None:
        """`body` is a begun run's object, given the spec that is there; `begun` takes note of one."""
        self._objects = objects
        self._picture = picture
        self._instance = instance
        self._body = body
        self._begun = begun
        self._holds = Holds(objects, picture)
        self._news: dict[str, Known | None] = {}
        """Objects of which there is news, and how those were known last that are gone."""
        self._any = asyncio.Event()
        self._busy: Counter[str] = Counter()
        """Objects that are begun or deleted here, and how often at once, so that what the watch tells of them is no news."""
        self._uncertain: dict[str, dict[bytes, bool]] = {}
        """Digests of records that may have been written though it seemed that they were not, by object; and whether those are wanted."""
        self._settling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By object: one of which nothing is heard holds no other up."""

    def tell(self, name: str, was: Known | None = None) -> None:
        """There is news of an object; `was` if it is gone."""
        if name not in self._busy and (name not in self._news or was is not None):
            self._news[name] = was
            self._any.set()

    def again(self, name: str) -> None:
        """See Outside."""
        self.tell(name)

    @contextmanager
    def quiet(self, name: str) -> Iterator[None]:
        """While what happens to an object is our own doing."""
        self._busy[name] += 1
        try:
            yield
        finally:
            self._busy[name] -= 1
            if not self._busy[name]:
                del self._busy[name]

    @asynccontextmanager
    async def beginning(self, name: str, record: str, *, wanted: bool) -> AsyncIterator[None]:
        """While an object is begun. What is not answered may have happened: then it is taken back, or gone on with if it is `wanted`."""
        digest = _digest(record)
        self._uncertain.setdefault(name, {})[digest] = wanted
        try:
            with self.quiet(name):
                yield
            self._uncertain.pop(name, None)
        except (PipelineExistsError, RunTooLargeError, SaveConflictError, StoreUnavailableError) as error:
            # What an earlier try may have written is as uncertain as it was.
            certain = not isinstance(error, StoreUnavailableError) or not error.maybe_done
            if certain and (records := self._uncertain.get(name)) is not None and records.pop(digest, None) is not None and not records:
                del self._uncertain[name]
            raise
        finally:
            self.tell(name)

    async def news(self) -> AsyncGenerator[News]:
        """See Outside."""
        while True:
            self._any.clear()
            while self._news:
                name, was = next(iter(self._news.items()))
                del self._news[name]
                try:
                    told = await self._told(name, was)
                except StoreUnavailableError:
                    asyncio.get_running_loop().call_later(AGAIN, self.tell, name, was)
                    continue
                if told is not None:
                    yield told
            await self._any.wait()

    async def _told(self, name: str, was: Known | None) -> News | None:
        known = self._picture.named(name)
        if was is not None and (known is None or known.uid != was.uid):
            if known is not None:
                self.tell(name)
            return _after(was)
        if known is None:
            return None
        if name in self._busy:
            return None  # it is told again when that is over
        if name in self._uncertain:
            async with self._settling_of(name):
                return await self._settled(name)
        if known.deleting:
            return Departure(known.pipeline_id) if known.begun else None
        if known.begun:
            self._holds.seen(known)
            return None
        found = await self._objects.get(name)
        if found is None or found.record or found.status.state == REFUSED:
            return None  # what was refused stays refused, whatever the settings are by then
        return Arrival(name, found.metadata.uid, known.pipeline_id, found.spec)

    async def settle(self, name: str) -> None:
        """Takes back what an earlier try has made and was told not to have: whoever tries again need not wait for the watch."""
        if self.unwanted(name):
            async with self._settling_of(name):
                if self.unwanted(name):
                    await self._settled(name)

    def unwanted(self, name: str) -> bool:
        """Whether the object, if there is one, may be one that was told not to have been made: it is taken back."""
        return name in self._uncertain and not any(self._uncertain[name].values())

    def _settling_of(self, name: str) -> asyncio.Lock:
        return self._settling.setdefault(name, asyncio.Lock())

    async def _settled(self, name: str) -> Left | None:
        """What has become of beginnings that were not answered. Of an object that is not there, one may still be on its way."""
        if name in self._busy or name not in self._uncertain:
            return None  # of what is begun just now it is told again when that is over
        found = await self._objects.get(name)
        if found is None or name in self._busy or name not in self._uncertain:
            return None
        wanted = self._uncertain[name].get(_digest(found.record))
        pipeline_id = found.spec.get("pipelineId") or name
        if wanted is False:
            there = Known.of(found.metadata, pipeline_id, found.status.memory)
            self._picture.put(there)
            await self._objects.delete(there)
            with suppress(RunGoneError):  # not by its id, which another object may have by now
                await self._holds.take_off(there, deleting_too=True)
            self._picture.gone(name, there.uid)
        del self._uncertain[name]
        if wanted:
            return Left(pipeline_id)
        self.tell(name)
        return None

    async def accept(self, arrival: Arrival, run: StoredRun, progress: Sequence[Progress]) -> None:
        """See Outside."""
        known = self._picture.named(arrival.name)
        if known is None or known.uid != arrival.uid or known.begun or known.deleting:
            raise SaveConflictError(f"{arrival.name} is gone or begun")
        other = self._picture.of(run.definition.pipeline_id)
        if other is not None and other.summary is not None:
            raise PipelineExistsError(run.definition.pipeline_id, other.summary.status.lower(), ended=other.ended)
        body = self._body(run, progress, arrival.request)

        def begun(there: WholeRun) -> bool:
            if there.record and there.record != body["record"]:
                raise SaveConflictError(f"{arrival.name} was begun by somebody else")
            if not ours(there.metadata, self._instance) or there.metadata.deletion_timestamp is not None:
                raise SaveConflictError(f"{arrival.name} is not ours")
            metadata["finalizers"] = [*others(there.metadata.finalizers), FINALIZER]
            return bool(there.record)

        metadata = {**body["metadata"], "finalizers": [*others(known.finalizers), FINALIZER]}
        change = {"metadata": metadata, "record": body["record"]}
        async with self.beginning(arrival.name, body["record"], wanted=True):
            try:
                found = await self._objects.change(known, change, "", begun)
            except TooLargeToStoreError as error:
                raise RunTooLargeError(TOO_LARGE) from error
        self._begun(found, run, progress)

    async def answer(self, arrival: Arrival, state: str, words: str) -> None:
        """See Outside."""
        known = self._picture.named(arrival.name)
        if known is None or known.uid != arrival.uid or known.begun:
            return
        try:
            found = await self._told_why(known, state, shortened(words, MOST_WORDS))
        except TooLargeToStoreError:
            found = await self._told_why(known, state, shortened(words, FEWEST_WORDS))
        except RunGoneError:
            return
        self._picture.put(Known.of(found.metadata, known.pipeline_id, found.status.memory, state=found.status.state))

    async def _told_why(self, known: Known, state: str, words: str) -> WholeRun:
        change = {"status": {"state": state, "message": words}}
        return await self._objects.change(known, change, "status", lambda there: bool(there.record))

    async def let_go(self, pipeline_id: str) -> None:
        """See Outside."""
        known = self._picture.of(pipeline_id) or self._picture.damaged(pipeline_id)
        if known is None:
            return
        found = await self._objects.get(known.name)
        there = Known.of(found.metadata, known.pipeline_id, found.status.memory) if found is not None else None
        if there is not None and there.uid == known.uid and there.held:
            with suppress(RunGoneError):
                await self._holds.take_off(there, deleting_too=True)
        self._picture.gone(known.name, known.uid)

    async def tidy(self) -> None:
        """See Outside."""
        await self._holds.run()


def _digest(record: str) -> bytes:
    return hashlib.sha256(record.encode()).digest()


def _after(was: Known) -> Departure | Remains | None:
    """What is to be done about a run whose object is gone."""
    if not was.begun:
        return None
    if was.summary is None or not was.ended:
        return Departure(was.pipeline_id, gone=True)
    # One that was seen being deleted is a Departure: its workspace is seen to.
    left = was.summary.workspace if was.workspace.fate in {"", "kept", "condemned"} and not was.deleting else ""
    return Remains(was.pipeline_id, left) if left else None
