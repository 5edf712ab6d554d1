"""A real Envoy with the chart's own configuration, in front of the three services."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from otto_runtime.calls import Calls
from otto_runtime.handing import HOP, STOPS
from otto_runtime.settings import RuntimeSettings
from otto_runtime.telemetry import CALLER
from ottoscaler.v1 import (
    log_pb2,
    log_streaming_service_pb2_grpc,
    ottoscaler_service_pb2,
    ottoscaler_service_pb2_grpc,
    pipeline_pb2,
    pipeline_service_pb2,
    pipeline_service_pb2_grpc,
)

from .apart import Apart, apart
from .envoy import FrontDoor, front_door

SCALER, EXECUTOR, RELAY = "ottoscaler.v1.OttoscalerService", "ottoscaler.v1.PipelineService", "ottoscaler.v1.LogStreamingService"
HANDLER = "ottoscaler.v1.OttoHandlerLogService"
OWNERS = {SCALER: "scaler", EXECUTOR: "pipeline-executor", RELAY: "log-relay", HANDLER: "log-relay"}
GRPCURL = Path(sys.executable).parent / "grpcurl"
SECONDS = 60.0
QUICK = ("--set", "frontDoor.healthCheck.interval=0.2s")
ROUTE_DEFAULT = 15.0
"""Seconds after which a route of Envoy ends a call, unless it is told not to."""


class Door:
    """Envoy, the services behind it, and a channel to it."""

    def __init__(self, envoy: FrontDoor, services: Apart, channel: grpc.aio.Channel) -> None:
        self.envoy = envoy
        self.services = services
        self.scaler = ottoscaler_service_pb2_grpc.OttoscalerServiceStub(channel)
        self.executor = pipeline_service_pb2_grpc.PipelineServiceStub(channel)
        self.relay = log_streaming_service_pb2_grpc.LogStreamingServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    async def health(self, service: str) -> Any:
        """What the front door says about a service: a status, or the code of an error."""
        try:
            return (await self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status
        except grpc.aio.AioRpcError as error:
            return error.code()

    async def until(self, service: str, *wanted: Any) -> None:
        """Waits until that is one of those that are wanted."""
        async with asyncio.timeout(SECONDS):
            while await self.health(service) not in wanted:
                await asyncio.sleep(0.05)


SERVING = health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Door]:
    """All of it, SERVING."""
    async with (
        apart(directory) as services,
        front_door(directory, services.addresses, *QUICK) as envoy,
        grpc.aio.insecure_channel(envoy.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        door = Door(envoy, services, channel)
        for service in OWNERS:
            await door.until(service, SERVING)
        await door.until("", SERVING)
        yield door


async def test_health_is_the_owners_and_that_of_all_is_everybodys(tmp_path: Path) -> None:
    """A question about a service is answered by its owner; the one about none is SERVING while all three are."""
    async with opened(tmp_path) as door:
        assert await door.health("somebody.else.v1.Service") == grpc.StatusCode.NOT_FOUND
        await door.services.end("log-relay", signal.SIGKILL)
        await door.until(RELAY, grpc.StatusCode.UNAVAILABLE)
        assert await door.health(HANDLER) == grpc.StatusCode.UNAVAILABLE
        assert await door.health("") == grpc.StatusCode.UNAVAILABLE
        assert [await door.health(SCALER), await door.health(EXECUTOR)] == [SERVING, SERVING]
        assert (await door.scaler.GetWorkerStatus(ottoscaler_service_pb2.WorkerStatusRequest(), timeout=10)).total_count == 0
        await door.services.start("log-relay")
        await door.until("", SERVING)


async def test_who_serves_again_is_sent_calls_at_once(tmp_path: Path) -> None:
    """Who is not SERVING is asked more often than who is: the front door does not let callers wait for a service that is there."""
    checks = [f"frontDoor.healthCheck.{word}" for word in ("interval=600s", "unhealthyInterval=0.2s")]
    async with apart(tmp_path) as services:
        await services.end("log-relay", signal.SIGKILL)
        async with (
            front_door(tmp_path, services.addresses, "--set", ",".join(checks)) as envoy,
            grpc.aio.insecure_channel(envoy.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            door = Door(envoy, services, channel)
            await door.until(RELAY, grpc.StatusCode.UNAVAILABLE)
            await services.start("log-relay")
            await door.until(RELAY, SERVING)


@pytest.mark.parametrize(("ipv6", "hosts"), [("true", {"127.0.0.1", "::1"}), ("false", {"127.0.0.1"})], ids=["both", "IPv4 alone"])
async def test_it_listens_on_ipv4_and_ipv6(tmp_path: Path, ipv6: str, hosts: set[str]) -> None:
    """In clusters of either kind and of both, unless told that nodes have no IPv6: its three ports, all in the same way."""
    services = dict.fromkeys(("scaler", "pipeline-executor", "log-relay"), "127.0.0.1:1")
    async with front_door(tmp_path, services, "--set", f"ipv6={ipv6}", everywhere=True) as envoy:
        for host in ("127.0.0.1", "::1"):
            answers = [
                (await envoy.get(port, path, host=host))[0]
                for port, path in ((envoy.self_port, "/ready"), (envoy.metrics_port, "/metrics"))
            ]
            assert answers == ([200, 200] if host in hosts else [0, 0])


async def test_grpcurl_finds_every_service_and_calls_it(tmp_path: Path) -> None:
    """Reflection through the front door lists the services of all three, and a call of each reaches its owner."""
    async with opened(tmp_path) as door:

        async def grpcurl(*arguments: str) -> str:
            process = await asyncio.create_subprocess_exec(
                str(GRPCURL), "-plaintext", "-max-time", "20", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            output, _ = await process.communicate()
            assert process.returncode == 0, output.decode()
            return output.decode()

        address = door.envoy.address
        assert set(OWNERS) <= set((await grpcurl(address, "list")).split())
        for service, method, data in (
            (SCALER, "GetWorkerStatus", "{}"),
            (EXECUTOR, "ListPipelines", "{}"),
            (RELAY, "RegisterWorker", '{"worker_id": "w"}'),
            (HANDLER, "NotifyWorkerStatus", '{"worker_id": "w", "status": "COMPLETED"}'),
        ):
            await grpcurl("-d", data, address, f"{service}/{method}")
        async with asyncio.timeout(SECONDS):
            while len(reached := {line["method"]: line["backend"] for line in door.envoy.access() if "/ottoscaler" in line["method"]}) < 4:
                await asyncio.sleep(0.05)
        assert {method.split("/")[1]: backend for method, backend in reached.items()} == OWNERS


async def test_a_stream_outlives_every_timeout_of_a_proxy(tmp_path: Path) -> None:
    """A pipeline that says nothing for longer than Envoy's own limit for a call is shown to its end."""
    async with opened(tmp_path) as door:
        request = pipeline_pb2.PipelineRequest(pipeline_id="slow")
        request.stages.add(stage_id="only", command=["sleep", str(int(ROUTE_DEFAULT) + 3)])
        statuses = [progress.status async for progress in door.scaler.ExecutePipeline(request)]
        assert statuses[-1] == 2  # COMPLETED, by the empty stage


