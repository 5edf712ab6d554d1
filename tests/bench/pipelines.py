"""Chains of stages and many small pipelines."""

import asyncio
import time
from typing import Any

from ottoscaler.v1.ottoscaler_service_pb2 import WatchWorkersRequest, WorkerEvent
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .figures import percentile
from .service import Service

STAGES = 20
AT_A_TIME = 16


async def chain(service: Service, size: float) -> dict[str, float]:
    """A chain of stages of `true`: what lies between two stages, and beside it the bare processes."""
    totals: list[float] = []
    bare: list[float] = []
    names = [f"chain-{number}" for number in range(max(1, round(5 * size)))]
    watched = _Watched()
    async with service.channel() as channel, service.channel() as other:
        watching = asyncio.create_task(watched.watch(OttoscalerServiceStub(other)), name="watch workers")
        await watched.synced.wait()
        stub = PipelineServiceStub(channel)
        for name in names:
            stages = [PipelineStage(stage_id=f"s{n}", command=["true"], depends_on=[f"s{n - 1}"] if n else []) for n in range(STAGES)]
            begun = time.perf_counter()
            async for _ in stub.ExecutePipeline(PipelineRequest(pipeline_id=name, stages=stages)):
                pass
            totals.append((time.perf_counter() - begun) / STAGES)
            begun = time.perf_counter()
            for _ in range(STAGES):
                await (await asyncio.create_subprocess_exec("true")).wait()
            bare.append((time.perf_counter() - begun) / STAGES)
        watching.cancel()
        await asyncio.wait([watching])
    hops = [watched.asked[name, f"s{n}"] - watched.ended[name, f"s{n - 1}"] for name in names for n in range(1, STAGES)]
    stage, process = percentile(totals, 0.5), percentile(bare, 0.5)
    return {
        "hop.p50": percentile(hops, 0.5) * 1e3,
        "hop.p99": percentile(hops, 0.99) * 1e3,
        "chain.stage": stage * 1e3,
        "chain.bare": process * 1e3,
        "chain.over_bare": (stage - process) * 1e3,
    }


class _Watched:
    """When workers were first heard of and when their ends were, by stage, as any watcher of the scaler sees it."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, str], float] = {}
        self.ended: dict[tuple[str, str], float] = {}
        self.synced = asyncio.Event()

    async def watch(self, stub: Any) -> None:
        async for event in stub.WatchWorkers(WatchWorkersRequest()):
            now = time.perf_counter()
            if event.type == WorkerEvent.TYPE_SYNCED:
                self.synced.set()
            place = event.worker.pipeline_id, event.worker.stage_id
            self.asked.setdefault(place, now)
            if event.worker.status in {"succeeded", "failed"}:
                self.ended.setdefault(place, now)


async def rate(service: Service, size: float) -> dict[str, float]:
    """One-stage pipelines per second, from their requests to their last messages."""
    count = round(160 * size)
    left = iter(range(count))
    async with service.channel() as channel:
        stub = PipelineServiceStub(channel)

        async def client() -> None:
            for number in left:
                request = PipelineRequest(pipeline_id=f"one-{number}", stages=[PipelineStage(stage_id="only", command=["true"])])
                async for message in stub.ExecutePipeline(request):
                    last = message
                if (last.stage_id, last.status) != ("", StageStatus.STAGE_COMPLETED):
                    raise RuntimeError(f"a pipeline of `true` ended with {last}")

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(AT_A_TIME)))
        return {"pipelines.rate": count / (time.perf_counter() - begun)}
