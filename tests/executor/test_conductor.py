"""The conductor over doubles: retries, stops, cancels, losses, interruptions, and crashes between any two steps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from otto_executor.approval import Decision
from otto_executor.conductor import Conductor
from otto_executor.decisions import Patience
from otto_executor.definition import Definition
from otto_executor.errors import (
    NotApprovableError,
    NotReadyError,
    PipelineExistsError,
    PipelineNotFoundError,
    TooManyRunsError,
    WorkersUnavailableError,
)
from otto_executor.orders import Created, Order, Refused
from otto_executor.outside import Understand
from otto_executor.progress import Progress
from otto_executor.retention import Keeping
from otto_executor.retry import Failure, FailureCause, RetryPolicy
from otto_executor.runner import Means, Watch
from otto_executor.stage import RunCondition, StageSpec, StageStatus, StageType
from otto_executor.stores import Outside, RunStore
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import Crash, CrashingStore, MemoryStore
from otto_executor.workers import scale_up

PATIENCE = Patience(infrastructure=RetryPolicy(retries=2, delay=0.01), grace=0.05, margin=0.1, unseen=0.3, stops=3)


@asynccontextmanager
async def process(
    fleet: Fleet,
    store: RunStore,
    crash: Crash | None = None,
    *,
    patience: Patience = PATIENCE,
    keeping: Keeping = Keeping(),  # noqa: B008  frozen
    max_active: int = 100,
    notice_after: float = 10.0,
    outside: tuple[Outside, Understand] | None = None,
) -> AsyncIterator[Conductor]:
    """A conductor as one process runs it; ends abruptly with the block."""
    means = Means(
        store=store,
        workers=fleet.view(crash),
        watch=Watch(),
        patience=patience,
        draw=lambda: 0.5,
        slowest_retry=0.1,
        notice_after=notice_after,
    )
    conductor = Conductor(means, keeping, max_active, outside)
    task = asyncio.create_task(conductor.run(lambda: None), name="conductor")
    try:
        yield conductor
    finally:
        if task.done() and not task.cancelled():
            task.result()
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    made.close()


def pipeline(*stages: StageSpec, pipeline_id: str = "p", fail_fast: bool = False) -> Definition:
    return Definition(pipeline_id, stages=stages, fail_fast=fail_fast)


async def to_the_end(conductor: Conductor, pipeline_id: str = "p", after: int = 0) -> list[Progress]:
    """All messages until the run's last one."""
    async with asyncio.timeout(10):
        return [progress async for progress, _ in conductor.follow(pipeline_id, after)]


async def run(conductor: Conductor, definition: Definition) -> list[Progress]:
    await conductor.begin(definition, b"")
    return await to_the_end(conductor, definition.pipeline_id)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def ends(said: list[Progress]) -> dict[str, StageStatus]:
    """How each stage, and the run (""), ended."""
    return {p.stage_id: p.status for p in said if p.status not in {StageStatus.PENDING, StageStatus.RUNNING, StageStatus.RETRYING}}


def last(said: list[Progress], stage_id: str) -> Progress:
    return [p for p in said if p.stage_id == stage_id][-1]


async def test_a_failure_is_retried_by_its_cause_then_final(fleet: Fleet) -> None:
    """Exit code 7 is retried as often as allowed, with attempt numbers; then FAILED with cause and code, the dependents SKIPPED."""
    fleet.script = lambda key: Fate(exit_code=7 if key[1] == "a" else 0)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(
            conductor,
            pipeline(
                StageSpec("a", retry=RetryPolicy(retries=2, on=("exit:7",))),
                StageSpec("b", depends_on=("a",)),
                StageSpec("c", depends_on=("b",)),
            ),
        )
    assert ends(said) == {"a": StageStatus.FAILED, "b": StageStatus.SKIPPED, "c": StageStatus.SKIPPED, "": StageStatus.FAILED}
    assert [key[1:3] for key in fleet.created] == [("a", 1), ("a", 2), ("a", 3)]
    assert (last(said, "a").exit_code, last(said, "a").cause, last(said, "a").attempt) == (7, FailureCause.EXIT_CODE, 3)
    assert [p.status for p in said if p.stage_id == "a"] == [
        StageStatus.PENDING,
        StageStatus.RUNNING,
        StageStatus.RETRYING,
        StageStatus.RUNNING,
        StageStatus.RETRYING,
        StageStatus.RUNNING,
        StageStatus.FAILED,
    ]
    assert "a: exit code 7" in said[-1].error
    assert (said[-1].exit_code, said[-1].cause) == (7, FailureCause.EXIT_CODE)