async def test_streams_end_with_ok_when_their_service_stops(tmp_path: Path) -> None:
    """Each of 21 open streams ends with OK when its service gets SIGTERM, and the service comes back at the same address."""
    async with opened(tmp_path) as door:
        request = pipeline_pb2.PipelineRequest(pipeline_id="long")
        request.stages.add(stage_id="only", command=["sleep", "600"])

        def streams(name: str) -> list[Any]:
            if name == "scaler":
                return [door.scaler.WatchWorkers(ottoscaler_service_pb2.WatchWorkersRequest()) for _ in range(7)]
            if name == "pipeline-executor":
                return [door.executor.WatchPipeline(pipeline_service_pb2.WatchPipelineRequest(pipeline_id="long")) for _ in range(7)]
            return [door.relay.StreamBuildLogs(log_pb2.BuildIdentifier(pipeline_id="long")) for _ in range(7)]

        first = door.scaler.ExecutePipeline(request)
        assert await first.read()
        for name in ("log-relay", "scaler", "pipeline-executor"):
            service = next(service for service, owner in OWNERS.items() if owner == name)
            opened_streams = streams(name)
            for stream in opened_streams:
                assert await stream.read()  # it is open at the service, not only on its way
            assert await door.services.end(name) == 0
            for stream in opened_streams:
                async with asyncio.timeout(SECONDS):
                    while await stream.read() is not grpc.aio.EOF:
                        pass
                    assert await stream.code() == grpc.StatusCode.OK
            await door.services.start(name)
            await door.until(service, SERVING)
        await door.executor.CancelPipeline(pipeline_service_pb2.CancelPipelineRequest(pipeline_id="long"), timeout=30)


