"""PipelineService over a real port in front of a scaler on a real port: running, attaching, leaving, restarting."""

import asyncio
from collections.abc import AsyncIterable

import grpc
import grpc.aio
import pytest

from otto_executor.orders import Refused
from otto_executor.retry import Failure, FailureCause
from otto_executor.testing.fleet import Fate
from ottoscaler.v1 import worker_pb2
from ottoscaler.v1.ottoscaler_service_pb2 import Admission
from ottoscaler.v1.pipeline_pb2 import PIPELINE_STATE_CANCELLED, PIPELINE_STATE_RUNNING, PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest, GetPipelineRequest, WatchPipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageStatus, StageType

from .conftest import Bench, Executor


def stage(stage_id: str, *needs: str, **more: object) -> PipelineStage:
    made = PipelineStage(stage_id=stage_id, depends_on=needs, command=["sh", "-c"], args=["true"])
    made.MergeFrom(PipelineStage(**more))  # type: ignore[arg-type]  # any field of a stage
    return made


def two(pipeline_id: str = "p") -> PipelineRequest:
    return PipelineRequest(pipeline_id=pipeline_id, stages=[stage("b", "a", worker_count=2), stage("a")])


async def everything(call: AsyncIterable[PipelineProgress]) -> list[PipelineProgress]:
    async with asyncio.timeout(10):
        return [message async for message in call]


async def until_running(call: AsyncIterable[PipelineProgress], stage_id: str) -> list[PipelineProgress]:
    seen = []
    async with asyncio.timeout(10):
        async for message in call:
            seen.append(message)
            if (message.stage_id, message.status) == (stage_id, StageStatus.STAGE_RUNNING):
                return seen
    raise AssertionError(f"{stage_id} never ran")


def without_replayed(messages: list[PipelineProgress]) -> list[PipelineProgress]:
    plain = []
    for message in messages:
        copy = PipelineProgress()
        copy.CopyFrom(message)
        copy.ClearField("replayed")
        plain.append(copy)
    return plain


async def test_two_stages_run_one_after_the_other(bench: Bench, executor: Executor) -> None:
    """Progress is numbered without holes, the second stage's workers are created after the first's have ended, and the last is final."""
    seen = await everything(executor.client.ExecutePipeline(two()))
    assert [m.sequence for m in seen] == list(range(1, len(seen) + 1))
    assert (seen[-1].stage_id, seen[-1].status, seen[-1].overall_percentage) == ("", StageStatus.STAGE_COMPLETED, 100)
    assert not any(m.replayed for m in seen)
    assert [key[1:] for key in bench.fleet.created] == [("a", 1, 1), ("b", 1, 1), ("b", 1, 2)]
    done = next(m for m in seen if m.stage_id == "b" and m.status == StageStatus.STAGE_COMPLETED)
    assert list(done.worker_pod_names) == ["otto-b-1-1", "otto-b-1-2"]
    assert (done.metrics.successful_workers, done.metrics.total_workers, done.attempt) == (2, 2, 1)
    assert done.started_at <= done.completed_at <= done.timestamp
    assert done.timestamp.endswith("Z")
    assert len(done.timestamp) == len("2026-11-24T02:00:00.123Z")


async def test_attaching_replays_follows_and_never_runs_twice(bench: Bench, executor: Executor) -> None:
    """Without stages: while it runs, what was is marked replayed and what comes is not; afterwards the same messages, all replayed."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    first = executor.client.ExecutePipeline(two())
    await until_running(first, "a")
    second = executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p"))
    seen = await until_running(second, "a")
    assert all(m.replayed for m in seen)
    bench.fleet.script = lambda _: Fate()
    bench.fleet.end(bench.fleet.created[0], Fate())
    seen += await everything(second)
    assert not seen[-1].replayed
    again = await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p")))
    assert all(m.replayed for m in again)
    assert without_replayed(again) == without_replayed(seen)
    assert len(bench.fleet.created) == 3


async def test_watching_from_any_point(executor: Executor) -> None:
    """WatchPipeline gives what follows a sequence; with no_follow it ends with what there is; past the end it ends at once."""
    every = await everything(executor.client.ExecutePipeline(two()))
    for after in range(len(every) + 2):
        call = executor.client.WatchPipeline(WatchPipelineRequest(pipeline_id="p", after_sequence=after))
        assert [m.sequence for m in await everything(call)] == list(range(after + 1, len(every) + 1))


async def test_what_an_older_client_sent_is_given_out_as_it_was_understood(bench: Bench, executor: Executor) -> None:
    """GetPipeline's request has the enum where a string came, and no unknown field: decoders that go by numbers alone can read it."""
    older = PipelineRequest.FromString(b"\x0a\x01p" + b"\x1a\x0c" + b"\x0a\x01a" + b"\x12\x04Test" + b"\xfa\x3e\x00" + b"\xf2\x3e\x00")
    await everything(executor.client.ExecutePipeline(older))
    kept = (await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="p"))).request
    assert kept == PipelineRequest(pipeline_id="p", stages=[PipelineStage(stage_id="a", type=StageType.STAGE_TYPE_TEST)])
    assert kept.ByteSize() == len(b"\x0a\x01p" + b"\x1a\x05" + b"\x0a\x01a" + b"\x10\x02")


