"""Two replicas of scaler and executor: one of each acts, the other takes over."""

import asyncio
import time

import pytest

from ..patient_clients import Clients, approve_when_asked, check, everything, requests_for
from .conftest import Install
from .installation import Installation
from .pod_watch import watching_leases, watching_pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


TAKEOVER_SECONDS = 60
"""At most, from the death of the one that acts until another does, on a slow machine; `make bench-cluster` judges how long it is."""


async def test_the_other_replica_takes_over(installed: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever of two replicas acts dies in the middle of runs: the other acts soon, no pod twice, no line lost or doubled."""
    installation = await asyncio.to_thread(installed, "scaler.replicas=2", "executor.replicas=2")
    clients = Clients(installation)
    requests = requests_for(3, ":")
    async with watching_pods(installation) as pods, watching_leases(installation) as leases, asyncio.timeout(700):
        approving = asyncio.create_task(approve_when_asked(clients), name="approve")
        running = asyncio.create_task(everything(clients, requests), name="everything")
        took = {}
        for component in ("pipeline-executor", "scaler"):
            await asyncio.wait({running}, timeout=6)
            async with asyncio.timeout(60):
                while not (holder := leases.holder(component)):
                    await asyncio.sleep(0.05)
            assert not running.done()
            killed = await asyncio.to_thread(pod_at, installation, component, holder)
            # Killed first, as a pod that is deleted has two seconds to give its Lease back even by force.
            assert await asyncio.to_thread(installation.kill, killed)
            began = time.monotonic()
            await installation.kubectl_soon("delete", "pod", killed, "--grace-period=0", "--force", "--wait=false")
            async with asyncio.timeout(TAKEOVER_SECONDS):
                while leases.holder(component) in {holder, ""}:
                    await asyncio.sleep(0.05)
            took[component] = time.monotonic() - began
        accounts = await running
        await approving
    check(requests, accounts)
    assert not pods.created_twice()
    with capsys.disabled():
        print("\n" + "\n".join(f"{component}: killed, another replica acts {seconds:.1f} s later" for component, seconds in took.items()))


def pod_at(installation: Installation, component: str, address: str) -> str:
    """The pod whose address stands in a Lease."""
    host = address.rpartition(":")[0]
    [name] = [str(pod["metadata"]["name"]) for pod in installation.pods(component) if pod["status"].get("podIP") == host]
    return name