async def test_a_failure_that_the_policy_does_not_name_is_final(fleet: Fleet) -> None:
    """A policy for timeouts does not repeat an exit code."""
    fleet.script = lambda _: Fate(exit_code=1)
    async with process(fleet, MemoryStore()) as conductor:
        await run(conductor, pipeline(StageSpec("a", retry=RetryPolicy(retries=5, on=("TIMEOUT",)))))
    assert len(fleet.created) == 1


async def test_infrastructure_failures_have_their_own_budget(fleet: Fleet) -> None:
    """Two evictions are retried without the user's policy allowing any; the third is final."""
    fleet.script = lambda _: Fate(exit_code=137, cause=FailureCause.EVICTED)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, pipeline(StageSpec("a")))
    assert [key[2] for key in fleet.created] == [1, 2, 3]
    assert last(said, "a").cause is FailureCause.EVICTED


async def test_one_failed_worker_stops_the_others_before_the_next_attempt(fleet: Fleet) -> None:
    """The remaining workers of the attempt are stopped and have ended before the next attempt's are created."""
    fleet.script = lambda key: Fate(exit_code=1) if key[2:] == (1, 2) else Fate(seconds=None if key[2] == 1 else 0)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, pipeline(StageSpec("a", workers=3, retry=RetryPolicy(retries=1))))
    assert ends(said)["a"] is StageStatus.COMPLETED
    assert [pair[:2] for pair in fleet.stops] == [("p", "a")]
    assert "worker 2 of 3: exit code 1" in fleet.stops[0][2]
    retrying = next(p for p in said if p.status is StageStatus.RETRYING)
    assert (retrying.cause, retrying.exit_code, retrying.failed) == (FailureCause.EXIT_CODE, 1, 3)
    assert len(fleet.created) == 6


async def test_workers_deaf_to_a_stop_end_the_stage_but_are_never_doubled(fleet: Fleet) -> None:
    """After being asked several times the attempt ends without them, FAILED and without another attempt beside them."""
    fleet.deaf_to_stop.add("a")
    fleet.script = lambda key: Fate(exit_code=1) if key[3] == 1 else Fate(seconds=None)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, pipeline(StageSpec("a", workers=2, retry=RetryPolicy(retries=3))))
    assert last(said, "a").status is StageStatus.FAILED
    assert "asked 3 times" in last(said, "a").error
    assert len(fleet.created) == 2


async def test_a_timeout_nobody_kept_is_kept_by_the_executor(fleet: Fleet) -> None:
    """A worker that runs on beyond timeout, grace and margin is stopped, and the stage fails with TIMEOUT."""
    fleet.script = lambda _: Fate(seconds=None)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, pipeline(StageSpec("a", timeout=0.05)))
    assert (last(said, "a").status, last(said, "a").cause) == (StageStatus.FAILED, FailureCause.TIMEOUT)
    assert len(fleet.stops) == 1


async def test_a_worker_that_is_never_heard_of_is_stopped_before_it_is_repeated(fleet: Fleet) -> None:
    """It may run all the same, so its attempt is stopped like any other that failed, and two attempts never run side by side."""
    fleet.unheard.add(("p", "a", 1, 1))
    fleet.script = lambda key: Fate(seconds=None if key[2] == 1 else 0.0)
    alive: list[list[tuple[str, str, int, int]]] = []
    create = fleet.create

    def creating(pipeline_id: str, stage_id: str, attempt: int, count: int) -> tuple[str, ...]:
        alive.append([key for key, worker in fleet.workers.items() if not worker.status.ended])
        return create(pipeline_id, stage_id, attempt, count)

    fleet.create = creating  # type: ignore[method-assign]  # looks on
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, pipeline(StageSpec("a")))
    assert ends(said) == {"a": StageStatus.COMPLETED, "": StageStatus.COMPLETED}
    retrying = next(p for p in said if p.status is StageStatus.RETRYING)
    assert retrying.cause is FailureCause.DELETED
    assert "nothing was heard of 1 worker" in retrying.message
    assert [stage for _, stage, _ in fleet.stops] == ["a"]
    assert len(fleet.created) == 2
    assert alive == [[], []]


