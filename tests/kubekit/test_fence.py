"""A fence: what may change nothing now changes nothing, however far a request had come."""

import asyncio

import pytest

from otto_kubekit.errors import FencedError, KubeError
from otto_kubekit.kinds import CONFIG_MAPS
from otto_kubekit.testing import FakeCluster


async def test_what_may_change_nothing_reads_and_writes_nothing() -> None:
    """Reading goes on; a change is refused before anything of it is sent."""
    async with FakeCluster() as cluster, cluster.client() as client:
        client.transport.fence = lambda: False
        with pytest.raises(FencedError):
            await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}})
        assert (await client.list(CONFIG_MAPS)).items == []
        assert [asked.method for asked in cluster.requests] == ["GET"]
        client.transport.fence = None
        await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}})


async def test_a_fence_that_falls_while_a_request_connects_holds_it_back() -> None:
    """It is asked once more when the connection is there, right before the body is written."""
    async with FakeCluster() as cluster, cluster.client() as client:
        answers = [True, False]
        client.transport.fence = lambda: answers.pop(0)
        with pytest.raises(KubeError):
            await asyncio.wait_for(client.create(CONFIG_MAPS, {"metadata": {"name": "one"}}), 30)
        client.transport.fence = None
        assert (await client.list(CONFIG_MAPS)).items == []
