"""Ended runs again, whole or only what failed, over a real port: what is kept, what runs, whose workspace it is, and crashes."""

import asyncio
from collections.abc import AsyncIterable, Callable

import grpc
import grpc.aio
import pytest

from otto_executor.conductor import Conductor
from otto_executor.definition import Definition
from otto_executor.rerun import MARK, Rerun, made_id
from otto_executor.retention import Keeping, Retention
from otto_executor.retry import FailureCause
from otto_executor.run_state import fresh
from otto_executor.stage import StageSpec
from otto_executor.stage import StageStatus as Ending
from otto_executor.stores import StoredRun, Workspace
from otto_executor.testing.fleet import Fate, Fleet, Key
from otto_executor.testing.store import Crash, CrashingStore, MemoryStore
from ottoscaler.v1 import pipeline_pb2
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import (
    ApproveStageRequest,
    CancelPipelineRequest,
    GetPipelineRequest,
    GetPipelineResponse,
    RerunPipelineRequest,
)
from ottoscaler.v1.stage_pb2 import STAGE_TYPE_APPROVAL, PipelineStage, StageStatus

from .conftest import Bench, Executor
from .test_conductor import ends, fleet, pipeline, process, to_the_end, until  # noqa: F401  `fleet` is a fixture
from .test_service_run import everything, stage, until_running

COMPLETED, FAILED, SKIPPED = StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_SKIPPED


def fails(*stages: str) -> Callable[[Key], Fate]:
    return lambda key: Fate(exit_code=1 if key[1] in stages else 0)


async def run(executor: Executor, *stages: PipelineStage, pipeline_id: str = "p", **fields: object) -> list[PipelineProgress]:
    return await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id, stages=stages, **fields)))  # type: ignore[arg-type]  # any field


async def rerun(executor: Executor, pipeline_id: str = "p", new: str = "q", **fields: object) -> list[PipelineProgress]:
    """The new run's messages to its end."""
    request = RerunPipelineRequest(pipeline_id=pipeline_id, new_pipeline_id=new, **fields)  # type: ignore[arg-type]  # any field
    answer = await executor.client.RerunPipeline(request)
    assert answer.pipeline_id == new
    return await everything(attached(executor, new))


def attached(executor: Executor, pipeline_id: str) -> AsyncIterable[PipelineProgress]:
    return executor.client.ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id))


async def got(executor: Executor, pipeline_id: str) -> GetPipelineResponse:
    return await executor.client.GetPipeline(GetPipelineRequest(pipeline_id=pipeline_id))


def ran(bench: Bench, pipeline_id: str) -> list[str]:
    return [key[1] for key in bench.fleet.created if key[0] == pipeline_id]