async def test_no_follow_ends_while_the_run_goes_on(bench: Bench, executor: Executor) -> None:
    """The stream ends with OK after what has happened so far, without a final message."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    await until_running(executor.client.ExecutePipeline(two()), "a")
    seen = await everything(executor.client.WatchPipeline(WatchPipelineRequest(pipeline_id="p", no_follow=True)))
    assert seen[-1].stage_id == "a"
    assert all(m.replayed for m in seen)


async def test_a_caller_that_leaves_changes_nothing(bench: Bench, executor: Executor) -> None:
    """The run goes on and completes; somebody else attaches and sees its end."""
    bench.fleet.script = lambda _: Fate(seconds=0.2)
    call = executor.client.ExecutePipeline(two())
    await until_running(call, "a")
    call.cancel()
    seen = await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p")))
    assert seen[-1].status == StageStatus.STAGE_COMPLETED


async def test_a_caller_that_leaves_cancels_if_it_asked_for_that(bench: Bench, executor: Executor) -> None:
    """With otto.on_disconnect=cancel the run is stopped, its workers too, and the words say why."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    request = two()
    request.metadata["otto.on_disconnect"] = "cancel"
    call = executor.client.ExecutePipeline(request)
    await until_running(call, "a")
    call.cancel()
    seen = await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p")))
    assert seen[-1].status == StageStatus.STAGE_CANCELLED
    assert "the caller left" in seen[-1].message
    assert all(worker.status.ended for worker in bench.fleet.workers.values())


async def test_a_stop_of_the_service_is_no_leaving(bench: Bench) -> None:
    """A graceful stop ends the stream with OK and without a final message, cancels nothing, and the next process goes on and completes."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    request = two()
    request.metadata["otto.on_disconnect"] = "cancel"
    async with bench.executor() as running:
        call = running.client.ExecutePipeline(request)
        seen = await until_running(call, "a")
        running.stop.set()
        seen += await everything(call)
        assert (await call.code()) is grpc.StatusCode.OK
        await running.served
    assert not any(m.stage_id == "" and m.status != StageStatus.STAGE_RUNNING for m in seen)
    bench.fleet.end(bench.fleet.created[0], Fate())
    bench.fleet.script = lambda _: Fate()
    async with bench.executor() as running:
        watch = WatchPipelineRequest(pipeline_id="p", after_sequence=seen[-1].sequence)
        seen += await everything(running.client.WatchPipeline(watch))
    assert seen[-1].status == StageStatus.STAGE_COMPLETED
    assert [m.sequence for m in seen] == list(range(1, len(seen) + 1))
    assert len(bench.fleet.created) == 3
    assert bench.fleet.stops == []


async def test_an_abrupt_end_is_survived(bench: Bench) -> None:
    """Without any goodbye, the next process goes on where the file says; a worker that vanished meanwhile is retried, not waited for."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    async with bench.executor() as running:
        await until_running(running.client.ExecutePipeline(two()), "a")
    bench.fleet.delete(bench.fleet.created[0], silently=True)
    bench.fleet.script = lambda _: Fate()
    async with bench.executor() as running:
        seen = await everything(running.client.ExecutePipeline(PipelineRequest(pipeline_id="p")))
    retrying = next(m for m in seen if m.status == StageStatus.STAGE_RETRYING)
    assert retrying.failure_cause == worker_pb2.FAILURE_CAUSE_DELETED
    assert seen[-1].status == StageStatus.STAGE_COMPLETED
    assert [key[1:3] for key in bench.fleet.created] == [("a", 1), ("a", 2), ("b", 1), ("b", 1)]


