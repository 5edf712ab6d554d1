"""The life of a server: ports, health, background work that fails, a stop that is cancelled."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otto_runtime.addresses import parse
from otto_runtime.launch import host
from otto_runtime.server import Component, PortTaken, bound
from otto_runtime.settings import RuntimeSettings
from otto_runtime.tasks import EndedUnexpectedly
from otto_runtime.telemetry import MetricsPortTaken

from .conftest import Ready, Serve

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, service: str) -> Any:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return answer.status


async def test_not_serving_until_ready(serve: Serve) -> None:
    """Health is NOT_SERVING, per service and as a whole, until background work says ready; calls are taken before."""
    release = asyncio.Event()

    async def run(ready: Ready) -> None:
        await release.wait()
        ready()
        ready()
        await asyncio.Event().wait()

    async def unary(request: bytes, context: Any) -> bytes:
        return b"answer"

    async with serve(unary=unary, run=run) as trial:
        assert await health_of(trial.channel, "") == NOT_SERVING
        assert await health_of(trial.channel, "test.Trial") == NOT_SERVING
        assert await trial.unary()(b"") == b"answer"
        watch = health_pb2_grpc.HealthStub(trial.channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == NOT_SERVING
        release.set()
        assert (await watch.read()).status == SERVING
        assert await health_of(trial.channel, "test.Trial") == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health_of(trial.channel, "test.Unknown")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_whole_serves_when_every_part_does() -> None:
    """With several components in one server, the empty name is SERVING only when all are ready."""
    releases = {"one": asyncio.Event(), "two": asyncio.Event()}

    def component(name: str) -> Component:
        async def run(ready: Ready) -> None:
            await releases[name].wait()
            ready()
            await asyncio.Event().wait()

        return Component(name, (f"test.{name}",), lambda server: None, run)

    stop = asyncio.Event()
    async with bound(RuntimeSettings(listen="127.0.0.1:0")) as server:
        serving = asyncio.create_task(server.serve([component("one"), component("two")], stop))
        async with grpc.aio.insecure_channel(server.address) as channel:
            await channel.channel_ready()
            first = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="test.one"))
            whole = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert [(await first.read()).status, (await whole.read()).status] == [NOT_SERVING, NOT_SERVING]
            releases["one"].set()
            assert (await first.read()).status == SERVING
            assert await health_of(channel, "") == NOT_SERVING
            releases["two"].set()
            assert (await whole.read()).status == SERVING
            stop.set()
            await serving


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_background_work_that_ends_stops_the_server_in_stages(serve: Serve, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Open streams end with OK, not with an error, then `serve` raises what went wrong."""
    release = asyncio.Event()

    async def run(ready: Ready) -> None:
        ready()
        await release.wait()
        if how == "raises":
            raise OSError(28, "disk full")

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with serve(stream=stream, run=run) as trial:
        call = trial.stream()(b"")
        assert await call.read() == b"first"
        release.set()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        with pytest.raises(OSError if how == "raises" else EndedUnexpectedly, match=r"disk full|trial ended"):
            await trial.serving
        assert trial.closed == ["root"]
    assert "runtime.part_ended" in caplog.messages


async def test_every_failure_is_raised() -> None:
    """Two parts that fail are both told, as a group."""

    def component(name: str) -> Component:
        async def run(ready: Ready) -> None:
            raise ValueError(name)

        return Component(name, (f"test.{name}",), lambda server: None, run)

    async with bound(RuntimeSettings(listen="127.0.0.1:0")) as server:
        with pytest.raises(ExceptionGroup) as error:
            await server.serve([component("one"), component("two")], asyncio.Event())
        assert {str(e) for e in error.value.exceptions} == {"one", "two"}


async def test_a_cancelled_server_ends_at_once(serve: Serve) -> None:
    """Cancellation skips the stages: no grace, background work and root are still closed."""
    ended = asyncio.Event()

    async def run(ready: Ready) -> None:
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def unary(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with serve(unary=unary, run=run, settings={"stop_grace": 60.0}) as trial:
        call = trial.unary()(b"")
        trial.serving.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await trial.serving
        assert ended.is_set()
        assert trial.closed == ["root"]
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_taken_port_is_said_with_its_variable() -> None:
    """A second server on the same port names the variable, the address and what to do."""
    async with bound(RuntimeSettings(listen="127.0.0.1:0")) as first:
        with pytest.raises(PortTaken, match=rf"OTTO_LISTEN={first.address}: .*another instance"):
            async with bound(RuntimeSettings(listen=first.address)):
                pass


async def test_a_taken_metrics_port_is_said_with_its_variable() -> None:
    """The port of /metrics too."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        runtime = RuntimeSettings(listen="127.0.0.1:0", metrics_listen=f"127.0.0.1:{holder.getsockname()[1]}")
        with pytest.raises(MetricsPortTaken, match=r"OTTO_METRICS_LISTEN=127\.0\.0\.1:"):
            await host("trial", runtime, lambda *_: [], asyncio.Event())


@pytest.mark.parametrize("everywhere", ["0.0.0.0:0", "[::]:0"])
async def test_every_interface_is_dialled_by_loopback(everywhere: str) -> None:
    """The address that is given to clients on this machine can be dialled, also when every interface is listened on."""
    async with bound(RuntimeSettings(listen=everywhere)) as server:
        assert server.address.startswith("127.0.0.1:")
        assert not server.address.endswith(":0")


@pytest.mark.parametrize(
    ("text", "host_part", "port"),
    [
        ("127.0.0.1:9090", "127.0.0.1", 9090),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "[::1]", 65535),
        (" a.b:1 ", "a.b", 1),
        ("[10.0.0.7]:1", "10.0.0.7", 1),
    ],
)
def test_addresses(text: str, host_part: str, port: int) -> None:
    """HOST:PORT in all its forms."""
    assert parse(text) == (host_part, port)


@pytest.mark.parametrize(
    "text", ["", "abc", "9090", ":9090", "1.2.3.4:99999", "1.2.3.4:-1", "1.2.3.4:x", "::1:9090", "h:1:2", "http://h:1", "h: 1"]
)
def test_what_is_no_address_is_said_in_words(text: str) -> None:
    """Where gRPC would listen on port 443 for `127.0.0.1` and on 65535 for `:-1`, we say what an address looks like."""
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        parse(text)