async def test_a_workspace_that_can_not_be_deleted_holds_up_no_other(fleet: Fleet) -> None:
    """It is tried again and again; the others go when they are due, and runs are forgotten meanwhile."""
    store, view = MemoryStore(), fleet.view()
    stuck: list[str] = []
    delete = view.delete_workspace

    async def delete_workspace(workspace: str) -> None:
        if not fleet.workspaces_deleted and not stuck:
            stuck.append(workspace)
        if workspace in stuck:
            stuck.append(workspace)
            raise WorkersUnavailableError("told so by a test")
        await delete(workspace)

    view.delete_workspace = delete_workspace  # type: ignore[method-assign]  # fails for the first one
    fleet.view = lambda crash=None: view  # type: ignore[method-assign]  # one process only
    async with process(fleet, store, keeping=Keeping(workspace=0.0, runs=0.0, sweep=0.05)) as conductor:
        for name in ("first", "second", "third"):
            await run(conductor, pipeline(StageSpec("a"), pipeline_id=name))
        await until(lambda: len(fleet.workspaces_deleted) == 2 and len(stuck) > 2)
        async with asyncio.timeout(5):
            while len(await conductor.page((), None, 10)) > 1:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("ignored", [False, True])
async def test_conditions_and_ignored_errors(fleet: Fleet, *, ignored: bool) -> None:
    """on_failure runs only after a failure, always runs in any case, and an ignored failure counts as completed for both."""
    fleet.script = lambda key: Fate(exit_code=2 if key[1] == "a" else 0)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(
            conductor,
            pipeline(
                StageSpec("a", ignore_errors=ignored),
                StageSpec("good", depends_on=("a",)),
                StageSpec("bad", depends_on=("a",), run_if=RunCondition.ON_FAILURE),
                StageSpec("later bad", depends_on=("good",), run_if=RunCondition.ON_FAILURE),
                StageSpec("last", depends_on=("good", "bad"), run_if=RunCondition.ALWAYS),
            ),
        )
    done, skipped = StageStatus.COMPLETED, StageStatus.SKIPPED
    if ignored:
        expected = {"a": done, "good": done, "bad": skipped, "later bad": skipped, "last": done, "": done}
        assert "ignored" in last(said, "a").message
        assert "exit code 2" in last(said, "a").error
    else:
        expected = {"a": StageStatus.FAILED, "good": skipped, "bad": done, "later bad": done, "last": done, "": StageStatus.FAILED}
    assert ends(said) == expected


async def test_unrelated_branches_go_on_unless_told_to_fail_fast(fleet: Fleet) -> None:
    """With fail_fast the first failure cancels what runs and what waits; the pipeline has failed, not been cancelled."""
    fleet.script = lambda key: Fate(exit_code=1) if key[1] == "a" else Fate(seconds=None if key[0] == "fast" else 0)
    stages = (StageSpec("a"), StageSpec("b"), StageSpec("c", depends_on=("b",)))
    async with process(fleet, MemoryStore()) as conductor:
        slow = await run(conductor, pipeline(*stages, pipeline_id="slow"))
        fast = await run(conductor, pipeline(*stages, pipeline_id="fast", fail_fast=True))
    assert ends(slow) == {"a": StageStatus.FAILED, "b": StageStatus.COMPLETED, "c": StageStatus.COMPLETED, "": StageStatus.FAILED}
    cancelled = StageStatus.CANCELLED
    assert ends(fast) == {"a": StageStatus.FAILED, "b": cancelled, "c": cancelled, "": StageStatus.FAILED}


async def test_cancel_reaches_every_worker_and_is_idempotent(fleet: Fleet) -> None:
    """Running workers are stopped, waiting stages never start, the final message says who and why; a second cancel changes nothing."""
    fleet.script = lambda _: Fate(seconds=None)
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(pipeline(StageSpec("a", workers=2), StageSpec("b"), StageSpec("c", depends_on=("a",))), b"")
        await until(lambda: len(fleet.created) == 3)
        first = await conductor.cancel("p", "cancelled by kim: enough")
        await conductor.cancel("p", "cancelled by lee")
        said = await to_the_end(conductor)
        after = await conductor.cancel("p", "again")
    assert first.status is StageStatus.RUNNING
    assert after.status is StageStatus.CANCELLED
    assert set(ends(said).values()) == {StageStatus.CANCELLED}
    assert "cancelled by kim: enough" in said[-1].message
    assert all(worker.status.ended for worker in fleet.workers.values())
    assert all("kim" in reason for _, _, reason in fleet.stops)