async def test_an_interrupted_watch_is_opened_again(bench: Bench, executor: Executor) -> None:
    """The scaler ends the stream; what happened until the next one is not missed."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    call = executor.client.ExecutePipeline(two())
    await until_running(call, "a")
    bench.fleet.interrupt()
    bench.fleet.script = lambda _: Fate()
    bench.fleet.end(bench.fleet.created[0], Fate())
    assert (await everything(call))[-1].status == StageStatus.STAGE_COMPLETED


@pytest.mark.parametrize(
    ("code", "times", "cause"),
    [
        (grpc.StatusCode.UNAVAILABLE, 1, None),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3, None),
        (grpc.StatusCode.INTERNAL, 2, None),
        (grpc.StatusCode.INVALID_ARGUMENT, 1, "FAILURE_CAUSE_REJECTED"),
        (grpc.StatusCode.UNIMPLEMENTED, 1, "FAILURE_CAUSE_REJECTED"),
        (grpc.StatusCode.INTERNAL, 100, "FAILURE_CAUSE_INTERNAL"),
    ],
)
async def test_what_the_scaler_answers(bench: Bench, code: grpc.StatusCode, times: int, cause: str | None) -> None:
    """What passes is asked again until it works; what will not change fails the stage with the scaler's words."""
    bench.set(infrastructure_retries=0)
    bench.scaler.failing = [(code, "words of the scaler")] * times
    async with bench.executor() as running:
        seen = await everything(running.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a")])))
    end = [m for m in seen if m.stage_id == "a"][-1]
    if cause is None:
        assert end.status == StageStatus.STAGE_COMPLETED
    else:
        assert end.status == StageStatus.STAGE_FAILED
        assert worker_pb2.FailureCause.Name(end.failure_cause) == cause
        assert "words of the scaler" in end.error_message


async def test_what_cannot_be_created_fails_the_stage(bench: Bench, executor: Executor) -> None:
    """A FAILED answer to ScaleUp is REJECTED with its words."""
    bench.fleet.refusals["a"] = Refused(Failure(FailureCause.REJECTED, "secret gone/key is not there"))
    seen = await everything(executor.client.ExecutePipeline(two()))
    assert seen[-1].status == StageStatus.STAGE_FAILED
    assert "secret gone/key is not there" in seen[-1].error_message
    assert seen[-1].failure_cause == worker_pb2.FAILURE_CAUSE_REJECTED


async def test_what_fails_in_the_scaler_is_nobodys_fault(bench: Bench) -> None:
    """A refusal with an infrastructure cause is repeated on that budget, and keeps its cause when it is used up."""
    bench.set(infrastructure_retries=2, infrastructure_retry_delay=0.01)
    bench.fleet.refusals["a"] = Refused(Failure(FailureCause.INTERNAL, "its directory could not be made: No space left on device"))
    async with bench.executor() as running:
        seen = await everything(running.client.ExecutePipeline(two()))
    assert [m.status for m in seen if m.stage_id == "a"].count(StageStatus.STAGE_RETRYING) == 2
    assert seen[-1].status == StageStatus.STAGE_FAILED
    assert seen[-1].failure_cause == worker_pb2.FAILURE_CAUSE_INTERNAL
    assert len([order for order in bench.scaler.requests if order.worker.stage_id == "a"]) == 3


async def test_what_the_scaler_is_asked_for(bench: Bench, executor: Executor) -> None:
    """The checkout comes first and alone names the repository; stages get all they said, the run's workspace, and one trace."""
    request = PipelineRequest(
        pipeline_id="a/b%",
        repository="https://example.test/r.git",
        commit_sha="abc",
        triggered_by="kim",
        stages=[
            PipelineStage(
                stage_id="빌드 1",
                worker_count=2,
                image="node:20",
                command=["sh", "-c"],
                args=["make"],
                timeout_seconds=77,
                config={"NODE_ENV": "test", "otto.cpu": "500m", "otto.working_dir": "web", "otto.secrets": '{"TOKEN": "s/k"}'},
                resources=worker_pb2.Resources(memory="1Gi"),
            ),
            stage("own", config={"otto.workspace": "own"}),
        ],
    )
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = executor.client.ExecutePipeline(request, metadata=(("traceparent", traceparent),))
    seen = await everything(call)
    assert seen[-1].status == StageStatus.STAGE_COMPLETED
    by_stage = {r.worker.stage_id: r for r in bench.scaler.requests}
    assert bench.scaler.requests[0].worker.stage_id == "otto.checkout"
    checkout, build, own = by_stage["otto.checkout"], by_stage["빌드 1"], by_stage["own"]
    assert (checkout.repository, checkout.commit_sha) == ("https://example.test/r.git", "abc")
    assert checkout.worker.command[:2] == ["git", "log"]
    assert (build.repository, build.commit_sha) == ("", "")
    assert dict(build.worker.env) == {
        "NODE_ENV": "test",
        "OTTO_REPOSITORY": "https://example.test/r.git",
        "OTTO_COMMIT_SHA": "abc",
    }
    assert build.task_id == "a%2Fb%25/빌드 1"
    assert (build.worker_count, build.triggered_by, build.admission) == (2, "kim", Admission.ADMISSION_QUEUE)
    spec = build.worker
    assert (spec.image, list(spec.command), list(spec.args), spec.timeout.seconds) == ("node:20", ["sh", "-c"], ["make"], 77)
    assert (spec.resources.cpu, spec.resources.memory, spec.working_directory) == ("500m", "1Gi", "web")
    assert [(s.name, s.secret, s.key) for s in spec.secret_env] == [("TOKEN", "s", "k")]
    assert (spec.pipeline_id, spec.attempt) == ("a/b%", 1)
    assert spec.workspace == checkout.worker.workspace
    assert spec.workspace.startswith("ws-")
    assert len(spec.workspace) == 19
    assert own.worker.workspace == ""
    traces = {r.worker.traceparent for r in bench.scaler.requests}
    assert len(traces) == 3
    assert all(trace.startswith("00-0af7651916cd43dd8448eb211c80319c-") for trace in traces)
    got = await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="a/b%"))
    assert [s.stage_id for s in got.stages] == ["otto.checkout", "빌드 1", "own"]
    assert list(got.stages[1].depends_on) == ["otto.checkout"]
    assert (got.stages[0].name, got.stages[0].type) == ("Checkout", StageType.STAGE_TYPE_SETUP)
    assert got.request == request


