"""Stages whose workers wait for room, over a real port: they say so, in messages that existing clients don't drop, and nothing is lost."""

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from otto_executor.testing.fleet import Fate
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest, GetPipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageStatus

from .conftest import Bench, Executor
from .test_conductor import until
from .test_service_run import everything, stage

PENDING, RUNNING, COMPLETED = StageStatus.STAGE_PENDING, StageStatus.STAGE_RUNNING, StageStatus.STAGE_COMPLETED


def seen_by_existing_clients(messages: Sequence[PipelineProgress]) -> list[PipelineProgress]:
    """What is left of a stage's messages when those like the one before (stage, status, percentage) are dropped."""
    left: list[PipelineProgress] = []
    for message in messages:
        if not left or (message.status, message.progress_percentage) != (left[-1].status, left[-1].progress_percentage):
            left.append(message)
    return left


def of(messages: Sequence[PipelineProgress], stage_id: str) -> list[PipelineProgress]:
    return [message for message in messages if message.stage_id == stage_id]


async def occupied(bench: Bench, executor: Executor, workers: int) -> None:
    """Another pipeline holds all the room."""
    bench.fleet.cap = workers
    bench.fleet.script = lambda key: Fate(seconds=None if key[0] == "other" else 0.0)
    await anext(aiter(executor.client.ExecutePipeline(request("other", stage("o", worker_count=workers)))))
    await until(lambda: len(bench.fleet.created) == workers)


def request(pipeline_id: str, *stages: PipelineStage) -> PipelineRequest:
    return PipelineRequest(pipeline_id=pipeline_id, stages=stages)


async def test_a_stage_without_any_room_waits_and_says_when_it_runs(bench: Bench, executor: Executor) -> None:
    """It is PENDING with how many wait under which cap, then RUNNING with how many still wait; existing clients see both."""
    await occupied(bench, executor, 2)
    bench.fleet.script = lambda _: Fate(seconds=None)
    call = executor.client.ExecutePipeline(request("p", stage("a", worker_count=3)))
    seen: list[PipelineProgress] = []
    async with asyncio.timeout(10):
        async for message in call:
            seen.append(message)
            if "for room" in message.message:
                break
    assert (seen[-1].status, seen[-1].message) == (PENDING, "3 of 3 workers wait for room (cap 2)")
    answer = await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="p"))
    assert (answer.stages[0].status, answer.stages[0].message) == (PENDING, seen[-1].message)
    bench.fleet.end(("other", "o", 1, 1), Fate())
    async with asyncio.timeout(10):
        async for message in call:
            seen.append(message)
            if message.status == RUNNING:
                break
    assert seen[-1].message == "1 of 3 workers runs, 2 wait for room (cap 2)"
    bench.fleet.script = lambda _: Fate()
    bench.fleet.end(("other", "o", 1, 2), Fate())
    bench.fleet.end(("p", "a", 1, 1), Fate())
    seen += await everything(call)
    assert seen[-1].status == COMPLETED
    statuses = [m.status for m in seen_by_existing_clients(of(seen, "a"))]
    assert statuses[:4] == [PENDING, RUNNING, PENDING, RUNNING]
    assert seen_by_existing_clients(of(seen, "a")) == of(seen, "a")


async def test_a_stage_with_some_room_says_how_many_wait(bench: Bench, executor: Executor) -> None:
    """It runs, its first message and those about its progress say how many wait, and GetPipeline knows when none does any more."""
    bench.fleet.cap = 2
    bench.fleet.script = lambda _: Fate(seconds=None)
    call = executor.client.ExecutePipeline(request("p", stage("a", worker_count=4)))
    seen: list[PipelineProgress] = []
    async with asyncio.timeout(10):
        async for message in call:
            seen.append(message)
            if message.stage_id and message.status == RUNNING:
                break
    assert seen[-1].message == "4 workers asked for; 2 of 4 workers wait for room (cap 2)"
    for index in (1, 2):
        bench.fleet.end(("p", "a", 1, index), Fate())
        async with asyncio.timeout(10):
            seen.append(await anext(aiter(call)))
        assert seen[-1].message.startswith(f"{index} of 4 workers ended, ")
        assert "for room (cap 2)" in seen[-1].message
        assert seen[-1].status == RUNNING
    async with asyncio.timeout(10):
        while (await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="p"))).stages[0].message != "2 of 4 workers ended, 2 run":
            await asyncio.sleep(0.01)


