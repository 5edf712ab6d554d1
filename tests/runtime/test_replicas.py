"""Two replicas of a service on real ports: calls of every kind reach the one that acts, whoever is asked, and only that one acts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from prometheus_client import REGISTRY

from otto_runtime.calls import stopping
from otto_runtime.handing import HOP, HandOn, NobodyActsError
from otto_runtime.replicas import AddressError, Place, RoleLostError, replicas
from otto_runtime.server import Component, bound, stop_seconds
from otto_runtime.settings import RuntimeSettings

SERVICE = "test.Trial"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUIET = RuntimeSettings(listen="127.0.0.1:0", metrics_listen="off", stop_grace=5.0, hand_on_patience=10.0)


@dataclass
class Seat:
    """What there is one of: a lease that a test gives and takes."""

    holder: str = ""
    wanting: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self, identity: str) -> None:
        """It is this candidate's now."""
        self.holder = identity
        self.news.set()
        self.news = asyncio.Event()


@dataclass(frozen=True)
class Role:
    held: bool
    holder: str


class Candidate:
    """One that would like to have the seat, and gets it when it is free and a test lets it."""

    def __init__(self, seat: Seat, identity: str) -> None:
        self.identity = identity
        self._seat = seat

    @property
    def held(self) -> bool:
        return self.holder == self.identity

    @property
    def holder(self) -> str:
        return self._seat.holder

    async def changes(self) -> AsyncIterator[Role]:
        told = None
        while True:
            news = self._seat.news
            if told != (told := Role(self.held, self.holder)):
                yield told
                continue
            await news.wait()

    async def run(self) -> None:
        try:
            while True:
                news = self._seat.news
                if not self.holder:
                    self._seat.give(self.identity)
                await news.wait()
        finally:
            if self.held:
                self._seat.give("")


@dataclass
class Replica:
    """One of them, running."""

    address: str
    stop: asyncio.Event
    serving: "asyncio.Task[None]"
    channel: grpc.aio.Channel
    acted: list[str]

    def stub(self, method: str) -> Any:
        """Of bytes."""
        kind = {"unary": "unary_unary", "stream": "unary_stream", "collect": "stream_unary", "bidi": "stream_stream"}[
            method.split("_", maxsplit=1)[0]
        ]
        return getattr(self.channel, kind)(f"/{SERVICE}/{method}")


Handlers = dict[str, Callable[..., Any]]
KINDS: dict[str, Any] = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "stream": grpc.unary_stream_rpc_method_handler,
    "collect": grpc.stream_unary_rpc_method_handler,
    "bidi": grpc.stream_stream_rpc_method_handler,
}


