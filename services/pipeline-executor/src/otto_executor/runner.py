"""Drives one run: takes inputs, stores each step, and only then acts on it.

Everything that happens to the run happens in its one loop. What is done for it (asking the scaler) runs beside the loop and comes back as
an input, so a scaler that is slow for one stage holds up no other. An unexpected error here costs this run a restart from the store, like
a crash of the process would, and the other runs nothing.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import NamedTuple, TypeVar

from otto_executor.clocks import Clock
from otto_executor.commands import Command, Commands
from otto_executor.decisions import Action, Kind, Patience, Step
from otto_executor.definition import Definition
from otto_executor.errors import (
    NoRoomError,
    NotReadyError,
    RunGoneError,
    RunUnreadableError,
    SaveConflictError,
    StoreUnavailableError,
    WorkersUnavailableError,
)
from otto_executor.journal import Journal
from otto_executor.orders import WorkerReport, Workers
from otto_executor.progress import Progress
from otto_executor.run import Run
from otto_executor.run_state import RunState
from otto_executor.stores import RunStore, StoredRun
from otto_runtime.tasks import Backoff, single

log = logging.getLogger(__name__)
T = TypeVar("T")
UNSTORED_SECONDS = 0.5
"""How long a step can't be stored before readers are told; the next attempt after it comes within a second."""
HELD_UP_SECONDS = 60.0
"""How long a run has to wait for the scaler or the store until it counts as held up; both answer within seconds."""
LONGEST_SLEEP = 600.0
"""Seconds after which times are looked at again in any case."""


@dataclass(slots=True)
class Watch:
    """The watch of all workers that is open: its number counts the openings, `synced` once its snapshot is complete."""

    number: int = 0
    synced: bool = False


@dataclass(frozen=True, slots=True)
class Means:
    """What a runner works with."""

    store: RunStore
    workers: Workers
    watch: Watch
    patience: Patience
    draw: Callable[[], float]
    rewatch: Callable[[], None] = lambda: None
    """Asks for a new snapshot of all workers; the conductor puts its own in."""
    release: Callable[[Iterable[str]], None] = lambda _: None
    """Takes the names of ended workers whose ends are stored; the conductor puts its own in."""
    ended: Callable[[Definition, RunState], None] = lambda *_: None
    """Told of each run that has just ended."""
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    journal_limit: int = 1000
    notice_after: float = 10.0
    """Seconds that the scaler can't be reached, or can't do what it is asked for, before the run says so."""
    slowest_retry: float = 5.0
    """The longest delay in seconds between attempts to reach the scaler or the store."""


class Standing(NamedTuple):
    """How many runs go on; how many of them are held up; and how many unfinished ones can't be read."""

    active: int
    held_up: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class _Acting:
    task: "asyncio.Task[None]"
    unwanted: asyncio.Event
    since: float


@dataclass(slots=True)
class _Inbox:
    """What was heard of workers, in three parts whose order matters: before a snapshot, the snapshot, after it. One report per worker."""

    before: dict[tuple[str, int, int], WorkerReport] = field(default_factory=dict)
    snapshot: tuple[set[tuple[str, int, int]], int] | None = None
    after: dict[tuple[str, int, int], WorkerReport] = field(default_factory=dict)

    def add(self, report: WorkerReport) -> None:
        key = (report.stage_id, report.attempt, report.index)
        part = self.after if self.snapshot is not None else self.before
        known = part.get(key)
        if known is None or not known.status.ended:
            part[key] = report

    def synced(self, present: set[tuple[str, int, int]], number: int) -> None:
        self.before |= {key: report for key, report in self.after.items() if key not in self.before or not self.before[key].status.ended}
        self.after = {}
        self.snapshot = (present, number)


