"""One call: its deadline, a caller that leaves, what is counted."""

import asyncio
import gc
import logging
import sys
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from .conftest import Serve


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until(condition: Any, timeout: float = 5.0) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning or worse."""
    return [f"{r.name}: {r.getMessage()}" for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_unary_call_has_a_deadline_of_ours(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that takes too long is cancelled; the client is told to repeat, the log which method it was."""
    cleaned = asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return b""

    async with serve(unary=unary, settings={"unary_timeout": 0.2}) as trial:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await trial.unary()(b"")
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert cleaned.is_set()
    assert complaints(caplog) == ["otto_runtime.calls: runtime.call_timed_out"]


@pytest.mark.long
async def test_calls_that_wait_for_a_busy_service_are_served(serve: Serve) -> None:
    """However long it takes until it looks at them: gRPC itself gives up those that have waited for 30 s, with CANCELLED."""
    blocked: list[bool] = []

    async def unary(request: bytes, context: Any) -> bytes:
        if not blocked:
            blocked.append(True)
            time.sleep(35)  # nothing else runs meanwhile
        return request

    async with serve(unary=unary, settings={"unary_timeout": 60.0}) as trial:
        numbers = [str(number).encode() for number in range(50)]
        assert await asyncio.gather(*(trial.unary()(number) for number in numbers)) == numbers


async def test_a_stream_has_none(serve: Serve) -> None:
    """A stream may be open for longer than a unary call may take."""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(0.4)
        yield b"second"

    async with serve(stream=stream, settings={"unary_timeout": 0.1}) as trial:
        assert [message async for message in trial.stream()(b"")] == [b"first", b"second"]


@pytest.mark.parametrize(
    "state", ["before the first message", "between messages", "while a write is blocked", "while writing at full speed"]
)
@pytest.mark.parametrize("style", ["generator", "context.write"])
async def test_a_caller_that_leaves_is_a_cancellation(serve: Serve, caplog: pytest.LogCaptureFixture, state: str, style: str) -> None:
    """Whenever the client cancels, the handler is cancelled, cleans up, is counted as CANCELLED, and nothing is logged as a fault."""
    seen: list[str] = []
    size = {"while a write is blocked": 1_000_000, "while writing at full speed": 1}.get(state, 0)

    async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            if state != "before the first message":
                yield b"first"
            seen.append("begun")
            while size:
                yield b"x" * size
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    async def writer(request: bytes, context: Any) -> None:
        try:
            if state != "before the first message":
                await context.write(b"first")
            seen.append("begun")
            while size:
                await context.write(b"x" * size)
            await asyncio.Event().wait()
        finally:
            seen.append("finally")

    method = "test.Trial/stream"
    before = sample("otto_rpc_server_duration_seconds_count", method=method, code="CANCELLED")
    async with serve(stream=generator if style == "generator" else writer) as trial:
        call = trial.stream()(b"")
        if state != "before the first message":
            assert await call.read() == b"first"
        await until(lambda: "begun" in seen)
        if size:
            sent = sample("otto_rpc_server_messages_sent_total", method=method)
            await until(lambda: sample("otto_rpc_server_messages_sent_total", method=method) > sent)
        if state == "while a write is blocked":
            await asyncio.sleep(0.3)  # nothing tells when flow control has stopped a write
        call.cancel()
        await until(lambda: "finally" in seen)
        assert seen == (["begun", "cancelled", "finally"] if style == "generator" else ["begun", "finally"])
        await until(lambda: sample("otto_rpc_server_duration_seconds_count", method=method, code="CANCELLED") == before + 1)
        assert sample("otto_rpc_server_open", method=method) == 0
    assert complaints(caplog) == []


