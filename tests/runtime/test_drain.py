"""A stop: long streams end with OK, unary calls get the grace, everything is awaited, and nobody can hold it up."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from otto_runtime.calls import QUIET_TURNS, Calls, stopping
from otto_runtime.server import stop_seconds

from .conftest import QUIET, Ready, Serve


async def yields_then_waits(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.Event().wait()


async def writes_then_waits(request: bytes, context: Any) -> None:
    await context.write(b"first")
    await asyncio.Event().wait()


async def loops_over_requests(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    async for request in requests:
        yield request


async def reads_requests(request: Any, context: Any) -> None:
    await context.write(b"first")
    while (await context.read()) is not grpc.aio.EOF:
        pass


async def ok_end(call: Any) -> grpc.StatusCode:
    """Reads to the end and returns the status."""
    async with asyncio.timeout(10):
        while await call.read() is not grpc.aio.EOF:
            pass
        code: grpc.StatusCode = await call.code()
        return code


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        ("stream", yields_then_waits),
        ("stream", writes_then_waits),
        ("bidi", loops_over_requests),
        ("bidi", reads_requests),
    ],
    ids=["generator", "context.write", "bidi generator with idle requests", "bidi context.read"],
)
async def test_an_open_stream_ends_with_ok(serve: Serve, name: str, handler: Any) -> None:
    """Whatever style a streaming handler has, a stop ends its stream with OK."""
    async with serve(**{name: handler}) as trial:
        call = trial.stream()(b"") if name == "stream" else trial.bidi()()
        assert await call.read() == b"first"
        trial.stop.set()
        assert await ok_end(call) is grpc.StatusCode.OK
        await trial.ended()


async def test_streams_that_are_on_their_way_when_the_stop_comes_end_with_ok(serve: Serve) -> None:
    """Those that the server has not looked at yet when it is told to stop are not cut off either: none ends with CANCELLED."""
    async with serve(stream=yields_then_waits) as trial:
        first = trial.stream()(b"")
        assert await first.read() == b"first"
        trial.stop.set()
        calls = []
        for _ in range(40):
            calls.append(trial.stream()(b""))
            await asyncio.sleep(0.001)
        assert {await ok_end(call) for call in [first, *calls]} == {grpc.StatusCode.OK}
        await trial.ended()


def lasting_until(leave: asyncio.Event) -> Any:
    """A handler that keeps a stop from being over."""

    async def lasts(request: bytes, context: Any) -> bytes:
        await leave.wait()
        return b""

    return lasts


async def test_a_stream_that_would_begin_something_is_refused_during_a_stop(serve: Serve) -> None:
    """It says that nothing was done, in what comes first, which proxies repeat; one that is open, and one that only looks, end with OK."""
    leave = asyncio.Event()
    async with serve(
        begins=("stream_begin",), stream=yields_then_waits, stream_begin=yields_then_waits, unary=lasting_until(leave)
    ) as trial:
        begun = trial.stream("stream_begin")(b"")
        assert await begun.read() == b"first"
        lasting = asyncio.ensure_future(trial.unary()(b""))
        await asyncio.sleep(0.1)
        trial.stop.set()
        assert await ok_end(begun) is grpc.StatusCode.OK
        late, looking = trial.stream("stream_begin")(b""), trial.stream()(b"")
        with pytest.raises(grpc.aio.AioRpcError, match="the service is stopping; repeat the call") as refused:
            await ok_end(late)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ("otto-not-acted", "1") in tuple(refused.value.trailing_metadata())
        assert await ok_end(looking) is grpc.StatusCode.OK
        leave.set()
        await lasting
        await trial.ended()


@pytest.mark.parametrize("style", ["generator", "context.write"])
async def test_a_stream_that_is_on_to_begin_something_says_so_before_it_ends(serve: Serve, style: str) -> None:
    """OK with nothing before it would leave its caller in doubt: it comes to its first message, and ends behind that. Others don't wait."""
    come, begin, seen = asyncio.Event(), asyncio.Event(), []

    async def generates(request: bytes, context: Any) -> AsyncIterator[bytes]:
        come.set()
        try:
            await begin.wait()
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            seen.append(stopping())

    async def writes(request: bytes, context: Any) -> None:
        async for message in generates(request, context):
            await context.write(message)

    handler = generates if style == "generator" else writes
    async with serve(begins=("stream_begin",), stream=yields_then_waits, stream_begin=handler) as trial:
        beginning, looking = trial.stream("stream_begin")(b"something"), trial.stream()(b"")
        assert await looking.read() == b"first"
        await come.wait()
        trial.stop.set()
        assert await ok_end(looking) is grpc.StatusCode.OK
        assert not seen
        begin.set()
        assert await beginning.read() == b"begun"
        assert await ok_end(beginning) is grpc.StatusCode.OK
        await trial.ended()
    assert seen == [True]


