"""Log lines of many workers at once: how long one takes to clients of the front door, and to one of the log API alone."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from otto_kubekit.kinds import PODS
from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogKind, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage
from ottoscaler.v1.worker_pb2 import WorkerSpec

from ..figures import percentile
from .figures import WRITERS
from .release import Release, unique

SECONDS = 10.0
SETTLED = 0.3
"""As a share of the time measured: what had been written before is read in one go first."""
STAMPS = ["python3", "-c", "import time\nwhile True:\n print(time.time_ns(), flush=True)\n time.sleep(0.05)"]


async def latency(release: Release, size: float) -> dict[str, float]:
    """All read all lines of all workers: bare pods' and workers' each on a stream of its own, a pipeline's on one for all."""
    await release.learn_floor()
    seconds = max(2.0, SECONDS * size)
    found: dict[str, float] = {}
    for writers in WRITERS:
        count = max(2, round(writers * min(1.0, size)))
        for name, measured in (("bare", _bare), ("pipeline", _pipeline), ("workers", _workers)):
            taken = await measured(release, count, seconds)
            if len(taken) < count * seconds * 10:
                raise RuntimeError(f"{name}: only {len(taken)} lines came in {seconds:g} s from {count} workers")
            found |= {f"cluster.line.{writers}.{name}.{p}": percentile(taken, share) for p, share in (("p50", 0.5), ("p99", 0.99))}
    return found


async def _pipeline(release: Release, count: int, seconds: float) -> list[float]:
    """As `ottoctl pipeline run` reads it."""
    stage = PipelineStage(stage_id="write", worker_count=count, command=STAMPS)
    async with release.channel() as channel:
        pipelines = PipelineServiceStub(channel)
        name = unique("lines")
        async for progress in pipelines.ExecutePipeline(PipelineRequest(pipeline_id=name, stages=[stage])):
            if len(progress.worker_pod_names) == count:
                await release.floor.all_running(progress.worker_pod_names)
                break
        taken = _Taken(seconds)

        async def read(pipeline_id: str) -> None:
            request = TailLogsRequest(build=BuildIdentifier(pipeline_id=pipeline_id))
            async for batch in LogStreamingServiceStub(channel).TailLogs(request):
                for entry in batch.build_entries:
                    if entry.kind == BuildLogKind.BUILD_LOG_KIND_LINE:
                        taken.add(entry.entry.message)

        await taken.by(read, [name])
        await pipelines.CancelPipeline(CancelPipelineRequest(pipeline_id=name))
    await release.floor.clear()
    return taken.milliseconds


async def _workers(release: Release, count: int, seconds: float) -> list[float]:
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
