"""Resident memory of the services, and how fast the scaler answers while 100 workers run."""

import asyncio
import time

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from ..figures import percentile
from .release import Release, unique

RUNNING = 100
CALLS = 1000
SETTLE_SECONDS = 3.0


async def footprint(release: Release, size: float) -> dict[str, float]:
    """Of services that have done nothing yet, and with workers that run."""
    await asyncio.sleep(SETTLE_SECONDS)
    found = await resident(release, "idle")
    async with release.channel() as channel:
        request = ScaleRequest(
            task_id=unique("run"), worker_count=max(2, round(RUNNING * min(1.0, size))), worker=WorkerSpec(command=["sleep", "600"])
        )
        names = (await OttoscalerServiceStub(channel).ScaleUp(request)).worker_pod_names
    await release.floor.all_running(names)
    await asyncio.sleep(SETTLE_SECONDS)
    found |= await resident(release, str(RUNNING))
    found["cluster.status.100"] = await status(release, size)
    await release.floor.clear()
    return found


async def resident(release: Release, when: str) -> dict[str, float]:
    """The figures of all services."""
    return {f"cluster.memory.{service}.{when}": rss for service, rss in (await release.rss()).items()}


async def status(release: Release, size: float) -> float:
    """The median latency of GetWorkerStatus in ms, one client."""
    async with release.channel() as channel:
        stub = OttoscalerServiceStub(channel)
        taken = []
        for _ in range(max(20, round(CALLS * size))):
            begun = time.perf_counter()
            await stub.GetWorkerStatus(WorkerStatusRequest())
            taken.append(time.perf_counter() - begun)
    return percentile(taken, 0.5) * 1e3
