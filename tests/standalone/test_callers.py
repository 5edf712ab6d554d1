"""Clients that vanish, read nothing, come in hundreds, or leave at any moment: nobody else notices."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.otto_handler_log_service_pb2 import WorkerLogEntry
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import WatchWorkersRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PIPELINE_STATE_COMPLETED, PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone

pytestmark = pytest.mark.slow

WAIT_SECONDS = 40.0
READERS = 40


def pipeline(pipeline_id: str, script: str) -> PipelineRequest:
    return PipelineRequest(pipeline_id=pipeline_id, stages=[PipelineStage(stage_id="only", command=["sh", "-c"], args=[script])])


async def completed(channel: grpc.aio.Channel, pipeline_id: str) -> None:
    """Returns when the pipeline has completed; fails if it ends otherwise."""
    async with asyncio.timeout(WAIT_SECONDS):
        async for last in PipelineServiceStub(channel).WatchPipeline(WatchPipelineRequest(pipeline_id=pipeline_id)):
            message = last
    assert (message.stage_id, message.status) == ("", StageStatus.STAGE_COMPLETED), message


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


CLIENT = """
import sys, grpc
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
request = PipelineRequest.FromString(bytes.fromhex(sys.argv[2]))
for message in PipelineServiceStub(grpc.insecure_channel(sys.argv[1])).ExecutePipeline(request):
    print(message.sequence, flush=True)
"""


async def test_a_caller_that_is_killed_changes_nothing(standalone: Standalone) -> None:
    """The process that asked for the pipeline dies without a goodbye; the pipeline goes on to its end."""
    request = pipeline("vanish", "sleep 1; echo still here").SerializeToString().hex()
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, standalone.address, request, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        assert await client.stdout.readline() == b"1\n"
    client.send_signal(signal.SIGKILL)
    await client.wait()
    async with standalone.channel() as channel:
        await completed(channel, "vanish")
        entries = [e async for e in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="vanish"))]
        assert "still here" in [e.entry.message for e in entries]


async def test_readers_that_read_nothing_cost_little_and_harm_nobody(standalone: Standalone) -> None:
    """Forty streams that nobody reads, of 20 MB of lines each: memory stays, and a reader beside them gets every line."""
    flood = "import sys\nfor i in range(100000): sys.stdout.write(f'{i:06d}'.ljust(199, 'x') + chr(10))"
    stage = PipelineStage(stage_id="flood", command=[sys.executable, "-c", flood])
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(standalone.channel())
        call = PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="flood", stages=[stage]))
        name = ""
        async for message in call:
            if message.worker_pod_names:
                name = message.worker_pod_names[0]
                break
        before = rss_mb(standalone.process.pid)
        stalled: list[Any] = []
        opened: list[Callable[[LogStreamingServiceStub], Any]] = [
            lambda logs: logs.StreamWorkerLogs(WorkerIdentifier(worker_id=name)),
            lambda logs: logs.TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id=name))),
            lambda logs: logs.StreamBuildLogs(BuildIdentifier(pipeline_id="flood")),
            lambda logs: logs.TailLogs(TailLogsRequest(build=BuildIdentifier(pipeline_id="flood"))),
        ]
        for number in range(READERS):
            own = await stack.enter_async_context(standalone.channel())
            stalled.append(opened[number % len(opened)](LogStreamingServiceStub(own)))
            await stalled[-1].read()
            stalled.append(PipelineServiceStub(own).WatchPipeline(WatchPipelineRequest(pipeline_id="flood")))
        count = 0
        async with asyncio.timeout(60):
            async for batch in LogStreamingServiceStub(channel).TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id=name))):
                count += len(batch.entries)
        assert count == 100_000
        # What gRPC has in flight for one that does not read, and the memory that a flood takes with readers that do.
        assert rss_mb(standalone.process.pid) - before < 30 + READERS
        await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest(), timeout=30)
        for one in stalled:
            one.cancel()


async def test_two_hundred_attach_to_one_pipeline(standalone: Standalone) -> None:
    """Each of them sees the whole run, in order, to its end."""
    async with standalone.channel() as channel:
        stub = PipelineServiceStub(channel)
        call = stub.ExecutePipeline(pipeline("crowd", "for i in 1 2 3 4 5; do sleep 0.2; done"))
        await call.read()

        async def attached() -> list[PipelineProgress]:
            return [message async for message in stub.ExecutePipeline(PipelineRequest(pipeline_id="crowd"))]

        async with asyncio.timeout(WAIT_SECONDS):
            seen = await asyncio.gather(*(attached() for _ in range(200)))
        assert {tuple(m.sequence for m in messages) for messages in seen} == {tuple(range(1, len(seen[0]) + 1))}
        assert {messages[-1].status for messages in seen} == {StageStatus.STAGE_COMPLETED}


@pytest.mark.parametrize("count", [1000, 5000])
async def test_short_calls_at_once_are_all_answered(standalone: Standalone, count: int) -> None:
    """None is refused, none is lost; of more than 1,000 gRPC would drop some by itself."""
    async with standalone.channel() as channel:
        stub = OttoscalerServiceStub(channel)
        async with asyncio.timeout(WAIT_SECONDS):
            answers = await asyncio.gather(*(stub.GetWorkerStatus(WorkerStatusRequest()) for _ in range(count)))
        assert len(answers) == count


STREAMS: dict[str, Callable[[grpc.aio.Channel, str, str], Any]] = {
    "ExecutePipeline": lambda channel, run, _: PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=run)),
    "OttoscalerService.ExecutePipeline": lambda channel, run, _: OttoscalerServiceStub(channel).ExecutePipeline(
        PipelineRequest(pipeline_id=run)
    ),
    "WatchPipeline": lambda channel, run, _: PipelineServiceStub(channel).WatchPipeline(WatchPipelineRequest(pipeline_id=run)),
    "WatchWorkers": lambda channel, _, __: OttoscalerServiceStub(channel).WatchWorkers(WatchWorkersRequest()),
    "StreamWorkerLogs": lambda channel, _, worker: LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=worker)),
    "StreamBuildLogs": lambda channel, run, _: LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id=run)),
    "TailLogs": lambda channel, run, _: LogStreamingServiceStub(channel).TailLogs(TailLogsRequest(build=BuildIdentifier(pipeline_id=run))),
    "StreamLogs": lambda channel, _, __: LogStreamingServiceStub(channel).StreamLogs(),
    "ForwardWorkerLogs": lambda channel, _, __: OttoHandlerLogServiceStub(channel).ForwardWorkerLogs(),
}
SENDING: dict[str, Any] = {
    "StreamLogs": LogEntry(worker_id="sends-1", message="x"),
    "ForwardWorkerLogs": WorkerLogEntry(worker_id="sends-2", message="x"),
}
"""Say nothing to a caller that says nothing: here is what they can be told."""


async def _begun(channel: grpc.aio.Channel) -> str:
    """Starts a pipeline whose worker writes a line and then waits for a file that it is given; returns the worker's name."""
    script = 'echo hello; while [ ! -e "$OTTO_WORKSPACE/go" ]; do sleep 0.05; done'
    call = PipelineServiceStub(channel).ExecutePipeline(pipeline("open", script))
    async with asyncio.timeout(WAIT_SECONDS):
        async for message in call:
            if message.status == StageStatus.STAGE_RUNNING and message.worker_pod_names:
                name = str(message.worker_pod_names[0])
                # It runs as soon as something watches over it; its line says that its workspace is there too.
                async for _ in LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=name)):
                    return name
    raise AssertionError("its worker never ran")


