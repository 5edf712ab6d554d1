"""PipelineService over a real port: validating, approving, cancelling, getting and listing runs, and how far they have come."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterable

import grpc
import grpc.aio
import pytest

from otto_executor.testing.fleet import Fate
from ottoscaler.v1 import pipeline_pb2, worker_pb2
from ottoscaler.v1.pipeline_pb2 import (
    PIPELINE_STATE_CANCELLED,
    PIPELINE_STATE_COMPLETED,
    PIPELINE_STATE_FAILED,
    PIPELINE_STATE_RUNNING,
    PIPELINE_STATE_UNSPECIFIED,
    PipelineProgress,
    PipelineRequest,
)
from ottoscaler.v1.pipeline_service_pb2 import (
    ApproveStageRequest,
    CancelPipelineRequest,
    GetPipelineRequest,
    GetPipelineResponse,
    ListPipelinesRequest,
    ValidatePipelineRequest,
    WatchPipelineRequest,
)
from ottoscaler.v1.stage_pb2 import STAGE_TYPE_APPROVAL, PipelineStage, StageStatus

from .conftest import Bench, Executor
from .test_service_run import everything, stage, until_running

YES, NO = pipeline_pb2.APPROVAL_DECISION_APPROVE, pipeline_pb2.APPROVAL_DECISION_REJECT
WRONG = PipelineRequest(
    pipeline_id="w",
    stages=[
        PipelineStage(stage_id="a", worker_count=-1, depends_on=["c"]),
        PipelineStage(stage_id="b", depends_on=["a", "nope"], config={"otto.nope": "1"}),
        PipelineStage(stage_id="c", depends_on=["b"]),
    ],
)
WRONG_FIELDS = {"stages[0].worker_count", "stages[1].depends_on[1]", 'stages[1].config["otto.nope"]', "stages"}


async def started(executor: Executor, *stages: PipelineStage, pipeline_id: str = "p") -> AsyncIterable[PipelineProgress]:
    """A pipeline that has been stored, and its stream after the first message."""
    call = executor.client.ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id, stages=stages))
    await anext(aiter(call))
    return call


async def status_of(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call  # type: ignore[misc]  # a unary call
    return refused.value.code(), refused.value.details() or ""


def decide(
    executor: Executor, decision: int, user: str = "kim", stage_id: str = "gate", comment: str = "", pipeline_id: str = "p"
) -> object:
    request = ApproveStageRequest(pipeline_id=pipeline_id, stage_id=stage_id, decision=decision, user=user, comment=comment)  # type: ignore[arg-type]  # any number
    return executor.client.ApproveStage(request)


async def got(executor: Executor, pipeline_id: str = "p") -> GetPipelineResponse:
    return await executor.client.GetPipeline(GetPipelineRequest(pipeline_id=pipeline_id))


async def test_every_problem_is_told_at_once_and_nothing_is_run(bench: Bench, executor: Executor) -> None:
    """ExecutePipeline refuses with all of them, the cycle with its path; ValidatePipeline says the same with fields; nothing is stored."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await everything(executor.client.ExecutePipeline(WRONG))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = refused.value.details() or ""
    assert all(field in details for field in WRONG_FIELDS)
    assert "a → b → c → a" in details
    answer = await executor.client.ValidatePipeline(ValidatePipelineRequest(pipeline=WRONG))
    assert {problem.field for problem in answer.problems} == WRONG_FIELDS
    assert {problem.stage_id for problem in answer.problems} == {"a", "b", ""}
    assert all(problem.description in details for problem in answer.problems)
    assert (await status_of(executor.client.GetPipeline(GetPipelineRequest(pipeline_id="w"))))[0] is grpc.StatusCode.NOT_FOUND
    assert bench.fleet.created == []


