"""Chains of stages, and many small pipelines at once, beside bare pods."""

import asyncio
import time
from itertools import pairwise
from statistics import median

import grpc.aio

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from ..figures import percentile
from .release import InterruptedMeasureError, Release, unique

STAGES = 5
TURNS = 2
MANY = 40


async def run_to_end(channel: grpc.aio.Channel, pipeline_id: str, stages: int = 1) -> None:
    """A chain of stages of `true`. Raises InterruptedMeasureError if it does not complete."""
    chain = [PipelineStage(stage_id=f"s{n}", command=["true"], depends_on=[f"s{n - 1}"] if n else []) for n in range(stages)]
    last = None
    async for message in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id, stages=chain)):
        last = message
    if last is None or (last.stage_id, last.status) != ("", StageStatus.STAGE_COMPLETED):
        raise InterruptedMeasureError(f"a pipeline of `true` ended with {last}")


async def at_once(channel: grpc.aio.Channel, words: str, count: int) -> None:
    """So many pipelines of one stage."""
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(run_to_end(channel, unique(words)), name=words)


async def chain(release: Release, size: float) -> dict[str, float]:
    """A chain of `true`, what lies between its stages, and a chain of bare pods."""
    await release.learn_floor()
    stages = max(2, round(STAGES * min(1.0, size)))
    ours, bare, hops = [], [], []
    for _ in range(max(1, round(TURNS * size))):
        begun = time.perf_counter()
        for _ in range(stages):
            await release.floor.all_ended(await release.floor.create(1, ["true"]))
        bare.append(time.perf_counter() - begun)
        name = unique("chain")
        async with release.channel() as channel:
            begun = time.perf_counter()
            await run_to_end(channel, name, stages)
            ours.append(time.perf_counter() - begun)
        pods = release.pods
        at = [pods.named[name, f"s{n}"] for n in range(stages)]
        hops += [pods.created[after] - pods.ended[before] for before, after in pairwise(at)]
        await release.floor.clear()
    return {
        "cluster.hop.p50": percentile(hops, 0.5) * 1e3,
        "cluster.hop.p99": percentile(hops, 0.99) * 1e3,
        "cluster.chain": median(ours),
        "cluster.chain.bare": median(bare),
        "cluster.chain.ratio": 100 * median(ours) / median(bare),
    }


async def many(release: Release, size: float) -> dict[str, float]:
    """One-stage pipelines at once, and as many bare pods."""
    await release.learn_floor()
    count = max(2, round(MANY * size))
    begun = time.perf_counter()
    await release.floor.all_ended(await release.floor.create(count, ["true"]))
    bare = time.perf_counter() - begun
    await release.floor.clear()
    async with release.channel() as channel:
        begun = time.perf_counter()
        await at_once(channel, "many", count)
        ours = time.perf_counter() - begun
    await release.floor.clear()
    return {"cluster.many": ours, "cluster.many.bare": bare, "cluster.many.ratio": 100 * ours / bare}
