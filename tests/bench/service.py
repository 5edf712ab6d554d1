"""A standalone service as a process of its own, with a directory of its own, and what can be seen of it from outside."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest, WorkerStatusResponse
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub

START_SECONDS = 30.0
WAIT_SECONDS = 300.0


class Service:
    """A running service: where it listens, its process, and how long it took until it was SERVING."""

    def __init__(self, address: str, pid: int, state: Path, seconds_to_start: float) -> None:
        self.address = address
        self.pid = pid
        self.state = state
        self.seconds_to_start = seconds_to_start

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            yield channel

    def rss(self) -> float:
        """The service's resident memory in MB."""
        return memory(self.pid, "status", "VmRSS")

    def supervisors(self) -> list[int]:
        """The processes that keep workers company."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                try:
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if any(str(self.state).encode() in argument for argument in command):
                    found.append(int(entry.name))
        return found


def memory(pid: int, file: str, field: str) -> float:
    """A field of /proc/PID/status or smaps_rollup in MB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


@asynccontextmanager
async def serving(below: Path | None = None, **environ: str) -> AsyncIterator[Service]:
    """A service from its start until it is SERVING; at the end it is stopped, with all its workers, and its directory deleted.

    That lies in `below`, or among the machine's temporary ones.
    """
    with tempfile.TemporaryDirectory(prefix="ottoscaler-bench-", dir=below) as directory:
        state = Path(directory) / "state"
        begun = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "otto_standalone",
            env={
                **os.environ,
                "OTTO_STANDALONE_STATE_DIR": str(state),
                "OTTO_LISTEN": "127.0.0.1:0",
                "OTTO_METRICS_LISTEN": "off",
                "OTTO_LOG_FORMAT": "json",
                "OTTO_SCALER_MAX_QUEUED": "100000",
                **environ,
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        reading = None
        try:
            async with asyncio.timeout(START_SECONDS):
                address = await _address(process.stderr)
                reading = asyncio.create_task(_drain(process.stderr), name="drain the log")
                await _healthy(address)
            service = Service(address, process.pid, state, time.perf_counter() - begun)
            yield service
            await no_workers(service)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
            if reading is not None:
                await reading


async def _address(log: asyncio.StreamReader) -> str:
    async for line in log:
        if line.startswith(b"{") and (said := json.loads(line)).get("event") == "runtime.serving":
            return str(said["address"])
    raise RuntimeError("the service ended before it was SERVING")


async def _drain(log: asyncio.StreamReader) -> None:
    while await log.read(65536):
        pass


async def _healthy(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


async def workers(service: Service, ready: str, count: int) -> None:
    """Returns when `count` workers are in the state `ready`, as `running` or `succeeded`."""
    async with service.channel() as channel, asyncio.timeout(WAIT_SECONDS):
        while getattr(await _status(channel), f"{ready}_count") < count:
            await asyncio.sleep(0.05)


async def no_workers(service: Service) -> None:
    """Stops whatever runs, and returns when nothing does."""
    async with service.channel() as channel, asyncio.timeout(WAIT_SECONDS):
        stub = OttoscalerServiceStub(channel)
        while (status := await _status(channel)).running_count + status.pending_count:
            for task in {w.task_id for w in status.workers if w.status in {"running", "pending"}}:
                await stub.ScaleDown(ScaleRequest(task_id=task, worker_count=0))
            await asyncio.sleep(0.1)


async def _status(channel: grpc.aio.Channel) -> WorkerStatusResponse:
    answer: WorkerStatusResponse = await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
    return answer
