"""All runs: begins them, hands out what is heard of workers, lets clients read and decide, and goes on with them after a restart."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from otto_executor.approval import Approval, Decision
from otto_executor.definition import Definition
from otto_executor.errors import (
    NotReadyError,
    NotRepeatableError,
    PipelineExistsError,
    PipelineNotFoundError,
    RunGoneError,
    RunUnreadableError,
    StoreUnavailableError,
    WorkersUnavailableError,
    WorkspaceGoneError,
)
from otto_executor.orders import Synced, WorkerReport
from otto_executor.outside import Comings, Understand
from otto_executor.places import Places
from otto_executor.progress import Progress, seconds
from otto_executor.releases import Releases
from otto_executor.rerun import Rerun, kept_stages, left_files, repetition
from otto_executor.retention import Keeping, Retention
from otto_executor.run import Run
from otto_executor.runner import Means, Runner, Standing
from otto_executor.stage import Phase, StageState, StageStatus
from otto_executor.stores import Arrival, Key, Outside, StoredRun, Summary, Workspace, summary
from otto_executor.strays import Strays
from otto_runtime.tasks import Backoff, owned

log = logging.getLogger(__name__)
T = TypeVar("T")
BATCH = 200
"""Messages read from the store at once; a few hundred kilobytes at most."""
START_PATIENCE = 10.0
"""Seconds that a call waits for the service to have loaded its runs before it is told to come again."""


class Conductor:
    """Every run that goes on, and the memory of those that ended."""

    def __init__(self, means: Means, keeping: Keeping, max_active: int, outside: tuple[Outside, Understand] | None = None) -> None:
        """`max_active` runs may be unfinished at a time. `outside` is where others put runs in and take them out, and how they are read."""
        self._releases = Releases(means.store, means.workers)
        self._means = replace(means, rewatch=self.rewatch, release=self._releases.add)
        self._store = means.store
        self._places = Places(max_active)
        self._active: dict[str, Runner] = {}
        self._keeping = keeping
        self._retention = Retention(means.store, means.workers, keeping, means.clock, means.steady)
        self._group: asyncio.TaskGroup | None = None
        self._accepting = asyncio.Event()
        self._rewatching: asyncio.Timeout | None = None
        self._strays = Strays(means.store, means.workers)
        self._unreadable: dict[str, RunUnreadableError] = {}
        """Unfinished runs that nobody drives, because what is kept of them can't be understood."""
        self._outside = outside
        self._endings = asyncio.Event()
        """Set when a run is not driven any more, and then replaced."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Goes on with unfinished runs and drives all others, until cancelled; runs stay as they are stored then.

        `ready` is called when all workers are known.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._load()
                self._accepting.set()
                self._group.create_task(self._retention.run(), name="retention")
                self._group.create_task(self._releases.run(), name="release workers")
                if self._outside is not None:
                    comings = Comings(*self._outside, self, self._store, self._means.workers)
                    self._group.create_task(comings.run(), name="runs from outside")
                await self._watch(ready)
        finally:
            self._accepting.clear()
            self._group = None

    def standing(self) -> Standing:
        """How many runs have not ended, and how they fare; may be asked from any thread."""
        return Standing(len(self._active), sum(runner.held_up for runner in list(self._active.values())), len(self._unreadable))

    def rewatch(self) -> None:
        """Has the watch of all workers opened again, for a new snapshot."""
        if self._rewatching is not None and not self._rewatching.expired():
            self._rewatching.reschedule(asyncio.get_running_loop().time())

    # What clients ask for

    async def begin(self, definition: Definition, request: bytes) -> None:
        """Stores a run and begins it. Raises PipelineExistsError or TooManyRunsError. Done also if the caller is cancelled meanwhile."""
        await self._shielded(lambda: self._begin(definition, request), f"begin {definition.pipeline_id}")

    async def rerun(self, wanted: Rerun) -> None:
        """Begins a run that repeats an ended one. Done also if the caller is cancelled meanwhile.

        Raises PipelineNotFoundError, PipelineExistsError, NotRepeatableError or TooManyRunsError.
        """
        await self._shielded(lambda: self._rerun(wanted), f"rerun {wanted.pipeline_id}")

    async def _shielded(self, begin: Callable[[], Awaitable[None]], name: str) -> None:
        group = await self._ready()

        async def work() -> Exception | None:
            try:
                await begin()
            except Exception as error:  # handed to the caller; raised here it would end the group
                return error
            return None

        error = await asyncio.shield(group.create_task(work(), name=name))
        if error is not None:
            raise error

    async def follow(
        self, pipeline_id: str, after: int = 0, *, to_the_end: bool = True, replayed: bool = True
    ) -> AsyncGenerator[tuple[Progress, bool]]:
        """The messages after a sequence and whether they were there before this call; with `to_the_end` also those that follow.

        While nothing can be stored, one that has sequence 0 says so. Ends after the final message, and without one when the service stops.
        Raises PipelineNotFoundError, and RunUnreadableError after the last message of a run that can't go on.
        With `replayed` False nothing counts as having been there before: for the caller who began the run.
        """
        await self._ready()
        runner = self._active.get(pipeline_id)
        if runner is None and await self._store.summary(pipeline_id) is None:
            raise PipelineNotFoundError(pipeline_id)
        journal = runner.journal if runner is not None else None
        before = journal.last_sequence if journal is not None else None
        told: Progress | None = None
        while True:
            batch = journal.after(after, BATCH) if journal is not None else None
            if batch is None:
                batch = await self._store.progress(pipeline_id, after, BATCH)
            for progress in batch:
                if before is not None and progress.sequence > before and not to_the_end:
                    return
                after = progress.sequence
                yield progress, replayed and (before is None or progress.sequence <= before)
                if progress.final:
                    return
            if batch:
                continue
            if journal is None or journal.closed or not to_the_end:
                if to_the_end and pipeline_id in self._unreadable:
                    raise self._unreadable[pipeline_id]
                return
            if journal.held_up not in {None, told}:
                told = journal.held_up
                yield told, False
            await journal.news(after, told)

    async def load(self, pipeline_id: str) -> StoredRun:
        """The run as it stands; not to be changed. Raises PipelineNotFoundError."""
        await self._ready()
        runner = self._active.get(pipeline_id)
        record = runner.record if runner is not None else await self._store.load(pipeline_id)
        if record is None:
            raise PipelineNotFoundError(pipeline_id)
        return record

    def held_up(self, pipeline_id: str) -> str:
        """Why what happens to the run can't be stored now, and what to do; "" if it can."""
        runner = self._active.get(pipeline_id)
        note = runner.journal.held_up if runner is not None else None
        return note.message if note is not None else ""

    async def page(self, statuses: Collection[StageStatus], after: Key | None, limit: int) -> list[Summary]:
        """At most `limit` runs, newest first, from the one that follows `after`."""
        await self._ready()
        return await self._store.page(statuses, after, limit)

    async def cancel(self, pipeline_id: str, words: str) -> Summary:
        """Stops a run; returns how it stands once that is stored. Raises PipelineNotFoundError."""
        await self._ready()
        runner = self._active.get(pipeline_id)
        if runner is not None:

            def cancelled(run: Run, now: float) -> Summary:
                run.cancel(words, now)
                return summary(run.definition, run.state)

            return await runner.ask(cancelled)
        if pipeline_id in self._unreadable:
            raise self._unreadable[pipeline_id]
        found = await self._store.summary(pipeline_id)
        if found is None:
            raise PipelineNotFoundError(pipeline_id)
        return found

    def cancel_later(self, pipeline_id: str, words: str) -> None:
        """Stops a run without waiting for it; nothing if it does not go on."""
        runner = self._active.get(pipeline_id)
        if runner is not None:
            runner.tell(lambda run, now: run.cancel(words, now))

    async def approve(self, pipeline_id: str, stage_id: str, decision: Decision, user: str, comment: str) -> Approval:
        """Stores a decision about a stage. Raises PipelineNotFoundError, and what Run.approve raises."""
        await self._ready()
        runner = self._active.get(pipeline_id)
        if runner is not None:
            return await runner.ask(lambda run, now: run.approve(stage_id, decision, user, comment, now))
        record = await self.load(pipeline_id)
        run = Run(record.definition, record.state, self._means.patience, self._means.draw)
        return run.approve(stage_id, decision, user, comment, self._means.clock())

    # What others do with the memory of runs

    async def adopt(self, arrival: Arrival, definition: Definition, request: bytes) -> None:
        """See Host."""
        assert self._outside is not None
        outside = self._outside[0]
        await self._begin(definition, request, keep=lambda record, progress: outside.accept(arrival, record, progress))

    async def take_up(self, pipeline_id: str) -> None:
        """See Host."""
        if pipeline_id in self._active:
            return
        try:
            record = await self._store.load(pipeline_id)
        except RunUnreadableError as error:
            self._leave_alone(error)
            return
        if record is not None and not record.state.ended and pipeline_id not in self._active:
            self._drive(Runner(record, self._means))

    async def end(self, pipeline_id: str, words: str) -> None:
        """See Host."""
        self._unreadable.pop(pipeline_id, None)
        self.cancel_later(pipeline_id, words)
        while pipeline_id in self._active:
            await self._endings.wait()

    # How it goes on

    async def _ready(self) -> asyncio.TaskGroup:
        try:
            async with asyncio.timeout(START_PATIENCE):
                await self._accepting.wait()
        except TimeoutError:
            raise NotReadyError("the service is starting or stopping; repeat the call") from None
        assert self._group is not None
        return self._group

    async def _load(self) -> None:
        for pipeline_id in await self._read(self._store.unfinished):
            try:
                record = await self._read(partial(self._store.load, pipeline_id))
            except RunUnreadableError as error:
                self._leave_alone(error)
                continue
            if record is not None:
                self._drive(Runner(record, self._means))
        log.info("executor.runs.loaded", extra={"count": len(self._active)})

    async def _rerun(self, wanted: Rerun) -> None:
        # From the store, where an end counts: the runner of a run that is just ending may be ahead of it.
        record = await self._store.load(wanted.pipeline_id)
        if record is None:
            raise PipelineNotFoundError(wanted.pipeline_id)
        old, state = record.definition, record.state
        if not state.ended:
            raise NotRepeatableError(f"pipeline {old.pipeline_id!r} has not ended; cancel it first, or wait for its end")
        kept = kept_stages(old, state) if wanted.failed_only else {}
        definition = repetition(old, wanted)
        takes = old.pipeline_id if left_files(old, kept) else ""
        if takes:
            definition = replace(definition, directory=old.workspace)
        try:
            await self._begin(definition, wanted.request(record.request), kept, takes)
        except WorkspaceGoneError:
            raise NotRepeatableError(await self._why_gone(old)) from None

    async def _why_gone(self, old: Definition) -> str:
        words = f"the workspace of pipeline {old.pipeline_id!r}, in which the stages that are kept left their files, "
        users = [runner.pipeline_id for runner in self._active.values() if runner.record.definition.workspace == old.workspace]
        users += [w.pipeline_id for w in await self._store.workspaces() if w.name == old.workspace and w.pipeline_id != old.pipeline_id]
        if users:
            words += f"was taken over by {users[0]!r}; rerun that one when it has ended, or"
        else:
            words += f"is not kept any more ({seconds(self._keeping.workspace)} after its end);"
        return words + " run this one again whole (without failed_only)"

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                return await read()
            except StoreUnavailableError as error:
                log.warning("executor.runs.unknown", extra={"reason": error.reason})
            await backoff.wait()

    async def _begin(
        self,
        definition: Definition,
        request: bytes,
        kept: Mapping[str, StageState] | None = None,
        takes_workspace_of: str = "",
        keep: Callable[[StoredRun, Sequence[Progress]], Awaitable[None]] | None = None,
    ) -> None:
        found = await self._store.summary(definition.pipeline_id)
        if found is not None:
            raise PipelineExistsError(found.pipeline_id, found.status.lower(), ended=found.ended_at is not None)
        if definition.pipeline_id in self._active:  # somebody tore its object away, which its runner does not know yet
            raise NotReadyError("the pipeline that had this id was deleted and is just being ended; repeat the call")
        with self._places.taken(len(self._active)):
            definition = replace(definition, directory=definition.directory or f"ws-{secrets.token_hex(8)}")
            run = Run.begun(definition, self._means.clock(), self._means.patience, self._means.draw, kept)
            step = run.take()
            assert step is not None
            record = StoredRun(definition, request, run.state)
            keep = keep or partial(self._store.create, takes_workspace_of=takes_workspace_of)
            await keep(record, step.progress)
        log.info("executor.run.begun", extra={"pipeline": definition.pipeline_id, "stages": len(definition.stages)})
        runner = Runner(record, self._means)
        runner.begun(step.progress)
        self._drive(runner)

    def _drive(self, runner: Runner) -> None:
        assert self._group is not None
        self._active[runner.pipeline_id] = runner
        owned(self._group, self._drive_to_the_end(runner), f"run {runner.pipeline_id}", pipeline=runner.pipeline_id)

    async def _drive_to_the_end(self, runner: Runner) -> None:
        try:
            await runner.drive()
        except RunUnreadableError as error:
            self._leave_alone(error)
        except RunGoneError:
            log.warning("executor.run.gone", extra={"pipeline": runner.pipeline_id})
            for stage_id, stage in runner.record.state.stages.items():
                if self._group is not None and stage.phase in {Phase.STARTING, Phase.RUNNING, Phase.STOPPING}:
                    self._strays.left(self._group, runner.pipeline_id, stage_id)
        finally:
            del self._active[runner.pipeline_id]
            endings, self._endings = self._endings, asyncio.Event()
            endings.set()
        definition, state = runner.record.definition, runner.record.state
        if state.ended_at is not None:
            self._means.ended(definition, state)
            self._retention.ended(Workspace(state.ended_at, runner.pipeline_id, definition.workspace))
            log.info("executor.run.ended", extra={"pipeline": runner.pipeline_id, "status": state.status.lower()})

    def _leave_alone(self, error: RunUnreadableError) -> None:
        self._unreadable[error.pipeline_id] = error
        log.error("executor.run.unreadable", extra={"pipeline": error.pipeline_id, "reason": error.reason})

    async def _watch(self, ready: Callable[[], None]) -> None:
        watch, backoff, silent = self._means.watch, Backoff(0.1, 5.0), False
        while True:
            watch.number += 1
            words = "the stream ended"
            try:
                async with asyncio.timeout(None) as self._rewatching, aclosing(self._means.workers.watch()) as events:
                    await self._hand_out(events, backoff, ready)
            except WorkersUnavailableError as error:
                words = error.words
            except TimeoutError:
                words = "a new snapshot was asked for"
            finally:
                self._rewatching = None
            if watch.synced or not silent:
                log.warning("executor.watch.interrupted", extra={"reason": words})
            silent = not watch.synced
            watch.synced = False
            await backoff.wait()

    async def _hand_out(self, events: AsyncIterator[WorkerReport | Synced], backoff: Backoff, ready: Callable[[], None]) -> None:
        watch = self._means.watch
        present: dict[str, set[tuple[str, int, int]]] = {}
        async for event in events:
            if isinstance(event, WorkerReport):
                if not watch.synced:
                    present.setdefault(event.pipeline_id, set()).add((event.stage_id, event.attempt, event.index))
                runner = self._active.get(event.pipeline_id)
                if runner is not None:
                    runner.report(event)
                elif event.status.ended:
                    self._releases.left_over(event)
                elif self._group is not None:
                    self._strays.seen(self._group, event.pipeline_id, event.stage_id)
                continue
            watch.synced = True
            backoff.reset()
            for runner in self._active.values():
                runner.synced(present.get(runner.pipeline_id, set()), watch.number)
            log.info("executor.watch.synced", extra={"workers": sum(map(len, present.values()))})
            present = {}
            ready()
