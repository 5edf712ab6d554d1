"""GetWorkerStatus while 100 workers run, and the start of the service."""

import asyncio
import re
import shutil
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .figures import percentile
from .service import Service, no_workers, workers

WORKERS = 100


async def starting(service: Service, _: float) -> dict[str, float]:
    """How long the start took."""
    return {"start": service.seconds_to_start}


async def status(service: Service, size: float) -> dict[str, float]:
    """Latency for one client, and calls per second for eight."""
    async with service.channel() as channel:
        await OttoscalerServiceStub(channel).ScaleUp(
            ScaleRequest(task_id="status", worker_count=WORKERS, worker=WorkerSpec(command=["sleep", "600"]))
        )
    await workers(service, "running", WORKERS)
    await asyncio.sleep(1.0)
    latencies = await _latencies(service, round(2000 * size))
    found = {
        "status.p50": percentile(latencies, 0.5) * 1e3,
        "status.p99": percentile(latencies, 0.99) * 1e3,
        "status.rate": await _rate(service, round(500 * size)),
    }
    rate = await _h2load(service, round(10000 * size))
    if rate is not None:
        found["status.h2load"] = rate
    await no_workers(service)
    return found


async def _latencies(service: Service, calls: int) -> list[float]:
    async with service.channel() as channel:
        stub = OttoscalerServiceStub(channel)
        for _ in range(50):
            await stub.GetWorkerStatus(WorkerStatusRequest())
        taken = []
        for _ in range(calls):
            begun = time.perf_counter()
            await stub.GetWorkerStatus(WorkerStatusRequest())
            taken.append(time.perf_counter() - begun)
        return taken


async def _rate(service: Service, calls: int) -> float:
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(service.channel()) for _ in range(8)]

        async def client(channel: grpc.aio.Channel) -> None:
            stub = OttoscalerServiceStub(channel)
            for _ in range(calls):
                await stub.GetWorkerStatus(WorkerStatusRequest())

        begun = time.perf_counter()
        await asyncio.gather(*(client(channel) for channel in channels))
        return 8 * calls / (time.perf_counter() - begun)


async def _h2load(service: Service, calls: int) -> float | None:
    """None where h2load (Debian: nghttp2-client) is not there."""
    program = shutil.which("h2load")
    if program is None:
        return None
    with tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(b"\0\0\0\0\0")
        process = await asyncio.create_subprocess_exec(
            program,
            *("-n", str(calls), "-c", "8", "-m", "1", "-d", body.name),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://{service.address}/ottoscaler.v1.OttoscalerService/GetWorkerStatus",
            stdout=asyncio.subprocess.PIPE,
        )
        said = (await process.communicate())[0].decode()
    # A refused call has HTTP status 200 too; what tells is that as many bytes of answers came as of one known answer.
    async with service.channel() as channel:
        size = (await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())).ByteSize()
    data = re.search(r"\((\d+)\) data$", said, re.MULTILINE)
    if data is None or int(data[1]) < calls * size * 0.99:
        return None
    found = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    done = re.search(rf"requests: {calls} total, .* {calls} succeeded", said)
    return float(found[1]) if found and done else None
