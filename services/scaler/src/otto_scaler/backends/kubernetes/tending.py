"""The picture of all worker pods, kept true by one watch, and what is done when a worker's time is over."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from otto_kubekit.client import Client
from otto_kubekit.watching import Added, Deleted, Interrupted, Modified, Synced, Watching, forever
from otto_scaler.backends import protocol
from otto_scaler.backends.kubernetes import marks
from otto_scaler.backends.kubernetes.deadlines import Action, Deadlines, Due, Moment
from otto_scaler.backends.kubernetes.entry import Entry
from otto_scaler.backends.kubernetes.judging import worker_of
from otto_scaler.backends.kubernetes.metering import Metering
from otto_scaler.backends.kubernetes.pods import WORKER_PODS, WorkerPod
from otto_scaler.backends.kubernetes.refusals import said
from otto_scaler.errors import BackendError
from otto_scaler.worker import Cause, State, Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
AGAIN_SECONDS = 5.0
"""Until what could not be done about a worker whose time is over is tried again."""


class Tending:
    """All workers, and whatever is to be told of them. `watch` has to run for it to be true."""

    def __init__(
        self,
        client: Client,
        watching: Watching,
        pending_timeout: float,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        usage_interval: float = 0.0,
    ) -> None:
        """`clock` gives seconds since the epoch, `steady` seconds that only grow. `usage_interval`: see Metering."""
        self._client = client
        self._watching = watching
        self._pending_timeout = pending_timeout
        self._clock = clock
        self._steady = steady
        self.entries: dict[str, Entry] = {}
        self.metering = Metering(client, watching.labels, usage_interval, self.running)
        self.events: deque[protocol.Observation] = deque()
        """For whoever observes; only filled while somebody does."""
        self.more = asyncio.Event()
        self.observed = False
        self.known = asyncio.Event()
        """All pods there are have been seen, once at least."""
        self.freed = asyncio.Event()
        """A worker has ended, so a workspace may have become free."""
        self.creating = 0
        """How many creations are under way."""
        self._removed: set[str] = set()
        """Uids of pods that were deleted here and may still be seen."""
        self._vanished: set[str] = set()
        """Uids of pods that went while creations were under way: the answer of a creation may come later than its pod's end."""
        self._unreadable: set[str] = set()

    # What is seen

    async def watch(self) -> None:
        """Keeps the picture true, until cancelled. While the cluster is away it stays as it was: nothing counts as gone for that."""
        self.known.clear()
        told: set[str] | None = set()
        away = ""
        async with aclosing(cast("Any", forever(self._client, WORKER_PODS, self._watching))) as seen:
            async for event in seen:
                match event:
                    case Added(pod) | Modified(pod):
                        if told is not None:
                            told.add(pod.metadata.uid)
                        self.see(pod, live=self.known.is_set())
                    case Deleted(pod):
                        self.lose(pod)
                    case Interrupted(error, delay):
                        if away != (why := said(error)):
                            away = why
                            log.warning("scaler.cluster.away", extra={"why": why, "delay": round(delay, 1)})
                        continue
                    case Synced(_, listed_for, missed):
                        if told is not None:
                            self._forget_all_but(told)
                            told = None
                        if missed and listed_for == "reconcile":
                            log.warning("scaler.cluster.missed", extra={"count": missed})
                        self.known.set()
                if away:
                    away = ""
                    log.info("scaler.cluster.back")

    def see(self, pod: WorkerPod, *, live: bool) -> None:
        """A pod is there and stands like this. `live`: that has just happened; otherwise it was found so."""
        uid, name = pod.metadata.uid, pod.metadata.name
        if uid in self._removed or uid in self._vanished:
            return
        entry = self.entries.get(name)
        if entry is not None and entry.older(pod):
            return  # of an earlier pod of this name too
        now = Moment(self._steady(), self._clock(), live)
        if entry is None or entry.uid != uid:
            try:
                identity = marks.identity(pod.metadata)
            except ValueError as error:
                if uid not in self._unreadable:
                    self._unreadable.add(uid)
                    log.warning("scaler.pod.unreadable", extra={"worker": name, "why": str(error)})
                return
            entry = self.entries[name] = Entry(pod, identity, Deadlines(self._pending_timeout))
            entry.look(pod, now)
            self._tell(entry)
        elif entry.look(pod, now):
            self._tell(entry)

    def lose(self, pod: WorkerPod) -> None:
        """A pod is not there any more; this is the last that was seen of it."""
        uid, name = pod.metadata.uid, pod.metadata.name
        self._unreadable.discard(uid)
        if uid in self._removed:
            self._removed.discard(uid)
            return
        entry = self.entries.get(name)
        if entry is None or entry.uid != uid:
            if self.creating:
                self._vanished.add(uid)
            return
        if entry.concluded:
            entry.gone = True
        elif entry.worker.finished:
            self.forget(entry)
        elif entry.verdict is not None:
            entry.gone = True
            self.conclude(entry, *entry.verdict)
        else:
            entry.gone = True
            self._conclude(entry, _ended_by(worker_of(pod, entry.identity, gone=True), self._clock()))

    def conclude(self, entry: Entry, cause: Cause, words: str) -> None:
        """The worker has ended, whatever becomes of its pod, and stays to be seen until it is removed. One that has ended already did."""
        if entry.worker.finished:
            return
        worker = replace(entry.worker, state=State.FAILED, cause=cause, error=words, pending_reason="", held=False, stopping=True)
        self._conclude(entry, _ended_by(worker, self._clock()))

    def forget(self, entry: Entry, *, pod_left: bool = False) -> None:
        """There is no such worker any more. `pod_left`: its pod may be seen a little longer."""
        if self.entries.get(entry.name) is entry:
            del self.entries[entry.name]
            self.metering.forget(entry.name)
            if pod_left:
                self._removed.add(entry.uid)
            self._emit(protocol.Gone(entry.name))

    def created(self) -> None:
        """A creation is over."""
        self.creating -= 1
        if not self.creating:
            self._vanished.clear()

    def running(self) -> set[str]:
        """Names of the workers that run."""
        return {name for name, entry in self.entries.items() if entry.worker.state is State.RUNNING}

    def used(self) -> set[str]:
        """Workspaces that unfinished workers name."""
        return {entry.identity.workspace for entry in self.entries.values() if not entry.worker.finished}

    def _forget_all_but(self, uids: set[str]) -> None:
        """What an earlier watch had seen, and this one has not found."""
        self._removed &= uids
        self._unreadable &= uids
        for entry in [entry for entry in self.entries.values() if entry.uid not in uids]:
            if entry.concluded:
                entry.gone = True
            else:
                self.forget(entry)

    def _conclude(self, entry: Entry, worker: Worker) -> None:
        entry.concluded = True
        entry.deadlines.due = None
        entry.worker = worker
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        if entry.worker.finished:
            entry.deadlines.due = None
            self.freed.set()
            entry.worker = replace(entry.worker, usage=entry.worker.usage or self.metering.usage(entry.name))
            self.metering.forget(entry.name)
        self._emit(protocol.Seen(entry.worker))

    def _emit(self, observation: protocol.Observation) -> None:
        if self.observed:
            self.events.append(observation)
            self.more.set()

    # What is done

    async def keep_deadlines(self, end: Callable[[Entry, Due], Awaitable[None]]) -> None:
        """Does what is due, until cancelled; `end` makes a worker, or what is left of it, end."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                now = self._steady()
                for entry in list(self.entries.values()):
                    due = entry.deadlines.due
                    if due is not None and due.at <= now and not entry.acting:
                        entry.acting = True
                        group.create_task(self._act(entry, due, end), name=f"{due.action.value} {entry.name}")

    async def _act(self, entry: Entry, due: Due, end: Callable[[Entry, Due], Awaitable[None]]) -> None:
        if due.action is Action.STOP_REST:
            log.warning("scaler.worker.left_running", extra={"worker": entry.name, "containers": due.words})
        else:
            log.warning("scaler.worker.overdue", extra={"worker": entry.name, "cause": due.cause.name, "why": due.words})
        try:
            if due.action is Action.LOSE:
                self.conclude(entry, due.cause, due.words)
            else:
                await end(entry, due)
        except BackendError as error:
            log.warning("scaler.worker.stop_failed", extra={"worker": entry.name, "why": str(error)})
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            entry.acting = False


def _ended_by(worker: Worker, now: float) -> Worker:
    """The worker, with an end that is not later than it was seen."""
    return worker if worker.finished and worker.ended > worker.started else replace(worker, ended=max(worker.started, int(now * 1e9)))
