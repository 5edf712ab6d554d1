"""Hands calls on to the replica that acts, as they are: bytes, metadata, deadline, cancellation, status with details and trailers.

It knows no messages. A call goes on at most once: who gets one that was handed on and does not act refuses it and says that nothing of it
was done, so that the sender may look again who acts. While nobody does, calls wait, for a bounded time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import grpc
import grpc.aio

from otto_runtime.channels import channel_options
from otto_runtime.tasks import Backoff, cancelled
from otto_runtime.telemetry import CALLER, handed_on

HOP = "otto-handed-on-by"
"""Metadata of a call that was handed on: by whom."""
STOPS = "otto-stops"
"""Metadata of a health check, with which a replica that stops says so to the one that it has handed calls on to: their callers have not
left.
"""
TOLD_SECONDS = 1.0
"""How long a stop waits for that; one that does not answer takes its calls for left."""
NOT_ACTED = ("otto-not-acted", "1")
"""Trailer of a refusal: nothing of the call was done, so that it may be repeated, whatever it is."""
CUT_OFF = "the call was cancelled"
"""Details of CANCELLED where a handler was cancelled: something of the call may have been done."""
NEVER_SENT = "failed to connect to all addresses"
"""How the details of UNAVAILABLE begin where gRPC had no connection for the call: the one it was meant for has just gone."""
OLD_HOLDER_SECONDS = 2.0
"""How long one that acts no more may take to end the calls that it still has; one that is gone without a word never does."""
_PRIVATE = ("grpc-", ":")
_OWN = frozenset({"user-agent", "te", "content-type", "traceparent", "tracestate", "baggage", CALLER, HOP, STOPS})


class Leadership(Protocol):
    """Which of several replicas acts. `run` takes part until it is cancelled, and gives the role back then."""

    identity: str
    """Our own address, under which others reach us."""

    @property
    def held(self) -> bool:
        """Whether we act, and nobody else can, at this moment."""

    @property
    def holder(self) -> str:
        """The address of the one that acts, as far as is known; "" for nobody."""

    def changes(self) -> AsyncIterator[Any]:
        """`held` and `holder` now and after each change."""

    async def run(self) -> None:
        """Takes part until cancelled."""


class NobodyActsError(Exception):
    """There is no replica that could do what the call asks for."""

    grpc_status = "UNAVAILABLE"


class _RefusedError(Exception):
    """The holder has done nothing of the call: it does not act any more, or is stopping."""


class HandOn:
    """Where calls go that are not ours to act on."""

    def __init__(self, leadership: Leadership, patience: float, anywhere: Iterable[str] = ()) -> None:
        """`patience`: seconds that a call waits for a replica that acts; `anywhere`: methods (`service/Method`) that any replica serves."""
        self._leadership = leadership
        self._patience = patience
        self._anywhere = frozenset(anywhere)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Tells waiting calls of new holders, and closes the connections to old ones, until cancelled."""
        async for role in self._leadership.changes():
            self._changed.set()
            self._changed = asyncio.Event()
            for address in [known for known in self._channels if known != role.holder]:
                await self._channels.pop(address).close(None)

    async def stops(self) -> None:
        """Says to who acts that this replica stops, before the calls that it has handed on end."""

        async def told(channel: grpc.aio.Channel) -> None:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            await check(b"", metadata=((STOPS, self._leadership.identity),), timeout=TOLD_SECONDS)

        await asyncio.gather(*map(told, self._channels.values()), return_exceptions=True)

    async def close(self) -> None:
        """Closes all connections."""
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    def instead_of(self, method: str, local: Any) -> Any:
        """The handler of a call that begins now: `local` if it is ours to act on, else one that hands it on."""
        if self._leadership.held or method in self._anywhere:
            return local
        path = f"/{method}"
        if local.request_streaming and local.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streamed(path, "stream_stream"))
        if local.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._streamed(path, "stream_unary"))
        if local.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._repeated(path, "unary_stream"))
        return grpc.unary_unary_rpc_method_handler(self._repeated(path, "unary_unary"))

    def _repeated(self, path: str, kind: str) -> Any:
        """A handler of one request, which may be sent again after a holder has refused it."""

        async def handle(request: bytes, context: Any) -> bytes | None:
            self._only_once(context)
            deadline = asyncio.get_running_loop().time() + self._patience
            backoff = Backoff(0.02, 0.5)
            while True:
                holder, channel = await self._reached(deadline)
                try:
                    return await self._sent(holder, getattr(channel, kind)(path), request, context)
                except _RefusedError:
                    await self._pause(backoff.next_delay())

        return handle

    def _streamed(self, path: str, kind: str) -> Any:
        """A handler of many requests, which can be taken from the caller only once."""

        async def handle(requests: AsyncIterator[bytes], context: Any) -> bytes | None:
            self._only_once(context)
            holder, channel = await self._reached(asyncio.get_running_loop().time() + self._patience)
            try:
                return await self._sent(holder, getattr(channel, kind)(path), requests, context)
            except _RefusedError as error:
                context.set_trailing_metadata((NOT_ACTED,))
                raise NobodyActsError("the replica that acted has just stopped; repeat the call") from error

        return handle

    def _only_once(self, context: Any) -> None:
        for key, value in context.invocation_metadata() or ():
            if key == HOP:
                context.set_trailing_metadata((NOT_ACTED,))
                raise NobodyActsError(f"handed on by {value} to {self._leadership.identity}, which does not act; repeat the call")

    async def _pause(self, seconds: float) -> None:
        """Until there is another holder, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _reached(self, deadline: float) -> tuple[str, grpc.aio.Channel]:
        """The replica that acts, which may be ourselves by now, and a connection to it. Raises NobodyActsError at the deadline."""
        holder = ""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    changed = self._changed
                    holder = self._leadership.holder
                    if holder:
                        channel = self._channel(holder)
                        if await _before(changed, _connected(channel)):
                            return holder, channel
                    else:
                        await changed.wait()
        except TimeoutError:
            who = f"{holder}, which is to act, can't be reached" if holder else "no replica holds the lease"
            raise NobodyActsError(f"{who}, for {self._patience:g} s now; repeat the call") from None

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=channel_options())
        return self._channels[address]

    async def _sent(self, holder: str, begin: Callable[..., Any], request: Any, context: Any) -> bytes | None:
        """One call to the holder, and its answer to the caller. Raises _RefusedError when it may be repeated elsewhere."""
        metadata = [(key, value) for key, value in context.invocation_metadata() or () if _travels(key)]
        metadata += [*handed_on(), (HOP, self._leadership.identity)]
        passed_on = False
        try:
            call = begin(request, metadata=tuple(metadata), timeout=context.time_remaining())
        except grpc.aio.UsageError as error:  # the connection was closed since: somebody else is to act
            raise _RefusedError from error
        try:
            async with self._ended_with(holder, call):
                if hasattr(call, "__aiter__"):
                    async for message in call:
                        passed_on = True
                        await context.write(message)
                    answer = None
                else:
                    answer = await call
                if trailers := _travelling(await call.trailing_metadata()):
                    context.set_trailing_metadata(trailers)
                return answer
        except grpc.aio.AioRpcError as error:
            trailers = tuple(error.trailing_metadata() or ())
            never_sent = error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(NEVER_SENT)
            if NOT_ACTED in trailers or (never_sent and not passed_on):
                raise _RefusedError from error
            if error.code() is grpc.StatusCode.CANCELLED:
                # Not by our caller, or we would not be here. A server that stops cancels calls that have reached no handler of it.
                if error.details() != CUT_OFF and not passed_on:
                    raise _RefusedError from error
                raise NobodyActsError("the replica that acted has just stopped; repeat the call") from error
            await context.abort(error.code(), error.details() or "", _travelling(trailers))
            raise AssertionError from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if call.cancelled() and task is not None and not task.cancelling():
                raise NobodyActsError("the replica that acted is gone; repeat the call") from None
            raise
        finally:
            call.cancel()

    @asynccontextmanager
    async def _ended_with(self, holder: str, call: Any) -> AsyncIterator[None]:
        """Gives a call up a while after its holder has ceased to be one: what is gone without a word never answers."""

        async def watch() -> None:
            while True:
                changed = self._changed
                if self._leadership.holder != holder:
                    await asyncio.sleep(OLD_HOLDER_SECONDS)
                    call.cancel()
                    return
                await changed.wait()

        watching = asyncio.create_task(watch(), name=f"watch over a call to {holder}")
        try:
            yield
        finally:
            await cancelled(watching)


def _travels(key: str) -> bool:
    return key not in _OWN and not key.startswith(_PRIVATE)


def _travelling(metadata: Iterable[tuple[str, Any]] | None) -> tuple[tuple[str, Any], ...]:
    """The trailers that a caller gets; the details of a status are one of them."""
    return tuple((key, value) for key, value in metadata or () if _travels(key) or key == "grpc-status-details-bin")


async def _connected(channel: grpc.aio.Channel) -> None:
    """Waits for a connection, so that a call that is sent afterwards was not lost on the way to nobody."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


async def _before(event: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether the work was done before the event came."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.create_task(event.wait(), name="wait for another holder")
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return task.done() and not task.cancelled() and task.exception() is None
    finally:
        await cancelled(waiting)
        await cancelled(task)