def _let_go(standalone: Standalone) -> None:
    for workspace in (standalone.state / "workspaces").iterdir():
        (workspace / "go").touch()


@pytest.mark.parametrize("state", ["at once", "after a message", "while it waits", "after its end"])
async def test_a_stream_may_be_cancelled_in_every_state(standalone: Standalone, state: str) -> None:
    """Whatever stream it is and whenever its caller leaves: the run ends as it would have, and nothing of it is logged as a fault."""
    async with standalone.channel() as channel:
        worker = await _begun(channel)
        for name, opened in STREAMS.items():
            for _ in range(3):
                call = opened(channel, "open", worker)
                if state in {"after a message", "while it waits"}:
                    async with asyncio.timeout(WAIT_SECONDS):
                        if name in SENDING:
                            await call.write(SENDING[name])
                        assert await call.read() is not grpc.aio.EOF
                if state == "while it waits":
                    await asyncio.sleep(0.05)
                if state == "after its end":
                    continue
                call.cancel()
        _let_go(standalone)
        await completed(channel, "open")
        if state == "after its end":
            for name, opened in STREAMS.items():
                if name != "WatchWorkers":
                    call = opened(channel, "open", worker)
                    async with asyncio.timeout(WAIT_SECONDS):
                        if name in SENDING:
                            await call.write(SENDING[name])
                            await call.done_writing()
                        while await call.read() is not grpc.aio.EOF:
                            pass
                    call.cancel()
                    assert await call.code() is grpc.StatusCode.OK
        got = await PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id="open"))
        assert got.summary.state == PIPELINE_STATE_COMPLETED
    faults = [line for line in standalone.log.read_text().splitlines() if '"level": "error"' in line or '"level":"error"' in line]
    assert faults == []


async def test_a_stop_ends_every_stream_with_ok(standalone: Standalone) -> None:
    """All kinds at once, some read, some not: each ends with OK, and the process ends within its grace. But for the one whose OK says that
    all was delivered.
    """
    async with standalone.channel() as channel:
        worker = await _begun(channel)
        calls = [(name, opened(channel, "open", worker)) for name, opened in STREAMS.items() for _ in range(3)]
        async with asyncio.timeout(WAIT_SECONDS):
            for _, call in calls:
                await call.initial_metadata()
            for name, call in calls[: len(calls) // 2]:
                if name not in SENDING:
                    await call.read()
        _, code = await asyncio.gather(asyncio.sleep(0.2), standalone.stop())
        assert code == 0
        async with asyncio.timeout(WAIT_SECONDS):
            for name, call in calls:
                # gRPC tells the status only behind the last message
                with suppress(grpc.aio.AioRpcError):
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert await call.code() is (grpc.StatusCode.UNAVAILABLE if name == "TailLogs" else grpc.StatusCode.OK), name