async def test_a_failed_checkout_is_tried_again_then_skips_everything(bench: Bench, executor: Executor) -> None:
    """One retry by default; then the pipeline fails, naming the checkout."""
    bench.fleet.script = lambda _: Fate(exit_code=128, words="fatal: couldn't find remote ref")
    seen = await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", repository="/r", stages=[stage("a")])))
    assert [key[1:3] for key in bench.fleet.created] == [("otto.checkout", 1), ("otto.checkout", 2)]
    assert "otto.checkout: fatal: couldn't find remote ref" in seen[-1].error_message
    assert next(message.message for message in seen if message.stage_id == "a") == "waits for Checkout"


async def test_cancelling_over_the_wire(bench: Bench, executor: Executor) -> None:
    """CancelPipeline answers RUNNING while workers stop and CANCELLED afterwards, and the words reach those who watch."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    bench.fleet.deaf_to_stop.add("a")
    call = executor.client.ExecutePipeline(two())
    await until_running(call, "a")
    asked = CancelPipelineRequest(pipeline_id="p", reason="wrong branch", cancelled_by="kim")
    assert (await executor.client.CancelPipeline(asked)).state == PIPELINE_STATE_RUNNING
    bench.fleet.end(bench.fleet.created[0], Fate(exit_code=143, cause=FailureCause.CANCELLED))
    seen = await everything(call)
    assert seen[-1].status == StageStatus.STAGE_CANCELLED
    assert "cancelled by kim: wrong branch" in seen[-1].message
    assert seen[-1].failure_cause == worker_pb2.FAILURE_CAUSE_CANCELLED
    again = await executor.client.CancelPipeline(asked)
    assert again.state == PIPELINE_STATE_CANCELLED
    assert "has ended" in again.message


async def test_a_waiting_stage_says_why_the_scaler_is_away(bench: Bench) -> None:
    """After a while without the scaler a message says so, and the run goes on when it is back."""
    bench.set(unavailable_notice=0.0)
    bench.scaler.failing = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room, come again")] * 2
    async with bench.executor() as running:
        seen = await everything(running.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a")])))
    waiting = [m for m in seen if "no room, come again" in m.message]
    assert [m.status for m in waiting] == [StageStatus.STAGE_PENDING]
    assert seen[-1].status == StageStatus.STAGE_COMPLETED


async def test_retries_over_the_wire(bench: Bench, executor: Executor) -> None:
    """max_attempts counts retries: 2 means three attempts; the last one's failure is told."""
    bench.fleet.script = lambda key: Fate(exit_code=key[2])
    request = PipelineRequest(pipeline_id="p", stages=[stage("a", retry_policy=RetryPolicy(max_attempts=2))])
    seen = await everything(executor.client.ExecutePipeline(request))
    assert (seen[-1].exit_code, seen[-1].failure_cause) == (3, worker_pb2.FAILURE_CAUSE_EXIT_CODE)
    assert [m.attempt for m in seen if m.status == StageStatus.STAGE_RETRYING] == [1, 2]