async def refused(executor: Executor, **fields: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await executor.client.RerunPipeline(RerunPipelineRequest(**fields))  # type: ignore[arg-type]  # any field
    return caught.value


async def test_the_whole_pipeline_again(bench: Bench, executor: Executor) -> None:
    """Every stage runs under the new id, in a workspace of its own, as it was asked for; the first message says which run it repeats."""
    await run(executor, stage("a", config={"COLOUR": "red"}), stage("b", "a"), name="N", repository="/r", triggered_by="kim")
    said = await rerun(executor, triggered_by="lee")
    assert said[0].message.startswith("accepted: 3 stages, repeats p")
    assert said[-1].status == COMPLETED
    assert ran(bench, "q") == ["otto.checkout", "a", "b"]
    old, new = ([r.worker for r in bench.scaler.requests if r.worker.pipeline_id == name] for name in ("p", "q"))
    assert len({worker.workspace for worker in old + new}) == 2
    assert new[1].env == old[1].env
    assert new[1].env["COLOUR"] == "red"
    assert new[0].traceparent[3:35] != old[0].traceparent[3:35]
    answer = await got(executor, "q")
    assert (answer.summary.rerun_of, answer.summary.name, answer.summary.triggered_by) == ("p", "N", "lee")
    assert (answer.request.pipeline_id, answer.request.triggered_by, len(answer.request.stages)) == ("q", "lee", 2)
    assert not any(m.kept_from for m in said)


async def test_completed_stages_keep_their_results(bench: Bench, executor: Executor) -> None:
    """They are COMPLETED from the start with their times, workers and attempt, and don't run; the failed one and its dependents do."""
    bench.fleet.script = fails("b")
    first = await run(executor, stage("a", worker_count=2), stage("b", "a"), stage("c", "b"), stage("d"))
    bench.fleet.script = fails()
    said = await rerun(executor, failed_only=True)
    assert "repeats p and keeps 2 results of it" in said[0].message
    assert sorted(ran(bench, "q")) == ["b", "c"]
    was = next(m for m in first if m.stage_id == "a" and m.status == COMPLETED)
    kept = [m for m in said if m.stage_id == "a"]
    assert [(m.status, m.message, m.kept_from, m.progress_percentage) for m in kept] == [(COMPLETED, "kept from p", "p", 100)]
    for field in ("started_at", "completed_at", "worker_pod_names", "attempt"):
        assert getattr(kept[0], field) == getattr(was, field)
    assert kept[0].metrics == was.metrics
    assert kept[0].timestamp > was.completed_at
    assert said[0].overall_percentage == 50
    assert said[-1].status == COMPLETED
    assert [m.sequence for m in said] == list(range(1, len(said) + 1))
    stages = {s.stage_id: s for s in (await got(executor, "q")).stages}
    assert {name: s.kept_from for name, s in stages.items()} == {"a": "p", "b": "", "c": "", "d": "p"}
    assert stages["a"].started_at == next(s for s in (await got(executor, "p")).stages if s.stage_id == "a").started_at


async def test_what_depends_on_a_repeated_stage_is_repeated_too(bench: Bench, executor: Executor) -> None:
    """A completed clean-up that followed the failure runs again, and so does what runs on failure, or not if nothing fails any more."""
    bench.fleet.script = fails("build")
    always, on_failure = {"otto.run_if": "always"}, {"otto.run_if": "on_failure"}
    stages = (stage("build"), stage("tidy", "build", config=always), stage("alarm", "build", config=on_failure), stage("tell", "tidy"))
    first = await run(executor, *stages)
    assert {m.stage_id for m in first if m.status == COMPLETED} == {"tidy", "alarm", "tell"}
    bench.fleet.script = fails()
    said = await rerun(executor, failed_only=True)
    assert sorted(ran(bench, "q")) == ["build", "tell", "tidy"]
    assert [m.status for m in said if m.stage_id == "alarm"][-1] == SKIPPED
    assert said[-1].status == COMPLETED


async def test_the_workspace_goes_on_to_the_rerun(bench: Bench, executor: Executor) -> None:
    """Kept stages have left files there, so it is taken over, by one rerun only; the words say which one has it, also after its end."""
    bench.fleet.script = fails("b")
    await run(executor, stage("a"), stage("b", "a"), repository="/r")
    bench.fleet.script = lambda _: Fate(seconds=None)
    await executor.client.RerunPipeline(RerunPipelineRequest(pipeline_id="p", new_pipeline_id="q", failed_only=True))
    await until_running(attached(executor, "q"), "b")
    assert len({r.worker.workspace for r in bench.scaler.requests}) == 1
    assert ran(bench, "q") == ["b"]
    for _ in range(2):
        error = await refused(executor, pipeline_id="p", failed_only=True)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "was taken over by 'q'" in (error.details() or "")
        assert "whole" in (error.details() or "")
        await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="q"))
        await everything(attached(executor, "q"))
    bench.fleet.script = fails()
    said = await rerun(executor, "q", "r", failed_only=True)
    assert next(m for m in said if m.stage_id == "a").message == "kept from p"
    assert len({r.worker.workspace for r in bench.scaler.requests}) == 1
    assert (await rerun(executor, "p", "whole"))[-1].status == COMPLETED


