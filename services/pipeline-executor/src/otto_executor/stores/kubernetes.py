"""Runs as PipelineRun objects: what an executor in a cluster uses.

A run is begun by one write of its object, which holds what was understood and the first state (`record`), so a run is either begun whole or
not at all. Later saves are patches of the status that name the version they go on from. Lists are answered from a picture that a watch and
our own writes keep; a run is read from the API server. `version` in the status counts our saves, so somebody who puts a label on a run
takes nothing over.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from otto_executor.errors import (
    PipelineExistsError,
    RunGoneError,
    RunTooLargeError,
    RunUnreadableError,
    SaveConflictError,
    TooLargeToStoreError,
    WorkspaceGoneError,
)
from otto_executor.orders import Owner
from otto_executor.progress import Progress
from otto_executor.stage import StageStatus
from otto_executor.stores.kubernetes_objects import RunObjects
from otto_executor.stores.kubernetes_outside import TOO_LARGE, KubernetesOutside
from otto_executor.stores.kubernetes_picture import Known, Picture, ours
from otto_executor.stores.kubernetes_watch import PictureWatch
from otto_executor.stores.object_name import hashed_name, object_name
from otto_executor.stores.object_size import SMALLEST, Fitted, check_beginning, fitted, status_room
from otto_executor.stores.packed_journal import Block, added, unpack
from otto_executor.stores.packed_state import pack_record, unpack_record, unpack_state
from otto_executor.stores.packing import DamagedError
from otto_executor.stores.pipelinerun import (
    API_VERSION,
    FINALIZER,
    INSTANCE_LABEL,
    KIND,
    Fate,
    WholeRun,
    extract,
    stored_bytes,
)
from otto_executor.stores.protocol import Key, StoredRun, Summary, Workspace, summary
from otto_kubekit.client import Client

log = logging.getLogger(__name__)
FORGET_AT_ONCE = 50
"""Runs deleted by one call of `forget`: a call each."""
PAUSE, SLOWER_BY = 0.25, 16_384
"""Seconds between saves of a run that are no edges, and the bytes of its object that make it once as long again: etcd writes and keeps all
of it each time, so a run of 200 KB is saved every 3 s and costs etcd 20 MB in the five minutes until it compacts.
"""
ANNOTATION_BYTES = 262_144
"""The most that Kubernetes takes of an object's annotations."""
READ = 4
"""Objects kept that were read last: whoever reads the messages of an ended run comes for them in parts."""
READ_SOON = 2.0
"""Seconds within which a cluster that answers has mostly told all runs."""


@dataclass(slots=True)
class _Held:
    """A run that goes on here: where its last save stands."""

    name: str
    uid: str
    resource_version: str
    version: int
    first: tuple[Progress, ...]
    """The messages in its record."""
    blocks: tuple[Block, ...]
    room: int
    """Bytes that its object has for the status."""
    size: int = 0


