"""Channels to other services: a deadline for every unary call, retries of what may be repeated, peers that come late."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_runtime.channels import dial, service_config
from otto_runtime.server import Component, bound
from otto_runtime.settings import RuntimeSettings
from ottoscaler.v1.ottoscaler_service_pb2 import DESCRIPTOR, WorkerStatusRequest, WorkerStatusResponse
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub

from .conftest import idle

SERVICE = DESCRIPTOR.services_by_name["OttoscalerService"]


class Flaky:
    """Answers after some failures."""

    def __init__(self, failures: int = 0, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, delay: float = 0.0) -> None:
        self.calls = 0
        self._failures = failures
        self._code = code
        self._delay = delay

    async def GetWorkerStatus(self, request: Any, context: Any) -> WorkerStatusResponse:  # noqa: N802 - the RPC's name
        self.calls += 1
        await asyncio.sleep(self._delay)
        if self.calls <= self._failures:
            await context.abort(self._code, "not now")
        return WorkerStatusResponse(total_count=self.calls)


@asynccontextmanager
async def running(servicer: Flaky, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The servicer in a server of ours."""
    stop = asyncio.Event()
    generic = grpc.method_handlers_generic_handler(
        SERVICE.full_name,
        {
            "GetWorkerStatus": grpc.unary_unary_rpc_method_handler(
                servicer.GetWorkerStatus, WorkerStatusRequest.FromString, WorkerStatusResponse.SerializeToString
            )
        },
    )
    component = Component("flaky", (SERVICE.full_name,), lambda server: server.add_generic_rpc_handlers((generic,)), idle)
    async with bound(RuntimeSettings(listen=listen)) as server:
        serving = asyncio.create_task(server.serve([component], stop))
        try:
            yield server.address
        finally:
            stop.set()
            await serving


def test_only_unary_methods_are_configured() -> None:
    """Retries hold for unary methods, not for streams; deadlines stand nowhere here, as gRPC counts such by a clock that may be set."""
    config = json.loads(service_config([SERVICE]))
    [method_config] = config["methodConfig"]
    names = {entry["method"] for entry in method_config["name"]}
    assert names == {"ScaleUp", "ScaleDown", "GetWorkerStatus", "ReleaseWorkers", "DeleteWorkspace"}
    assert "timeout" not in method_config


async def test_unavailable_is_retried() -> None:
    """A peer that says UNAVAILABLE a few times is asked again by the channel."""
    servicer = Flaky(failures=3)
    async with running(servicer) as address, dial(address, [SERVICE]) as channel:
        answer = await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
        assert answer.total_count == 4


async def test_other_errors_are_not() -> None:
    """What repeating would not change is told at once."""
    servicer = Flaky(failures=1, code=grpc.StatusCode.FAILED_PRECONDITION)
    async with running(servicer) as address, dial(address, [SERVICE]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert servicer.calls == 1


async def test_a_unary_call_has_a_deadline() -> None:
    """A peer that does not answer costs the timeout, whoever calls without one."""
    async with running(Flaky(delay=30)) as address, dial(address, [SERVICE], unary_timeout=0.2) as channel:
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 3


async def test_a_call_waits_for_a_peer_that_is_not_up_yet() -> None:
    """A unary call made before its peer listens is answered once it does; after a restart the channel finds it again."""
    async with bound(RuntimeSettings(listen="127.0.0.1:0")) as placeholder:
        address = placeholder.address
    async with dial(address, [SERVICE]) as channel:
        stub = OttoscalerServiceStub(channel)
        early = asyncio.ensure_future(stub.GetWorkerStatus(WorkerStatusRequest()))
        await asyncio.sleep(0.2)
        assert not early.done()
        for _ in range(2):
            async with running(Flaky(), address):
                async with asyncio.timeout(10):
                    assert (await early).total_count >= 1
                early = asyncio.ensure_future(stub.GetWorkerStatus(WorkerStatusRequest()))
                async with asyncio.timeout(10):
                    await early


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_peer_that_only_stalls_is_noticed() -> None:
    """Bytes stop, no connection ends: keepalive ends a stream after its 20 s + 10 s and not after the minute that gRPC's core waits for a
    ping by itself.
    """
    flowing = asyncio.Event()
    flowing.set()
    tasks: set[asyncio.Task[None]] = set()

    async def endless(request: Any, context: Any) -> AsyncIterator[WorkerStatusResponse]:
        yield WorkerStatusResponse()
        await asyncio.Event().wait()

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                await flowing.wait()
                writer.write(chunk)
        finally:
            writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        for pair in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(passed_on(*pair))
            tasks.add(task)

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(endless, WorkerStatusRequest.FromString, WorkerStatusResponse.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, {"WatchWorkers": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    between = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with dial(f"127.0.0.1:{between.sockets[0].getsockname()[1]}", [SERVICE]) as channel:
            watch = channel.unary_stream(
                f"/{SERVICE.full_name}/WatchWorkers", WorkerStatusRequest.SerializeToString, WorkerStatusResponse.FromString
            )(WorkerStatusRequest())
            assert await anext(aiter(watch)) == WorkerStatusResponse()
            flowing.clear()
            stalled = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(watch))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - stalled < 50
    finally:
        between.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop(None)