async def test_cancel_while_the_scaler_is_away_leaves_no_worker(fleet: Fleet) -> None:
    """A run that is cancelled while its first workers are being asked for ends CANCELLED, and nothing was left running."""
    fleet.unavailable = "told so by a test"
    store = MemoryStore()
    async with process(fleet, store, notice_after=0.0) as conductor:
        await conductor.begin(pipeline(StageSpec("a")), b"")
        seen: list[Progress] = []
        async for progress, _ in conductor.follow("p"):
            seen.append(progress)
            if "waits for the scaler" in progress.message:
                break
        assert (await conductor.cancel("p", "cancelled")).status is StageStatus.RUNNING
        fleet.unavailable = ""
        said = await to_the_end(conductor)
    assert ends(said) == {"a": StageStatus.CANCELLED, "": StageStatus.CANCELLED}
    assert fleet.created == []


async def test_a_refusal_fails_the_stage_with_the_scalers_words(fleet: Fleet) -> None:
    """REJECTED is not retried by default, and workers that were created nevertheless are stopped."""
    names = ("otto-a-1-1", "otto-a-1-2")
    fleet.refusals = {"a": Refused(Failure(FailureCause.REJECTED, "no such secret: token"), names)}
    fleet.script = lambda _: Fate(seconds=None)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, pipeline(StageSpec("a", workers=3, retry=RetryPolicy(retries=2))))
    assert (last(said, "a").status, last(said, "a").cause) == (StageStatus.FAILED, FailureCause.REJECTED)
    assert "no such secret: token" in said[-1].error
    assert len(fleet.created) == 2
    assert all(worker.status.ended for worker in fleet.workers.values())


async def test_a_removed_worker_is_a_failure_not_a_wait(fleet: Fleet) -> None:
    """A worker that is deleted while it runs costs an infrastructure retry."""
    fleet.script = lambda key: Fate(seconds=None if key[2] == 1 else 0)
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(pipeline(StageSpec("a")), b"")
        await until(lambda: len(fleet.created) == 1)
        fleet.delete(fleet.created[0])
        said = await to_the_end(conductor)
    assert next(p for p in said if p.status is StageStatus.RETRYING).cause is FailureCause.DELETED
    assert ends(said)["a"] is StageStatus.COMPLETED


async def test_a_worker_that_vanished_while_nobody_watched_is_noticed(fleet: Fleet) -> None:
    """After an interruption, what is missing from the snapshot is DELETED; what ended meanwhile is not missed."""
    fleet.script = lambda key: Fate(seconds=None if key[2] == 1 else 0)
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), StageSpec("b")), b"")
        await until(lambda: len(fleet.created) == 2)
        await asyncio.sleep(0.02)
        fleet.unavailable = "away"
        fleet.interrupt()
        lost, ended = sorted(fleet.created)
        fleet.delete(lost, silently=True)
        fleet.end(ended, Fate())
        fleet.unavailable = ""
        said = await to_the_end(conductor)
    assert next(p for p in said if p.stage_id == "a" and p.status is StageStatus.RETRYING).cause is FailureCause.DELETED
    assert ends(said) == {"a": StageStatus.COMPLETED, "b": StageStatus.COMPLETED, "": StageStatus.COMPLETED}
    assert len([key for key in fleet.created if key[1] == "b"]) == 1


async def test_an_approval_is_waited_for_across_a_restart(fleet: Fleet) -> None:
    """The stage does not run before the yes, which may come after a restart; the run keeps who gave it."""
    store = MemoryStore()
    definition = pipeline(StageSpec("a"), StageSpec("ok", approvers=("kim",), depends_on=("a",)), StageSpec("b", depends_on=("ok",)))
    async with process(fleet, store) as conductor:
        await conductor.begin(definition, b"")
        async for progress, _ in conductor.follow("p"):
            if progress.stage_id == "ok":
                assert "waits for approval by kim" in progress.message
                break
    async with process(fleet, store) as conductor:
        assert (await conductor.page((), None, 10))[0].awaiting_approval == ("ok",)
        assert [key[1] for key in fleet.created] == ["a"]
        approval = await conductor.approve("p", "ok", Decision.APPROVE, "kim", "go")
        assert await conductor.approve("p", "ok", Decision.APPROVE, "kim", "again") == approval
        with pytest.raises(NotApprovableError, match="approved by kim"):
            await conductor.approve("p", "ok", Decision.REJECT, "kim", "")
        said = await to_the_end(conductor)
        assert (await conductor.load("p")).state.stages["ok"].approval == approval
        assert await conductor.approve("p", "ok", Decision.APPROVE, "kim", "long after") == approval
    assert [key[1] for key in fleet.created] == ["a", "ok", "b"]
    assert ends(said)[""] is StageStatus.COMPLETED


