"""All workers: creates and stops them, keeps the one picture of them, tells those who watch, and tidies away what is over."""

import asyncio
import contextvars
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, cast

from otto_scaler.admission import Admission
from otto_scaler.backends import Gone, Observation, Seen, Synced, WorkerBackend
from otto_scaler.errors import AwayError, BackendError, NotReadyError, RefusedError
from otto_scaler.keeping import Keeping, Need, Verdict
from otto_scaler.limits import Limits
from otto_scaler.outcomes import Creation, Refusal, Stops
from otto_scaler.picture import Picture, Selection
from otto_scaler.turned_away import TurnedAway
from otto_scaler.watching import Change, Kind, Listener, Watch
from otto_scaler.worker import Cause, State, Worker, WorkerSpec, task_workspace

log = logging.getLogger(__name__)

OBSERVE_AGAIN_SECONDS = 1.0
START_AGAIN_SECONDS = 5.0
"""Until a worker is tried again that has a slot, and could be neither started nor stopped."""


class Fleet:
    """The workers of one installation. `run` has to run for anything to happen; calls before that wait for it, calls after it raise
    NotReadyError.
    """

    def __init__(
        self,
        backend: WorkerBackend,
        limits: Limits,
        clock: Callable[[], int] = time.time_ns,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives nanoseconds since the epoch, `steady` seconds that only grow."""
        self._backend = backend
        self._limits = limits
        self._clock = clock
        self._picture = Picture()
        self._steady = steady
        self._admission = Admission(limits.max_workers)
        self._turned_away = TurnedAway()
        self._watches: set[Listener] = set()
        self._keeping = Keeping(limits.finished_ttl, limits.unreleased_limit, limits.peer_grace, steady)
        self._stopping: dict[str, str] = {}
        self._creating: dict[str, asyncio.Task[Refusal | None]] = {}
        self._begun: dict[str, WorkerSpec] = {}
        """What those that are being created are to be."""
        self._expected: dict[str, asyncio.Event] = {}
        self._lost: set[str] = set()
        self._known = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Observes the backend and tidies, until cancelled; calls `ready` once all workers there are have been seen. Workers outlive it."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._backend.run(), name="backend")
                group.create_task(self._observe(ready), name="observe workers")
                group.create_task(self._tidy(), name="tidy workers away")
        finally:
            self._group = None

    @property
    def cap(self) -> int:
        """Most workers that run at the same time."""
        return self._limits.max_workers

    def figures(self) -> tuple[dict[State, int], int]:
        """How many workers there are in each state, and how many wait for room; may be asked from any thread."""
        return self._picture.counts(), self._admission.queued

    def attach(self, listener: Listener) -> list[Worker]:
        """From now on it is told every change, right when it is seen. Returns the workers there are."""
        self._watches.add(listener)
        return self._picture.all()

    # Calls

    async def scale_up(self, specs: Sequence[WorkerSpec], *, queue: bool) -> Creation:
        """Creates those workers that don't exist; answers when each was accepted or refused. Those for which there is no room wait with
        `queue`.

        Cancelled, what was begun goes on. Raises NotReadyError, also when the backend does not answer.
        """
        group = await self._ready()
        result = Creation([], [], [], [])
        joined: set[str] = set()
        begun: list[asyncio.Task[Refusal | None]] = []
        for spec in specs:
            name = spec.identity.name
            task = self._creating.get(name)
            known = self._picture.get(name)
            if known is not None and task is None:
                if known.identity.is_same_worker(spec.identity):
                    result.existing.append(known)
                else:
                    result.refused.append(Refusal(name, "another task's worker has this name; use another task_id", Cause.REJECTED))
                continue
            if task is None:
                room = self._admission.take(name)
                if not room and (not queue or self._admission.queued >= self._limits.max_queued):
                    result.no_room.append(name)
                    self._turned_away.note(spec.identity.task_id, name, self._steady())
                    continue
                self._turned_away.forget(name)
                if not room:
                    self._admission.enqueue(spec.identity.task_id, name)
                task = group.create_task(self._create(spec, held=not room), name=f"create {name}")
                self._creating[name] = task
                self._begun[name] = spec
            else:
                joined.add(name)
            begun.append(task)
            result.created.append(name)
        if begun:
            await asyncio.wait(begun)
        for name, task in zip(list(result.created), begun, strict=True):
            if task.cancelled():
                raise NotReadyError("the service is stopping; repeat the call")
            if refusal := task.result():
                result.created.remove(name)
                result.refused.append(refusal)
            elif name in joined and (known := self._picture.get(name)) is not None:
                result.created.remove(name)
                result.existing.append(known)
        if away := next((refusal for refusal in result.refused if refusal.away), None):
            raise NotReadyError(f"{away.why}; repeat the call, which creates nothing twice")
        return result

    async def scale_down(self, task_id: str, left: int, reason: str) -> Stops:
        """Stops workers of a task until `left` are left: pending ones first, then the youngest. Tells those that this call stops.

        Answers when the stops are noted. Cancelled, they go on. Raises NotReadyError.
        """
        group = await self._ready()
        # Those that are being created count, and are the youngest.
        begun = [s.identity for s in self._begun.values() if s.identity.task_id == task_id and self._picture.get(s.identity.name) is None]
        begun = sorted((i for i in begun if i.name not in self._stopping), key=lambda identity: identity.index, reverse=True)
        unfinished = [w for w in self._picture.unfinished(task_id) if w.name not in self._stopping and not w.stopping]
        unfinished.sort(key=lambda w: (w.state is State.PENDING, w.held, w.created, w.identity.index), reverse=True)
        names = [identity.name for identity in begun] + [worker.name for worker in unfinished]
        chosen = names[: max(0, len(names) - left)]
        for name in chosen:
            self._stopping[name] = reason
        stops = [group.create_task(self._stop(name, reason), name=f"stop {name}") for name in chosen]
        if stops:
            await asyncio.wait(stops)
        stopped = {name for name, stop in zip(chosen, stops, strict=True) if not stop.cancelled() and stop.result()}
        if doubtful := next((name for name in chosen if name not in stopped and self._picture.get(name) is None), None):
            raise NotReadyError(f"it can't be told now whether {doubtful} was created; repeat the call")
        there = [worker for name in chosen if (worker := self._picture.get(name)) is not None]
        return Stops([w for w in there if w.name in stopped], [w for w in there if w.name not in stopped and not w.finished])

    async def select(self, task: str, name: str, state: State | None, limit: int) -> Selection:
        """See Picture.select. Raises NotReadyError."""
        if not self._known.is_set():
            await self._ready()
        return self._picture.select(task, name, state, limit)

    def places(self) -> dict[str, int]:
        """At which place each worker that waits for room will get it, from 1."""
        return self._admission.places()

    def turned_away(self, task: str, name: str) -> int:
        """How many workers (of a task, of that name) were asked for just now and found neither room nor a place to wait."""
        return self._turned_away.count(task, name, self._steady())

    def waiting(self, names: Iterable[str]) -> int:
        """How many of these workers wait for room now."""
        return sum(self._admission.waits(name) for name in names)

    def worker(self, name: str) -> Worker | None:
        """The worker of that name, as it is known now."""
        return self._picture.get(name)

    @contextmanager
    def watch(self, selects: Callable[[Worker], bool]) -> Iterator[Watch]:
        """A watch over the workers that `selects` is true for; use `known` first."""
        watch = Watch([w for w in self._picture.all() if selects(w)], selects, self._limits.watch_backlog)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def known(self) -> None:
        """Returns when all workers there are have been seen, however long that takes."""
        await self._known.wait()

    async def release(self, names: Sequence[str], what: Need = Need.LINES) -> int:
        """Somebody has taken `what` they need of these workers; finished ones may be removed once all was taken and their time is over.

        Returns how many were finished. Raises NotReadyError.
        """
        await self._ready()
        finished = [worker for name in set(names) if (worker := self._picture.get(name)) is not None and worker.finished]
        for worker in finished:
            self._keeping.taken(worker, what)
        return len(finished)

    async def delete_workspace(self, name: str) -> None:
        """See WorkerBackend.delete_workspace. Raises NotReadyError."""
        await self._ready()
        await self._backend.delete_workspace(name)

    async def _ready(self) -> asyncio.TaskGroup:
        try:
            async with asyncio.timeout(self._limits.ready_timeout):
                await self._known.wait()
        except TimeoutError:
            raise NotReadyError("the workers are not known yet; repeat the call") from None
        if self._group is None:
            raise NotReadyError("the service is stopping; repeat the call")
        return self._group

    # What is done

    async def _create(self, spec: WorkerSpec, *, held: bool) -> Refusal | None:
        """Creates a worker and waits until it is observed. Returns why it was refused, if it was."""
        name = spec.identity.name
        seen = self._expected[name] = asyncio.Event()
        try:
            await self._backend.create(spec, held=held)
            async with asyncio.timeout(self._limits.ready_timeout):
                await seen.wait()
        except RefusedError as error:
            log.warning("scaler.worker.refused", extra={"worker": name, "why": str(error)})
            refusal = Refusal(name, str(error) or "the backend refused it", error.cause)
        except AwayError as error:
            log.warning("scaler.worker.create_away", extra={"worker": name, "why": str(error)})
            refusal = Refusal(name, str(error), Cause.INTERNAL, away=True)
        except TimeoutError:
            log.warning("scaler.worker.not_observed", extra={"worker": name})
            return None
        except Exception as error:  # one worker that can't be created must not end all others
            error_id = secrets.token_hex(4)
            log.exception("scaler.worker.create_failed", extra={"worker": name, "error_id": error_id})
            why = str(error) if isinstance(error, BackendError) else f"the backend failed (error id {error_id})"
            refusal = Refusal(name, why, Cause.INTERNAL)
        else:
            log.info("scaler.worker.created", extra={"worker": name, "task": spec.identity.task_id, "held": held})
            return None
        finally:
            del self._expected[name]
            self._creating.pop(name, None)
            self._begun.pop(name, None)
        known = self._picture.get(name)
        if known is not None and known.identity.is_same_worker(spec.identity):
            return None  # it was made nevertheless, and has its slot or its place in the queue: whoever observes knows better
        self._stopping.pop(name, None)
        self._admission.free(name)
        self._admit()
        return refusal

    async def _stop(self, name: str, reason: str) -> bool:
        """Asks the backend, once it has created the worker; whether that worked. If not, a repeated call tries again.

        One whose creation was not answered may be there all the same.
        """
        creating = self._creating.get(name)
        if creating is not None:
            await asyncio.wait({creating})
            if creating.cancelled():
                return False
            if (refusal := creating.result()) is not None and not refusal.away:
                return True
        try:
            await self._backend.stop(name, reason)
        except BackendError as error:
            log.warning("scaler.worker.stop_failed", extra={"worker": name, "why": str(error)})
            self._stopping.pop(name, None)
            return False
        log.info("scaler.worker.stopping", extra={"worker": name, "reason": reason})
        return True

    def _admit(self) -> None:
        """Lets those run whose turn it is."""
        if self._group is None or not self._known.is_set():
            return
        for name in self._admission.admit():
            # In a context of its own: whose call gave the slot back says nothing about who gets it.
            self._group.create_task(self._start(name), name=f"start {name}", context=contextvars.Context())

    async def _start(self, name: str) -> None:
        """Lets it run, or else makes it end; while neither can be done and it has its slot, both are tried again."""
        creating = self._creating.get(name)
        if creating is not None:
            await asyncio.wait({creating})
        while self._admission.holds(name):
            try:
                await self._backend.start(name)
            except BackendError as error:
                log.warning("scaler.worker.start_failed", extra={"worker": name, "why": str(error)})
                if not await self._stop(name, f"it could not be started: {error}"):
                    await asyncio.sleep(START_AGAIN_SECONDS)
                    continue
            return

    # What is seen

    async def _observe(self, ready: Callable[[], None]) -> None:
        while True:
            self._lost = {worker.name for worker in self._picture.all() if not worker.finished}
            try:
                async with aclosing(cast("Any", self._backend.observe())) as observations:
                    await self._take(observations, ready)
            except BackendError as error:
                log.warning("scaler.backend.lost", extra={"why": str(error)})
            await asyncio.sleep(OBSERVE_AGAIN_SECONDS)

    async def _take(self, observations: AsyncIterator[Observation], ready: Callable[[], None]) -> None:
        async for observation in observations:
            match observation:
                case Seen(worker):
                    self._lost.discard(worker.name)
                    self._apply(self._picture.put(worker))
                    if worker.name in self._expected:
                        self._expected[worker.name].set()
                case Gone(name):
                    self._apply(self._picture.lose(name, self._clock(), self._stopping.get(name, "")))
                case Synced():
                    for name in self._lost:
                        self._apply(self._picture.lose(name, self._clock(), self._stopping.get(name, "")))
                    if not self._known.is_set():
                        self._queue_again()
                        self._known.set()
                        self._keeping.begin()
                        log.info("scaler.fleet.known", extra={"count": len(self._picture)})
                        ready()
                    self._admit()

    def _queue_again(self) -> None:
        """Those that waited when the last service ended wait again, in the order of their creation."""
        held = [w for w in self._picture.all() if w.held and not w.finished]
        for worker in sorted(held, key=lambda w: (w.created, w.identity.index)):
            self._admission.enqueue(worker.identity.task_id, worker.name)

    def _apply(self, changes: list[Change]) -> None:
        """Changes of the picture: slots are taken and given back, and those who watch are told."""
        for change in changes:
            if change.worker is not None:
                self._account(change.kind, change.worker)
            for watch in self._watches:
                watch.offer(change)

    def _account(self, kind: Kind, worker: Worker) -> None:
        if kind is Kind.DELETED:
            self._keeping.forget(worker)
        elif worker.finished:
            self._keeping.ended(worker, (self._clock() - worker.ended) / 1e9)
        if worker.finished or kind is Kind.DELETED:
            self._admission.free(worker.name)
            self._stopping.pop(worker.name, None)
            if kind is not Kind.DELETED and self._known.is_set():
                fields = {"worker": worker.name, "state": worker.state.value, "cause": worker.cause.name, "why": worker.error}
                log.info("scaler.worker.ended", extra=fields)
            self._admit()
        elif not worker.held:
            self._admission.hold(worker.name)
        elif self._known.is_set():
            self._admission.enqueue(worker.identity.task_id, worker.name)

    # What is over

    async def _tidy(self) -> None:
        """Removes finished workers when their time is over."""
        await self._known.wait()
        while True:
            for worker in self._picture.finished():
                verdict = self._keeping.verdict(worker)
                if verdict is Verdict.GIVE_UP:
                    log.warning("scaler.worker.never_released", extra={"worker": worker.name})
                if verdict is not Verdict.KEEP:
                    await self._remove(worker)
            await asyncio.sleep(min(5.0, max(0.02, self._limits.finished_ttl / 4)))

    async def _remove(self, worker: Worker) -> None:
        try:
            if self._ends_task(worker):
                await self._backend.delete_workspace(worker.identity.workspace)
            await self._backend.remove(worker.name)
        except (BackendError, ValueError) as error:
            log.warning("scaler.worker.remove_failed", extra={"worker": worker.name, "why": str(error)})
            return
        if self._picture.get(worker.name) is worker:  # and not another one, that got its name before the backend's answer came
            self._apply(self._picture.drop(worker.name))

    def _ends_task(self, worker: Worker) -> bool:
        """Whether it is the last of a task whose workspace is that of the task alone: nobody else can ask for its deletion."""
        task = worker.identity.task_id
        return worker.identity.workspace == task_workspace(task) and self._picture.count(task) == 1
