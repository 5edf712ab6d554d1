"""Services die on a real cluster while pipelines run: nobody notices but the log."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest

from ..patient_clients import Clients, approve_when_asked, check, everything, requests_for
from .installation import Installation
from .pod_watch import watching_pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COMPONENTS = ("scaler", "pipeline-executor", "log-relay", "front-door")
Fault = Callable[[Installation, str], Awaitable[None]]


async def kill_process(installation: Installation, component: str) -> None:
    """`kill -9` of the process in the pod: its container is started again in the same pod."""
    for pod in await asyncio.to_thread(installation.pods, component):
        await asyncio.to_thread(installation.kill, pod["metadata"]["name"])


async def delete_pod(installation: Installation, component: str) -> None:
    """The pod goes at once, and another one comes."""
    await installation.kubectl_soon(
        "delete", "pod", "--selector", f"app.kubernetes.io/component={component}", "--grace-period=0", "--force", "--wait=false"
    )


@pytest.mark.parametrize("fault", [kill_process, delete_pod])
async def test_services_die(installation: Installation, fault: Fault) -> None:
    """Every service dies at seeded moments while pipelines run: all end as they would have, no pod twice, no line lost or doubled."""
    draw = random.Random(fault.__name__)
    clients = Clients(installation)
    requests = renamed(requests_for(2, ":"), fault.__name__)
    async with watching_pods(installation) as pods, asyncio.timeout(800):
        approving = asyncio.create_task(approve_when_asked(clients, f"3-monorepo-approval-{fault.__name__}"), name="approve")
        running = asyncio.create_task(everything(clients, requests), name="everything")
        hits = 0
        while not running.done() and hits < 8:
            await asyncio.wait({running}, timeout=draw.uniform(0.5, 6.0))
            if not running.done():
                await fault(installation, COMPONENTS[hits % len(COMPONENTS)])
                hits += 1
        accounts = await running
        approving.cancel()
        await asyncio.gather(approving, return_exceptions=True)
    assert hits >= len(COMPONENTS)
    check(requests, accounts)
    assert not pods.created_twice()


def renamed(requests: list[PipelineRequest], suffix: str) -> list[PipelineRequest]:
    """Under ids that no other test uses."""
    for request in requests:
        request.pipeline_id += f"-{suffix}"
    return requests