async def test_waiting_outlives_the_process(bench: Bench) -> None:
    """Killed while its workers wait, the next process still has the stage PENDING, and it goes on when there is room."""
    async with bench.executor() as running:
        await occupied(bench, running, 1)
        call = running.client.ExecutePipeline(request("p", stage("a")))
        async with asyncio.timeout(10):
            async for message in call:
                if "for room" in message.message:
                    break
        assert message.message == "1 worker waits for room (cap 1)"
    async with bench.executor() as running:
        answer = await running.client.GetPipeline(GetPipelineRequest(pipeline_id="p"))
        assert answer.stages[0].status == PENDING
        bench.fleet.end(("other", "o", 1, 1), Fate())
        seen = await everything(running.client.ExecutePipeline(PipelineRequest(pipeline_id="p")))
    assert seen[-1].status == COMPLETED
    assert seen_by_existing_clients(of(seen, "a")) == of(seen, "a")
    assert [key for key in bench.fleet.created if key[0] == "p"] == [("p", "a", 1, 1)]


async def test_waiting_can_be_cancelled(bench: Bench, executor: Executor) -> None:
    """Workers that wait for room are stopped like any others."""
    await occupied(bench, executor, 1)
    call = executor.client.ExecutePipeline(request("p", stage("a")))
    async with asyncio.timeout(10):
        async for message in call:
            if "for room" in message.message:
                break
    await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p"))
    assert (await everything(call))[-1].status == StageStatus.STAGE_CANCELLED
    assert bench.fleet.workers["p", "a", 1, 1].status.ended


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_full_queue_is_told_and_asked_again(bench: Bench, executor: Executor, attempt: int) -> None:
    """RESOURCE_EXHAUSTED shows as PENDING with INSUFFICIENT_RESOURCES, at once and to existing clients too; the stage runs when it can."""
    full = (grpc.StatusCode.RESOURCE_EXHAUSTED, "INSUFFICIENT_RESOURCES: too many workers wait for room already")
    bench.fleet.script = lambda key: Fate(exit_code=1 if key[2] < attempt else 0)
    call = executor.client.ExecutePipeline(request("p", stage("a", retry_policy=RetryPolicy(max_attempts=1, retry_delay_seconds=1))))
    seen: list[PipelineProgress] = []
    if attempt == 1:
        bench.scaler.failing = [full] * 3
    else:
        async with asyncio.timeout(10):
            async for message in call:
                seen.append(message)
                if message.status == StageStatus.STAGE_RETRYING:
                    bench.scaler.failing = [full] * 3
                    break
    seen += await everything(call)
    waiting = [m for m in of(seen, "a") if "INSUFFICIENT_RESOURCES" in m.message]
    assert [(m.status, m.attempt) for m in waiting] == [(PENDING, attempt)]
    assert waiting[0] in seen_by_existing_clients(of(seen, "a"))
    assert seen[-1].status == COMPLETED
    assert len(bench.fleet.created) == attempt
    assert bench.scaler.failing == []


async def test_a_queue_with_places_for_some_loses_nothing(bench: Bench, executor: Executor) -> None:
    """Asked for three where two have a place, the stage does not fail: it says so and asks again until all are there, none twice."""
    bench.scaler.crowded = 2
    seen = await everything(executor.client.ExecutePipeline(request("p", stage("a", worker_count=3))))
    assert [m.status for m in of(seen, "a") if "INSUFFICIENT_RESOURCES" in m.message] == [PENDING]
    assert seen[-1].status == COMPLETED
    assert sorted(bench.fleet.created) == [("p", "a", 1, index) for index in (1, 2, 3)]
