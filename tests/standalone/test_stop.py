"""Standalone is stopped while work is under way."""

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from otto_runtime.handing import NOT_ACTED
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus
from ottoscaler.v1.worker_pb2 import FAILURE_CAUSE_REJECTED

from .conftest import Standalone

pytestmark = pytest.mark.slow

SCRIPT = 'echo begun >> "$MARKS"; while ! test -e "$MARKS.go"; do sleep 0.05; done; echo ended >> "$MARKS"'


async def until(path: Path) -> None:
    async with asyncio.timeout(30):
        while not path.exists():
            await asyncio.sleep(0.02)


async def test_what_runs_goes_on_through_a_stop_and_is_found_again(standalone: Standalone, tmp_path: Path) -> None:
    """SIGTERM: the stream ends with OK and without a final message, the worker runs on and ends while no service is there; started again,
    the pipeline is completed with that worker's own end.
    """
    marks = tmp_path / "marks"
    stage = PipelineStage(stage_id="a", command=["sh", "-c"], args=[SCRIPT], config={"MARKS": str(marks)})
    async with standalone.channel() as channel:
        call = OttoscalerServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage]))
        await call.wait_for_connection()
        await until(marks)
        stopping = asyncio.create_task(standalone.stop(), name="stop")
        seen = [message async for message in call]
        assert await call.code() == grpc.StatusCode.OK
        assert all(message.stage_id or message.status == StageStatus.STAGE_RUNNING for message in seen)
        assert await stopping == 0
    assert marks.read_text() == "begun\n"
    (tmp_path / "marks.go").touch()
    async with asyncio.timeout(30):
        while "ended" not in marks.read_text():
            await asyncio.sleep(0.02)
    await standalone.start()
    async with standalone.channel() as channel, asyncio.timeout(30):
        call = OttoscalerServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p"))
        last = [message async for message in call][-1]
    assert (last.stage_id, last.status) == ("", StageStatus.STAGE_COMPLETED)
    assert marks.read_text() == "begun\nended\n"


async def begins(stub: Any, name: str) -> tuple[str, grpc.StatusCode, int, bool]:
    """The id, how its stream ended, how many messages came before, and whether nothing was done of it."""
    call = stub.ExecutePipeline(PipelineRequest(pipeline_id=name, stages=[PipelineStage(stage_id="a", command=["true"])]))
    count = 0
    try:
        while await call.read() is not grpc.aio.EOF:
            count += 1
    except grpc.aio.AioRpcError:
        pass  # its code says it
    return name, await call.code(), count, NOT_ACTED in tuple(await call.trailing_metadata() or ())


async def test_a_pipeline_that_comes_in_a_stop_is_known_or_was_not_begun(standalone: Standalone) -> None:
    """Among those that come in the moments around a stop: OK is never without a first message, and what was said so is there after the next
    start; what was refused as not done is not.
    """
    ends: list[asyncio.Task[tuple[str, grpc.StatusCode, int, bool]]] = []
    async with standalone.channel() as channel, asyncio.timeout(60):
        stubs = (PipelineServiceStub(channel), OttoscalerServiceStub(channel))
        for number in range(200):
            if number == 100:
                stopping = asyncio.create_task(standalone.stop(), name="stop")
            ends.append(asyncio.create_task(begins(stubs[number % 2], f"p-{number}")))
            await asyncio.sleep(0.002)
        assert await stopping == 0
        told = [await end for end in ends]
    kinds = {(code, bool(count)) for _, code, count, _ in told}
    assert (grpc.StatusCode.OK, True) in kinds
    assert (grpc.StatusCode.OK, False) not in kinds
    assert {code for code, _ in kinds} <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    await standalone.start()
    async with standalone.channel() as channel, asyncio.timeout(60):
        for name, code, count, not_acted in told:
            got = PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id=name))
            if code is grpc.StatusCode.OK or count or not_acted:
                assert await got.code() is (grpc.StatusCode.NOT_FOUND if not_acted else grpc.StatusCode.OK), (name, code, count)


async def test_what_only_the_backend_can_judge_ends_its_stage_as_rejected(standalone: Standalone) -> None:
    """Extra containers on processes, a secret that isn't there: the stage fails with the scaler's words and is not retried by itself."""
    stages = [PipelineStage(stage_id=name, command=["true"]) for name in ("containers", "secret")]
    stages[0].extra_containers.add(name="db", image="postgres")
    stages[1].secret_env.add(name="TOKEN", secret="none", key="such")
    for stage in stages:
        stage.retry_policy.max_attempts = 3
    async with standalone.channel() as channel, asyncio.timeout(30):
        call = OttoscalerServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=stages))
        seen = [message async for message in call]
    failed = {message.stage_id: message for message in seen if message.stage_id and message.status == StageStatus.STAGE_FAILED}
    assert {message.attempt for message in failed.values()} == {1}
    assert "worker.extra_containers: needs Kubernetes" in failed["containers"].error_message
    assert "the secret none/such for the variable TOKEN does not exist" in failed["secret"].error_message
    assert {message.failure_cause for message in failed.values()} == {FAILURE_CAUSE_REJECTED}
