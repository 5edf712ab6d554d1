"""A thousand pipelines leave nothing behind that their keeping times do not explain."""

import asyncio
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import ListPipelinesRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone, serving

AT_A_TIME = 12
SHORT = {
    "OTTO_METRICS_LISTEN": "127.0.0.1:0",
    "OTTO_SCALER_FINISHED_TTL": "1",
    "OTTO_EXECUTOR_WORKSPACE_RETENTION": "1",
    "OTTO_EXECUTOR_RUN_RETENTION": "1",
    "OTTO_EXECUTOR_RETENTION_INTERVAL": "0.5",
    "OTTO_RELAY_RETENTION_SECONDS": "1",
    "OTTO_RELAY_RETENTION_INTERVAL": "0.5",
}


@dataclass(frozen=True)
class Held:
    """What a service holds of the machine."""

    descriptors: int
    threads: int
    children: int
    zombies: int
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


async def run(channel: grpc.aio.Channel, first: int, count: int) -> None:
    numbers = iter(range(first, first + count))

    async def client() -> None:
        for number in numbers:
            stages = [PipelineStage(stage_id="only", command=["sh", "-c"], args=["echo one; echo two >&2"])]
            async for message in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=f"p{number}", stages=stages)):
                last = message
            assert (last.stage_id, last.status) == ("", StageStatus.STAGE_COMPLETED), last

    await asyncio.gather(*(client() for _ in range(AT_A_TIME)))


async def settled(standalone: Standalone, channel: grpc.aio.Channel) -> Held:
    """What is held once everything that was to be deleted is; fails when that does not happen."""
    deadline = asyncio.get_running_loop().time() + 90
    while True:
        now = held(standalone, await tasks_of(standalone))
        runs = len((await PipelineServiceStub(channel).ListPipelines(ListPipelinesRequest(page_size=500))).pipelines)
        if not (now.workers or now.workspaces or now.homes or now.trash or now.spools or now.builds or now.children or runs):
            return now
        assert asyncio.get_running_loop().time() < deadline, (now, runs)
        await asyncio.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(420)
async def test_a_thousand_pipelines_leave_nothing(tmp_path: Path) -> None:
    """After 200 to warm up and 1,000 more: no directory, process, zombie, descriptor or thread more, and no memory beyond noise."""
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
