"""ExecutePipeline at the front door: handed on to an executor, which may restart; who leaves and who doesn't."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_scaler.testing import MemoryBackend
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import (
    CancelPipelineRequest,
    CancelPipelineResponse,
    GetPipelineRequest,
    GetPipelineResponse,
    WatchPipelineRequest,
)
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceServicer, add_PipelineServiceServicer_to_server
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import serving, settings_at, until


def said(sequence: int, *, final: bool = False) -> PipelineProgress:
    if final:
        return PipelineProgress(pipeline_id="p", status=StageStatus.STAGE_COMPLETED, sequence=sequence)
    return PipelineProgress(
        pipeline_id="p", stage_id="a", status=StageStatus.STAGE_RUNNING, progress_percentage=sequence, sequence=sequence
    )


class ExecutorDouble(PipelineServiceServicer):
    """Says three messages and then waits; `finish` lets it say the fourth and last. `lose_answers` runs are begun and not answered."""

    def __init__(self) -> None:
        self.executed: list[PipelineRequest] = []
        self.watched: list[int] = []
        self.cancelled: list[CancelPipelineRequest] = []
        self.open = 0
        self.finish = asyncio.Event()
        self.lose_answers = 0
        self.refuses: tuple[grpc.StatusCode, str] | None = None

    async def ExecutePipeline(self, request: PipelineRequest, context: Any) -> AsyncIterator[PipelineProgress]:  # noqa: N802 - the contract gives the name
        if self.refuses:
            await context.abort(*self.refuses)
        if request.stages and any(known.pipeline_id == request.pipeline_id for known in self.executed):
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"pipeline {request.pipeline_id} exists already")
        self.executed.append(request)
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        async for message in self._from(0):
            yield message

    async def WatchPipeline(self, request: WatchPipelineRequest, context: Any) -> AsyncIterator[PipelineProgress]:  # noqa: N802 - the contract gives names and arguments
        self.watched.append(request.after_sequence)
        async for message in self._from(request.after_sequence):
            yield message

    async def GetPipeline(self, request: GetPipelineRequest, context: Any) -> GetPipelineResponse:  # noqa: N802 - the contract gives names and arguments
        return GetPipelineResponse(request=next(known for known in self.executed if known.pipeline_id == request.pipeline_id))

    async def CancelPipeline(self, request: CancelPipelineRequest, context: Any) -> CancelPipelineResponse:  # noqa: N802 - the contract gives names and arguments
        self.cancelled.append(request)
        return CancelPipelineResponse()

    async def _from(self, after: int) -> AsyncIterator[PipelineProgress]:
        self.open += 1
        try:
            for sequence in range(after + 1, 4):
                yield said(sequence)
            await self.finish.wait()
            yield said(4, final=True)
        finally:
            self.open -= 1


@asynccontextmanager
async def at(double: ExecutorDouble, port: int = 0) -> AsyncIterator[int]:
    """The double on a port, gone at once when the block ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    assert bound
    add_PipelineServiceServicer_to_server(double, server)  # type: ignore[no-untyped-call, unused-ignore]  # a generated function
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@pytest.fixture
def double() -> ExecutorDouble:
    return ExecutorDouble()  # type: ignore[abstract, unused-ignore]  # what it doesn't have answers UNIMPLEMENTED


def request(on_disconnect: str = "", pipeline_id: str = "p") -> PipelineRequest:
    made = PipelineRequest(pipeline_id=pipeline_id, stages=[PipelineStage(stage_id="a", command=["true"])])
    if on_disconnect:
        made.metadata["otto.on_disconnect"] = on_disconnect
    return made


async def within(seconds: float, work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, seconds)


async def first_three(call: Any) -> list[int]:
    return [(await within(20, call.read())).sequence for _ in range(3)]


async def test_progress_is_handed_on_to_its_final_message(tmp_path: Path, double: ExecutorDouble) -> None:
    """The request arrives as it was sent, every message once, then the stream ends with OK."""
    double.finish.set()
    async with at(double) as port, serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}") as (stub, _, _):
        call = stub.ExecutePipeline(request("detach"))
        assert [message.sequence async for message in call] == [1, 2, 3, 4]
        assert await call.code() == grpc.StatusCode.OK
        assert double.executed == [request("detach")]