async def test_a_killed_service_is_back_at_the_same_address(tmp_path: Path) -> None:
    """After kill -9 callers get an error at once, never a hang, and answers again when it is back."""
    async with opened(tmp_path) as door:
        stream = door.scaler.WatchWorkers(ottoscaler_service_pb2.WatchWorkersRequest())
        assert await stream.read()
        await door.services.end("scaler", signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            with pytest.raises(grpc.aio.AioRpcError) as broken:
                await stream.read()
        assert broken.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.scaler.GetWorkerStatus(ottoscaler_service_pb2.WorkerStatusRequest(), timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        await door.services.start("scaler")
        await door.until(SCALER, SERVING)
        await door.scaler.GetWorkerStatus(ottoscaler_service_pb2.WorkerStatusRequest(), timeout=20)


class Stopping(grpc.aio.ServerInterceptor):
    """The executor's place taken by a service that is in the middle of its stop for the first calls."""

    def __init__(self, refusals: int) -> None:
        self.calls = Calls(RuntimeSettings())
        self.calls.add_beginnings({f"{EXECUTOR}/ExecutePipeline": bool})
        self.came = 0
        self.metadata: dict[str, Any] = {}
        self._refusals = refusals

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Comes before the service's own interceptor, and counts."""
        if EXECUTOR in handler_call_details.method:
            self.came += 1
            self.calls.draining = self.came <= self._refusals
        return await continuation(handler_call_details)

    def handlers(self) -> grpc.GenericRpcHandler:
        """One call that begins something, and one that does not."""

        async def execute(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield request

        async def get(request: bytes, context: Any) -> bytes:
            self.metadata = dict(context.invocation_metadata())
            if b"full" in request:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the disk is full")
            return b""

        methods: dict[str, Any] = {
            "ExecutePipeline": grpc.unary_stream_rpc_method_handler(execute),
            "GetPipeline": grpc.unary_unary_rpc_method_handler(get),
        }
        return grpc.method_handlers_generic_handler(EXECUTOR, methods)


@asynccontextmanager
async def behind_a_door(directory: Path, service: Stopping) -> AsyncIterator[Any]:
    """It serves behind Envoy; a stub of it."""
    server = grpc.aio.server(interceptors=[service, service.calls])
    server.add_generic_rpc_handlers((service.handlers(),))
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set(EXECUTOR, SERVING)
    addresses = dict.fromkeys(("scaler", "log-relay"), "127.0.0.1:1")
    addresses["pipeline-executor"] = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with front_door(directory, addresses, *QUICK) as envoy, grpc.aio.insecure_channel(envoy.address) as channel:
            yield pipeline_service_pb2_grpc.PipelineServiceStub(channel)
    finally:
        await server.stop(None)


async def test_what_a_stopping_service_has_not_done_is_sent_again(tmp_path: Path) -> None:
    """Nobody notices that the service was about to go when the call came, be it a stream that begins something or not."""
    service = Stopping(refusals=3)
    async with behind_a_door(tmp_path, service) as executor:
        stream = executor.ExecutePipeline(pipeline_pb2.PipelineRequest(pipeline_id="p"), wait_for_ready=True, timeout=SECONDS)
        assert [message.pipeline_id async for message in stream] == ["p"]
        assert service.came == 4
        service.came = 0
        await executor.GetPipeline(pipeline_service_pb2.GetPipelineRequest(pipeline_id="p"), timeout=SECONDS)
        assert service.came == 4


async def test_what_a_service_refuses_for_another_reason_is_not_sent_again(tmp_path: Path) -> None:
    """It may have done something, or be no better off for it."""
    service = Stopping(refusals=0)
    async with behind_a_door(tmp_path, service) as executor:
        with pytest.raises(grpc.aio.AioRpcError, match="the disk is full"):
            await executor.GetPipeline(pipeline_service_pb2.GetPipelineRequest(pipeline_id="full"), wait_for_ready=True, timeout=SECONDS)
        assert service.came == 1


async def test_nobody_passes_for_a_replica(tmp_path: Path) -> None:
    """What replicas say to each other in metadata is taken off a call that comes from outside; all else in it arrives."""
    service = Stopping(refusals=0)
    forged = {CALLER: "a", HOP: "10.0.0.9:9090", STOPS: "10.0.0.9:9090"}
    async with behind_a_door(tmp_path, service) as executor:
        request = pipeline_service_pb2.GetPipelineRequest(pipeline_id="p")
        await executor.GetPipeline(request, metadata=(*forged.items(), ("otto-other", "b")), wait_for_ready=True, timeout=SECONDS)
    assert service.metadata["otto-other"] == "b"
    assert not forged.keys() & service.metadata.keys()


async def test_more_calls_at_a_time_than_envoy_allows_by_itself(tmp_path: Path) -> None:
    """1,500 streams are opened at once: by default a cluster of Envoy's takes 1,024, and a server of gRPC's drops some beyond 1,000."""
    async with opened(tmp_path) as door:
        streams = [door.scaler.WatchWorkers(ottoscaler_service_pb2.WatchWorkersRequest()) for _ in range(1500)]
        async with asyncio.timeout(SECONDS):
            for stream in streams:
                assert await stream.read() is not grpc.aio.EOF
        for stream in streams:
            stream.cancel()


async def test_metrics_are_read_and_nothing_else_of_the_admin_interface(tmp_path: Path) -> None:
    """/metrics answers Prometheus; what could stop or change Envoy is not there."""
    addresses = dict.fromkeys(("scaler", "pipeline-executor", "log-relay"), "127.0.0.1:1")
    async with front_door(tmp_path, addresses) as envoy:
        status, body = await envoy.get(envoy.metrics_port, "/metrics")
        assert status == 200
        assert "envoy_cluster_upstream_rq_total" in body
        for port in (envoy.metrics_port, envoy.self_port):
            for path in ("/quitquitquit", "/config_dump", "/stats/prometheus", "/metrics/../quitquitquit", "/ready/../quitquitquit"):
                for method in ("GET", "POST"):
                    assert (await envoy.get(port, path, method))[0] in {400, 404}, path
        assert (await envoy.get(envoy.metrics_port, "/metrics", "POST"))[0] == 404
        assert envoy.admin.stat().st_mode & 0o777 == 0o600
        assert (await envoy.get(envoy.self_port, "/ready"))[0] == 200
