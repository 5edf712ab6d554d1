"""Log lines of many workers at once: how long one takes to a client of the front door, and to one of the log API alone."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from otto_kubekit.kinds import PODS
from ottoscaler.v1.log_pb2 import WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from ..figures import percentile
from .release import Release, unique

WORKERS = 50
SECONDS = 10.0
SETTLED = 0.3
"""As a share of the time measured: what had been written before is read in one go first."""
STAMPS = ["python3", "-c", "import time\nwhile True:\n print(time.time_ns(), flush=True)\n time.sleep(0.05)"]


async def latency(release: Release, size: float) -> dict[str, float]:
    """Both read all lines of all workers, each worker's on a stream of its own."""
    await release.learn_floor()
    count = max(2, round(WORKERS * min(1.0, size)))
    seconds = max(2.0, SECONDS * size)
    bare, ours = await _bare(release, count, seconds), await _ours(release, count, seconds)
    found: dict[str, float] = {}
    for name, taken in (("cluster.line.bare", bare), ("cluster.line", ours)):
        if len(taken) < count * seconds * 10:
            raise RuntimeError(f"{name}: only {len(taken)} lines came in {seconds:g} s from {count} workers")
        found |= {f"{name}.p50": percentile(taken, 0.5), f"{name}.p99": percentile(taken, 0.99)}
    return found


async def _ours(release: Release, count: int, seconds: float) -> list[float]:
    async with release.channel() as channel:
        request = ScaleRequest(task_id=unique("lines"), worker_count=count, worker=WorkerSpec(command=STAMPS))
        names = list((await OttoscalerServiceStub(channel).ScaleUp(request)).worker_pod_names)
        await release.floor.all_running(names)
        taken = _Taken(seconds)

        async def read(name: str) -> None:
            async for entry in LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=name)):
                taken.add(entry.message)

        await taken.by(read, names)
    await release.floor.clear()
    return taken.milliseconds


async def _bare(release: Release, count: int, seconds: float) -> list[float]:
    names = await release.floor.create(count, STAMPS)
    await release.floor.all_running(names)
    taken = _Taken(seconds)

    async def read(name: str) -> None:
        path = release.client.path(PODS, None, name, "log")
        async with release.client.transport.stream(path, {"follow": "true"}) as chunks:
            rest = b""
            while data := await chunks.next(None):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    taken.add(line)

    await taken.by(read, names)
    await release.floor.clear()
    return taken.milliseconds


class _Taken:
    """What each line took that was written within a time that begins when all has settled."""

    def __init__(self, seconds: float) -> None:
        self.milliseconds: list[float] = []
        self._from = time.time_ns() + int(SETTLED * seconds * 1e9)
        self._until = self._from + int(seconds * 1e9)

    def add(self, stamp: bytes | str) -> None:
        written = int(stamp)
        if self._from <= written < self._until:
            self.milliseconds.append((time.time_ns() - written) / 1e6)

    async def by(self, read: Callable[[str], Coroutine[Any, Any, None]], names: Sequence[str]) -> None:
        """Reads all of these at once, until a second after that time."""
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read(name), name=f"read {name}") for name in names]
            await asyncio.sleep((self._until - time.time_ns()) / 1e9 + 1.0)
            for reader in readers:
                reader.cancel()
