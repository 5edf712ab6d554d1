"""A thousand pipelines leave nothing behind that their keeping times do not explain."""

import asyncio
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest

from ottoscaler.v1.log_pb2 import BuildIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest, ListPipelinesRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageStatus

from .conftest import Standalone, serving

AT_A_TIME = 12
SHORT = {
    "OTTO_METRICS_LISTEN": "127.0.0.1:0",
    "OTTO_SCALER_FINISHED_TTL": "1",
    "OTTO_EXECUTOR_WORKSPACE_RETENTION": "1",
    "OTTO_EXECUTOR_RUN_RETENTION": "1",
    "OTTO_EXECUTOR_RETENTION_INTERVAL": "0.5",
    "OTTO_RELAY_RETENTION_SECONDS": "3",
    "OTTO_RELAY_RETENTION_INTERVAL": "0.5",
}


@dataclass(frozen=True)
class Held:
    """What a service holds of the machine."""

    descriptors: int
    threads: int
    children: int
    zombies: int
    processes: int
    """That work below its state directory, whoever has started them."""
    rss_mb: float
    workers: int
    workspaces: int
    homes: int
    trash: int
    tasks: int
    spools: int
    builds: int


def children_of(thread: Path) -> list[str]:
    """None for a thread that ends while it is looked at, as the one does that has just answered for /metrics: others inherit them."""
    try:
        return (thread / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def working_below(state: Path) -> list[int]:
    """Processes that have their working directory there: workers, and what those have left."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(state):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def held(standalone: Standalone, tasks: int) -> Held:
    process = Path(f"/proc/{standalone.process.pid}")
    state = standalone.state
    children = [pid for task in (process / "task").iterdir() for pid in children_of(task)]
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in children if Path(f"/proc/{pid}").exists()]
    return Held(
        descriptors=len(list((process / "fd").iterdir())),
        threads=len(list((process / "task").iterdir())),
        children=len(children),
        zombies=sum(stat.rpartition(")")[2].split()[0] == "Z" for stat in stats),
        processes=len(working_below(state)),
        rss_mb=int((process / "statm").read_text().split()[1]) * 4096 / 1e6,
        workers=len([path for path in (state / "workers").iterdir() if not path.name.startswith(".")]),
        workspaces=len([path for path in (state / "workspaces").iterdir() if not path.name.startswith(".")]),
        homes=len(list((state / "workspaces" / ".own").glob("*"))),
        trash=len([path for name in ("workers", "workspaces") for path in (state / name).glob(".trash-*")]),
        tasks=tasks,
        spools=len(list((state / "spool" / "workers").iterdir())),
        builds=len(list((state / "spool" / "pipelines").iterdir())),
    )


async def tasks_of(standalone: Standalone) -> int:
    """How many asyncio tasks the service has, as its metrics say."""
    url = f"http://{standalone.metrics}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    found = re.search(r"^otto_asyncio_tasks (\d+)", text, re.MULTILINE)
    assert found is not None, text
    return int(float(found[1]))


def request(number: int, script: str, retries: int = 0) -> PipelineRequest:
    stage = PipelineStage(stage_id="only", command=["sh", "-c"], args=[script], retry_policy=RetryPolicy(max_attempts=retries))
    return PipelineRequest(pipeline_id=f"p{number}", stages=[stage])


async def ended(call: Any) -> "StageStatus.ValueType":
    """How a run ended."""
    last = None
    while (message := await call.read()) is not grpc.aio.EOF:
        last = message
    assert last is not None
    assert last.stage_id == "", last
    return cast("StageStatus.ValueType", last.status)


async def completes(channel: grpc.aio.Channel, number: int) -> None:
    call = PipelineServiceStub(channel).ExecutePipeline(request(number, "echo one; echo two >&2"))
    assert await ended(call) == StageStatus.STAGE_COMPLETED


async def fails_twice(channel: grpc.aio.Channel, number: int) -> None:
    call = OttoscalerServiceStub(channel).ExecutePipeline(request(number, "echo one; exit 3", retries=1))
    assert await ended(call) == StageStatus.STAGE_FAILED


async def is_cancelled(channel: grpc.aio.Channel, number: int) -> None:
    call = PipelineServiceStub(channel).ExecutePipeline(request(number, "sleep 600"))
    await call.read()
    await PipelineServiceStub(channel).CancelPipeline(CancelPipelineRequest(pipeline_id=f"p{number}"))
    assert await ended(call) == StageStatus.STAGE_CANCELLED


async def is_left_and_read(channel: grpc.aio.Channel, number: int) -> None:
    """Its caller leaves, a reader of its lines too, another one reads to the end."""
    build = BuildIdentifier(pipeline_id=f"p{number}")
    call = PipelineServiceStub(channel).ExecutePipeline(request(number, "echo one; sleep 0.1; echo two"))
    await call.read()
    call.cancel()
    leaving = LogStreamingServiceStub(channel).StreamBuildLogs(build)
    await leaving.read()
    leaving.cancel()
    lines = [entry.entry.message async for entry in LogStreamingServiceStub(channel).StreamBuildLogs(build) if entry.HasField("entry")]
    assert lines == ["one", "two"]


async def leaves_a_process(channel: grpc.aio.Channel, number: int) -> None:
    call = PipelineServiceStub(channel).ExecutePipeline(request(number, "(setsid sleep 600 </dev/null >/dev/null 2>&1 &); echo one"))
    assert await ended(call) == StageStatus.STAGE_COMPLETED


COURSES = [completes, fails_twice, is_cancelled, is_left_and_read, leaves_a_process]


async def run(channel: grpc.aio.Channel, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))

    async def client() -> None:
        for number in numbers:
            await COURSES[number % len(COURSES)](channel, number)

    await asyncio.gather(*(client() for _ in range(AT_A_TIME)))


async def settled(standalone: Standalone, channel: grpc.aio.Channel) -> Held:
    """What is held once everything that was to be deleted is; fails when that does not happen."""
    deadline = asyncio.get_running_loop().time() + 90
    while True:
        now = held(standalone, await tasks_of(standalone))
        runs = len((await PipelineServiceStub(channel).ListPipelines(ListPipelinesRequest(page_size=500))).pipelines)
        if not (
            now.workers or now.workspaces or now.homes or now.trash or now.spools or now.builds or now.children or now.processes or runs
        ):
            return now
        assert asyncio.get_running_loop().time() < deadline, (now, runs)
        await asyncio.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(420)
async def test_a_thousand_pipelines_leave_nothing(tmp_path: Path) -> None:
    """After 200 to warm up and 1,000 more: no directory, process, zombie, descriptor or thread more, and no memory beyond noise.

    They complete, fail and are repeated, are cancelled, left by their callers and readers, and leave processes.
    """
    async with serving(tmp_path / "state", **SHORT) as standalone:
        async with standalone.channel() as channel:
            await run(channel, 0, 200)
            before = await settled(standalone, channel)
            await run(channel, 200, 1000)
            after = await settled(standalone, channel)
        assert after.zombies == 0
        assert after.descriptors <= before.descriptors + 2
        # pools of threads grow to their bounds when many things happen at once, and no further
        assert after.threads <= before.threads + 20
        assert after.tasks <= before.tasks + 2
        # Python's allocator keeps what a busy moment needed; a leak of 10 kB a pipeline would be 10 MB
        assert after.rss_mb - before.rss_mb < 8, (before, after)
        faults = [line for line in standalone.log.read_text().splitlines() if '"level":"error"' in line or '"level": "error"' in line]
        assert faults == []
