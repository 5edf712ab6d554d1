"""The scaler composed over a cluster: settings in, pods out, and words for what can't be used."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from otto_kubekit import kinds
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster, local_process
from otto_kubekit.testing.resources import PODS
from otto_runtime.launch import StartError
from otto_runtime.settings import SettingsError, load
from otto_scaler.app import scaler_component
from otto_scaler.settings import Settings
from ottoscaler.v1 import ottoscaler_service_pb2 as pb
from ottoscaler.v1.worker_pb2 import OwnerReference, WorkerSpec

from .conftest import eventually, serving, until

TEMPLATE = "spec: {containers: [{name: worker, image: 'registry.example.com/tools:1'}]}"


def pod_settings(root: Path, **changes: Any) -> Settings:
    template = root / "worker.yaml"
    template.write_text(TEMPLATE)
    return Settings(**{"backend": "kubernetes", "worker_template": str(template), "instance": "a", **changes})


async def test_settings_make_a_scaler_over_pods(tmp_path: Path) -> None:
    """From a ScaleUp to the worker's end, through the API of a cluster; what it belongs to takes the pod along."""
    async with FakeCluster() as cluster:
        cluster.script = lambda _pod, _container: local_process
        kube = KubeSettings(config=str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        async with serving(pod_settings(tmp_path), kube=kube) as (stub, _, _):
            async with cluster.client() as client:
                run = await client.create(kinds.CONFIG_MAPS, {"metadata": {"name": "run"}})
            owner = OwnerReference(api_version="v1", kind="ConfigMap", name="run", uid=run.metadata.uid)
            worker = WorkerSpec(command=["sh", "-c", 'test "$OTTO_WORKER_INDEX" = 2'], owner=owner)
            answer = await stub.ScaleUp(pb.ScaleRequest(task_id="t", worker_count=2, worker=worker))
            assert answer.status == pb.ScaleResponse.SUCCESS
            names = list(answer.worker_pod_names)
            ended = await eventually(
                lambda: stub.GetWorkerStatus(pb.WorkerStatusRequest(task_id="t")), lambda s: s.succeeded_count + s.failed_count == 2
            )
            assert {w.pod_name: (w.status, w.exit_code) for w in ended.workers} == {names[0]: ("failed", 1), names[1]: ("succeeded", 0)}
            assert cluster.pod(names[0])["metadata"]["labels"]["ottoscaler.io/instance"] == "a"
            async with cluster.client() as client:
                await client.delete(kinds.CONFIG_MAPS, "run")
            await until(lambda: not cluster.storage.all(PODS))


async def test_what_pods_can_not_be_is_an_invalid_argument(tmp_path: Path) -> None:
    """Every problem at once, each by its field."""
    async with FakeCluster() as cluster:
        kube = KubeSettings(config=str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        async with serving(pod_settings(tmp_path, worker_template=""), kube=kube) as (stub, _, _):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.ScaleUp(
                    pb.ScaleRequest(task_id="t", worker_count=1, worker=WorkerSpec(workspace="ws", service_account_name="A B"))
                )
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            for words in (
                "worker.image: is empty",
                "worker.workspace: needs a PersistentVolumeClaim",
                "worker.service_account_name: 'A B'",
            ):
                assert words in str(raised.value.details())


@pytest.mark.parametrize(
    ("changes", "config", "words"),
    [
        ({"worker_template": "/nonexistent/worker.yaml"}, "", "OTTO_SCALER_WORKER_TEMPLATE: /nonexistent/worker.yaml can't be read"),
        ({}, "/nonexistent/kubeconfig", "OTTO_KUBE_CONFIG"),
    ],
    ids=["template", "kubeconfig"],
)
async def test_what_can_not_be_used_keeps_the_service_from_starting(
    tmp_path: Path, changes: dict[str, Any], config: str, words: str
) -> None:
    """With the setting and what is wrong."""
    with pytest.raises(StartError, match=words):
        async with scaler_component(pod_settings(tmp_path, **changes), "127.0.0.1:1", kube=KubeSettings(config=config)):
            pass


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BACKEND", "podman"),
        ("INSTANCE", "Two Words"),
        ("WORKSPACE_SIZE", "much"),
        ("WORKSPACE_ACCESS_MODE", "rw"),
        ("PENDING_TIMEOUT", "0"),
    ],
)
def test_a_setting_that_is_none_is_named(variable: str, value: str) -> None:
    """With what it has to be."""
    with pytest.raises(SettingsError, match=f"OTTO_SCALER_{variable}.*{value}"):
        load(Settings, "OTTO_SCALER", {f"OTTO_SCALER_{variable}": value})
