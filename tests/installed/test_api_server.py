"""The control plane of a real cluster fails while pipelines run: everything ends as it would have, once it is there again."""

import asyncio
import re
from collections import Counter

import grpc
import grpc.aio
import pytest

from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

from ..patient_clients import Clients
from .conftest import Install
from .control_plane import ControlPlane
from .installation import Installation
from .load import Load
from .onlooker import attached
from .pod_watch import watching_pods

pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, pytest.mark.timeout(1200)]

AWAY_SECONDS = 60
ANSWER_SECONDS = 40
"""At most, until a call is answered: more than a replica waits for one that acts, and than a unary call may take."""
LONG_LEASE = "runtime.lease_duration=300"
"""Whoever acts goes on to, as long as etcd is away."""


async def test_an_api_server_that_is_away_for_a_minute(installation: Installation, plane: ControlPlane) -> None:
    """Workers go on, calls are answered or UNAVAILABLE, and afterwards all ends as it would have: no pod twice, no line lost or doubled."""
    load = Load(Clients(installation), "away")
    answers: Counter[grpc.StatusCode] = Counter()
    async with asyncio.timeout(1000), watching_pods(installation) as pods:
        await load.calm()
        async with attached(installation, "away-onlooker") as onlooker, load.going():
            async with plane.without_api_server():
                await asyncio.gather(asyncio.sleep(AWAY_SECONDS), asked(installation, onlooker.pipeline_id, answers))
            await load.begun(3)
            await onlooker.sees_the_end()
        await installation.serves()
    load.check(pods)
    assert answers[grpc.StatusCode.UNAVAILABLE]


async def asked(installation: Installation, pipeline_id: str, answers: Counter[grpc.StatusCode]) -> None:
    """What the front door answers to a question about a pipeline, again and again for the time that the API server is away.

    Raises AioRpcError of one that is neither answered nor UNAVAILABLE.
    """
    end = asyncio.get_running_loop().time() + AWAY_SECONDS
    while asyncio.get_running_loop().time() < end:
        async with installation.channel() as channel:
            try:
                await PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id=pipeline_id), timeout=ANSWER_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                answers[error.code()] += 1
            else:
                answers[grpc.StatusCode.OK] += 1
        await asyncio.sleep(1)


async def test_an_etcd_that_is_killed_and_compacted(installed: Install, plane: ControlPlane) -> None:
    """Every watch is too old (410) and begins with a list: nothing that happened meanwhile is missed, made twice, lost or doubled."""
    installation = await asyncio.to_thread(installed, LONG_LEASE)
    load = Load(Clients(installation), "compacted")
    watched = {"scaler": {"pods", "leases"}, "pipeline-executor": {"pipelineruns", "leases"}}
    async with asyncio.timeout(1000), watching_pods(installation) as pods:
        await load.calm()
        async with attached(installation, "compacted-onlooker") as onlooker, load.going():
            await asyncio.to_thread(plane.compact_etcd)
            await load.begun(3)
            for component, resources in watched.items():
                async with asyncio.timeout(60):
                    while not resources <= await asyncio.to_thread(expired, installation, component):
                        await asyncio.sleep(1)
            await onlooker.sees_the_end()
    load.check(pods)


def expired(installation: Installation, component: str) -> set[str]:
    """The resources whose watch was too old for the API server, since the component's process began."""
    found = re.findall(r'^otto_kube_watch_lists_total\{resource="(\w+)",why="expired"\} ([\d.]+)', installation.metrics(component), re.M)
    return {resource for resource, count in found if float(count)}
