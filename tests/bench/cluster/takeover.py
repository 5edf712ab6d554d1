"""Two replicas: how long nobody acts when the one that does is killed, or stops."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from otto_kubekit.errors import NotFoundError
from otto_kubekit.kinds import LEASES, PODS
from otto_kubekit.objects import Pod

from ...installed.installation import RELEASE
from .figures import WITH_REPLICAS
from .pods import COMPONENT
from .release import WAIT_SECONDS, InterruptedMeasureError, Release

_VALUES = ("scaler", "executor")
PERIOD = 0.05
"""Seconds between looks at a Lease."""
End = Callable[[Release, Pod], Awaitable[None]]


async def takeover(release: Release, size: float) -> dict[str, float]:
    """Seconds from the end of the replica that acts until the other one holds the Lease."""
    await release.configure(*(f"{part}.replicas=2" for part in _VALUES))
    ends: dict[str, End] = {"killed": _killed, "stopped": _stopped}
    found = {
        f"cluster.takeover.{service}.{how}": await _taken(release, service, end) for service in WITH_REPLICAS for how, end in ends.items()
    }
    await release.configure(*(f"{part}.replicas=1" for part in _VALUES))
    return found


async def _taken(release: Release, service: str, end: End) -> float:
    holder = await _holder(release, service)
    acting = await _beside_another(release, service, holder.rpartition(":")[0])
    begun = time.monotonic()
    await end(release, acting)
    async with asyncio.timeout(WAIT_SECONDS):
        while await _holder(release, service) in {holder, ""}:
            await asyncio.sleep(PERIOD)
    return time.monotonic() - begun


async def _holder(release: Release, service: str) -> str:
    lease = await release.client.get(LEASES, f"{RELEASE}-ottoscaler-{service}")
    return lease.spec.holder_identity or ""


async def _beside_another(release: Release, service: str, address: str) -> Pod:
    """The pod with that address, once a second one is ready to take over."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            pods = (await release.client.list(PODS, labels=f"{COMPONENT}={service}")).items
            ready = [pod for pod in pods if _ready(pod) and pod.metadata.deletion_timestamp is None]
            acting = [pod for pod in ready if pod.status.pod_ip == address]
            if acting and len(ready) > 1:
                return acting[0]
            await asyncio.sleep(PERIOD)


def _ready(pod: Pod) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)


async def _killed(release: Release, pod: Pod) -> None:
    """Both at once: a pod that is deleted by force has two seconds to give its Lease back, and a killed process comes again in its pod."""
    if not await asyncio.to_thread(release.installation.kill, pod.metadata.name):
        raise InterruptedMeasureError(f"{pod.metadata.name} could not be killed")
    await release.client.delete(PODS, pod.metadata.name, uid=pod.metadata.uid, grace=0)


async def _stopped(release: Release, pod: Pod) -> None:
    try:
        await release.client.delete(PODS, pod.metadata.name, uid=pod.metadata.uid)
    except NotFoundError as error:
        raise InterruptedMeasureError(f"{pod.metadata.name} has gone by itself") from error