async def test_a_good_request_has_only_warnings(bench: Bench, executor: Executor) -> None:
    """ValidatePipeline runs nothing; the same warnings are in the run's first message and in GetPipeline."""
    request = PipelineRequest(pipeline_id="p", stages=[stage("a", config={"otto.cache": "x"})])
    answer = await executor.client.ValidatePipeline(ValidatePipelineRequest(pipeline=request))
    assert (list(answer.problems), bench.fleet.created) == ([], [])
    assert "otto.cache" in answer.warnings[0]
    seen = await everything(executor.client.ExecutePipeline(request))
    assert answer.warnings[0] in seen[0].message
    assert (await got(executor)).warnings == answer.warnings


async def test_a_gate_waits_tells_who_may_and_opens(bench: Bench, executor: Executor) -> None:
    """PENDING once with who may; strangers are refused; approved, it completes, keeps who and why, and what follows runs."""
    gate = PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL, config={"otto.approvers": '["kim", "lee"]'}, timeout_seconds=900)
    call = await started(executor, gate, stage("deploy", "gate"))
    first = await anext(aiter(call))
    while first.stage_id != "gate":
        first = await anext(aiter(call))
    assert (first.status, first.message) == (StageStatus.STAGE_PENDING, "waits for approval by kim, lee, for 15 min at most")
    answer = await got(executor)
    assert list(answer.summary.awaiting_approval) == ["gate"]
    assert list(answer.stages[0].approval.approvers) == ["kim", "lee"]
    code, words = await status_of(decide(executor, YES, user="eve"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "kim, lee" in words
    assert bench.fleet.created == []
    decided = await decide(executor, YES, user="lee", comment="looks fine")  # type: ignore[misc]  # a unary call
    assert (decided.approval.decision, decided.approval.decided_by, decided.approval.comment) == (YES, "lee", "looks fine")
    seen = await everything(call)
    assert any(m.stage_id == "gate" and m.message == "approved by lee: looks fine" for m in seen)
    assert seen[-1].status == StageStatus.STAGE_COMPLETED
    assert [key[1] for key in bench.fleet.created] == ["deploy"]
    assert (await got(executor)).stages[0].approval == decided.approval
    again = await decide(executor, YES, user="kim")  # type: ignore[misc]  # a unary call
    assert again.approval == decided.approval
    assert (await status_of(decide(executor, NO)))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_rejected_gate_fails_and_nothing_behind_it_runs(bench: Bench, executor: Executor) -> None:
    """FAILED with REJECTED, who and why; dependents are skipped; it is not retried, and a later yes comes too late."""
    call = await started(executor, PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL), stage("deploy", "gate"))
    await decide(executor, NO, comment="not on Fridays")  # type: ignore[misc]  # a unary call
    seen = await everything(call)
    end = next(m for m in seen if m.stage_id == "gate" and m.status == StageStatus.STAGE_FAILED)
    assert (end.failure_cause, end.error_message) == (worker_pb2.FAILURE_CAUSE_REJECTED, "rejected by kim: not on Fridays")
    assert next(m for m in seen if m.stage_id == "deploy" and m.status == StageStatus.STAGE_SKIPPED)
    assert (seen[-1].status, bench.fleet.created) == (StageStatus.STAGE_FAILED, [])
    assert (await status_of(decide(executor, YES)))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_nobody_in_time_is_a_no(bench: Bench, executor: Executor) -> None:
    """The timeout counts from the stage's turn; then it is FAILED with TIMEOUT, and what follows does not run."""
    call = await started(executor, PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL, timeout_seconds=1), stage("deploy", "gate"))
    seen = await everything(call)
    end = [m for m in seen if m.stage_id == "gate"][-1]
    assert (end.status, end.failure_cause) == (StageStatus.STAGE_FAILED, worker_pb2.FAILURE_CAUSE_TIMEOUT)
    assert "nobody approved within 1 s" in end.error_message
    assert bench.fleet.created == []