async def test_nothing_to_keep_needs_no_workspace(bench: Bench, executor: Executor) -> None:
    """If the kept stages left no files in it, the old workspace stays where it is: the same run can be repeated again and again."""
    bench.fleet.script = fails("b")
    await run(executor, stage("a", config={"otto.workspace": "own"}), stage("b", "a"))
    for new in ("q", "r"):
        said = await rerun(executor, new=new, failed_only=True)
        assert said[-1].status == FAILED
        assert ran(bench, new) == ["b"]
    assert len({r.worker.workspace for r in bench.scaler.requests if r.worker.workspace}) == 3


async def test_a_workspace_is_deleted_once_after_the_run_that_has_it(bench: Bench) -> None:
    """Taken over, it is deleted once, when the new run's time is over; after that a rerun of what failed is told to be whole."""
    bench.fleet.script = fails("b")
    async with bench.executor() as running:
        await run(running, stage("a"), stage("b", "a"))
        assert (await rerun(running, failed_only=True))[-1].status == FAILED
        assert bench.fleet.workspaces_deleted == []
    bench.set(workspace_retention=0)
    async with bench.executor() as running:
        await until(lambda: bool(bench.fleet.workspaces_deleted))
        assert bench.fleet.workspaces_deleted == [bench.scaler.requests[0].worker.workspace]
        for name in ("p", "q"):
            error = await refused(running, pipeline_id=name, failed_only=True)
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "is not kept any more" in (error.details() or "")
            assert "whole" in (error.details() or "")


async def test_the_old_run_s_time_does_not_end_a_workspace_that_was_taken_over() -> None:
    """Only the end of the run that has it counts, though the old run's time had been noted before."""
    store, workers, now = MemoryStore(), Fleet(), 10.0
    retention = Retention(store, workers.view(), Keeping(workspace=10.0), lambda: now, lambda: now)

    async def ended(name: str, at: float, workspace: str, takes: str = "") -> None:
        run = StoredRun(Definition(name, directory=workspace), b"", fresh(Definition(name), at))
        await store.create(run, (), takes_workspace_of=takes)
        run.state.ended_at = at
        await store.save(run, (), edge=True)
        retention.ended(Workspace(at, name, workspace))

    task = asyncio.create_task(retention.run(), name="retention")
    try:
        await ended("before", 0.0, "ws-0")
        await until(lambda: workers.workspaces_deleted == ["ws-0"])
        await ended("old", 2.0, "ws-1")
        await ended("other", 4.0, "ws-2")
        await ended("new", 10.0, "ws-1", takes="old")
        now = 15.0
        await ended("last", 1.0, "ws-3")
        await until(lambda: len(workers.workspaces_deleted) == 3)
        assert workers.workspaces_deleted == ["ws-0", "ws-3", "ws-2"]
        now = 25.0
        await ended("bell", 24.0, "ws-4")
        await until(lambda: len(workers.workspaces_deleted) == 4)
        assert workers.workspaces_deleted[3] == "ws-1"
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_approvals_are_asked_for_again_unless_their_stage_completed(bench: Bench, executor: Executor) -> None:
    """A kept approval keeps who gave it; a stage that runs again waits for a new yes, though it had one before."""
    bench.fleet.script = fails("deploy")
    stages = (
        PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL),
        stage("deploy", "gate", config={"otto.approvers": "kim"}),
    )
    call = executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=stages))
    yes = pipeline_pb2.APPROVAL_DECISION_APPROVE
    await anext(aiter(call))
    for name in ("gate", "deploy"):
        await executor.client.ApproveStage(ApproveStageRequest(pipeline_id="p", stage_id=name, decision=yes, user="kim"))
    await everything(call)
    bench.fleet.script = fails()
    await executor.client.RerunPipeline(RerunPipelineRequest(pipeline_id="p", new_pipeline_id="q", failed_only=True))
    answer = await got(executor, "q")
    gate, deploy = answer.stages
    assert (gate.approval.decided_by, gate.status) == ("kim", COMPLETED)
    assert (deploy.approval.decision, deploy.approval.decided_by) == (pipeline_pb2.APPROVAL_DECISION_UNSPECIFIED, "")
    assert list(answer.summary.awaiting_approval) == ["deploy"]
    assert ran(bench, "q") == []
    await executor.client.ApproveStage(ApproveStageRequest(pipeline_id="q", stage_id="deploy", decision=yes, user="kim"))
    assert (await everything(attached(executor, "q")))[-1].status == COMPLETED


