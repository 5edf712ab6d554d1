"""Workers of one ScaleUp, beside as many bare pods."""

import asyncio
import time
from statistics import median

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WatchWorkersRequest, WorkerEvent
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .figures import STARTED_AT_ONCE
from .release import Release, unique

SLEEP = ["sleep", "600"]
TURNS = {1: 7, 10: 3, 50: 1}
"""How often ours and bare ones take turns: few pods take little time, which says little."""


async def starting(release: Release, size: float) -> dict[str, float]:
    """Both until all run: ours as a client of the front door sees it, bare pods as the API server tells."""
    await release.learn_floor()
    found: dict[str, float] = {}
    for count in STARTED_AT_ONCE:
        workers = max(1, round(count * min(1.0, size)))
        ours, bare = [], []
        for _ in range(max(1, round(TURNS[count] * min(1.0, size)))):
            bare.append(await _bare(release, workers))
            ours.append(await _ours(release, workers))
        found |= {
            f"cluster.up.{count}": median(ours),
            f"cluster.up.{count}.bare": median(bare),
            f"cluster.up.{count}.ratio": 100 * median(ours) / median(bare),
        }
    return found


async def _bare(release: Release, count: int) -> float:
    begun = time.perf_counter()
    await release.floor.all_running(await release.floor.create(count, SLEEP))
    seconds = time.perf_counter() - begun
    await release.floor.clear()
    return seconds


async def _ours(release: Release, count: int) -> float:
    task = unique("up")
    async with release.channel() as channel:
        stub = OttoscalerServiceStub(channel)
        watch = stub.WatchWorkers(WatchWorkersRequest(task_id=task))
        running: set[str] = set()
        begun, asked = 0.0, None
        async for event in watch:
            if event.type == WorkerEvent.TYPE_SYNCED:
                begun = time.perf_counter()
                request = ScaleRequest(task_id=task, worker_count=count, worker=WorkerSpec(command=SLEEP))
                asked = asyncio.ensure_future(stub.ScaleUp(request))
            if event.worker.status == "running":
                running.add(event.worker.pod_name)
            if len(running) == count:
                break
        seconds = time.perf_counter() - begun
        watch.cancel()
        if asked is not None:
            await asked
    await release.floor.clear()
    return seconds