async def test_a_gate_survives_a_restart_and_a_yes_given_before_its_turn_counts(bench: Bench) -> None:
    """Killed while one gate waits and the other has its yes in advance, the next process still waits for the first only."""
    gates = (
        PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL),
        PipelineStage(stage_id="two", type=STAGE_TYPE_APPROVAL, depends_on=["gate"]),
    )
    async with bench.executor() as running:
        await started(running, *gates, stage("deploy", "two"))
        await decide(running, YES, stage_id="two")  # type: ignore[misc]  # a unary call
        assert list((await got(running)).summary.awaiting_approval) == ["gate"]
    async with bench.executor() as running:
        assert list((await got(running)).summary.awaiting_approval) == ["gate"]
        assert bench.fleet.created == []
        await decide(running, YES)  # type: ignore[misc]  # a unary call
        seen = await everything(running.client.ExecutePipeline(PipelineRequest(pipeline_id="p")))
    assert seen[-1].status == StageStatus.STAGE_COMPLETED
    assert [key[1] for key in bench.fleet.created] == ["deploy"]


async def test_what_can_not_be_decided(executor: Executor) -> None:
    """Unknown pipeline or stage, a stage without approval, no decision, no user: each has its status and names its field."""
    await started(executor, PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL), stage("plain", "gate"))
    for call, code, words in (
        (decide(executor, YES, pipeline_id="none"), grpc.StatusCode.NOT_FOUND, "none"),
        (decide(executor, YES, stage_id="none"), grpc.StatusCode.NOT_FOUND, "none"),
        (decide(executor, YES, stage_id="plain"), grpc.StatusCode.FAILED_PRECONDITION, "needs no approval"),
        (decide(executor, 0), grpc.StatusCode.INVALID_ARGUMENT, "decision"),
        (decide(executor, 7), grpc.StatusCode.INVALID_ARGUMENT, "decision"),
        (decide(executor, YES, user=""), grpc.StatusCode.INVALID_ARGUMENT, "user: is empty"),
        (decide(executor, YES, stage_id=""), grpc.StatusCode.INVALID_ARGUMENT, "stage_id: is empty"),
        (decide(executor, YES, comment="x" * 5000), grpc.StatusCode.INVALID_ARGUMENT, "comment"),
    ):
        found, details = await status_of(call)
        assert (found, words in details) == (code, True), details


async def test_cancelling_ends_gates_delays_and_waits(bench: Bench, executor: Executor) -> None:
    """Whatever a stage waits for, cancelled it is CANCELLED at once; an ended pipeline stays as it is."""
    bench.fleet.script = lambda key: Fate(exit_code=1) if key[1] == "retried" else Fate(seconds=None)
    retried = stage("retried")
    retried.retry_policy.max_attempts, retried.retry_policy.retry_delay_seconds = 1, 1000
    call = await started(executor, PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL), retried, stage("runs"), stage("waits", "gate"))
    seen: list[PipelineProgress] = []
    async for message in call:
        seen.append(message)
        if {(m.stage_id, m.status) for m in seen} >= {("retried", StageStatus.STAGE_RETRYING), ("runs", StageStatus.STAGE_RUNNING)}:
            break
    await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p", cancelled_by="kim"))
    seen += await everything(call)
    last = {m.stage_id: m.status for m in seen}
    assert set(last.values()) == {StageStatus.STAGE_CANCELLED}
    assert last.keys() == {"gate", "retried", "runs", "waits", ""}
    after = await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p", cancelled_by="lee"))
    assert (after.state, "kim" in after.message) == (PIPELINE_STATE_CANCELLED, True)
    code, _ = await status_of(executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="none")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_percentages(bench: Bench, executor: Executor) -> None:
    """Of a stage the share of its workers that have ended; of the pipeline the share of its stages; neither goes back."""
    bench.fleet.script = lambda key: Fate(seconds=None if key[1] == "b" else 0.0)
    call = await started(executor, stage("a"), stage("b", "a", worker_count=3), stage("c", "b"), stage("d", "c"))
    seen = await until_running(call, "b")
    for index, percentage in ((1, 33), (2, 66)):
        bench.fleet.end(("p", "b", 1, index), Fate())
        async with asyncio.timeout(10):
            seen.append(await anext(aiter(call)))
        assert (seen[-1].stage_id, seen[-1].progress_percentage, seen[-1].overall_percentage) == ("b", percentage, 25)
        assert (await got(executor)).stages[1].percentage == percentage
    assert (await got(executor)).summary.percentage == 25
    bench.fleet.end(("p", "b", 1, 3), Fate())
    seen += await everything(call)
    overall = [m.overall_percentage for m in seen]
    assert overall == sorted(overall)
    assert {25, 50, 75, 100} <= set(overall)
    assert (seen[-1].progress_percentage, seen[-1].overall_percentage) == (100, 100)


