"""A store of PipelineRuns in a cluster, for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from otto_executor.errors import StoreUnavailableError
from otto_executor.stores.kubernetes import KubernetesStore, kubernetes_store
from otto_executor.stores.pipelinerun import WHOLE
from otto_executor.translate_spec import spec_of
from otto_kubekit.testing import FakeCluster
from otto_runtime.tasks import Backoff


@asynccontextmanager
async def fake_cluster() -> AsyncIterator[FakeCluster]:
    """A fake cluster that knows PipelineRuns."""
    async with FakeCluster() as cluster:
        cluster.define(WHOLE)
        yield cluster


@asynccontextmanager
async def store_in(cluster: FakeCluster, instance: str = "ottoscaler") -> AsyncIterator[KubernetesStore]:
    """A store that has read the cluster."""
    async with cluster.client(timeout=5.0) as client, kubernetes_store(client, instance, spec_of) as store:
        backoff = Backoff(0.005, 0.1)
        while True:
            try:
                await store.unfinished()
                break
            except StoreUnavailableError:
                await backoff.wait()
        yield store
