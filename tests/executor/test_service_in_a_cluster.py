"""The executor as it runs in a cluster: its settings name PipelineRuns, a kubeconfig says where."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from otto_executor.testing.cluster import fake_cluster
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster
from otto_runtime.launch import StartError
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, ListPipelinesRequest
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED, PipelineStage

from .test_kubernetes_store import thing

if TYPE_CHECKING:
    from .conftest import Bench


@pytest.fixture
async def cluster(bench: "Bench", tmp_path: Path) -> AsyncIterator[FakeCluster]:
    async with fake_cluster() as made:
        bench.kube = KubeSettings(config=str(made.kubeconfig(tmp_path / "kubeconfig.json")))
        bench.set(store="kubernetes", instance="ci", database=tmp_path / "never.sqlite")
        yield made


async def test_clients_notice_no_difference(bench: "Bench", cluster: FakeCluster) -> None:
    """A run of a client is a PipelineRun of the installation; after a restart its messages and its request are what they were."""
    request = PipelineRequest(
        pipeline_id="내 것", stages=[PipelineStage(stage_id="빌드"), PipelineStage(stage_id="b", depends_on=["빌드"])]
    )
    async with bench.executor() as executor:
        said: list[PipelineProgress] = [progress async for progress in executor.client.ExecutePipeline(request)]
        item = thing(cluster, (await _names(cluster))[0])
    assert (said[-1].status, item["status"]["state"]) == (STAGE_COMPLETED, "Completed")
    assert (item["spec"]["pipelineId"], item["metadata"]["labels"]["ottoscaler.io/instance"]) == ("내 것", "ci")
    async with bench.executor() as executor:
        listed = await executor.client.ListPipelines(ListPipelinesRequest())
        found = await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="내 것"))
        replayed = [progress async for progress in executor.client.ExecutePipeline(PipelineRequest(pipeline_id="내 것"))]
    assert [short.pipeline_id for short in listed.pipelines] == ["내 것"]
    assert found.request == request
    assert [(p.sequence, p.stage_id, p.status, p.message) for p in replayed] == [
        (p.sequence, p.stage_id, p.status, p.message) for p in said
    ]
    assert [p.timestamp for p in replayed] == [p.timestamp for p in said]
    assert not bench.settings.database.exists()


async def _names(cluster: FakeCluster) -> list[str]:
    resource = cluster.resources.find("ottoscaler.io", "v1alpha1", "pipelineruns")
    return [item["metadata"]["name"] for item in cluster.storage.all(resource, "default")]


async def test_a_cluster_that_can_not_be_used_is_told_at_the_start(bench: "Bench", tmp_path: Path) -> None:
    """A kubeconfig that is not there: the service does not start, and says why."""
    bench.set(store="kubernetes")
    bench.kube = KubeSettings(config=str(tmp_path / "missing"))
    with pytest.raises(StartError, match="the cluster that is to keep the runs can't be used"):
        async with bench.executor():
            pass