class KubernetesStore:
    """A RunStore in the client's namespace; `outside` is what others do with it. It is of use while it is `watched`."""

    def __init__(
        self, client: Client, instance: str, spec_of: Callable[[bytes], Mapping[str, Any]], clock: Callable[[], float] = time.time
    ) -> None:
        """`instance` is the installation; `spec_of` turns a request into what people read of it."""
        self._objects = RunObjects(client)
        self._instance = instance
        self._spec_of = spec_of
        self._clock = clock
        self._writer = secrets.token_hex(6)
        """Tells our saves from those of another process."""
        self._picture = Picture()
        self._held: dict[str, _Held] = {}
        self._read: OrderedDict[str, WholeRun] = OrderedDict()
        self.outside = KubernetesOutside(self._objects, self._picture, instance, self._body, self._begun)
        self.watch = PictureWatch(self._objects, self._picture, instance, self.outside.tell)
        self._check = self.watch.check

    async def create(self, run: StoredRun, progress: Sequence[Progress], *, takes_workspace_of: str = "") -> None:
        """See RunStore."""
        self._check()
        pipeline_id = run.definition.pipeline_id
        for name in self._names(pipeline_id):
            await self.outside.settle(name)
        self._refuse_known(pipeline_id)
        body = self._body(run, progress)
        if takes_workspace_of:
            await self._mark(takes_workspace_of, {"kept"}, Fate(fate="taken", taken_by=pipeline_id, taken_at=self._clock()))
        try:
            await self._create(run, progress, body)
        except (PipelineExistsError, RunTooLargeError):
            if takes_workspace_of:
                await self._mark(takes_workspace_of, {"taken"}, Fate())
            raise

    def _names(self, pipeline_id: str) -> Iterable[str]:
        """Those that a run's object may have, the most wanted first."""
        return dict.fromkeys((object_name(pipeline_id), hashed_name(pipeline_id), hashed_name(f"{self._instance}/{pipeline_id}")))

    def _body(self, run: StoredRun, progress: Sequence[Progress], applied: Mapping[str, Any] | None = None) -> dict[str, Any]:
        record = pack_record(run.definition, run.request, run.state, progress)
        asked = {**self._spec_of(run.request), "pipelineId": run.definition.pipeline_id}
        spec = extract(asked)
        # What kubectl has applied it keeps once more, among the annotations.
        rest = stored_bytes(spec) if applied is None else stored_bytes(applied) + min(stored_bytes(applied), ANNOTATION_BYTES)
        check_beginning(run, record, rest, asked)
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"labels": {INSTANCE_LABEL: self._instance}, "finalizers": [FINALIZER]},
            "spec": spec,
            "record": record,
        }

    async def _create(self, run: StoredRun, progress: Sequence[Progress], body: dict[str, Any]) -> None:
        pipeline_id = run.definition.pipeline_id
        for name in self._names(pipeline_id):
            body["metadata"]["name"] = name
            async with self.outside.beginning(name, body["record"], wanted=False):
                made = await self._made(name, body)
            if made is not None:
                self._begun(made, run, progress)
                return
        raise PipelineExistsError(pipeline_id, "of somebody else", ended=False)

    async def _made(self, name: str, body: dict[str, Any]) -> WholeRun | None:
        """The object, made now or by an earlier try; None if there is another one of that name.

        Raises PipelineExistsError and RunTooLargeError.
        """
        try:
            found, made = await self._objects.create(name, body)
        except TooLargeToStoreError as error:
            raise RunTooLargeError(TOO_LARGE) from error
        if made or found.record == body["record"]:
            return found
        pipeline_id = body["spec"]["pipelineId"]
        if ours(found.metadata, self._instance) and (found.spec.get("pipelineId") or name) == pipeline_id:
            raise PipelineExistsError(pipeline_id, "about to begin", ended=False)
        return None

    def _begun(self, found: WholeRun, run: StoredRun, progress: Sequence[Progress]) -> None:
        meta, pipeline_id = found.metadata, run.definition.pipeline_id
        self._picture.put(Known.of(meta, pipeline_id, found.status.memory, summary(run.definition, run.state)))
        room = status_room(found.record, found.spec)
        self._held[pipeline_id] = _Held(meta.name, meta.uid, meta.resource_version, run.version, tuple(progress), (), room)
        run.owner = _owner(found)

    async def save(self, run: StoredRun, progress: Sequence[Progress], *, edge: bool) -> None:  # noqa: ARG002  each survives whatever etcd does
        """See RunStore."""
        self._check()
        pipeline_id = run.definition.pipeline_id
        held = self._held.get(pipeline_id)
        if held is None and await self.load(pipeline_id) is not None:
            held = self._held.get(pipeline_id)
        if held is None:
            raise RunGoneError(pipeline_id)
        if held.version != run.version:
            raise SaveConflictError(f"pipeline {pipeline_id!r} was saved by somebody else since version {run.version}")
        journal = added(held.blocks, progress)
        while True:
            fit = fitted(run.definition, run.state, journal, held.room)
            try:
                found = await self._save(held, fit)
                break
            except TooLargeToStoreError as error:
                if held.room <= SMALLEST:
                    raise
                held.room = held.room * 2 // 3
                log.warning("executor.run.shortened", extra={"pipeline": pipeline_id, "size": held.room, "reason": error.reason})
        held.resource_version, held.version, held.blocks = found.metadata.resource_version, run.version + 1, fit.journal
        held.size = sum(len(block.data) for block in fit.journal) + len(fit.state)
        run.version += 1
        self._picture.put(Known.of(found.metadata, pipeline_id, found.status.memory))
        if run.state.ended:
            del self._held[pipeline_id]

    async def _save(self, held: _Held, fit: Fitted) -> WholeRun:
        content = hashlib.sha256(msgspec.json.encode([fit.state, fit.journal])).hexdigest()[:12]
        writer = f"{self._writer}-{content}"
        memory = {"version": held.version + 1, "writer": writer, "state": fit.state, "journal": fit.journal, "summary": fit.summary}
        change = {"status": {**fit.readable, "memory": memory}}
        return await self._objects.change(held, change, "status", lambda there: self._ahead(there, held, writer))

    def _ahead(self, there: WholeRun, held: _Held, writer: str) -> bool:
        """Whether this save from `held` has been done already. Raises SaveConflictError if somebody else's has.

        Another one of this process, which was not answered and therefore told to have failed, is written over: nobody has seen it.
        """
        memory = there.status.memory
        tried = memory.version == held.version + 1 and memory.writer.startswith(self._writer)
        if tried and memory.writer == writer:
            return True
        if (not tried and (memory.version or 1) != held.version) or not ours(there.metadata, self._instance):
            self._held = {pipeline_id: other for pipeline_id, other in self._held.items() if other is not held}
            raise SaveConflictError(f"{held.name} was saved by somebody else since version {held.version}")
        return False

    async def load(self, pipeline_id: str) -> StoredRun | None:
        """See RunStore."""
        self._check()
        found = await self._whole(pipeline_id)
        if found is None:
            return None
        memory = found.status.memory
        try:
            definition, request, state, first = unpack_record(found.record)
            if memory.state:
                state = unpack_state(memory.state)
        except DamagedError as error:
            raise RunUnreadableError(pipeline_id, str(error)) from error
        if state.stages.keys() != {stage.stage_id for stage in definition.stages}:
            raise RunUnreadableError(pipeline_id, "its state is one of other stages")
        version = memory.version or 1
        if not state.ended:
            meta = found.metadata
            room = status_room(found.record, found.spec)
            self._held[pipeline_id] = _Held(meta.name, meta.uid, meta.resource_version, version, tuple(first), memory.journal, room)
        return StoredRun(definition, request, state, version, _owner(found))

    async def summary(self, pipeline_id: str) -> Summary | None:
        """See RunStore."""
        self._check()
        known = self._picture.of(pipeline_id)
        return known.summary if known is not None and not self.outside.unwanted(known.name) else None

    async def unfinished(self) -> list[str]:
        """See RunStore."""
        self._check()
        return self._picture.unfinished()

    async def progress(self, pipeline_id: str, after: int, limit: int) -> list[Progress]:
        """See RunStore."""
        self._check()
        held = self._held.get(pipeline_id)
        found = await self._whole(pipeline_id) if held is None else None
        if held is None and found is None:
            return []
        try:
            first = held.first if held is not None else unpack_record(found.record)[3] if found is not None else ()
            messages = [message for message in first if message.sequence > after]
            for block in held.blocks if held is not None else found.status.memory.journal if found is not None else ():
                if len(messages) >= limit:
                    break
                if block.last > after:
                    messages += [message for message in unpack(block) if message.sequence > after]
        except DamagedError as error:
            raise RunUnreadableError(pipeline_id, str(error)) from error
        return messages[:limit]

    async def page(self, statuses: Collection[StageStatus], after: Key | None, limit: int) -> list[Summary]:
        """See RunStore."""
        self._check()
        return self._picture.page(statuses, after, limit)

    async def workspaces(self) -> list[Workspace]:
        """See RunStore."""
        self._check()
        return self._picture.workspaces(self._clock())

    async def condemn_workspace(self, pipeline_id: str) -> bool:
        """See RunStore."""
        self._check()
        try:
            await self._mark(pipeline_id, {"kept", "condemned"}, Fate(fate="condemned"))
        except WorkspaceGoneError:
            return False
        return True

    async def workspace_deleted(self, pipeline_id: str) -> None:
        """See RunStore."""
        self._check()
        try:
            await self._mark(pipeline_id, {"kept", "condemned", "taken"}, Fate(fate="gone"))
        except WorkspaceGoneError:
            return

    async def _mark(self, pipeline_id: str, now: Collection[str], then: Fate) -> None:
        """Notes what becomes of an ended run's workspace. Raises WorkspaceGoneError if it is not as `now` says, or the run goes on."""
        known = self._picture.of(pipeline_id)
        if known is None or not known.ended or self._picture.fate(known, self._clock()) not in now:
            raise WorkspaceGoneError(pipeline_id)
        if known.workspace == then:
            return

        def marked(there: WholeRun) -> bool:
            self._picture.put(fresh := Known.of(there.metadata, pipeline_id, there.status.memory))
            if fresh.workspace == then:
                return True
            if self._picture.fate(fresh, self._clock()) not in now:
                raise WorkspaceGoneError(pipeline_id)
            return False

        # Told whole: what is left out of a merge patch stays as it was.
        mark = {"fate": then.fate, "takenBy": then.taken_by, "takenAt": then.taken_at}
        try:
            found = await self._objects.change(known, {"status": {"memory": {"workspace": mark}}}, "status", marked)
        except RunGoneError:
            raise WorkspaceGoneError(pipeline_id) from None
        self._picture.put(Known.of(found.metadata, pipeline_id, found.status.memory))

    async def forget(self, ended_before: float, keep: int) -> int:
        """See RunStore."""
        self._check()
        old = self._picture.forgettable(ended_before, keep, FORGET_AT_ONCE, self._clock())
        for known in old:  # deleted, then let go: never is there a run that nobody has deleted and that does not look begun
            with self.outside.quiet(known.name):
                await self._objects.delete(known)
                if known.held:
                    await self.outside.let_go(known.pipeline_id)
                else:
                    self._picture.gone(known.name, known.uid)
        return len(old)

    def pause(self, pipeline_id: str) -> float:
        """See RunStore."""
        held = self._held.get(pipeline_id)
        return PAUSE * (1 + (held.size if held is not None else 0) / SLOWER_BY)

    async def close(self) -> None:
        """See RunStore."""

    async def _whole(self, pipeline_id: str) -> WholeRun | None:
        """The run's object as it is now."""
        known = self._picture.of(pipeline_id)
        if known is None:
            return None
        kept = self._read.get(known.name)
        if kept is not None and kept.metadata.uid == known.uid and kept.metadata.resource_version == known.resource_version and known.ended:
            self._read.move_to_end(known.name)
            return kept
        found = await self._objects.get(known.name)
        if found is not None and found.metadata.uid != known.uid:
            return None  # another one has taken its name
        if found is not None and known.ended:
            self._read[known.name] = found
            while len(self._read) > READ:
                self._read.popitem(last=False)
        return found

    def _refuse_known(self, pipeline_id: str) -> None:
        known = self._picture.of(pipeline_id)
        if known is not None and known.summary is not None:
            raise PipelineExistsError(pipeline_id, known.summary.status.lower(), ended=known.ended)


def _owner(found: WholeRun) -> Owner:
    meta = found.metadata
    return Owner(API_VERSION, KIND, meta.name, meta.uid, meta.namespace)


@asynccontextmanager
async def watched(store: KubernetesStore) -> AsyncIterator[None]:
    """While this lasts the store knows what is in the cluster: all of it is read anew first, and then watched.

    So whoever begins to act, when another executor has just ceased to, misses nothing of what that one did last. Until the cluster was
    read, which is waited for only shortly, the store's calls raise StoreUnavailableError. What ends the watching is raised, in a group.
    """
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(store.watch.run(), name="watch pipelineruns")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_SOON):
                    await store.watch.known.wait()
            yield
        finally:
            watch.cancel()
