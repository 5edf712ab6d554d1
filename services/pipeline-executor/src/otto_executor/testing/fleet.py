"""Workers in memory that end as a script says."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from otto_executor.errors import WorkersUnavailableError
from otto_executor.orders import SYNCED, Created, Order, Refused, Synced, WorkerReport
from otto_executor.retry import FailureCause
from otto_executor.stage import WorkerStatus
from otto_executor.testing.store import Crash
from otto_executor.usage import Usage


@dataclass(frozen=True)
class Fate:
    """What becomes of a worker: it runs for `seconds` (None: until it is stopped) and ends with `exit_code`, or fails with `cause`."""

    seconds: float | None = 0.0
    exit_code: int = 0
    cause: FailureCause | None = None
    words: str = ""
    usage: Usage | None = None
    """What it is said to have used."""


Key = tuple[str, str, int, int]
"""Pipeline, stage, attempt, index."""


class Fleet:
    """All workers of a scaler. `created` lists every worker that was ever really created, so a second creation shows."""

    def __init__(self, script: Callable[[Key], Fate] = lambda _: Fate()) -> None:
        """`script` says what becomes of each worker."""
        self.script = script
        self.created: list[Key] = []
        self.orders: list[Order] = []
        self.workspaces_deleted: list[str] = []
        self.released: list[str] = []
        """Names of workers whose ends the executor has stored, as often as it said so."""
        self.unavailable = ""
        self.refusals: dict[str, Refused] = {}
        """By stage: what a start of it gets instead of workers."""
        self.deaf_to_stop: set[str] = set()
        """Stages whose workers do not end when they are stopped."""
        self.unheard: set[Key] = set()
        """Workers of which no watch tells anything."""
        self.stops: list[tuple[str, str, str]] = []
        self.workers: dict[Key, WorkerReport] = {}
        self.cap = 0
        """How many run at a time; the others wait for room. 0: as many as there are."""
        self._watchers: dict[asyncio.Queue[WorkerReport | None], None] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    def view(self, crash: Crash | None = None) -> "FleetView":
        """The fleet as one process reaches it; `crash` says where that process hangs."""
        return FleetView(self, crash)

    def create(self, pipeline_id: str, stage_id: str, attempt: int, count: int) -> tuple[str, ...]:
        """Creates what is not there yet; returns the names of all."""
        names = []
        for index in range(1, count + 1):
            key = (pipeline_id, stage_id, attempt, index)
            if key not in self.workers:
                name = f"otto-{stage_id}-{attempt}-{index}"
                self.created.append(key)
                if self.cap and self._unfinished() >= self.cap:
                    self._tell(key, WorkerReport(*key, name, WorkerStatus.PENDING, room=self.cap))
                else:
                    self._tell(key, WorkerReport(*key, name, WorkerStatus.PENDING))
                    self._later(0.0, partial(self._run, key))
            names.append(self.workers[key].name)
        return tuple(names)

    def waiting(self, pipeline_id: str, stage_id: str, attempt: int) -> int:
        """How many workers of an attempt wait for room."""
        return sum(worker.room > 0 for key, worker in self.workers.items() if key[:3] == (pipeline_id, stage_id, attempt))

    def _unfinished(self) -> int:
        return sum(not worker.status.ended and not worker.room for worker in self.workers.values())

    def _admit(self) -> None:
        while self.cap and self._unfinished() < self.cap:
            key = next((key for key, worker in self.workers.items() if worker.room and not worker.status.ended), None)
            if key is None:
                return
            self.workers[key] = replace(self.workers[key], room=0)
            self._run(key)

    def stop(self, pipeline_id: str, stage_id: str, reason: str) -> None:
        """Ends all unfinished workers of a stage, unless they are deaf."""
        self.stops.append((pipeline_id, stage_id, reason))
        for key in self.of_stage(pipeline_id, stage_id):
            if not self.workers[key].status.ended and stage_id not in self.deaf_to_stop:
                self.end(key, Fate(cause=FailureCause.CANCELLED, exit_code=143, words=f"stopped: {reason}"))

    def of_stage(self, pipeline_id: str, stage_id: str) -> list[Key]:
        """The workers there are of a stage."""
        return [key for key in self.workers if key[:2] == (pipeline_id, stage_id)]

    def end(self, key: Key, fate: Fate) -> None:
        """Ends a worker, if it is there and has not ended."""
        worker = self.workers.get(key)
        if worker is None or worker.status.ended:
            return
        good = fate.exit_code == 0 and fate.cause is None
        cause = None if good else fate.cause or FailureCause.EXIT_CODE
        words = fate.words or ("" if good else f"exit code {fate.exit_code}")
        status = WorkerStatus.SUCCEEDED if good else WorkerStatus.FAILED
        self._tell(key, replace(worker, status=status, exit_code=fate.exit_code, cause=cause, words=words, room=0, usage=fate.usage))
        self._admit()

    def delete(self, key: Key, *, silently: bool = False) -> None:
        """Removes a worker from outside; `silently`: nobody is told, as when it happens while nobody watches."""
        worker = self.workers.pop(key)
        if not silently and not worker.status.ended:
            self._publish(replace(worker, status=WorkerStatus.FAILED, cause=FailureCause.DELETED, words="was removed"))

    def interrupt(self) -> None:
        """Breaks every open watch."""
        for queue in self._watchers:
            queue.put_nowait(None)

    async def watch(self) -> AsyncGenerator[WorkerReport | Synced]:
        """A snapshot, SYNCED, then every change."""
        queue: asyncio.Queue[WorkerReport | None] = asyncio.Queue()
        self._watchers[queue] = None
        try:
            for key, worker in list(self.workers.items()):
                if key not in self.unheard:
                    yield worker
            yield SYNCED
            while (report := await queue.get()) is not None:
                yield report
        finally:
            del self._watchers[queue]

    def close(self) -> None:
        """Forgets what was to happen later."""
        for timer in self._timers:
            timer.cancel()

    def _run(self, key: Key) -> None:
        worker = self.workers.get(key)
        if worker is None or worker.status is not WorkerStatus.PENDING:
            return
        self._tell(key, replace(worker, status=WorkerStatus.RUNNING))
        fate = self.script(key)
        if fate.seconds is not None:
            self._later(fate.seconds, lambda: self.end(key, fate))

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            what()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)

    def _tell(self, key: Key, report: WorkerReport) -> None:
        self.workers[key] = report
        if key not in self.unheard:
            self._publish(report)

    def _publish(self, report: WorkerReport) -> None:
        for queue in self._watchers:
            queue.put_nowait(report)


class FleetView:
    """`Workers` over a fleet, for one process."""

    def __init__(self, fleet: Fleet, crash: Crash | None) -> None:
        """See Fleet.view."""
        self._fleet = fleet
        self._crash = crash

    async def start(self, order: Order) -> Created | Refused:
        """See Workers."""
        await self._step()
        self._check()
        self._fleet.orders.append(order)
        refused = self._fleet.refusals.get(order.stage.stage_id)
        if refused is not None:
            self._fleet.create(order.pipeline_id, order.stage.stage_id, order.attempt, len(refused.names))
            return refused
        names = self._fleet.create(order.pipeline_id, order.stage.stage_id, order.attempt, order.stage.workers)
        waiting = self._fleet.waiting(order.pipeline_id, order.stage.stage_id, order.attempt)
        await self._step()
        return Created(names, waiting, self._fleet.cap if waiting else 0)

    async def stop(self, pipeline_id: str, stage_id: str, reason: str) -> list[WorkerReport]:
        """See Workers."""
        await self._step()
        self._check()
        self._fleet.stop(pipeline_id, stage_id, reason)
        await self._step()
        return [self._fleet.workers[key] for key in self._fleet.of_stage(pipeline_id, stage_id)]

    async def release(self, names: Sequence[str]) -> None:
        """See Workers."""
        self._check()
        self._fleet.released += names

    async def delete_workspace(self, workspace: str) -> None:
        """See Workers."""
        self._check()
        self._fleet.workspaces_deleted.append(workspace)

    async def watch(self) -> AsyncGenerator[WorkerReport | Synced]:
        """See Workers."""
        self._check()
        async for event in self._fleet.watch():
            yield event

    async def _step(self) -> None:
        if self._crash is not None:
            await self._crash.step()

    def _check(self) -> None:
        if self._fleet.unavailable:
            raise WorkersUnavailableError(self._fleet.unavailable)
