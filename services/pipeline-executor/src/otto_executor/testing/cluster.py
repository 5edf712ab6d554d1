"""PipelineRuns for tests: in a fake cluster, or in a real one that OTTO_TEST_KUBECONFIG names."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from otto_executor.errors import StoreUnavailableError
from otto_executor.stores.kubernetes import KubernetesStore, watched
from otto_executor.stores.pipelinerun import WHOLE
from otto_executor.translate_spec import spec_of
from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.connecting import connect
from otto_kubekit.errors import NotFoundError
from otto_kubekit.kinds import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster
from otto_runtime.tasks import Backoff


@asynccontextmanager
async def fake_cluster() -> AsyncIterator[FakeCluster]:
    """A fake cluster that knows PipelineRuns."""
    async with FakeCluster() as cluster:
        cluster.define(WHOLE)
        yield cluster


@asynccontextmanager
async def real_cluster(definition: Mapping[str, Any]) -> AsyncIterator[Client]:
    """A client of the real cluster, which is given the definition of PipelineRuns, in a namespace of its own that is deleted afterwards.

    Raises KeyError if OTTO_TEST_KUBECONFIG names none.
    """
    namespace = f"executor-{uuid.uuid4().hex[:8]}"
    async with connect(KubeSettings(config=os.environ["OTTO_TEST_KUBECONFIG"]), namespace) as client:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        await client.apply(CUSTOM_RESOURCE_DEFINITIONS, definition["metadata"]["name"], definition, field_manager="tests")
        try:
            backoff = Backoff(0.05, 0.5)
            async with asyncio.timeout(30):
                while not await _served(client):
                    await backoff.wait()
            yield client
        finally:
            # What nobody lets go of any more would keep the namespace for ever.
            for run in (await client.list(WHOLE)).items:
                await client.patch(WHOLE, run.metadata.name, merge({"metadata": {"finalizers": []}}))
            await client.delete(NAMESPACES, namespace)


async def _served(client: Client) -> bool:
    try:
        await client.list(WHOLE)
    except NotFoundError:
        return False
    return True


@asynccontextmanager
async def store_over(client: Client, instance: str = "ottoscaler") -> AsyncIterator[KubernetesStore]:
    """A store that has read the client's namespace."""
    store = KubernetesStore(client, instance, spec_of)
    async with watched(store):
        backoff = Backoff(0.005, 0.1)
        while True:
            try:
                await store.unfinished()
                break
            except StoreUnavailableError:
                await backoff.wait()
        yield store


@asynccontextmanager
async def store_in(cluster: FakeCluster, instance: str = "ottoscaler") -> AsyncIterator[KubernetesStore]:
    """A store of the fake cluster, with a connection of its own, as another process has one."""
    async with cluster.client(timeout=5.0) as client, store_over(client, instance) as store:
        yield store
