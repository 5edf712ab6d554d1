"""Chains of stages and many small pipelines."""

import asyncio
import time

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .figures import percentile
from .service import Service

STAGES = 20
AT_A_TIME = 16


async def chain(service: Service, size: float) -> dict[str, float]:
    """A chain of stages of `true`: what lies between two stages, and beside it the bare processes."""
    hops: list[float] = []
    totals: list[float] = []
    bare: list[float] = []
    async with service.channel() as channel:
        stub = PipelineServiceStub(channel)
        for number in range(max(1, round(5 * size))):
            stages = [PipelineStage(stage_id=f"s{n}", command=["true"], depends_on=[f"s{n - 1}"] if n else []) for n in range(STAGES)]
            asked: dict[str, float] = {}
            ended: dict[str, float] = {}
            begun = time.perf_counter()
            async for message in stub.ExecutePipeline(PipelineRequest(pipeline_id=f"chain-{number}", stages=stages)):
                now = time.perf_counter()
                if message.status == StageStatus.STAGE_RUNNING:
                    asked.setdefault(message.stage_id, now)
                elif message.status == StageStatus.STAGE_COMPLETED:
                    ended[message.stage_id] = now
            totals.append((time.perf_counter() - begun) / STAGES)
            hops += [asked[f"s{n}"] - ended[f"s{n - 1}"] for n in range(1, STAGES)]
            begun = time.perf_counter()
            for _ in range(STAGES):
                await (await asyncio.create_subprocess_exec("true")).wait()
            bare.append((time.perf_counter() - begun) / STAGES)
    stage, process = percentile(totals, 0.5), percentile(bare, 0.5)
    return {
        "hop.p50": percentile(hops, 0.5) * 1e3,
        "hop.p99": percentile(hops, 0.99) * 1e3,
        "chain.stage": stage * 1e3,
        "chain.bare": process * 1e3,
        "chain.over_bare": (stage - process) * 1e3,
    }


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
