"""Resident memory of the service and of the supervisors."""

import asyncio

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .service import Service, memory, no_workers, workers

RUNNING = 100


async def footprint(service: Service, size: float) -> dict[str, float]:
    """Of a fresh service: idle, with running workers, after finished ones."""
    finished = round(1000 * size)
    await asyncio.sleep(1.0)
    idle = service.rss()
    async with service.channel() as channel:
        stub = OttoscalerServiceStub(channel)
        await stub.ScaleUp(ScaleRequest(task_id="run", worker_count=RUNNING, worker=WorkerSpec(command=["sleep", "600"])))
        await workers(service, "running", RUNNING)
        await asyncio.sleep(1.0)
        running = service.rss()
        supervisors = service.supervisors()
        rss = sum(memory(pid, "status", "VmRSS") for pid in supervisors) / len(supervisors)
        pss = sum(memory(pid, "smaps_rollup", "Pss") for pid in supervisors) / len(supervisors)
        await no_workers(service)
        for ended in range(0, finished, 50):
            count = min(50, finished - ended)
            await stub.ScaleUp(ScaleRequest(task_id=f"end-{ended}", worker_count=count, worker=WorkerSpec(command=["true"])))
            await workers(service, "succeeded", ended + count)
    await asyncio.sleep(1.0)
    return {
        "memory.idle": idle,
        "memory.running": running - idle,
        "memory.finished": service.rss() - idle,
        "memory.supervisor.rss": rss,
        "memory.supervisor.pss": pss,
    }
