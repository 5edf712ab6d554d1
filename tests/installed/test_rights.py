"""What the Roles of a release allow is what its services ask for, and nothing else."""

import asyncio
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from otto_kubekit.kinds import POD_METRICS
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage
from ottoscaler.v1.worker_pb2 import SecretEnv

from ..patient_clients import Clients
from .conftest import Install
from .installation import CHART, Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
RIGHTS = yaml.safe_load((CHART / "files/rights.yaml").read_text())
SELDOM = {
    "scaler": {("get", "leases"), ("get", "pods"), ("list", "events")},
    "pipeline-executor": {("get", "leases")},
    "log-relay": set[tuple[str, str]](),
}
"""Asked after a conflict only, and of a pod that says nothing of why it does not start."""
METRICS = POD_METRICS.group
SHORT_LIVES = (
    "scaler.settings.usage_interval=1",
    "scaler.settings.finished_ttl=1",
    "executor.settings.workspace_retention=1",
    "executor.settings.run_retention=1",
    "executor.settings.retention_interval=1",
)


def requests(here: Installation, component: str) -> dict[tuple[str, str], set[str]]:
    """What a service has asked of the API server: verbs and resources, and the codes of the answers."""
    found: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(here.metrics(component)):
        if family.name == "otto_kube_request_duration_seconds":
            for sample in family.samples:
                found.setdefault((sample.labels["verb"], sample.labels["resource"]), set()).add(sample.labels["code"])
    return found


def granted(component: str) -> Iterator[tuple[str, str]]:
    for right in RIGHTS[component]:
        for verb in right["verbs"]:
            yield verb, f"{right['resource']}.{METRICS}" if right["group"] == METRICS else right["resource"]


async def test_every_right_is_used_and_none_is_missing(installed: Install) -> None:
    """After a life with all that runs do: nothing was answered with 403, and each verb of each Role was asked for by its service."""
    here = await asyncio.to_thread(installed, *SHORT_LIVES)
    await here.kubectl_soon("create", "secret", "generic", "known", "--from-literal=word=nobody-knows")
    clients = Clients(here)
    shell = ["sh", "-c"]
    secret = [SecretEnv(name="WORD", secret="known", key="word")]
    good = [
        PipelineStage(stage_id="first", command=shell, args=["echo $WORD > here"], secret_env=secret, config={"otto.workspace": "shared"}),
        PipelineStage(stage_id="second", command=shell, args=["cat here"], depends_on=["first"], config={"otto.workspace": "shared"}),
    ]
    endless = PipelineStage(stage_id="only", command=["sleep", "1000"])
    async with asyncio.timeout(400), here.channel() as channel:
        account = await clients.run(PipelineRequest(pipeline_id="good", stages=good))
        assert account.outcome()["second"][0] == "STAGE_COMPLETED"
        ended = False
        async for message in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="endless", stages=[endless])):
            if message.worker_pod_names and not ended:
                # A pod that runs is ended by a patch; one that no node has yet is deleted.
                await here.kubectl_soon("wait", "--for=condition=Ready", f"pod/{message.worker_pod_names[0]}", "--timeout=120s")
                await PipelineServiceStub(channel).CancelPipeline(CancelPipelineRequest(pipeline_id="endless"))
                ended = True
        while await asyncio.to_thread(here.workers) or await here.kubectl_soon("get", "pipelineruns", "--output", "name"):
            await asyncio.sleep(0.5)
    for component in RIGHTS:
        asked = await asyncio.to_thread(requests, here, component)
        assert [what for what, codes in asked.items() if "403" in codes] == []
        assert set(granted(component)) - asked.keys() <= SELDOM[component], component
        assert asked.keys() - set(granted(component)) <= {("get", "none")}, component  # of what is no resource, as /version