async def test_a_rejection_or_silence_fails_the_stage_even_if_errors_are_ignored(fleet: Fleet) -> None:
    """Nothing that waits for a yes runs without it: rejected is REJECTED, nobody in time is TIMEOUT, dependents are skipped."""
    gate = StageSpec("no", approvers=(), ignore_errors=True, type=StageType.APPROVAL, workers=0)
    late = replace(gate, stage_id="late", approval_timeout=0.05)
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(pipeline(gate, late, StageSpec("x", depends_on=("no",)), StageSpec("y", depends_on=("late",))), b"")
        await conductor.approve("p", "no", Decision.REJECT, "lee", "not today")
        said = await to_the_end(conductor)
    assert (last(said, "no").cause, last(said, "no").error) == (FailureCause.REJECTED, "rejected by lee: not today")
    assert last(said, "late").cause is FailureCause.TIMEOUT
    assert ends(said)["x"] is ends(said)["y"] is StageStatus.SKIPPED
    assert fleet.created == []


async def test_ids_are_unique_and_runs_are_bounded(fleet: Fleet) -> None:
    """A known id is refused, before and after its end; so is one run too many; an unknown id is not found."""
    fleet.script = lambda key: Fate(seconds=None if key[0] == "p" else 0)
    async with process(fleet, MemoryStore(), max_active=1) as conductor:
        await conductor.begin(pipeline(StageSpec("a")), b"")
        with pytest.raises(PipelineExistsError, match="exists already"):
            await conductor.begin(pipeline(StageSpec("a")), b"")
        with pytest.raises(TooManyRunsError, match="INSUFFICIENT_RESOURCES"):
            await conductor.begin(pipeline(StageSpec("a"), pipeline_id="q"), b"")
        await conductor.cancel("p", "cancelled")
        await to_the_end(conductor)
        with pytest.raises(PipelineExistsError, match="ALREADY_COMPLETED"):
            await conductor.begin(pipeline(StageSpec("a")), b"")
        with pytest.raises(PipelineNotFoundError, match="NOT_FOUND"):
            await conductor.load("none")
        await run(conductor, pipeline(StageSpec("a"), pipeline_id="q"))


async def test_many_readers_see_the_same_wherever_they_begin(fleet: Fleet) -> None:
    """Two hundred readers that come at different times get every message once and in order, marked replayed where it was there before."""
    fleet.script = lambda _: Fate(seconds=0.05)
    stages = [StageSpec("s0", workers=4), *(StageSpec(f"s{n}", workers=4, depends_on=(f"s{n - 1}",)) for n in range(1, 4))]
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(pipeline(*stages), b"")

        async def read(number: int) -> list[tuple[int, bool]]:
            await asyncio.sleep(number * 0.001)
            return [(progress.sequence, replayed) async for progress, replayed in conductor.follow("p", after=number % 3)]

        async with asyncio.timeout(15):
            every = await asyncio.gather(*(read(number) for number in range(200)))
        total = (await conductor.load("p")).state.sequence
    for number, seen in enumerate(every):
        assert [sequence for sequence, _ in seen] == list(range(number % 3 + 1, total + 1))
        flags = [replayed for _, replayed in seen]
        assert flags == sorted(flags, reverse=True)


async def test_a_store_that_is_away_holds_the_run_and_loses_nothing(fleet: Fleet) -> None:
    """While nothing can be stored nothing is begun; afterwards the run goes on, its messages without holes."""
    store = MemoryStore()
    fleet.script = lambda _: Fate(seconds=None)
    async with process(fleet, store) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), StageSpec("b", depends_on=("a",))), b"")
        await until(lambda: len(fleet.created) == 1)
        store.unavailable = True
        fleet.end(fleet.created[0], Fate())
        await asyncio.sleep(0.1)
        assert len(fleet.created) == 1
        store.unavailable = False
        fleet.script = lambda _: Fate()
        said = await to_the_end(conductor)
    assert ends(said)[""] is StageStatus.COMPLETED
    assert [p.sequence for p in said] == list(range(1, len(said) + 1))