async def test_a_run_as_it_stands(bench: Bench, executor: Executor) -> None:
    """GetPipeline has the request, the stages in their order with what became of them, and the last sequence, also after the end."""
    bench.fleet.script = lambda key: Fate(exit_code=9 if key[1] == "bad" else 0)
    request = PipelineRequest(
        pipeline_id="p", name="N", triggered_by="kim", stages=[stage("late", "bad"), stage("bad", worker_count=2), stage("good")]
    )
    seen = await everything(executor.client.ExecutePipeline(request))
    answer = await got(executor)
    assert answer.request == request
    assert answer.last_sequence == seen[-1].sequence
    assert (answer.summary.state, answer.summary.percentage, answer.summary.stage_count) == (PIPELINE_STATE_FAILED, 100, 3)
    assert answer.summary.ended_at.ToNanoseconds() >= answer.summary.created_at.ToNanoseconds() > 0
    late, bad, good = answer.stages
    assert [s.stage_id for s in answer.stages] == ["late", "bad", "good"]
    assert (late.status, late.attempt, late.HasField("started_at")) == (StageStatus.STAGE_SKIPPED, 0, False)
    assert (bad.status, bad.exit_code, bad.failure_cause, bad.worker_count) == (
        StageStatus.STAGE_FAILED,
        9,
        worker_pb2.FAILURE_CAUSE_EXIT_CODE,
        2,
    )
    assert (good.status, good.percentage, len(good.worker_pod_names)) == (StageStatus.STAGE_COMPLETED, 100, 1)
    assert not good.HasField("exit_code")


async def test_paging_and_states(bench: Bench, executor: Executor) -> None:
    """Newest first, every run once although others begin meanwhile; states select; the last page has no token."""
    bench.fleet.script = lambda key: Fate(exit_code=1) if key[0].startswith("bad") else Fate(seconds=None) if key[0] == "on" else Fate()
    names = ["a", "bad 1", "b", "bad 2", "c"]
    for name in names:
        await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id=name, stages=[stage("s")])))
    await started(executor, stage("s"), pipeline_id="on")
    await started(executor, PipelineStage(stage_id="gate", type=STAGE_TYPE_APPROVAL), pipeline_id="stopped")
    await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="stopped", reason="why not"))
    every = ["stopped", "on", *reversed(names)]
    found: list[str] = []
    token = ""
    for number in range(10):
        page = await executor.client.ListPipelines(ListPipelinesRequest(page_size=2, page_token=token))
        assert len(page.pipelines) <= 2
        found += [short.pipeline_id for short in page.pipelines]
        token = page.next_page_token
        if not token:
            break
        await started(executor, stage("s"), pipeline_id=f"newer {number}")
    assert found == every

    async def listed(*states: int) -> list[str]:
        answer = await executor.client.ListPipelines(ListPipelinesRequest(states=states, page_size=100))  # type: ignore[arg-type]  # any number
        return [short.pipeline_id for short in answer.pipelines if not short.pipeline_id.startswith("newer")]

    assert await listed(PIPELINE_STATE_FAILED) == ["bad 2", "bad 1"]
    assert await listed(PIPELINE_STATE_COMPLETED) == ["c", "b", "a"]
    assert await listed(PIPELINE_STATE_RUNNING) == ["on"]
    assert await listed(PIPELINE_STATE_CANCELLED, PIPELINE_STATE_FAILED) == ["stopped", "bad 2", "bad 1"]
    assert await listed() == await listed(PIPELINE_STATE_UNSPECIFIED) == every