async def test_a_stream_that_can_not_begin_in_the_time_of_a_stop_is_no_success(serve: Serve) -> None:
    """Whether it was begun is not known then, which UNAVAILABLE says and OK would not."""
    come = asyncio.Event()

    async def hangs(request: bytes, context: Any) -> AsyncIterator[bytes]:
        come.set()
        await asyncio.Event().wait()
        yield b""

    async with serve(settings={"stop_grace": 0.2}, begins=("stream_begin",), stream_begin=hangs) as trial:
        beginning = trial.stream("stream_begin")(b"something")
        await come.wait()
        trial.stop.set()
        with pytest.raises(grpc.aio.AioRpcError, match="the service is stopping; repeat the call") as ended:
            await ok_end(beginning)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ("otto-not-acted", "1") not in tuple(ended.value.trailing_metadata())
        await trial.ended()


async def test_a_stream_whose_ok_says_that_all_was_delivered_does_not_end_so_at_a_stop(serve: Serve) -> None:
    """Neither one that is open nor one that comes while others end: their readers go on elsewhere."""
    leave = asyncio.Event()
    async with serve(completes=("stream",), stream=yields_then_waits, unary=lasting_until(leave)) as trial:
        reading = trial.stream()(b"")
        assert await reading.read() == b"first"
        lasting = asyncio.ensure_future(trial.unary()(b""))
        await asyncio.sleep(0.1)
        trial.stop.set()
        for call, acted in ((reading, True), (trial.stream()(b""), False)):
            with pytest.raises(grpc.aio.AioRpcError, match="the service is stopping; repeat the call") as ended:
                await ok_end(call)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (("otto-not-acted", "1") in tuple(ended.value.trailing_metadata())) is not acted
        leave.set()
        await lasting
        await trial.ended()


async def test_silence_counts_only_where_a_call_comes_through() -> None:
    """A server that gets no processor hears nobody: its silence would cut off those that have come and were not looked at."""
    calls, asked, through = Calls(QUIET), asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def ask() -> None:
        asked.release()
        await through.acquire()

    async with asyncio.timeout(20):
        waiting = asyncio.create_task(calls.quiet(0.01, 15, ask))
        for _ in range(QUIET_TURNS):
            await asked.acquire()
            assert not waiting.done()
            through.release()
        await waiting
        await calls.quiet(0.01, 0.1, ask)  # one that never gets through holds it up no longer than said