async def test_a_run_saved_by_somebody_else_is_let_go(fleet: Fleet) -> None:
    """When another process has saved the run, this one stops acting for it and ends its readers' streams without a final message."""
    store = MemoryStore()
    fleet.script = lambda _: Fate(seconds=None)
    async with process(fleet, store) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), StageSpec("b", depends_on=("a",))), b"")
        await until(lambda: len(fleet.created) == 1)
        reading = asyncio.create_task(to_the_end(conductor), name="reading")
        other = await store.load("p")
        assert other is not None
        await store.save(other, (), edge=True)
        fleet.end(fleet.created[0], Fate())
        said = await reading
    assert not any(p.final for p in said)
    assert len(fleet.created) == 1


async def test_a_stray_worker_of_an_ended_run_is_stopped(fleet: Fleet) -> None:
    """A worker that appears after its run has ended is stopped; one of a run that is not known here is left alone."""
    store = MemoryStore()
    async with process(fleet, store) as conductor:
        await run(conductor, pipeline(StageSpec("a")))
        fleet.script = lambda _: Fate(seconds=None)
        fleet.create("p", "a", 9, 1)
        fleet.create("of somebody else", "a", 1, 1)
        await until(lambda: fleet.workers["p", "a", 9, 1].status.ended)
    assert not fleet.workers["of somebody else", "a", 1, 1].status.ended


async def test_workspaces_and_old_runs_are_tidied_away(fleet: Fleet) -> None:
    """A workspace is deleted when its time has come, once, also after a restart; runs beyond the limit are forgotten after that."""
    store = MemoryStore()
    async with process(fleet, store, keeping=Keeping(workspace=3600)) as conductor:
        for number in range(3):
            await run(conductor, pipeline(StageSpec("a"), pipeline_id=f"p{number}"))
    assert fleet.workspaces_deleted == []
    async with process(fleet, store, keeping=Keeping(workspace=0, count=1, sweep=0.02)) as conductor:
        await until(lambda: len(fleet.workspaces_deleted) == 3)
        async with asyncio.timeout(5):
            while len(left := await conductor.page((), None, 10)) > 1:
                await asyncio.sleep(0.01)
    assert [short.pipeline_id for short in left] == ["p2"]
    assert len(set(fleet.workspaces_deleted)) == 3
    async with process(fleet, store, keeping=Keeping(workspace=0)):
        await asyncio.sleep(0.05)
    assert len(fleet.workspaces_deleted) == 3


