"""What callers were told of their changes, in the moments around a stop or a kill, is how it is after the next start."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_runtime.handing import NOT_ACTED
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import APPROVAL_DECISION_APPROVE, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import (
    ApproveStageRequest,
    CancelPipelineRequest,
    GetPipelineRequest,
    RerunPipelineRequest,
)
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus, StageType
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .conftest import Standalone

pytestmark = pytest.mark.slow

EACH = 10
"""Changes of each kind."""


@dataclass(frozen=True)
class Change:
    """A call that changes something, what it needs to be there, and how to see that it was carried out."""

    prepare: Callable[["Stubs", str], Awaitable[object]]
    ask: Callable[["Stubs", str], Any]
    done: Callable[["Stubs", str], Awaitable[bool]]


class Stubs:
    """Of both services that change something."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.scaler: Any = OttoscalerServiceStub(channel)
        self.executor: Any = PipelineServiceStub(channel)

    async def run(self, name: str, *stages: PipelineStage) -> None:
        """Begins a pipeline."""
        call = self.executor.ExecutePipeline(PipelineRequest(pipeline_id=name, stages=stages))
        await call.read()
        call.cancel()

    async def waits(self, name: str) -> None:
        """A pipeline that waits for an approval."""
        await self.run(name, PipelineStage(stage_id="ask", type=StageType.STAGE_TYPE_APPROVAL))

    async def state(self, name: str) -> "StageStatus.ValueType":
        """Of the pipeline."""
        found = await self.executor.GetPipeline(GetPipelineRequest(pipeline_id=name))
        state: StageStatus.ValueType = found.summary.state
        return state

    async def exists(self, name: str) -> bool:
        """Whether there is a pipeline of this id."""
        return await self.executor.GetPipeline(GetPipelineRequest(pipeline_id=name)).code() is grpc.StatusCode.OK

    def up(self, name: str, command: str) -> Any:
        """A worker of a task of its own."""
        worker = WorkerSpec(command=["sh", "-c", command])
        return self.scaler.ScaleUp(ScaleRequest(task_id=name, worker_count=1, worker=worker))

    async def workers(self, name: str) -> Any:
        """Of a task."""
        return await self.scaler.GetWorkerStatus(WorkerStatusRequest(task_id=name))


async def nothing(_: Stubs, __: str) -> None:
    """Is needed."""


async def created(stubs: Stubs, name: str) -> bool:
    return bool((await stubs.workers(name)).total_count)


async def stopped(stubs: Stubs, name: str) -> bool:
    found = await stubs.workers(name)
    return not found.running_count and not found.pending_count and not found.waiting_count


async def approved(stubs: Stubs, name: str) -> bool:
    return await stubs.state(name) == StageStatus.STAGE_COMPLETED


async def cancelled(stubs: Stubs, name: str) -> bool:
    return await stubs.state(name) == StageStatus.STAGE_CANCELLED


def approve(stubs: Stubs, name: str) -> Any:
    return stubs.executor.ApproveStage(
        ApproveStageRequest(pipeline_id=name, stage_id="ask", decision=APPROVAL_DECISION_APPROVE, user="someone")
    )


CHANGES = {
    "ScaleUp": Change(nothing, lambda stubs, name: stubs.up(name, "true"), created),
    "ScaleDown": Change(
        lambda stubs, name: stubs.up(name, "sleep 600"), lambda stubs, name: stubs.scaler.ScaleDown(ScaleRequest(task_id=name)), stopped
    ),
    "RerunPipeline": Change(
        nothing,
        lambda stubs, name: stubs.executor.RerunPipeline(RerunPipelineRequest(pipeline_id="ended", new_pipeline_id=name)),
        Stubs.exists,
    ),
    "ApproveStage": Change(Stubs.waits, approve, approved),
    "CancelPipeline": Change(
        Stubs.waits, lambda stubs, name: stubs.executor.CancelPipeline(CancelPipelineRequest(pipeline_id=name)), cancelled
    ),
}


async def told(call: Any) -> tuple[grpc.StatusCode, bool]:
    """How a call ended, and whether nothing was done of it."""
    return await call.code(), NOT_ACTED in tuple(await call.trailing_metadata() or ())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_what_was_told_of_a_change_is_true_after_the_next_start(standalone: Standalone, seed: int, *, killed: bool) -> None:
    """OK: it is done. Refused as not done: it is not. Else only UNAVAILABLE is said, and each is there whole or not at all."""
    draw = random.Random(seed)
    asked = draw.sample([(kind, f"{kind}-{number}") for kind in CHANGES for number in range(EACH)], EACH * len(CHANGES))
    trouble = draw.randrange(len(asked) // 4, 3 * len(asked) // 4)
    async with standalone.channel() as channel, asyncio.timeout(90):
        stubs = Stubs(channel)
        await stubs.run("ended", PipelineStage(stage_id="a", command=["true"]))
        await asyncio.gather(*(CHANGES[kind].prepare(stubs, name) for kind, name in asked))
        while not await approved(stubs, "ended"):
            await asyncio.sleep(0.05)
        answers: dict[tuple[str, str], asyncio.Task[tuple[grpc.StatusCode, bool]]] = {}
        for number, (kind, name) in enumerate(asked):
            if number == trouble:
                ending = asyncio.create_task(standalone.kill() if killed else standalone.stop(), name="ending")
            answers[kind, name] = asyncio.create_task(told(CHANGES[kind].ask(stubs, name)), name=name)
            await asyncio.sleep(0.004 * draw.random())
        await ending
        ends = {key: await answer for key, answer in answers.items()}
    assert {code for code, _ in ends.values()} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, Counter(ends.values())
    await standalone.start()
    async with standalone.channel() as channel, asyncio.timeout(60):
        stubs = Stubs(channel)
        for (kind, name), (code, not_acted) in ends.items():
            if not_acted:
                assert not await CHANGES[kind].done(stubs, name), name
            while code is grpc.StatusCode.OK and not await CHANGES[kind].done(stubs, name):  # a stop takes its time
                await asyncio.sleep(0.05)
