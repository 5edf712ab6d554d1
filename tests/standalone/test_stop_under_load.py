"""Standalone is stopped while it is full of callers in every state."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.otto_handler_log_service_pb2 import WorkerLogEntry
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import WatchWorkersRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage

from .conftest import Standalone

pytestmark = pytest.mark.slow

CONNECTIONS = 8
ATTACHED = 200
READERS = 32
WATCHERS = 16
LATE = 40
LAST = b"still here"
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
FLOOD = """
import os, sys, time
sys.stdout.write("".join(f"{i:06d}".ljust(199, "x") + chr(10) for i in range(5000)))
sys.stdout.flush()
while not os.path.exists(os.environ["OTTO_WORKSPACE"] + "/go"):
    print("still here", flush=True)
    time.sleep(0.01)
"""

Opened = Callable[[grpc.aio.Channel], Any]


def attaching() -> list[Opened]:
    """The ways to attach to the run."""
    attach = PipelineRequest(pipeline_id="p")
    return [
        lambda channel: PipelineServiceStub(channel).ExecutePipeline(attach),
        lambda channel: OttoscalerServiceStub(channel).ExecutePipeline(attach),
        lambda channel: PipelineServiceStub(channel).WatchPipeline(WatchPipelineRequest(pipeline_id="p")),
    ]


def reading(worker: str) -> list[Opened]:
    """The ways to read lines."""
    build, one = BuildIdentifier(pipeline_id="p"), WorkerIdentifier(worker_id=worker)
    return [
        lambda channel: LogStreamingServiceStub(channel).StreamWorkerLogs(one),
        lambda channel: LogStreamingServiceStub(channel).StreamBuildLogs(build),
        lambda channel: LogStreamingServiceStub(channel).TailLogs(TailLogsRequest(worker=one)),
        lambda channel: LogStreamingServiceStub(channel).TailLogs(TailLogsRequest(build=build)),
    ]


WATCHING: list[Opened] = [
    lambda channel: OttoscalerServiceStub(channel).WatchWorkers(WatchWorkersRequest()),
    lambda channel: health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()),
]
SENDING: list[Opened] = [
    lambda channel: LogStreamingServiceStub(channel).StreamLogs(),
    lambda channel: OttoHandlerLogServiceStub(channel).ForwardWorkerLogs(),
]
UNARY: list[Opened] = [
    lambda channel: OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest()),
    lambda channel: PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id="p")),
]


class Crowd:
    """Callers, and how their calls ended."""

    def __init__(self) -> None:
        self.unread: list[tuple[str, Any]] = []
        """Streams of which nobody reads (any more) until the service has stopped."""
        self.reading: list[asyncio.Task[tuple[str, grpc.StatusCode]]] = []
        """Streams that are read as fast as they come."""

    async def add(self, name: str, call: Any, state: int) -> None:
        """Brings a stream into one of four states: just opened, opened and answered, with a message read, read all the time."""
        if state == 1:
            await call.initial_metadata()
        elif state == 2:
            await call.read()
        if state == 3:
            while name == "reader" and LAST not in (await call.read()).SerializeToString():
                pass
            self.reading.append(asyncio.create_task(end_of(name, call), name=name))
        else:
            self.unread.append((name, call))

    async def ends(self) -> Counter[tuple[str, grpc.StatusCode]]:
        """How each of them ended; what nobody has read is read now."""
        return Counter([await end_of(name, call) for name, call in self.unread] + list(await asyncio.gather(*self.reading)))


async def end_of(name: str, call: Any) -> tuple[str, grpc.StatusCode]:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass  # its code says it
    return name, await call.code()


async def begun(channel: grpc.aio.Channel) -> str:
    """A run of a worker that has written 10 MB and goes on writing; its name."""
    stage = PipelineStage(stage_id="only", command=[sys.executable, "-c", FLOOD])
    await PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage])).read()
    async for entry in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="p")):
        if entry.entry.message == "still here":
            return entry.entry.worker_id
    raise AssertionError("its worker wrote nothing")


async def insist(channels: Iterator[grpc.aio.Channel], calls: Iterator[Opened], ends: list[grpc.StatusCode]) -> None:
    """One short call after the other until the service is gone."""
    while not ends or ends[-1] is OK:
        call = next(calls)(next(channels))
        ends.append(await call.code())


@pytest.mark.timeout(180)
async def test_a_stop_among_hundreds_of_callers_breaks_nobody_off(standalone: Standalone) -> None:
    """200 attached to one run, readers of lines that read, stall or have just come, senders, short calls without a pause, streams that
    are opened or cancelled at that very moment: every long stream that was there ends with OK, and a short call that is not answered is
    UNAVAILABLE, which may be repeated.
    """
    crowd = Crowd()
    async with AsyncExitStack() as stack, asyncio.timeout(150):
        channels = [await stack.enter_async_context(standalone.channel()) for _ in range(CONNECTIONS)]
        worker = await begun(channels[0])
        turns, attach, read = cycle(channels), attaching(), reading(worker)
        for number in range(ATTACHED):
            await crowd.add("attached", attach[number % 3](next(turns)), number // 3 % 4)
        for number in range(WATCHERS):
            await crowd.add("watcher", WATCHING[number % 2](next(turns)), number // 2 % 4)
        for number in range(READERS):
            state = number // 4 % 4
            await crowd.add("reader" if state == 3 else "stalled", read[number % 4](next(turns)), state)
        for number, opened in enumerate(SENDING * 6):
            call = opened(next(turns))
            if number >= 4:
                entry = (LogEntry, WorkerLogEntry)[number % 2]
                await call.write(entry(worker_id=f"sender-{number}", message="x"))
                await call.read()
            await crowd.add("sender", call, 1 if number < 8 else 3)
        leaving = [opened(next(turns)) for opened in (*attach, *WATCHING, *read) for _ in range(3)]
        short: list[grpc.StatusCode] = []
        busy = [asyncio.create_task(insist(turns, cycle(UNARY), short), name="short calls") for _ in range(16)]
        while len(short) < 100:
            await asyncio.sleep(0.01)
        for opened in [*attach, WATCHING[0]] * (LATE // 4):
            await crowd.add("late", opened(next(turns)), 0)
        stopping = asyncio.create_task(standalone.stop(), name="stop")
        for call in leaving:
            call.cancel()
            await asyncio.sleep(0)
        assert await stopping == 0
        ends = await crowd.ends()
        await asyncio.gather(*busy)
    # A stream ends behind what was sent on it, so one of which a megabyte lies unread can't be told.
    stalled = ends.pop(("stalled", OK), 0) + ends.pop(("stalled", UNAVAILABLE), 0)
    assert stalled == READERS * 3 // 4
    expected = {"attached": ATTACHED, "watcher": WATCHERS, "reader": READERS // 8, "sender": 12, "late": LATE}
    # The other readers tail: OK would tell them that all is delivered.
    assert ends == {(name, OK): count for name, count in expected.items()} | {("reader", UNAVAILABLE): READERS // 8}
    assert set(short) == {OK, UNAVAILABLE}
    events = [json.loads(line) for line in standalone.log.read_text().splitlines() if line.startswith("{")]
    assert [event for event in events if event["level"] in {"error", "critical"}] == []
    assert not [event for event in events if event["event"] == "runtime.handlers_cancelled"]
    (ended,) = [event for event in events if event["event"] == "runtime.streams_ended"]
    assert ended["count"] >= ATTACHED
