"""Thousands of pipelines and pods, on fake nodes: what passes through, and what the services are like afterwards."""

import asyncio
import time

from otto_runtime.memory import SECONDS

from . import kwok
from .figures import SERVICES
from .memory import resident, status
from .pipelines import at_once, run_to_end
from .release import Release, unique

VALUES = (*kwok.VALUES, "executor.settings.max_active_pipelines=5000", "scaler.settings.finished_ttl=86400")
"""All 2,000 can be asked for at once, and no finished pod goes."""
RATED, DRAINED = 1000, 2000
AT_A_TIME = 100
"""As many as the default cap lets run."""
QUIET_SECONDS = SECONDS + 5.0
"""Until what the services have had open at once is given back."""
SETTLED_SECONDS = 10.0
"""Until those that were started anew have seen all that is there."""


async def scale(release: Release, size: float) -> dict[str, float]:
    """One after the other, as each needs what those before it leave."""
    async with kwok.fake_nodes(release.client, release.installation.address.partition(":")[0]):
        try:
            return await _measured(release, size)
        finally:
            await release.configure()
            await release.emptied()


async def _measured(release: Release, size: float) -> dict[str, float]:
    rated = max(10, round(RATED * size))
    found = {"cluster.rate.bare": await _bare_rate(release, rated), "cluster.rate": await _rate(release, rated)}
    found["cluster.drain"] = await _drain(release, max(20, round(DRAINED * size)))
    await asyncio.sleep(QUIET_SECONDS)
    found["cluster.status.3000"] = await status(release, size)
    found |= await resident(release, "burst")
    for service in SERVICES:
        found[f"cluster.start.{service}"] = await release.restarted(service)
    await asyncio.sleep(SETTLED_SECONDS)
    return found | await resident(release, "3000")


async def _bare_rate(release: Release, count: int) -> float:
    """Bare pods per second, from the first creation to the last end; none of them is left."""
    await release.learn_floor()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await release.floor.all_ended(await release.floor.create(1, ["true"]))

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(client(), name="bare rate")
    taken = time.perf_counter() - begun
    await release.emptied()
    return count / taken


async def _rate(release: Release, count: int) -> float:
    """Pipelines per second, from the first request to the last end."""
    left = iter(range(count))
    async with release.channel() as channel:

        async def client() -> None:
            for _ in left:
                await run_to_end(channel, unique("rate"))

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(client(), name="rate")
        return count / (time.perf_counter() - begun)


async def _drain(release: Release, count: int) -> float:
    async with release.channel() as channel:
        begun = time.perf_counter()
        await at_once(channel, "drain", count)
        return count / (time.perf_counter() - begun)