@pytest.mark.parametrize("round_", range(5))
@pytest.mark.parametrize("style", ["generator", "context.write"])
async def test_streams_in_the_middle_of_writes_end_with_ok(serve: Serve, style: str, round_: int) -> None:
    """Streams that write their first messages or write at full speed when the stop comes end with OK, none hangs or is cut off."""
    message = b"x" * 1000

    async def generates(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield message

    async def writes(request: bytes, context: Any) -> None:
        while True:
            await context.write(message)

    async with serve(stream=generates if style == "generator" else writes) as trial:
        calls = [trial.stream()(b"") for _ in range(20)]
        for call in calls:
            assert await call.read() == message
        ends = [asyncio.create_task(ok_end(call)) for call in calls]
        trial.stop.set()
        assert set(await asyncio.gather(*ends)) == {grpc.StatusCode.OK}
        await trial.ended()


async def test_two_hundred_open_streams_end_at_once(serve: Serve) -> None:
    """Many open streams all end with OK, and the stop is over long before the grace is."""
    async with serve(stream=yields_then_waits) as trial:
        calls = [trial.stream()(b"") for _ in range(200)]
        for call in calls:
            assert await call.read() == b"first"
        started = time.monotonic()
        await trial.ended()
        assert time.monotonic() - started < trial.settings.stop_grace
        assert {await ok_end(call) for call in calls} == {grpc.StatusCode.OK}


async def test_a_handler_cleans_up_before_the_server_is_gone(serve: Serve) -> None:
    """A handler's `finally` runs to its end, with awaits, before background work and the root are closed."""
    order: list[str] = []

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            order.append("handler")

    async def run(ready: Ready) -> None:
        try:
            ready()
            await asyncio.Event().wait()
        finally:
            order.append("background")

    async with serve(stream=handler, run=run) as trial:
        call = trial.stream()(b"")
        assert await call.read() == b"first"
        trial.stop.set()
        assert await ok_end(call) is grpc.StatusCode.OK
        await trial.ended()
        assert order + trial.closed == ["handler", "background", "root"]


async def test_an_error_in_cleanup_does_not_spoil_the_ok(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises while it is being ended is logged; its client still gets OK."""

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            raise ValueError("cleanup went wrong")

    async with serve(stream=handler) as trial:
        call = trial.stream()(b"")
        assert await call.read() == b"first"
        trial.stop.set()
        assert await ok_end(call) is grpc.StatusCode.OK
        await trial.ended()
    assert "runtime.call_failed" in caplog.messages


@pytest.mark.parametrize("style", ["generator", "context.write"])
async def test_a_client_that_does_not_read_does_not_hold_up_the_stop(serve: Serve, style: str) -> None:
    """A handler blocked in a write by flow control is ended, sees CancelledError, and the stop stays far below the grace."""
    seen: list[str] = []
    blocked = asyncio.Event()
    block = b"x" * 1_000_000

    async def write(context: Any, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        watch = loop.call_later(0.3, blocked.set)
        await context.write(message)
        watch.cancel()

    async def generates(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                watch = asyncio.get_running_loop().call_later(0.3, blocked.set)
                yield block
                watch.cancel()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    async def writes(request: bytes, context: Any) -> None:
        try:
            while True:
                await write(context, block)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    async with serve(stream=generates if style == "generator" else writes) as trial:
        call = trial.stream()(b"")
        async with asyncio.timeout(10):
            await blocked.wait()
        started = time.monotonic()
        await trial.ended()
        assert time.monotonic() - started < 3.0
        assert seen == ["cancelled", "finally"]
        call.cancel()


async def test_a_slow_reader_gets_all_that_was_sent_before_the_end(serve: Serve) -> None:
    """Messages written before the stop reach a client that reads only afterwards, then OK."""

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d" % number
        written.set()
        await asyncio.Event().wait()

    written = asyncio.Event()
    async with serve(stream=handler) as trial:
        call = trial.stream()(b"")
        await written.wait()
        trial.stop.set()
        async with asyncio.timeout(10):
            received = [message async for message in call]
        assert received == [b"%d" % number for number in range(100)]
        assert await call.code() is grpc.StatusCode.OK
        await trial.ended()


async def test_calls_that_come_during_the_stop(serve: Serve) -> None:
    """While a unary call has its grace: a new stream ends with OK at once, a new unary call is UNAVAILABLE, health still answers."""
    release, begun = asyncio.Event(), asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        begun.set()
        await release.wait()
        return b"answer"

    async with serve(unary=unary, stream=yields_then_waits) as trial:
        running = trial.unary()(b"")
        await begun.wait()
        first = trial.stream()(b"")
        assert await first.read() == b"first"
        trial.stop.set()
        assert await ok_end(first) is grpc.StatusCode.OK
        assert await ok_end(trial.stream()(b"")) is grpc.StatusCode.OK
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await trial.unary()(b"")
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        health = health_pb2_grpc.HealthStub(trial.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING
        release.set()
        assert await running == b"answer"
        await trial.ended()


async def test_a_unary_call_in_flight_gets_the_grace(serve: Serve) -> None:
    """A unary call that runs when the stop begins is answered."""
    begun = asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        begun.set()
        await asyncio.sleep(0.5)
        return b"answer"

    async with serve(unary=unary) as trial:
        call = trial.unary()(b"")
        await begun.wait()
        trial.stop.set()
        assert await call == b"answer"
        await trial.ended()


async def test_a_unary_call_longer_than_the_grace_is_cancelled(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What does not end within the grace is cancelled, awaited and logged, and its caller is to repeat it; the stop stays in its time."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return b""

    async with serve(unary=unary, settings={"stop_grace": 0.3}) as trial:
        call = trial.unary()(b"")
        await begun.wait()
        started = time.monotonic()
        await trial.ended()
        assert 0.3 <= time.monotonic() - started < stop_seconds(trial.settings)
        assert cleaned.is_set()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert (error.value.code(), error.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the service is stopping; repeat the call",
        )
    assert "runtime.handlers_cancelled" in caplog.messages


async def test_a_handler_that_swallows_its_cancellation_is_not_waited_for_twice_the_grace(serve: Serve) -> None:
    """A stubborn handler costs the grace once, not more."""
    release = asyncio.Event()

    async def stubborn(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with serve(stream=stubborn, settings={"stop_grace": 0.3}) as trial:
        try:
            call = trial.stream()(b"")
            assert await call.read() == b"first"
            started = time.monotonic()
            await trial.ended()
            assert time.monotonic() - started < 0.3 + 1.0 + 1.0 + 1.5  # twice would be 2 s more
        finally:  # pytest would wait for it for ever
            release.set()
        call.cancel()


async def test_health_watchers_and_reflection_end_with_ok(serve: Serve) -> None:
    """The streams of the health and reflection services, open for as long as their clients like, end with OK too."""
    async with serve(stream=yields_then_waits) as trial:
        watch = health_pb2_grpc.HealthStub(trial.channel).Watch(health_pb2.HealthCheckRequest(service="test.Trial"))
        statuses = [(await watch.read()).status]
        reflect = reflection_pb2_grpc.ServerReflectionStub(trial.channel).ServerReflectionInfo()
        await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = await reflect.read()
        assert {"test.Trial", "grpc.health.v1.Health"} <= {service.name for service in listed.list_services_response.service}
        trial.stop.set()
        async with asyncio.timeout(10):
            while (answer := await watch.read()) is not grpc.aio.EOF:
                statuses.append(answer.status)
        assert await watch.code() is grpc.StatusCode.OK
        assert await ok_end(reflect) is grpc.StatusCode.OK
        assert statuses[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
        await trial.ended()


async def test_handlers_know_a_stop_from_a_caller_that_left(serve: Serve) -> None:
    """`stopping()` is False when the client cancels and True when the server ends the stream, in the handler and in its tasks."""
    seen: list[bool] = []
    ended = asyncio.Event()

    async def part() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(stopping())

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(part())
        finally:
            seen.append(stopping())
            ended.set()

    assert stopping() is False
    async with serve(stream=handler) as trial:
        left = trial.stream()(b"")
        assert await left.read() == b"first"
        left.cancel()
        async with asyncio.timeout(10):
            await ended.wait()
        assert seen == [False, False]
        stays = trial.stream()(b"")
        assert await stays.read() == b"first"
        await trial.ended()
        assert seen == [False, False, True, True]
        assert await ok_end(stays) is grpc.StatusCode.OK
