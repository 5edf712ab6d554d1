"""A run's trace from a real cluster: spans of three services and of a worker, received by a collector outside of it."""

import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

from ottoscaler.v1.log_pb2 import WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageStatus

from ..tracing.rotel import Received, needed, rotel
from .conftest import Install
from .installation import RELEASE, Installation, said

pytestmark = [needed, pytest.mark.cluster, pytest.mark.timeout(900)]
SHOWN = """
echo "trace $TRACEPARENT"
echo "to $OTEL_EXPORTER_OTLP_ENDPOINT by $OTEL_EXPORTER_OTLP_PROTOCOL for $OTEL_RESOURCE_ATTRIBUTES"
env | grep -c HEADERS
"""


def our_address() -> str:
    """Of this machine, as the cluster's nodes reach it."""
    node = said("kubectl", "get", "nodes", "--output", 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((node, 1))  # sends nothing
        address: str = towards.getsockname()[0]
        return address


def serving_pod(here: Installation, component: str) -> dict[str, Any]:
    """Not one that the upgrade has just replaced."""
    (pod,) = (pod for pod in here.pods(component) if "deletionTimestamp" not in pod["metadata"])
    return pod


async def test_a_runs_trace_names_pods_and_goes_through_the_front_door(installed: Install, tmp_path: Path) -> None:
    """Below the caller's span as it came through Envoy; services and workers say which pods they are; a Secret's headers reach no worker;
    a kill of the executor leaves no gap.
    """
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    host = our_address()
    async with rotel(tmp_path, host) as collector:
        here = installed(
            f"tracing.endpoint={collector.address}",
            f"tracing.workers.endpoint={collector.http}",
            "tracing.workers.protocol=http/protobuf",
            "tracing.resourceAttributes.deployment\\.environment\\.name=test",
        )
        here.kubectl("create", "secret", "generic", "collector", "--from-literal=headers=api-key=abc")
        here.upgrade("tracing.headersSecret.name=collector")
        stages = [
            PipelineStage(
                stage_id="flaky",
                command=["sh", "-c"],
                args=[f'{SHOWN}test "$OTTO_ATTEMPT" = 2'],
                retry_policy=RetryPolicy(max_attempts=1),
            ),
            PipelineStage(stage_id="last", command=["sh", "-c"], args=["echo done"], depends_on=["flaky"]),
        ]
        request = PipelineRequest(pipeline_id=f"traced-{secrets.token_hex(4)}", name="Traced", stages=stages)
        pods = {one: serving_pod(here, one) for one in ("scaler", "pipeline-executor", "log-relay")}
        workers: dict[str, str] = {}
        async with here.channel() as channel:
            async for message in OttoscalerServiceStub(channel).ExecutePipeline(
                request, metadata=(("traceparent", f"00-{trace}-{span}-01"),)
            ):
                for name in message.worker_pod_names:
                    workers[message.stage_id] = name
            assert message.status == StageStatus.STAGE_COMPLETED
            here.kill(pods["pipeline-executor"]["metadata"]["name"])
            lines = [
                line.message
                async for line in LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=workers["flaky"]))
            ]

        def complete(spans: list[Received]) -> bool:
            names = [one.name for one in {one.id: one for one in spans if one.trace == trace}.values()]
            return "RUN Traced" in names and names.count("collect logs") == 3 and names.count("deliver logs") == 1

        await here.serves()
        spans = {one.id: one for one in await collector.until(complete, "the run with its lines") if one.trace == trace}
    (run,) = (one for one in spans.values() if one.name == "RUN Traced")
    assert run.parent == span
    flaky, last = (next(one for one in spans.values() if one.name == name) for name in ("flaky", "last"))
    assert {flaky.parent, last.parent} == {run.id}
    told = {one.attributes["ottoscaler.attempt"]: one for one in spans.values() if one.name == "worker flaky"}
    assert (told["1"].status, told["2"].links) == ("STATUS_CODE_ERROR", [(trace, told["1"].id)])
    worker = told["2"]
    pod = next(pod for pod in here.pods("worker") if pod["metadata"]["name"] == workers["flaky"])
    assert {
        name: worker.attributes[f"k8s.{name}"] for name in ("pod.name", "pod.uid", "node.name", "namespace.name", "container.name")
    } == {
        "pod.name": workers["flaky"],
        "pod.uid": pod["metadata"]["uid"],
        "node.name": pod["spec"]["nodeName"],
        "namespace.name": here.namespace,
        "container.name": "worker",
    }
    assert lines[0] == f"trace 00-{trace}-{worker.id}-01"
    assert lines[1].startswith(f"to {collector.http} by http/protobuf for cicd.pipeline.run.id={request.pipeline_id},")
    assert lines[2:] == ["0"]
    by = {one.resource["service.name"]: one.resource for one in spans.values()}
    assert set(by) == {"scaler", "pipeline-executor", "log-relay"}
    for service, resource in by.items():
        metadata = pods[service]["metadata"]
        assert (resource["k8s.pod.name"], resource["k8s.pod.uid"]) == (metadata["name"], metadata["uid"])
        assert (resource["k8s.namespace.name"], resource["k8s.node.name"]) == (here.namespace, pods[service]["spec"]["nodeName"])
        kind = "statefulset" if service == "log-relay" else "deployment"
        assert (resource[f"k8s.{kind}.name"], resource["deployment.environment.name"]) == (f"{RELEASE}-ottoscaler-{service}", "test")
    assert [one.name for one in spans.values() if one.parent not in {span, *spans}] == []
