"""A release without a front door behind a real Gateway: Contour's, by either kind of route."""

import asyncio
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogKind
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from ..patient_clients import AGAIN, Account, Clients
from ..quick import unless_quick
from .cluster_nodes import get, until
from .conftest import installing
from .contour import NAME, Gateway, gateway
from .installation import RELEASE, ROOT, Installation, said
from .shared_pipelines import run_shared_pipelines
from .test_diagnosis import findings

# alone, as its fixtures put kinds into the cluster that nobody else may have there: two workers of xdist would share these tests out
pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, unless_quick, pytest.mark.timeout(1500)]

KINDS = ("GRPCRoute", "HTTPRoute")
SERVICES = ("OttoscalerService", "PipelineService", "LogStreamingService", "OttoHandlerLogService")
ROUTE_DEFAULT = 15
"""Seconds after which a route of Envoy ends a call, unless it is told not to."""


def settings() -> dict[str, Any]:
    """Those that docs/gateway.md has for Contour."""
    (text,) = re.findall(r"^```yaml\n(timeouts:\n.*?)^```", (ROOT / "docs/gateway.md").read_text(), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def shared(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A Gateway that is there before anything is installed."""
    with gateway(kubeconfig, tmp_path_factory.mktemp("gateway"), settings()) as there:
        yield there


@pytest.fixture(scope="module")
def behind(shared: Gateway) -> Iterator[Installation]:
    """A release of two scalers behind it."""
    with installing() as install:
        parent = (f"gateway.parentRefs[0].name={NAME}", f"gateway.parentRefs[0].namespace={shared.namespace}")
        values = ("frontDoor.enabled=false", "gateway.enabled=true", *parent, "scaler.replicas=2")
        yield install(*values, address=shared.address)


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, behind: Installation) -> Installation:
    """The same with one kind of route, which leads to it."""
    await asyncio.to_thread(behind.upgrade, f"gateway.kind={request.param}")
    await asyncio.to_thread(until, lambda: set(conditions(behind, request.param).values()) == {"True"})
    await behind.serves()
    return behind


def conditions(here: Installation, kind: str) -> dict[str, str]:
    """What the Gateway says of the route as it is now."""
    route = get(kind, f"{RELEASE}-ottoscaler-gateway", "--namespace", here.namespace)
    told = [one for parent in route.get("status", {}).get("parents", []) for one in parent["conditions"]]
    return {one["type"]: one["status"] for one in told if one["observedGeneration"] == route["metadata"]["generation"]} or {"": "False"}


async def silent(here: Installation, name: str) -> tuple[str, list[str]]:
    """How a pipeline ended that says nothing for longer than a route lasts by itself, and its lines, by one call each."""
    script = f"echo begins; sleep {ROUTE_DEFAULT + 5}; echo ends"
    stage = PipelineStage(stage_id="only", command=["sh", "-c"], args=[script])
    await Clients(here).submit(PipelineRequest(pipeline_id=name, stages=[stage]))
    async with here.channel() as channel, asyncio.timeout(180):
        progress = OttoscalerServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=name))
        entries = LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id=name))
        statuses = [StageStatus.Name(message.status) async for message in progress]
        return statuses[-1], [entry.entry.message async for entry in entries if entry.kind == BuildLogKind.BUILD_LOG_KIND_LINE]


async def test_every_service_is_found_by_its_route(here: Installation) -> None:
    """The Gateway has accepted it; each service says its health, is listed by reflection and answers; so do both scalers."""
    async with here.channel() as channel:
        check = HealthStub(channel).Check
        for name in SERVICES:
            service = f"ottoscaler.v1.{name}"
            answer = await check(HealthCheckRequest(service=service), metadata=[("otto-service", service)], timeout=20)
            assert answer.status == HealthCheckResponse.SERVING
        stub = OttoscalerServiceStub(channel)
        for _ in range(10):
            assert (await stub.GetWorkerStatus(WorkerStatusRequest(), timeout=20)).total_count >= 0
    grpcurl = (str(Path(sys.executable).with_name("grpcurl")), "-plaintext", "-max-time", "20")
    assert {f"ottoscaler.v1.{name}" for name in SERVICES} <= set(said(*grpcurl, here.address, "list").split())
    for call, data in (
        ("PipelineService/ListPipelines", "{}"),
        ("LogStreamingService/RegisterWorker", '{"worker_id": "w"}'),
        ("OttoHandlerLogService/NotifyWorkerStatus", '{"worker_id": "w", "status": "COMPLETED"}'),
    ):
        said(*grpcurl, "-d", data, here.address, f"ottoscaler.v1.{call}")
    _, found = await findings(here)
    assert {finding["level"] for finding in found["health"]} == {"ok"}, found["health"]
    asked = [
        re.findall(r"^otto_rpc_server_duration_seconds_count\{.*GetWorkerStatus.*\} (\S+)", told, re.MULTILINE)
        for told in here.metrics_of_all("scaler")
    ]
    assert len(asked) == 2
    assert all(sum(map(float, counts)) > 0 for counts in asked), asked


async def test_pipelines_run_as_they_do_behind_a_front_door(here: Installation) -> None:
    """The shared ones, with clients that attach again where the Gateway has ended a stream."""
    await run_shared_pipelines(here)


@pytest.mark.parametrize("here", ["HTTPRoute"], indirect=True)
async def test_a_silent_stream_lasts_as_long_as_its_pipeline(here: Installation) -> None:
    """One call each of its progress and of its lines shows all of it, longer than a route of Envoy lasts by itself."""
    assert await silent(here, f"silent-{secrets.token_hex(3)}") == ("STAGE_COMPLETED", ["begins", "ends"])


@pytest.mark.parametrize("here", ["GRPCRoute"], indirect=True)
async def test_a_grpc_route_can_not_make_a_stream_last(here: Installation) -> None:
    """Where the Gateway has a time for calls, as docs/gateway.md says of Contour, the stream breaks and the pipeline does not."""
    account = Account(f"silent-{secrets.token_hex(3)}")
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await silent(here, account.pipeline_id)
    assert broken.value.code() in AGAIN
    async with asyncio.timeout(180):
        await Clients(here).follow_progress(account)
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