class Stage:
    """Where replicas stand."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.seat = Seat()
        self.acting: list[str] = []
        """Who acts now; more than one at a time must not be."""
        self._stack = stack
        self._group: asyncio.TaskGroup | None = None

    async def start(self, handlers: Callable[[str], Handlers], anywhere: tuple[str, ...] = (), **settings: Any) -> Replica:
        """One more replica; it serves when this returns."""
        chosen = msgspec.structs.replace(QUIET, **settings)
        host = await self._stack.enter_async_context(bound(chosen))
        candidate = Candidate(self.seat, host.address)
        part = await self._stack.enter_async_context(replicas(candidate, chosen, "trial", anywhere))
        acted: list[str] = []
        known = asyncio.Event()

        async def act(ready: Callable[[], None]) -> None:
            assert not self.acting
            self.acting.append(host.address)
            acted.append(host.address)
            try:
                ready()
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.02)  # the end of work takes its time
                self.acting.remove(host.address)

        async def run(ready: Callable[[], None]) -> None:
            def told() -> None:
                ready()
                known.set()

            await part.led(act)(told)

        def register(server: grpc.aio.Server) -> None:
            served = {name: KINDS[name.split("_")[0]](handler) for name, handler in handlers(host.address).items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, served),))

        component = Component("trial", (SERVICE,), register, run, hand_on=part.hand_on)
        stop = asyncio.Event()
        serving = asyncio.create_task(host.serve([component], stop), name=f"serve {host.address}")
        channel = await self._stack.enter_async_context(
            grpc.aio.insecure_channel(host.address, options=[("grpc.use_local_subchannel_pool", 1)])
        )
        replica = Replica(host.address, stop, serving, channel, acted)
        self._stack.push_async_callback(_ended, replica)
        await asyncio.wait_for(known.wait(), 30)
        return replica


async def _ended(replica: Replica) -> None:
    replica.stop.set()
    await asyncio.wait([replica.serving])
    if not replica.serving.cancelled():
        replica.serving.exception()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(stack)


def echoing(address: str) -> Handlers:
    """Handlers that say who they are."""
    me = address.encode()

    async def unary(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("trailer", "yes"), ("trailer-bin", b"\x00\xff")))
        given = {key: value for key, value in context.invocation_metadata() if key.startswith(("given", "baggage"))}
        return b"|".join([me, request, repr(sorted(given.items())).encode()])

    async def unary_remaining(request: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()

    async def unary_refuses(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "한글 why", (("grpc-status-details-bin", b"\x08\x09"), ("more", "x")))
        raise AssertionError

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield me + b"|%d" % number
        context.set_trailing_metadata((("trailer", "yes"),))

    async def stream_breaks(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"|".join([me, *[request async for request in requests]])

    async def bidi(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield me + b"|" + request

    return {
        "unary": unary,
        "unary_remaining": unary_remaining,
        "unary_refuses": unary_refuses,
        "stream": stream,
        "stream_breaks": stream_breaks,
        "collect": collect,
        "bidi": bidi,
    }


async def several(*items: bytes) -> AsyncIterator[bytes]:
    for item in items:
        yield item


async def test_calls_of_every_kind_reach_the_one_that_acts(stage: Stage) -> None:
    """Whichever replica is asked, with metadata, and back with trailers. Baggage, which nobody reads, stays with the one that was asked."""
    first, second = await stage.start(echoing), await stage.start(echoing)
    me = first.address.encode()
    for asked in (first, second):
        call = asked.stub("unary")(b"\x00\xff", metadata=(("given", "a"), ("given-bin", b"\x01")))
        assert await call == me + b"|\x00\xff|" + repr([("given", "a"), ("given-bin", b"\x01")]).encode()
        trailers = dict(await call.trailing_metadata())
        assert (trailers["trailer"], trailers["trailer-bin"]) == ("yes", b"\x00\xff")
        streamed = asked.stub("stream")(b"")
        assert [message async for message in streamed] == [me + b"|%d" % number for number in range(3)]
        assert dict(await streamed.trailing_metadata())["trailer"] == "yes"
        traced = (("traceparent", TRACEPARENT), ("baggage", "a=b"))
        assert await asked.stub("unary")(b"", metadata=traced) == me + b"||" + (b"[('baggage', 'a=b')]" if asked is first else b"[]")
        assert await asked.stub("collect")(several(b"a", b"b")) == me + b"|a|b"
        assert [message async for message in asked.stub("bidi")(several(b"a", b"b"))] == [me + b"|a", me + b"|b"]
    assert (first.acted, second.acted) == ([first.address], [])


async def test_a_status_comes_back_as_it_was_said(stage: Stage) -> None:
    """Code, details in any language, details as a message, and other trailers; of streams too, behind what they had said."""
    await stage.start(echoing)
    second = await stage.start(echoing)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await second.stub("unary_refuses")(b"")
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "한글 why")
    trailers = dict(refused.value.trailing_metadata() or ())
    assert (trailers["grpc-status-details-bin"], trailers["more"]) == (b"\x08\x09", "x")
    call = second.stub("stream_breaks")(b"")
    assert await call.read() == b"one"
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await call.read()
    assert (broken.value.code(), broken.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")


async def test_a_deadline_travels_with_the_call(stage: Stage) -> None:
    """What is left of it; a call without one has none there either."""
    await stage.start(echoing)
    second = await stage.start(echoing)
    left = float(await second.stub("unary_remaining")(b"", timeout=60))
    assert 30 < left < 70  # clocks of two kinds
    assert await second.stub("unary_remaining")(b"") == b"None"


async def test_a_caller_that_leaves_is_gone_for_the_one_that_acts_too(stage: Stage) -> None:
    """Its handler is cancelled, of unary calls and streams, and not because the service stops."""
    begun: list[str] = []
    left: list[tuple[str, bool]] = []

    def handlers(_address: str) -> Handlers:
        async def hold(name: str) -> None:
            begun.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                left.append((name, stopping()))

        async def unary(request: bytes, context: Any) -> bytes:
            await hold("unary")
            return b""

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"open"
            await hold("stream")

        async def bidi(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            yield b"open"
            await hold("bidi")

        return {"unary": unary, "stream": stream, "bidi": bidi}

    await stage.start(handlers)
    second = await stage.start(handlers)

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    calls = [second.stub("unary")(b""), second.stub("stream")(b""), second.stub("bidi")(endless())]
    await calls[1].read()
    await calls[2].read()
    await until(lambda: len(begun) == 3)
    for call in calls:
        call.cancel()
    await until(lambda: sorted(left) == [("bidi", False), ("stream", False), ("unary", False)])


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_stop_hands_the_role_over_at_once_and_ends_streams_with_ok(stage: Stage) -> None:
    """Those that were handed on too; what comes meanwhile waits for the next one that acts. Two never act at a time."""
    opened = asyncio.Event()

    def handlers(address: str) -> Handlers:
        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield address.encode()
            opened.set()
            await asyncio.Event().wait()

        return {**echoing(address), "stream": stream}

    first, second = await stage.start(handlers), await stage.start(handlers)
    call = second.stub("stream")(b"")
    assert await call.read() == first.address.encode()
    await opened.wait()
    first.stop.set()
    asked = [second.stub("unary")(b"during") for _ in range(20)]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    for answer in asked:
        assert (await answer).startswith((second.address.encode(), first.address.encode()))
    await asyncio.wait_for(first.serving, 30)
    await until(lambda: second.acted == [second.address])
    assert (await second.stub("unary")(b"after")).startswith(second.address.encode())


@pytest.mark.parametrize("stops", [True, False], ids=["the replica stops", "the caller leaves"])
async def test_who_hands_on_and_stops_is_no_caller_that_leaves(stage: Stage, stops: bool) -> None:
    """The one that acts can tell the two apart, as it can its own stop, of all calls that came through that replica and of no other."""
    seen: list[tuple[bytes, bool]] = []

    def handlers(address: str) -> Handlers:
        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append((request, stopping()))
                raise

        return {"stream": stream}

    first, second, third = [await stage.start(handlers) for _ in range(3)]
    calls = [replica.stub("stream")(name) for replica, name in ((second, b"a"), (second, b"b"), (third, b"c"), (first, b"d"))]
    for call in calls:
        assert await call.read() == b"first"
    if stops:
        second.stop.set()
        for call in calls[:2]:
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
    else:
        for call in calls[:2]:
            call.cancel()
    await until(lambda: len(seen) == 2)
    for call in calls[2:]:
        call.cancel()
    await until(lambda: len(seen) == 4)
    assert sorted(seen) == [(b"a", stops), (b"b", stops), (b"c", False), (b"d", False)]


async def test_one_that_acts_and_does_not_answer_can_not_hold_a_stop_up(stage: Stage) -> None:
    """What it is to be told of the stop is given up, and the call that was handed on to it ends as ever."""
    met = asyncio.Event()

    async def hangs(request: bytes, context: Any) -> bytes:
        met.set()
        await asyncio.Event().wait()
        return b""

    frozen = grpc.aio.server()
    for service, method in ((SERVICE, "unary"), ("grpc.health.v1.Health", "Check")):
        handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(hangs)})
        frozen.add_generic_rpc_handlers((handler,))
    stage.seat.give(f"127.0.0.1:{frozen.add_insecure_port('127.0.0.1:0')}")
    await frozen.start()
    follower = await stage.start(echoing, stop_grace=0.2)
    asked = asyncio.ensure_future(follower.stub("unary")(b""))
    await met.wait()
    follower.stop.set()
    async with asyncio.timeout(stop_seconds(QUIET)):
        await asyncio.wait([follower.serving])
    with pytest.raises(grpc.aio.AioRpcError, match="the service is stopping; repeat the call"):
        await asked
    await frozen.stop(None)


async def test_while_nobody_acts_calls_wait_and_then_are_told_why(stage: Stage) -> None:
    """UNAVAILABLE after the patience; one that comes in time is answered by whoever acts then."""
    await stage.start(echoing)
    second = await stage.start(echoing, hand_on_patience=0.3)
    third = await stage.start(echoing)
    stage.seat.give("127.0.0.1:1")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await second.stub("unary")(b"")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "127.0.0.1:1, which is to act, can't be reached" in (refused.value.details() or "")
    waiting = third.stub("unary")(b"waited")
    await asyncio.sleep(0.1)
    stage.seat.give(third.address)
    assert (await waiting).startswith(third.address.encode())


async def test_a_call_is_handed_on_once(stage: Stage) -> None:
    """Who gets one that was handed on and does not act refuses it: two that take each other for the one that acts don't play ball."""
    await stage.start(echoing)
    second = await stage.start(echoing)
    for call in (second.stub("unary")(b"", metadata=((HOP, "x"),)), second.stub("collect")(several(b""), metadata=((HOP, "x"),))):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ("otto-not-acted", "1") in tuple(refused.value.trailing_metadata() or ())


