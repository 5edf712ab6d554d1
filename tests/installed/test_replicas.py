"""Two replicas of scaler and executor: one of each acts, the other takes over."""

import asyncio

import pytest

from ..patient_clients import Clients, approve_when_asked, check, everything, requests_for
from .conftest import Install
from .pod_watch import watching_pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


async def test_the_other_replica_takes_over(installed: Install) -> None:
    """Whoever of two replicas holds the Lease is killed in the middle of runs: the other goes on, no pod twice, no line lost or doubled."""
    installation = await asyncio.to_thread(installed, "scaler.replicas=2", "executor.replicas=2")

    def holder(component: str) -> str:
        """The pod whose address stands in the Lease of a component."""
        holders = 'jsonpath={range .items[*]}{.metadata.name}={.spec.holderIdentity}{"\\n"}{end}'
        leases = installation.kubectl("get", "leases", "--output", holders).splitlines()
        held = next(lease for lease in leases if lease.partition("=")[0].endswith(component))
        host = held.rpartition("=")[2].rpartition(":")[0]
        return next(str(pod["metadata"]["name"]) for pod in installation.pods(component) if pod["status"].get("podIP") == host)

    clients = Clients(installation)
    requests = requests_for(3, ":")
    async with watching_pods(installation) as pods, asyncio.timeout(700):
        approving = asyncio.create_task(approve_when_asked(clients), name="approve")
        running = asyncio.create_task(everything(clients, requests), name="everything")
        killed = []
        for component in ("pipeline-executor", "scaler"):
            await asyncio.wait({running}, timeout=6)
            assert not running.done()
            killed.append(await asyncio.to_thread(holder, component))
            await installation.kubectl_soon("delete", "pod", killed[-1], "--grace-period=0", "--force", "--wait=false")
        accounts = await running
        await approving
    check(requests, accounts)
    assert not pods.created_twice()
    assert not {await asyncio.to_thread(holder, component) for component in ("pipeline-executor", "scaler")} & set(killed)