async def test_what_can_not_be_listed(executor: Executor) -> None:
    """Sizes and tokens that were not given out, and numbers that mean no state, are named; a token belongs to its selection."""
    for name in "ab":
        await started(executor, stage("s"), pipeline_id=name)
    token = (await executor.client.ListPipelines(ListPipelinesRequest(page_size=1))).next_page_token
    assert token
    for request, words in (
        (ListPipelinesRequest(page_size=-1), "page_size"),
        (ListPipelinesRequest(page_size=501), "page_size"),
        (ListPipelinesRequest(page_token="made up"), "page_token"),
        (ListPipelinesRequest(page_token=token[:-4] + "AAA="), "page_token"),
        (ListPipelinesRequest(page_token=token, states=[PIPELINE_STATE_FAILED]), "page_token"),
        (ListPipelinesRequest(states=[99]), "states[0]: 99"),  # type: ignore[list-item]  # what a newer client may send
    ):
        code, details = await status_of(executor.client.ListPipelines(request))
        assert (code, words in details) == (grpc.StatusCode.INVALID_ARGUMENT, True), details


@pytest.mark.parametrize(
    "body",
    [
        b"5",
        b"{}",
        b"[]",
        b'["a", "p", []]',
        b'[1, "p", []]',
        b'["1.5", 7, []]',
        b'["1.5", "\\ud800", []]',
        b'["1.5", "p", [{}]]',
        b"[" * 9999,
    ],
)
async def test_a_forged_token_is_refused(executor: Executor, body: bytes) -> None:
    """Whoever knows how a token is made may send any: what we would not have given out is named, and nothing fails over it."""
    forged = base64.urlsafe_b64encode(hashlib.blake2b(body, digest_size=8, person=b"otto-page").digest() + body).decode()
    code, details = await status_of(executor.client.ListPipelines(ListPipelinesRequest(page_token=forged)))
    assert (code, details.startswith("page_token: ")) == (grpc.StatusCode.INVALID_ARGUMENT, True), details


async def test_ids_are_checked_wherever_they_are_sent(executor: Executor) -> None:
    """Empty, too long, with control characters: INVALID_ARGUMENT names the field in every call; unknown ones are NOT_FOUND."""
    client = executor.client
    for bad in ("", "x" * 254, "a\tb"):
        for call in (
            client.GetPipeline(GetPipelineRequest(pipeline_id=bad)),
            client.CancelPipeline(CancelPipelineRequest(pipeline_id=bad)),
            decide(executor, YES, pipeline_id=bad),
        ):
            code, details = await status_of(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert details.startswith("pipeline_id: ")
    for stream in (
        client.ExecutePipeline(PipelineRequest(pipeline_id="none")),
        client.WatchPipeline(WatchPipelineRequest(pipeline_id="none")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await everything(stream)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "NOT_FOUND" in (refused.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await everything(client.WatchPipeline(WatchPipelineRequest(pipeline_id="p", after_sequence=-1)))
    assert "after_sequence" in (refused.value.details() or "")


async def test_stages_for_a_known_id_are_refused_with_what_to_do(bench: Bench, executor: Executor) -> None:
    """ALREADY_EXISTS says how to attach, and ALREADY_COMPLETED once it has ended; the run is not disturbed."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    call = executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a")]))
    await until_running(call, "a")
    for ended in (False, True):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("b")])))
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert "without stages" in (refused.value.details() or "")
        assert ("ALREADY_COMPLETED" in (refused.value.details() or "")) is ended
        bench.fleet.end(("p", "a", 1, 1), Fate())
        if not ended:
            assert (await everything(call))[-1].status == StageStatus.STAGE_COMPLETED
    assert len(bench.fleet.created) == 1