async def test_who_loses_the_role_stops_acting_and_ends(stage: Stage) -> None:
    """Its open streams end with OK, its process with a word about why; the other one acts and answers."""
    first, second = await stage.start(echoing), await stage.start(echoing)
    stage.seat.give("127.0.0.1:1")  # a lease has a time between its loss and the next holder's beginning
    await until(lambda: not stage.acting)
    stage.seat.give(second.address)
    with pytest.raises(RoleLostError, match="lease was lost"):
        await asyncio.wait_for(asyncio.shield(first.serving), 30)
    await until(lambda: stage.acting == [second.address])
    assert (await second.stub("unary")(b"")).startswith(second.address.encode())


async def test_calls_in_flight_to_one_that_is_gone_without_a_word_end(stage: Stage) -> None:
    """When another replica acts, who still waits for the old one is told to repeat the call."""
    over = asyncio.Event()

    def handlers(address: str) -> Handlers:
        async def unary(request: bytes, context: Any) -> bytes:
            while not over.is_set():
                with suppress(asyncio.CancelledError):  # it never answers, as one whose machine is gone
                    await over.wait()
            return b""

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"open"
            await unary(request, context)

        return {"unary": unary, "stream": stream}

    await stage.start(handlers, stop_grace=0.2)
    second = await stage.start(handlers)
    unary, stream = second.stub("unary")(b""), second.stub("stream")(b"")
    assert await stream.read() == b"open"
    stage.seat.give("127.0.0.1:1")
    for waiting in (unary, stream.read()):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(waiting, 30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    stage.seat.give("")
    over.set()


async def test_a_connection_that_is_closed_as_a_call_begins_is_no_fault_of_the_call(stage: Stage) -> None:
    """Another replica acts some turns of the loop after a call has come: whichever turn it is, that one answers, or the call is refused."""
    first, second = await stage.start(echoing), await stage.start(echoing)
    loop = asyncio.get_running_loop()

    def after(turns: int, holder: str) -> None:
        loop.call_soon(after, turns - 1, holder) if turns else seat.give(holder)

    local: Any = grpc.unary_unary_rpc_method_handler(echoing("asked")["unary"])
    for turns in range(12):
        seat = Seat(first.address)
        hand_on = HandOn(Candidate(seat, "asked"), 10.0)
        following = asyncio.create_task(hand_on.run())

        async def unary(request: bytes, context: Any) -> bytes:
            if request:
                after(int(request), second.address)
            handler = hand_on.instead_of(f"{SERVICE}/unary", local)  # noqa: B023 - asked before the next one is made
            try:
                answer: bytes = await handler.unary_unary(b"", context)
                return answer
            except NobodyActsError:
                return b"refused"

        asked = grpc.aio.server()
        served: dict[str, Any] = {"unary": grpc.unary_unary_rpc_method_handler(unary)}
        asked.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, served),))
        port = asked.add_insecure_port("127.0.0.1:0")
        await asked.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/unary")
            assert (await call(b"")).startswith(first.address.encode())
            answer = await call(b"%d" % turns)
            assert answer == b"refused" or answer.startswith((first.address.encode(), second.address.encode())), turns
        following.cancel()
        await asked.stop(None)
        await hand_on.close()


