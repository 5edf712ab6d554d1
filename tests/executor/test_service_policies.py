"""What a stage may say about failures, end to end over a real port: retries, conditions, ignored errors, fail fast, by key and by field."""

from collections.abc import Sequence
from datetime import datetime

import pytest

from otto_executor.retry import FailureCause
from otto_executor.testing.fleet import Fate
from ottoscaler.v1 import worker_pb2
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest
from ottoscaler.v1.stage_pb2 import (
    RUN_CONDITION_ALWAYS,
    RUN_CONDITION_ON_FAILURE,
    RUN_CONDITION_ON_SUCCESS,
    PipelineStage,
    RetryPolicy,
    StageStatus,
)

from .conftest import Bench, Executor
from .test_service_run import everything, stage

RETRYING, SKIPPED = StageStatus.STAGE_RETRYING, StageStatus.STAGE_SKIPPED
COMPLETED, FAILED, CANCELLED = StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED


async def run(executor: Executor, *stages: PipelineStage, **metadata: str) -> list[PipelineProgress]:
    given = {name.replace("_", ".", 1): value for name, value in metadata.items()}
    return await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=stages, metadata=given)))


def ends(seen: Sequence[PipelineProgress]) -> dict[str, int]:
    return {m.stage_id: m.status for m in seen}


async def delays(executor: Executor, policy: RetryPolicy, count: int) -> list[str]:
    """How the first `count` retries of a stage that always fails are announced; then it is cancelled."""
    call = executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a", retry_policy=policy)]))
    announced: list[str] = []
    async for message in call:
        if message.status == RETRYING:
            announced.append(message.message.rpartition(" in ")[2])
            if len(announced) == count:
                await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p"))
    return announced


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"backoff_multiplier": 7.0}, ["1 s", "7 s"]),
        ({}, ["1 s", "1 s"]),
        ({"backoff_multiplier": 100.0, "max_delay_seconds": 3}, ["1 s", "3 s"]),
    ],
    ids=["multiplied", "constant", "capped"],
)
async def test_delays_between_attempts(bench: Bench, executor: Executor, policy: dict[str, float], expected: list[str]) -> None:
    """Each further delay is the last one times the multiplier, up to the longest; without one they are all the same."""
    bench.fleet.script = lambda _: Fate(exit_code=1)
    made = RetryPolicy(max_attempts=9, retry_delay_seconds=1, **policy)  # type: ignore[arg-type]  # any field
    assert await delays(executor, made, 2) == expected


async def test_a_delay_really_passes(bench: Bench, executor: Executor) -> None:
    """The next attempt's workers are asked for after the delay, not before."""
    bench.fleet.script = lambda key: Fate(exit_code=int(key[2] == 1))
    seen = await run(executor, stage("a", retry_policy=RetryPolicy(max_attempts=1, retry_delay_seconds=1)))
    retrying = next(m for m in seen if m.status == RETRYING)
    again = next(m for m in seen if m.attempt == 2)
    assert (datetime.fromisoformat(again.timestamp) - datetime.fromisoformat(retrying.timestamp)).total_seconds() >= 0.999


async def test_jitter_spreads_stages_that_failed_together(bench: Bench, executor: Executor) -> None:
    """With jitter 0.5 twenty delays of 80 s are drawn between 40 and 80 s, and differ."""
    bench.fleet.script = lambda _: Fate(exit_code=1)
    policy = RetryPolicy(max_attempts=1, retry_delay_seconds=80, jitter=0.5)
    call = executor.client.ExecutePipeline(
        PipelineRequest(pipeline_id="p", stages=[stage(f"s{number}", retry_policy=policy) for number in range(20)])
    )
    drawn: list[float] = []
    async for message in call:
        if message.status == RETRYING:
            drawn.append(float(message.message.rpartition(" in ")[2].removesuffix(" s")))
            if len(drawn) == 20:
                await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p"))
    assert all(40.0 <= delay <= 80.0 for delay in drawn)
    assert len(set(drawn)) > 5


@pytest.mark.parametrize(
    ("words", "fate", "retried"),
    [
        (["exit:7"], Fate(exit_code=7), True),
        (["exit:8"], Fate(exit_code=7), False),
        (["exit_code"], Fate(exit_code=7), True),
        (["oom"], Fate(exit_code=137, cause=FailureCause.OOM_KILLED), True),
        (["exit:137"], Fate(exit_code=137, cause=FailureCause.OOM_KILLED), True),
        (["timeout", "exit:9"], Fate(exit_code=137, cause=FailureCause.OOM_KILLED), False),
        (["FAILURE_CAUSE_TIMEOUT"], Fate(exit_code=143, cause=FailureCause.TIMEOUT), True),
        (["image-pull"], Fate(cause=FailureCause.IMAGE_PULL), True),
        (["quota"], Fate(cause=FailureCause.UNSCHEDULABLE), False),
        ([], Fate(exit_code=143, cause=FailureCause.TIMEOUT), True),
        ([], Fate(cause=FailureCause.REJECTED), False),
        ([], Fate(exit_code=143, cause=FailureCause.CANCELLED), False),
        (["cancelled"], Fate(exit_code=143, cause=FailureCause.CANCELLED), True),
    ],
    ids=lambda value: " ".join(value) or "any" if isinstance(value, list) else None,
)
async def test_which_failures_are_retried(bench: Bench, executor: Executor, words: list[str], fate: Fate, *, retried: bool) -> None:
    """By cause or exit code, in the contract's words; without words all but what repeating can't change."""
    bench.fleet.script = lambda _: fate
    seen = await run(executor, stage("a", retry_policy=RetryPolicy(max_attempts=1, retryable_failures=words)))
    assert [key[2] for key in bench.fleet.created] == ([1, 2] if retried else [1])
    assert seen[-1].status == FAILED


