"""What readers of workers, tasks and pipelines get, over real gRPC."""

import asyncio
from typing import Any

from ottoscaler.v1.log_pb2 import (
    BUILD_LOG_KIND_LINE,
    BUILD_LOG_KIND_STAGE_FINISHED,
    BUILD_LOG_KIND_STAGE_STARTED,
    BuildIdentifier,
    LogSelection,
    WorkerIdentifier,
)
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED, STAGE_RUNNING


async def everything(stream: Any, seconds: float = 5.0) -> list[Any]:
    """All messages of a stream, which has to end within the time."""
    async with asyncio.timeout(seconds):
        return [message async for message in stream]


async def some(stream: Any, count: int, seconds: float = 5.0) -> list[Any]:
    """The next so many messages of a stream."""
    async with asyncio.timeout(seconds):
        return [await anext(aiter(stream)) for _ in range(count)]


async def test_lines_of_a_worker_are_replayed_followed_and_ended(relay: Any) -> None:
    """A reader gets stored lines as replayed, then new ones, then OK when the worker has ended."""
    log = relay.log("w-1")
    log.write("one", "two")
    relay.scaler.show("w-1")
    await relay_knows(relay, "w-1", 2)
    stream = relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1"))
    first = await some(stream, 2)
    log.write("three", stderr=True)
    (third,) = await some(stream, 1)
    relay.scaler.show("w-1", "succeeded")
    assert await everything(stream) == []
    assert [(e.sequence, e.message, e.replayed) for e in first] == [(1, "one", True), (2, "two", True)]
    assert (third.sequence, third.message, third.replayed, third.source, third.level) == (3, "three", False, "stderr", "ERROR")
    assert third.worker_id == "w-1"
    assert third.task_id == "task"


async def relay_knows(relay: Any, worker_id: str, lines: int) -> None:
    """Waits until the relay has so many lines of a worker."""
    async with asyncio.timeout(5):
        while True:
            try:
                request = WorkerIdentifier(worker_id=worker_id, selection=LogSelection(no_follow=True))
                if len(await everything(relay.logs.StreamWorkerLogs(request))) >= lines:
                    return
            except Exception:
                await asyncio.sleep(0.01)


async def test_a_build_has_marks_around_the_lines_of_each_stage(relay: Any) -> None:
    """A build's entries are numbered without holes, and a stage's end comes after its last line."""
    relay.executor.add("p", "lint", "test")
    one = relay.log("a-1")
    relay.scaler.show("a-1", pipeline_id="p", stage_id="lint", attempt=1)
    await relay.executor.say("p", "lint", STAGE_RUNNING, 1, ["a-1"])
    stream = relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p"))
    one.write("hello", "world")
    await relay.executor.say("p", "lint", STAGE_COMPLETED, 1, ["a-1"])
    relay.scaler.show("a-1", "succeeded", pipeline_id="p", stage_id="lint", attempt=1)
    await relay.executor.say("p", "", STAGE_COMPLETED)
    got = await everything(stream)
    assert [e.sequence for e in got] == [1, 2, 3, 4]
    assert [e.kind for e in got] == [
        BUILD_LOG_KIND_STAGE_STARTED,
        BUILD_LOG_KIND_LINE,
        BUILD_LOG_KIND_LINE,
        BUILD_LOG_KIND_STAGE_FINISHED,
    ]
    assert [e.entry.message for e in got[1:3]] == ["hello", "world"]
    assert {(e.stage_id, e.stage_name, e.attempt) for e in got} == {("lint", "Lint", 1)}
    assert got[-1].stage_status == STAGE_COMPLETED
    batches = await everything(relay.logs.TailLogs(TailLogsRequest(build=BuildIdentifier(pipeline_id="p"))))
    assert [e.sequence for batch in batches for e in batch.build_entries] == [1, 2, 3, 4]