async def test_what_any_replica_can_do_is_not_handed_on(stage: Stage) -> None:
    """Methods that need nobody to act are answered where they arrive."""
    await stage.start(echoing)
    second = await stage.start(echoing, anywhere=(f"{SERVICE}/stream",))
    assert (await second.stub("stream")(b"").read()).startswith(second.address.encode())


def test_an_address_that_nobody_could_dial_is_refused() -> None:
    """With a lease the address is who one is, so two replicas must never have the same."""
    assert Place("127.0.0.1:1", msgspec.structs.replace(QUIET, advertised_address="10.0.0.7:9090")).advertised() == "10.0.0.7:9090"
    assert Place("127.0.0.1:1234", QUIET).advertised() == "127.0.0.1:1234"
    with pytest.raises(AddressError, match="OTTO_ADVERTISED_ADDRESS"):
        Place("127.0.0.1:9090", msgspec.structs.replace(QUIET, listen="0.0.0.0:9090")).advertised()


async def test_who_acts_is_among_the_metrics(stage: Stage) -> None:
    """1 for the one that acts, 0 for the others, as it is at the moment somebody asks. All are one process here, so the last one tells."""

    def acting() -> float | None:
        return REGISTRY.get_sample_value("otto_replica_acting", {"service": "trial"})

    first = await stage.start(echoing)
    assert acting() == 1
    await stage.start(echoing)
    assert acting() == 0
    first.stop.set()
    await until(lambda: acting() == 1)