class Runner:
    """The one that acts for a run. `journal` is what readers follow."""

    def __init__(self, record: StoredRun, means: Means) -> None:
        """Takes over a run that is stored as `record` says."""
        self.pipeline_id = record.definition.pipeline_id
        self.journal = Journal(record.state.sequence, means.journal_limit)
        self._record = record
        self._means = means
        self._inbox = _Inbox()
        self._outcomes: deque[tuple[Action | None, Callable[[Run, float], None]]] = deque()
        self._commands = Commands()
        self._acting: dict[Action, _Acting] = {}
        self._ends: list[WorkerReport] = []
        self._wake = asyncio.Event()
        self._saved_at = -inf
        self._over = False
        self._crashed = False
        self._trouble_since = inf

    @property
    def held_up(self) -> bool:
        """Whether its next step has not worked for a minute: stored, or answered for by the scaler. May be asked from any thread."""
        since = min([self._trouble_since, *(acting.since for acting in list(self._acting.values()))])
        return self._means.steady() - since >= HELD_UP_SECONDS

    @property
    def record(self) -> StoredRun:
        """The run as it stands; not to be changed."""
        return self._record

    def begun(self, progress: tuple[Progress, ...]) -> None:
        """The first messages of a new run, which were stored with it."""
        self.journal = Journal(0, self._means.journal_limit)
        self.journal.add(progress)

    def report(self, report: WorkerReport) -> None:
        """A worker of this run was heard of."""
        self._inbox.add(report)
        self._wake.set()

    def synced(self, present: set[tuple[str, int, int]], number: int) -> None:
        """The watch with that number has reported every worker there is; `present` are this run's (stage, attempt, index)."""
        self._inbox.synced(present, number)
        self._wake.set()

    async def ask(self, command: Command[T]) -> T:
        """Has a command carried out on the run and returns or raises what it does, once that is stored.

        One that can't be stored is not carried out, now or later: StoreUnavailableError. A cancelled caller's may still be. Raises
        NotReadyError when the runner stops first.
        """
        if self._over:
            raise NotReadyError("the pipeline is just ending; repeat the call")
        asked = self._commands.ask(command)
        self._wake.set()
        return await asked

    def tell(self, command: Callable[[Run, float], None]) -> None:
        """Something has happened to the run: it is stored, however long that takes."""
        self._outcomes.append((None, command))
        self._wake.set()

    async def drive(self) -> None:
        """Until the run has ended or somebody else has taken it over. Cancellation leaves it as it is stored.

        Raises RunUnreadableError when it has to be loaded again and can't be understood, RunGoneError when it is not kept any more.
        """
        backoff = Backoff(0.2, 60.0)
        try:
            while True:
                try:
                    await self._live()
                    return
                except Exception as error:
                    cause = single(error)
                    if isinstance(cause, RunUnreadableError | RunGoneError):
                        raise cause from error
                    if isinstance(cause, SaveConflictError):
                        log.error("executor.run.taken_over", extra={"pipeline": self.pipeline_id})  # noqa: TRY400  expected between replicas, the place tells nothing
                        return
                    log.exception("executor.run.crashed", extra={"pipeline": self.pipeline_id})
                self._crashed, self._trouble_since = True, min(self._trouble_since, self._means.steady())
                self._commands.refuse(_busy)
                await backoff.wait()
        finally:
            self._over = True
            self._commands.refuse(_busy)
            self.journal.close()

    async def _reload(self) -> None:
        while True:
            try:
                record = await self._means.store.load(self.pipeline_id)
                missing = await self._means.store.progress(self.pipeline_id, self.journal.last_sequence, 1_000_000)
                break
            except StoreUnavailableError as error:
                self._commands.refuse(error.again)
                await self._commands.come(self._means.slowest_retry)
        if record is None:
            raise RunGoneError(self.pipeline_id)
        self._record = record
        self.journal.add(missing)
        self._acting, self._outcomes, self._inbox, self._ends = {}, deque(), _Inbox(), []
        self._means.rewatch()

    async def _live(self) -> None:
        if self._crashed:
            await self._reload()
            self._crashed = False
        run = Run(self._record.definition, self._record.state, self._means.patience, self._means.draw)
        run.resumed(self._means.clock())
        clock = Clock(self._means.clock, self._means.steady)
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self._take_in(run, clock)
                if rest := self._rests(run):
                    await self._sleep(run, rest)
                    continue
                step = run.take()
                if step is not None:
                    await self._commit(step)
                await self._carry_out(run)
                self._act(group, run)
                self._release()
                self._trouble_since = inf
                if run.state.ended and not self._acting:
                    break
                await self._sleep(run)
        self._take_in(run, clock)
        for answer in self._commands.carry_out(run, self._means.clock()):
            answer()
        self._release()

    def _take_in(self, run: Run, clock: Clock) -> None:
        """Gives the run everything that has happened."""
        now, set_by = clock.read()
        if set_by:
            log.warning("executor.clock.set", extra={"pipeline": self.pipeline_id, "seconds": round(set_by)})
            run.clock_set(set_by)
        while self._outcomes:
            action, outcome = self._outcomes.popleft()
            if action is not None:
                del self._acting[action]
            outcome(run, now)
        inbox, self._inbox = self._inbox, _Inbox()
        run.reported(inbox.before.values(), now)
        if inbox.snapshot is not None:
            run.synced(*inbox.snapshot, now)
            run.reported(inbox.after.values(), now)
        self._ends += [report for report in (*inbox.before.values(), *inbox.after.values()) if report.status.ended]
        run.tick(now, watching=self._means.watch.synced)

    async def _carry_out(self, run: Run) -> None:
        """Does what clients ask for, all of it or, if that can't be stored, nothing."""
        before = run.state.copy() if self._commands else run.state
        answers = self._commands.carry_out(run, self._means.clock())
        step = run.take()
        if step is not None:
            try:
                await self._means.store.save(self._record, step.progress, edge=step.edge)
            except StoreUnavailableError as error:
                log.warning("executor.store.unavailable", extra={"pipeline": self.pipeline_id, "reason": error.reason})
                run.undo(before)
                self._record.state = before
                self._commands.refuse(error.again)
                return
            self.journal.add(step.progress)
        for answer in answers:
            answer()

    async def _commit(self, step: Step) -> None:
        backoff = Backoff(0.05, self._means.slowest_retry)
        since = self._means.steady()
        self._trouble_since = min(self._trouble_since, since)
        while True:
            try:
                await self._means.store.save(self._record, step.progress, edge=step.edge)
                break
            except StoreUnavailableError as error:
                log.warning("executor.store.unavailable", extra={"pipeline": self.pipeline_id, "reason": error.reason})
                if self._means.steady() - since >= UNSTORED_SECONDS:
                    self.journal.hold_up(_held_up(error), self._means.clock())
                self._commands.refuse(error.again)
            await self._commands.come(backoff.next_delay())
        self._saved_at = self._means.steady()
        self.journal.add(step.progress)

    def _rests(self, run: Run) -> float:
        """Seconds that what has changed may wait to be stored together with what follows, if nobody waits for it; 0: it may not."""
        if not run.unsaved or run.urgent or self._commands or run.wanted() - self._acting.keys():
            return 0.0
        return max(0.0, self._saved_at + self._means.store.pause(self.pipeline_id) - self._means.steady())

    async def _sleep(self, run: Run, longest: float = LONGEST_SLEEP) -> None:
        due = run.wake_at(watching=self._means.watch.synced)
        delay = longest if due is None else min(max(0.0, due - self._means.clock()), longest)
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _act(self, group: asyncio.TaskGroup, run: Run) -> None:
        wanted = run.wanted()
        for action, acting in self._acting.items():
            if action not in wanted:
                acting.unwanted.set()
        for action in sorted(wanted - self._acting.keys(), key=lambda a: (a.kind, a.stage_id)):
            before = {acting.task for other, acting in self._acting.items() if other.stage_id == action.stage_id}
            unwanted = asyncio.Event()
            work = self._perform(run, action, unwanted, before)
            task = group.create_task(work, name=f"{action.kind} {self.pipeline_id} {action.stage_id}")
            self._acting[action] = _Acting(task, unwanted, self._means.steady())

    def _release(self) -> None:
        """Gives away the ends that are stored; not yet those of an attempt that may still be asked for again, which would run it again."""
        starting = {(action.stage_id, action.attempt) for action in self._acting if action.kind is Kind.START}
        self._means.release(end.name for end in self._ends if (end.stage_id, end.attempt) not in starting)
        self._ends = [end for end in self._ends if (end.stage_id, end.attempt) in starting]

    async def _perform(self, run: Run, action: Action, unwanted: asyncio.Event, before: set["asyncio.Task[None]"]) -> None:
        """Does what is wanted for a stage, until it is done or not wanted any more, and after what is still being done for that stage.

        So a START never overtakes a STOP of the same stage, nor the other way round: both name all workers of the stage.
        """
        if before:
            await asyncio.wait(before)
        backoff = Backoff(0.1, self._means.slowest_retry)
        since = self._means.steady()
        outcome: Callable[[Run, float], None] = _nothing
        while not unwanted.is_set():
            try:
                outcome = await (self._start(run, action) if action.kind is Kind.START else self._stop(run, action))
                break
            except WorkersUnavailableError as error:
                fields = {"pipeline": self.pipeline_id, "stage": action.stage_id, "reason": error.words}
                log.warning("executor.workers.unavailable", extra=fields)
                full = isinstance(error, NoRoomError)
                if action.kind is Kind.START and (full or self._means.steady() - since >= self._means.notice_after):
                    words = error.words if full else f"waits for the scaler, which can't do it now: {error.words}"
                    self._outcomes.append((None, partial(_delayed, action, words)))
                    self._wake.set()
            try:
                async with asyncio.timeout(backoff.next_delay()):
                    await unwanted.wait()
            except TimeoutError:
                continue
        self._outcomes.append((action, outcome))
        self._wake.set()

    async def _start(self, run: Run, action: Action) -> Callable[[Run, float], None]:
        outcome = await self._means.workers.start(replace(run.order(action.stage_id), owner=self._record.owner))
        watch = self._means.watch.number
        return lambda r, now: r.started(action.stage_id, action.attempt, outcome, now, watch)

    async def _stop(self, run: Run, action: Action) -> Callable[[Run, float], None]:
        reports = await self._means.workers.stop(self.pipeline_id, action.stage_id, run.stop_reason(action.stage_id))
        return lambda r, now: r.stopped(action.stage_id, action.attempt, reports, now)


def _delayed(action: Action, words: str, run: Run, now: float) -> None:
    run.delayed(action.stage_id, action.attempt, words, now)


def _held_up(error: StoreUnavailableError) -> str:
    return (
        f"{error.words}. {error.remedy}: until then nothing more is told of this pipeline and no stage of it begins; then it goes on by "
        "itself, and nothing is lost"
    )


def _busy() -> NotReadyError:
    return NotReadyError("the service is stopping or busy with this pipeline; repeat the call")


def _nothing(run: Run, now: float) -> None:  # noqa: ARG001  the outcome of an action that was given up
    return
