"""Peers that are gone without a word: a cable is pulled, a machine loses its power. Nothing arrives any more, and nothing says so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_runtime import channels, server

from ..standalone.proxy import proxy
from .conftest import SERVICE, Serve

QUICK = 0.3
ended: list[str] = []


async def silent(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    """Echoes what it hears; otherwise it says nothing."""
    try:
        async for message in requests:
            yield message
        await asyncio.Event().wait()
    finally:
        ended.append("handler")


async def opened(channel: grpc.aio.Channel, *, spoken: bool) -> Any:
    """An open call; `spoken`: a message has just gone both ways, so that gRPC is measuring the line."""
    call: Any = channel.stream_stream(f"/{SERVICE}/bidi")()
    await call.initial_metadata()
    if spoken:
        await call.write(b"hello")
        assert await call.read() == b"hello"
    return call


@pytest.mark.parametrize("spoken", [False, True], ids=["nothing was said", "something was said"])
async def test_a_client_notices_that_its_server_is_gone(serve: Serve, monkeypatch: pytest.MonkeyPatch, *, spoken: bool) -> None:
    """A silent stream ends with UNAVAILABLE, so that whoever reads it can attach again."""
    monkeypatch.setattr(channels, "KEEPALIVE_SECONDS", QUICK)
    monkeypatch.setattr(channels, "KEEPALIVE_TIMEOUT_SECONDS", QUICK)
    async with serve(bidi=silent) as trial, proxy(trial.address) as between, channels.dial(between.address, []) as channel:
        call = await opened(channel, spoken=spoken)
        between.flowing.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("spoken", [False, True], ids=["nothing was said", "something was said"])
async def test_a_server_notices_that_its_client_is_gone(serve: Serve, monkeypatch: pytest.MonkeyPatch, *, spoken: bool) -> None:
    """The handler's task is cancelled as if the caller had left, so that it holds nothing for nobody."""
    monkeypatch.setattr(server, "KEEPALIVE_SECONDS", QUICK)
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_SECONDS", QUICK)
    ended.clear()
    async with serve(bidi=silent) as trial, proxy(trial.address) as between:
        async with grpc.aio.insecure_channel(between.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = await opened(channel, spoken=spoken)
            between.flowing.clear()
            async with asyncio.timeout(20):
                while not ended:
                    await asyncio.sleep(0.02)
            call.cancel()


async def test_a_silent_stream_of_a_living_peer_stays_open(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side takes the other's questions for an attack, and silence alone ends nothing."""
    for side in (channels, server):
        monkeypatch.setattr(side, "KEEPALIVE_SECONDS", QUICK)
        monkeypatch.setattr(side, "KEEPALIVE_TIMEOUT_SECONDS", 30.0)
    async with serve(bidi=silent) as trial, channels.dial(trial.address, []) as channel:
        call = await opened(channel, spoken=True)
        reading = asyncio.ensure_future(call.read())
        await asyncio.wait({reading}, timeout=6 * QUICK)
        assert not reading.done()
        await call.write(b"still there")
        assert await asyncio.wait_for(reading, 10) == b"still there"