async def test_an_ignored_failure_and_a_cancelled_run(bench: Bench, executor: Executor) -> None:
    """An ignored failure counts as completed and is kept with its cause; stages that were cancelled run again."""
    bench.fleet.script = lambda key: Fate(exit_code=3) if key[1] == "lint" else Fate(seconds=None)
    call = executor.client.ExecutePipeline(
        PipelineRequest(pipeline_id="p", stages=[stage("lint", ignore_errors=True), stage("a", "lint"), stage("b", "a")])
    )
    await until_running(call, "a")
    await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p"))
    await everything(call)
    bench.fleet.script = fails()
    said = await rerun(executor, failed_only=True)
    assert ran(bench, "q") == ["a", "b"]
    assert next(m for m in said if m.stage_id == "lint").exit_code == 3
    assert said[-1].status == COMPLETED


async def test_what_can_not_be_rerun(bench: Bench, executor: Executor) -> None:
    """Unknown, still running, nothing failed, a known new id, bad ids: each has its status and words, and nothing is begun."""
    await run(executor, stage("a"))
    bench.fleet.script = lambda _: Fate(seconds=None)
    going_on = executor.client.ExecutePipeline(PipelineRequest(pipeline_id="going on", stages=[stage("a")]))
    await until_running(going_on, "a")
    for fields, code, words in (
        ({"pipeline_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "pipeline_id: is empty"),
        ({"pipeline_id": "p", "new_pipeline_id": "x" * 254}, grpc.StatusCode.INVALID_ARGUMENT, "new_pipeline_id: has 254 bytes"),
        ({"pipeline_id": "p", "triggered_by": "x" * 5000}, grpc.StatusCode.INVALID_ARGUMENT, "triggered_by"),
        ({"pipeline_id": "none"}, grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ({"pipeline_id": "going on"}, grpc.StatusCode.FAILED_PRECONDITION, "has not ended"),
        ({"pipeline_id": "p", "failed_only": True}, grpc.StatusCode.FAILED_PRECONDITION, "no stage of it failed"),
        ({"pipeline_id": "p", "new_pipeline_id": "p"}, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_COMPLETED"),
        ({"pipeline_id": "p", "new_pipeline_id": "going on"}, grpc.StatusCode.ALREADY_EXISTS, "exists already"),
    ):
        error = await refused(executor, **fields)
        assert (error.code(), words in (error.details() or "")) == (code, True), (fields, error.details())
    assert len(bench.fleet.created) == 2


async def test_a_made_id_tells_where_it_comes_from(executor: Executor) -> None:
    """Without a new id one is made of the old one's, which does not grow from rerun to rerun."""
    await run(executor, stage("a"), pipeline_id="빌드")
    first = (await executor.client.RerunPipeline(RerunPipelineRequest(pipeline_id="빌드"))).pipeline_id
    assert first.startswith(f"빌드{MARK}")
    assert (await everything(attached(executor, first)))[-1].status == COMPLETED
    second = (await executor.client.RerunPipeline(RerunPipelineRequest(pipeline_id=first))).pipeline_id
    assert second.startswith(f"빌드{MARK}")
    assert second != first
    assert len(second) == len(first)
    assert (await everything(attached(executor, second)))[0].message.startswith(f"accepted: 1 stage, repeats {first}")


def test_a_made_id_is_never_too_long() -> None:
    """A long id is cut between characters, and the random part stays whole."""
    made = made_id("빌" * 84, "abcd1234", 253)
    assert len(made.encode()) <= 253
    assert made.endswith(f"{MARK}abcd1234")
    assert made.removesuffix(f"{MARK}abcd1234") == "빌" * 79


async def test_a_rerun_outlives_the_process(bench: Bench) -> None:
    """Killed while the rerun waits for its worker, the next process goes on with it, and still knows what was kept and taken over."""
    bench.fleet.script = fails("b")
    async with bench.executor() as running:
        await run(running, stage("a"), stage("b", "a"))
        bench.fleet.script = lambda _: Fate(seconds=None)
        await running.client.RerunPipeline(RerunPipelineRequest(pipeline_id="p", new_pipeline_id="q", failed_only=True))
        await until_running(attached(running, "q"), "b")
    bench.fleet.end(("q", "b", 1, 1), Fate())
    async with bench.executor() as running:
        said = await everything(attached(running, "q"))
        assert said[-1].status == COMPLETED
        assert ran(bench, "q") == ["b"]
        assert "was taken over by 'q'" in ((await refused(running, pipeline_id="p", failed_only=True)).details() or "")


async def repeat(conductor: Conductor, wanted: Rerun) -> None:
    await conductor.rerun(wanted)
    await to_the_end(conductor, wanted.new_id)


async def test_a_crash_at_any_step_of_a_rerun_is_survived(fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Killed at any store write or call to the scaler: the rerun is there whole or not at all, and the workspace has one owner."""
    fleet.script = lambda key: Fate(exit_code=1) if key[0].startswith("p") and key[1] == "b" else Fate()
    stages = (StageSpec("a"), StageSpec("b", depends_on=("a",)), StageSpec("c", depends_on=("b",)))
    for number in range(100):
        old, new = f"p{number}", f"q{number}"
        memory, crash = MemoryStore(), Crash(number)
        async with process(fleet, memory) as conductor:
            await conductor.begin(pipeline(*stages, pipeline_id=old), b"")
            await to_the_end(conductor, old)
        wanted = Rerun(old, new, failed_only=True, triggered_by="", traceparent="", parent="", request=lambda kept: kept)
        async with process(fleet, CrashingStore(memory, crash), crash) as conductor:
            work = asyncio.create_task(repeat(conductor, wanted), name="doing")
            reached = asyncio.create_task(crash.reached.wait(), name="reached")
            await asyncio.wait({work, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            unharmed = work.done()
            for task in (work, reached):
                task.cancel()
            await asyncio.wait({work, reached})
        fleet.interrupt()
        async with process(fleet, memory) as conductor:
            if await memory.load(new) is None:
                await conductor.rerun(wanted)
            said = await to_the_end(conductor, new)
            assert ends(said)[""] is Ending.COMPLETED, number
            assert next(p for p in said if p.stage_id == "a").kept_from == old
            assert [workspace.pipeline_id for workspace in await memory.workspaces()] == [new]
        assert [key[1:] for key in fleet.created if key[0] == new] == [("b", 1, 1), ("c", 1, 1)], number
        if unharmed:
            assert number >= 6
            return
    pytest.fail("the rerun takes more steps than expected")


async def test_a_failed_rerun_says_so(bench: Bench, executor: Executor) -> None:
    """Failing again, the new run is FAILED with the new failure's cause, and the old run stays as it was."""
    bench.fleet.script = fails("b")
    before = await run(executor, stage("a"), stage("b", "a"))
    bench.fleet.script = lambda key: Fate(cause=FailureCause.OOM_KILLED, exit_code=137) if key[1] == "b" else Fate()
    said = await rerun(executor, failed_only=True)
    assert (said[-1].status, said[-1].exit_code) == (FAILED, 137)
    again = await everything(attached(executor, "p"))
    assert [m.sequence for m in again] == [m.sequence for m in before]
    assert again[-1].exit_code == 1