async def test_a_client_that_dies_is_a_cancellation(serve: Serve) -> None:
    """A connection that breaks cancels its handlers as a cancelled call does."""
    ended = asyncio.Event()

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serve(stream=stream) as trial:
        async with grpc.aio.insecure_channel(trial.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub: Any = channel.unary_stream("/test.Trial/stream")
            assert await stub(b"").read() == b"first"
        async with asyncio.timeout(5):
            await ended.wait()


async def test_the_client_s_own_deadline_cancels_the_handler(serve: Serve) -> None:
    """A client's deadline, shorter than ours, is DEADLINE_EXCEEDED there and a cancellation here."""
    ended = asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    async with serve(unary=unary) as trial:
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await trial.unary()(b"", timeout=0.2)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            await ended.wait()
        assert time.monotonic() - started < 3


async def test_calls_are_counted_by_method_and_status(serve: Serve) -> None:
    """Duration, open calls and messages are right for OK, for errors, for codes set by hand, for both styles of streams."""

    class MissingError(Exception):
        grpc_status = "NOT_FOUND"

    hold = asyncio.Event()

    async def fine(request: bytes, context: Any) -> bytes:
        return b"fine"

    async def missing(request: bytes, context: Any) -> bytes:
        raise MissingError("missing")

    async def by_hand(request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        return b""

    async def aborts(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.ABORTED, "aborted")
        return b""

    async def three(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"
        await hold.wait()

    async def writes_three(request: bytes, context: Any) -> None:
        for _ in range(3):
            await context.write(b"x")

    async with serve(
        unary_fine=fine,
        unary_missing=missing,
        unary_by_hand=by_hand,
        unary_aborts=aborts,
        stream_three=three,
        stream_writes=writes_three,
        public_errors=(MissingError,),
    ) as trial:
        expected = {
            "unary_fine": "OK",
            "unary_missing": "NOT_FOUND",
            "unary_by_hand": "OUT_OF_RANGE",
            "unary_aborts": "ABORTED",
            "stream_three": "OK",
            "stream_writes": "OK",
        }

        def counts() -> dict[str, float]:
            return {
                name: sample("otto_rpc_server_duration_seconds_count", method=f"test.Trial/{name}", code=code)
                for name, code in expected.items()
            }

        before = counts()
        for name, code in expected.items():
            if name.startswith("unary"):
                assert (await trial.unary(name)(b"").code()).name == code
        call = trial.stream("stream_three")(b"")
        for _ in range(3):
            await call.read()
        assert sample("otto_rpc_server_open", method="test.Trial/stream_three") == 1
        hold.set()
        assert await call.read() is grpc.aio.EOF
        assert len([m async for m in trial.stream("stream_writes")(b"")]) == 3
        await until(lambda: counts() == {name: count + 1 for name, count in before.items()})
        for name in ("stream_three", "stream_writes"):
            assert sample("otto_rpc_server_open", method=f"test.Trial/{name}") == 0
            assert sample("otto_rpc_server_messages_sent_total", method=f"test.Trial/{name}") == 3


async def test_what_a_client_can_make_up_is_not_counted(serve: Serve) -> None:
    """Unknown methods make no time series, so that nobody can fill our memory with names."""
    async with serve() as trial:
        with pytest.raises(grpc.aio.AioRpcError):
            await trial.unary("made-up-name")(b"")
    assert not [s for family in REGISTRY.collect() for s in family.samples if "made-up-name" in s.labels.get("method", "")]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Python's garbage collector, which frees what refers to itself, does nothing meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_call_that_has_ended_is_freed_without_the_collector(serve: Serve) -> None:
    """And its request too, whatever the handler has started that lasts: 500 streams with 50 KB each kept 23 MB until the collector ran."""
    requests: list[bytes] = []
    calls: list[weakref.ref[Any]] = []
    lasting: list[asyncio.Task[Any]] = []

    async def unary(request: bytes, context: Any) -> bytes:
        calls.append(weakref.ref(asyncio.current_task()))
        return request

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        calls.append(weakref.ref(asyncio.current_task()))
        yield b"first"

    async def stream_leaves(request: bytes, context: Any) -> AsyncIterator[bytes]:
        requests.append(request)
        lasting.append(asyncio.create_task(asyncio.Event().wait()))
        yield b"first"

    async with serve(unary=unary, stream=stream, stream_leaves=stream_leaves) as trial:
        await trial.unary()(b"asked")
        assert [message async for message in trial.stream()(b"asked")] == [b"first"]
        await until(lambda: len(calls) == 2 and not any(call() for call in calls))
        assert [message async for message in trial.stream("stream_leaves")(b"x" * 1000)] == [b"first"]
        await until(lambda: sys.getrefcount(requests[0]) == 2)  # the list's, and the argument
        lasting[0].cancel()