async def test_infrastructure_has_a_budget_of_its_own(bench: Bench, executor: Executor) -> None:
    """Two evictions cost nothing of the user's one retry, which is there for the exit code after them; no policy is needed for them."""
    outcomes = [Fate(cause=FailureCause.EVICTED), Fate(cause=FailureCause.NODE_LOST), Fate(exit_code=1), Fate()]
    bench.fleet.script = lambda key: outcomes[key[2] - 1]
    seen = await run(executor, stage("a", retry_policy=RetryPolicy(max_attempts=1, retryable_failures=["exit:1"])))
    assert [m.attempt for m in seen if m.status == RETRYING] == [1, 2, 3]
    assert seen[-1].status == COMPLETED


async def test_the_infrastructure_budget_ends_too(bench: Bench, executor: Executor) -> None:
    """The third infrastructure failure is on the user's budget, which these words don't open: FAILED with its cause."""
    bench.fleet.script = lambda _: Fate(cause=FailureCause.EVICTED)
    seen = await run(executor, stage("a", retry_policy=RetryPolicy(max_attempts=5, retryable_failures=["exit:1"])))
    assert len(bench.fleet.created) == 3
    assert seen[-1].status == FAILED
    assert seen[-1].failure_cause == worker_pb2.FAILURE_CAUSE_EVICTED


@pytest.mark.parametrize("how", ["field", "key"])
@pytest.mark.parametrize("broken", [True, False], ids=["after a failure", "after success"])
async def test_run_conditions(bench: Bench, executor: Executor, how: str, *, broken: bool) -> None:
    """on_success (also by default), on_failure and always, by `run_condition` and by `otto.run_if`."""
    bench.fleet.script = lambda key: Fate(exit_code=int(broken and key[1] == "a"))
    conditions = {"on_success": RUN_CONDITION_ON_SUCCESS, "on_failure": RUN_CONDITION_ON_FAILURE, "always": RUN_CONDITION_ALWAYS}
    stages = [
        stage(word, "a", run_condition=number) if how == "field" else stage(word, "a", config={"otto.run_if": word})
        for word, number in conditions.items()
    ]
    seen = ends(
        await run(executor, stage("a"), stage("default", "a"), *stages, stage("far", "default", config={"otto.run_if": "on_failure"}))
    )
    expected = {"on_success", "default", "always"} if not broken else {"on_failure", "always", "far"}
    names = {"on_success", "default", "on_failure", "always", "far"}
    assert {name for name in names if seen[name] == COMPLETED} == expected
    assert {name for name in names if seen[name] == SKIPPED} == names - expected
    assert seen[""] == (FAILED if broken else COMPLETED)


async def test_the_field_wins_over_the_key(bench: Bench, executor: Executor) -> None:
    """`run_condition` decides where `otto.run_if` says something else."""
    bench.fleet.script = lambda key: Fate(exit_code=int(key[1] == "a"))
    contrary = stage("b", "a", run_condition=RUN_CONDITION_ALWAYS, config={"otto.run_if": "on_success"})
    assert ends(await run(executor, stage("a"), contrary))["b"] == COMPLETED


@pytest.mark.parametrize("how", [{"ignore_errors": True}, {"config": {"otto.ignore_errors": "true"}}], ids=["field", "key"])
async def test_ignored_errors_count_as_completed(bench: Bench, executor: Executor, how: dict[str, object]) -> None:
    """After its retries the stage is COMPLETED, with the failure's cause and code told; what follows runs, the pipeline completes."""
    bench.fleet.script = lambda key: Fate(exit_code=5 if key[1] == "a" else 0)
    seen = await run(executor, stage("a", retry_policy=RetryPolicy(max_attempts=1), **how), stage("b", "a"))
    assert [key[1:3] for key in bench.fleet.created] == [("a", 1), ("a", 2), ("b", 1)]
    end = [m for m in seen if m.stage_id == "a"][-1]
    assert (end.status, end.exit_code) == (COMPLETED, 5)
    assert "ignored" in end.message
    assert seen[-1].status == COMPLETED


@pytest.mark.parametrize("fast", [True, False])
async def test_fail_fast(bench: Bench, executor: Executor, *, fast: bool) -> None:
    """With otto.fail_fast the first failure stops what runs and what waits, and the run is FAILED; without, the other branch goes on."""
    bench.fleet.script = lambda key: Fate(exit_code=1, seconds=0.05) if key[1] == "bad" else Fate(seconds=None if fast else 0.3)
    metadata = {"otto_fail_fast": "true"} if fast else {}
    seen = await run(executor, stage("bad"), stage("other"), stage("later", "other"), **metadata)
    rest = CANCELLED if fast else COMPLETED
    assert ends(seen) == {"bad": FAILED, "other": rest, "later": rest, "": FAILED}
    assert ("bad" in seen[-1].error_message, "other" in seen[-1].error_message) == (True, False)
    assert all(worker.status.ended for worker in bench.fleet.workers.values())


async def test_an_ignored_failure_does_not_fail_fast(bench: Bench, executor: Executor) -> None:
    """What counts as completed cancels nothing."""
    bench.fleet.script = lambda key: Fate(exit_code=int(key[1] == "bad"))
    seen = await run(executor, stage("bad", ignore_errors=True), stage("b", "bad"), otto_fail_fast="true")
    assert seen[-1].status == COMPLETED