@pytest.mark.parametrize("word", ["cancel", " Cancel ", "CANCEL"])
async def test_a_caller_that_leaves_cancels_if_it_asked_for_that(tmp_path: Path, double: ExecutorDouble, word: str) -> None:
    """Read as the executor reads it; the executor is not told itself, so that it does not mistake our own stop for a caller that leaves."""
    async with at(double) as port, serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}") as (stub, _, _):
        call = stub.ExecutePipeline(request(word))
        await first_three(call)
        assert double.executed == [request()]
        call.cancel()
        await until(lambda: double.cancelled)
        assert double.cancelled[0].pipeline_id == "p"
        assert "its caller left" in double.cancelled[0].reason


@pytest.mark.parametrize("word", ["", "detach"])
async def test_a_caller_that_leaves_changes_nothing_otherwise(tmp_path: Path, double: ExecutorDouble, word: str) -> None:
    """A caller that asked for it leaves after it; when that one's cancellation has arrived, the other's has not."""
    async with at(double) as port, serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}") as (stub, _, _):
        for made in (request(word, "stays"), request("cancel", "goes")):
            call = stub.ExecutePipeline(made)
            await first_three(call)
            call.cancel()
            await until(lambda: double.open == 0)
        await until(lambda: double.cancelled)
        assert [cancelled.pipeline_id for cancelled in double.cancelled] == ["goes"]


async def test_our_own_stop_is_no_leaving(tmp_path: Path, double: ExecutorDouble) -> None:
    """The stream ends with OK, without a final message, and nothing is cancelled: the caller attaches again."""
    async with at(double) as port:
        async with serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}") as (stub, _, stop):
            call = stub.ExecutePipeline(request("cancel"))
            await first_three(call)
            stop.set()
            assert await within(20, call.read()) is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK
        assert double.open == 0 or await until(lambda: double.open == 0)
        assert double.cancelled == []


async def test_a_restart_of_the_executor_is_hidden_from_the_caller(tmp_path: Path, double: ExecutorDouble) -> None:
    """It is attached again after the last sequence it has seen: no message is missing or doubled, and the run is not begun twice."""
    async with AsyncExitStack() as stack:
        async with at(double) as port:
            front = serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}")
            stub, _, _ = await stack.enter_async_context(front)
            call = stub.ExecutePipeline(request())
            seen = await first_three(call)
        double.finish.set()
        await stack.enter_async_context(at(double, port))
        while (message := await within(30, call.read())) is not grpc.aio.EOF:
            seen.append(message.sequence)
        assert await call.code() == grpc.StatusCode.OK
    assert seen == [1, 2, 3, 4]
    assert len(double.executed) == 1
    assert double.watched[-1] == 3


async def test_a_lost_answer_does_not_look_like_somebody_elses_run(tmp_path: Path, double: ExecutorDouble) -> None:
    """The run was stored but the answer was lost: ALREADY_EXISTS on the second try means our own run, which is attached to."""
    double.lose_answers = 1
    double.finish.set()
    async with at(double) as port, serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}") as (stub, _, _):
        call = stub.ExecutePipeline(request())
        assert [message.sequence async for message in call] == [1, 2, 3, 4]
        assert double.watched == [0]


@pytest.mark.parametrize("status", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND])
async def test_what_the_executor_refuses_reaches_the_caller_unchanged(
    tmp_path: Path, double: ExecutorDouble, status: grpc.StatusCode
) -> None:
    """Status and words; it is not asked again."""
    double.refuses = (status, "ALREADY_COMPLETED: whatever it says")
    async with at(double) as port, serving(settings_at(tmp_path), MemoryBackend(), f"127.0.0.1:{port}") as (stub, _, _):
        call = stub.ExecutePipeline(request())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(20, call.read())
        assert (caught.value.code(), caught.value.details()) == double.refuses


async def test_an_executor_that_stays_away_is_told(tmp_path: Path) -> None:
    """UNAVAILABLE after the time that settings give, with what to do."""
    async with serving(settings_at(tmp_path, executor_patience=0.3), MemoryBackend(), "127.0.0.1:1") as (stub, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(30, stub.ExecutePipeline(request()).read())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "the pipeline-executor has not been reached for 0.3 s" in (caught.value.details() or "")