async def test_calls_are_refused_once_it_has_stopped(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that comes too late is told to come again instead of waiting for ever."""
    monkeypatch.setattr("otto_executor.conductor.START_PATIENCE", 0.01)
    async with process(fleet, MemoryStore()) as conductor:
        pass
    with pytest.raises(NotReadyError):
        await conductor.load("p")


@pytest.mark.parametrize("what", ["run", "cancel"])
async def test_a_crash_between_any_two_steps_is_survived(fleet: Fleet, what: str) -> None:
    """Killed before or after any store write or any call to the scaler, a new process ends the run the same, no worker created twice."""
    fate = Fate(seconds=0.002)
    fleet.script = lambda key: Fate(exit_code=1) if key[1:] == ("b", 1, 2) else fate if what == "run" else Fate(seconds=None)
    stages = (
        StageSpec("a", workers=2),
        StageSpec("b", workers=2, depends_on=("a",), retry=RetryPolicy(retries=1)),
        StageSpec("c", depends_on=("b",)),
    )
    for at in range(200):
        name = f"p{at}"
        memory, crash = MemoryStore(), Crash(at)
        async with process(fleet, CrashingStore(memory, crash), crash) as conductor:
            doing = asyncio.create_task(begin_and_end(conductor, pipeline(*stages, pipeline_id=name), what), name="doing")
            reached = asyncio.create_task(crash.reached.wait(), name="reached")
            await asyncio.wait({doing, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            unharmed = doing.done()
            for task in (doing, reached):
                task.cancel()
            await asyncio.wait({doing, reached})
        fleet.interrupt()
        async with process(fleet, memory) as conductor:
            if await memory.load(name) is not None:
                if what == "cancel":
                    await conductor.cancel(name, "cancelled")
                said = await to_the_end(conductor, name)
                assert said[-1].status is (StageStatus.COMPLETED if what == "run" else StageStatus.CANCELLED), at
                assert [p.sequence for p in said] == list(range(1, len(said) + 1))
        created = [key for key in fleet.created if key[0] == name]
        assert len(created) == len(set(created)), at
        if what == "run" and created:
            assert sorted(key[1:] for key in created) == [
                ("a", 1, 1),
                ("a", 1, 2),
                ("b", 1, 1),
                ("b", 1, 2),
                ("b", 2, 1),
                ("b", 2, 2),
                ("c", 1, 1),
            ]
        assert all(worker.status.ended for key, worker in fleet.workers.items() if key[0] == name), at
        if unharmed:
            assert at >= 8
            return
    pytest.fail("the run takes more steps than expected")


async def begin_and_end(conductor: Conductor, definition: Definition, what: str) -> None:
    await conductor.begin(definition, b"")
    if what == "cancel":
        await conductor.cancel(definition.pipeline_id, "cancelled")
    await to_the_end(conductor, definition.pipeline_id)


async def test_ends_that_are_stored_are_given_back(fleet: Fleet) -> None:
    """So that the scaler may delete those workers; after a restart it is said again, also for runs that ended meanwhile, and by nobody of
    a run whose end is not stored.
    """
    store = MemoryStore()
    fleet.script = lambda key: Fate(seconds=None) if key[1] == "b" else Fate()
    async with process(fleet, store) as conductor:
        await conductor.begin(pipeline(StageSpec("a", workers=2), StageSpec("b")), b"")
        await until(lambda: sorted(fleet.released) == ["otto-a-1-1", "otto-a-1-2"])
    fleet.released.clear()
    fleet.end(("p", "b", 1, 1), Fate())
    async with process(fleet, store):
        await until(lambda: sorted(fleet.released) == ["otto-a-1-1", "otto-a-1-2", "otto-b-1-1"])
    fleet.released.clear()
    async with process(fleet, store):
        await until(lambda: sorted(fleet.released) == ["otto-a-1-1", "otto-a-1-2", "otto-b-1-1"])
    fleet.released.clear()
    fleet.create("somebody else's", "x", 1, 1)
    async with process(fleet, store):
        await until(lambda: "otto-x-1-1" in fleet.released)


async def test_an_end_is_not_given_back_while_its_workers_may_be_asked_for_again(fleet: Fleet) -> None:
    """The scaler has created them and can't be heard: asked again after they were deleted, it would run them a second time."""
    store = MemoryStore()
    view = fleet.view()
    answers = asyncio.Event()

    async def unheard(order: Order) -> Created | Refused:
        outcome = await type(view).start(view, order)
        if not answers.is_set():
            raise WorkersUnavailableError("nothing was heard")
        return outcome

    view.start = unheard  # type: ignore[method-assign]  # one call is lost on its way back
    fleet.view = lambda crash=None: view  # type: ignore[method-assign]
    async with process(fleet, store) as conductor:
        await conductor.begin(pipeline(StageSpec("a")), b"")
        await until(lambda: len(fleet.orders) > 3)
        await until(lambda: fleet.workers["p", "a", 1, 1].status.ended)
        assert fleet.released == []
        answers.set()
        await until(lambda: fleet.released == ["otto-a-1-1"])


async def test_the_scaler_is_told_what_is_known_of_the_workspace(fleet: Fleet) -> None:
    """Whether others have worked in it, so that one that was deleted is not taken for new, and whether nobody else will."""

    def told(order: Order) -> tuple[str, bool, bool]:
        worker = scale_up(order).worker
        return worker.stage_id, worker.workspace_expected, worker.workspace_unshared

    async with process(fleet, MemoryStore()) as conductor:
        await begin_and_end(conductor, pipeline(StageSpec("a"), StageSpec("b", depends_on=("a",)), StageSpec("c", own_workspace=True)), "")
        await begin_and_end(conductor, pipeline(StageSpec("alone"), StageSpec("own", own_workspace=True), pipeline_id="q"), "")
    orders = {stage_id: flags for order in fleet.orders for stage_id, *flags in [told(order)]}
    assert orders == {"a": [False, False], "b": [True, False], "c": [False, False], "alone": [False, True], "own": [False, False]}
