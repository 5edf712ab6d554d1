"""One server interceptor around every call: deadline, status of errors, metrics, trace, and the end of open streams at a stop.

A stop ends long streams with OK: the handler's task is cancelled, its `finally` blocks run, and the client sees the end of the stream.
That is the only place where a cancellation is not passed on, because it was ours (as `asyncio.timeout` does it). A stream that begins
something is first let come to its first message: an end without any would say neither that it was begun nor that not. A handler that has
to know whether its caller left or the service stops asks `stopping()`: grpc.aio's `context.cancelled()` is False in both cases.
"""

from __future__ import annotations  # grpcio's classes take type arguments in stubs only

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
from opentelemetry import trace
from structlog.contextvars import bind_contextvars

from otto_runtime import telemetry
from otto_runtime.channels import UPKEEP
from otto_runtime.errors import MalformedMessage, Status, code_of, status_of
from otto_runtime.handing import CUT_OFF, HOP, NOT_ACTED, STOPS, HandOn, NobodyActsError
from otto_runtime.messages import Transform, counting, reading, write_all
from otto_runtime.settings import RuntimeSettings
from otto_runtime.tasks import leaves

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_CALLS: ContextVar[Calls | None] = ContextVar("otto_runtime_calls", default=None)
"""Not the call itself: its task would then refer to itself, and tasks, timers and connections that come of it would keep it."""
_STOPPING = "the service is stopping; repeat the call"
_HEALTH = "grpc.health."
"""Not traced, and answered to the very end of a stop: probes come for ever."""
LATE_SECONDS = 1.0
"""How long a stop waits for handlers that were cancelled because the grace was over."""
QUIET_TURNS = 5
"""In so many parts silence is waited for."""
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Statuses that are the server's fault, so that its span is an error (OpenTelemetry semantic conventions for gRPC)."""


def stopping() -> bool:
    """Whether our server stops, or the replica that handed the running call on: then a cancellation does not mean that the caller left.

    False outside of calls. Holds in the handler and, of our own stop, in the tasks it started.
    """
    calls = _CALLS.get()
    return calls is not None and (calls.draining or calls.handed_on_by_who_stops(asyncio.current_task()))


@dataclass(slots=True, eq=False)
class _Call:
    """One call that runs. `left` is set when its handler has ended; its task goes on until the status is on its way."""

    calls: Calls
    method: str
    task: asyncio.Task[Any] = field(init=False)
    begins: Callable[[], bool] | None = None
    """Whether, as a stop comes, it is on to begin something; None for what is no stream."""
    handed_on_by: str = ""
    that_stops: bool = False
    """Whether the replica that handed it on has said that it stops."""
    said: bool = False
    """Whether a message of its stream has been written."""
    told_to_end: bool = False
    given_up: bool = False
    """Whether it was cancelled because the grace of a stop was over."""
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """Ends a stream because the service stops."""
        if not self.left.is_set():
            self.told_to_end = True
            self.task.cancel()

    def says(self) -> None:
        """A message of its stream is being written. If that was all that a stop waited for, the stream ends behind it."""
        if self.said:
            return
        self.said = True
        if self.calls.draining and not self.told_to_end:
            asyncio.get_running_loop().call_soon(self.end)


class Calls(grpc.aio.ServerInterceptor):
    """Every call that runs, and what happens around it."""

    def __init__(self, settings: RuntimeSettings) -> None:
        """Takes the deadline of unary calls from the settings."""
        self._unary_timeout = settings.unary_timeout
        self._public: tuple[type[Exception], ...] = (MalformedMessage, NobodyActsError, _DeadlineError, _StoppingError)
        self._running: dict[asyncio.Task[Any] | None, _Call] = {}
        self._elsewhere: dict[str, HandOn] = {}
        self._refused_at_stop: dict[str, Callable[[Any], bool]] = {}
        self._completing: frozenset[str] = frozenset()
        self.draining = False
        """Whether open streams were told to end."""
        self._came = 0
        """How many calls have come, health checks aside."""

    def add_public_errors(self, errors: tuple[type[Exception], ...]) -> None:
        """Instances of these classes are told to clients in their own words."""
        self._public += errors

    def add_beginnings(self, methods: Mapping[str, Callable[[Any], bool]]) -> None:
        """Streams of these methods (`service/Method`) are refused during a stop if their request is one that begins something: to end with
        OK would say that it was begun.
        """
        self._refused_at_stop |= methods

    def add_completing(self, methods: Iterable[str]) -> None:
        """Streams of these methods end with UNAVAILABLE at a stop, and are refused during it: OK would say that all was delivered."""
        self._completing |= frozenset(methods)
        self._refused_at_stop |= dict.fromkeys(self._completing, lambda _: True)

    def hand_on(self, service: str, hand_on: HandOn) -> None:
        """Calls to this service go where `hand_on` says."""
        self._elsewhere[service] = hand_on

    async def end_streams(self) -> int:
        """Ends every open stream (with OK, unless that says too much), every later one at once, and refuses later calls that do something.

        One that is on to begin something ends after its first message. Returns how many streams were open.
        """
        self.draining = True
        await asyncio.gather(*(hand_on.stops() for hand_on in set(self._elsewhere.values())))
        streams = [(call, call.begins) for call in self._running.values() if call.begins is not None and not call.told_to_end]
        for call, begins in streams:
            if call.said or call.method in self._completing or not begins():
                call.end()
        return len(streams)

    def handed_on_by_who_stops(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the call of this task came through a replica that has said that it stops."""
        return (call := self._running.get(task)) is not None and call.that_stops

    async def ended(self, timeout: float) -> int:
        """Waits for every handler's end (grpc.aio's stop does not), at most `timeout` seconds; cancels, counts and gives up the rest.

        Those that were given up before are not waited for again.
        """
        late = await _all_left([call for call in self._running.values() if not call.given_up], timeout)
        for call in late:
            call.given_up = True
            call.task.cancel()
        await _all_left(late, LATE_SECONDS)
        return len(late)

    async def quiet(self, seconds: float, most: float, ask: Callable[[], Awaitable[object]]) -> None:
        """Waits until no call has come for `seconds`, at most `most` seconds.

        Calls that were on their way when the drain began are answered like that; those that a stopped server has not looked at yet would
        end with CANCELLED. The silence has to last several turns, in each of which a health check that `ask` makes has come through: a
        process that gets no processor has heard nothing meanwhile.
        """
        silent = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(most):
                while silent < QUIET_TURNS:
                    came = self._came
                    await asyncio.sleep(seconds / QUIET_TURNS)
                    with suppress(grpc.aio.AioRpcError):
                        await ask()
                    silent = silent + 1 if self._came == came else 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler that was found; an unknown method has none and stays UNIMPLEMENTED."""
        method = handler_call_details.method.lstrip("/")
        self._came += not method.startswith(_HEALTH)
        # types-grpcio gives the handler's fields no types
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        if (hand_on := self._elsewhere.get(method.rpartition("/")[0])) is not None:
            handler = hand_on.instead_of(method, handler)
        call = _Call(self, method)
        read = reading(handler.request_deserializer)
        write = handler.response_serializer
        if handler.response_streaming:
            sent = counting(write, telemetry.MESSAGES_SENT.labels(method), call.says)
            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(self._stream(call, handler.stream_stream, None), read, sent)
            return grpc.unary_stream_rpc_method_handler(self._stream(call, handler.unary_stream, read), None, sent)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary(call, handler.stream_unary, None, write), read, None)
        return grpc.unary_unary_rpc_method_handler(self._unary(call, handler.unary_unary, read, write), None, None)

    def _unary(self, call: _Call, inner: Any, read: Transform | None, write: Transform | None) -> Any:
        async def handle(request: Any, context: Context) -> Any:
            async def work() -> Any:
                if self.draining and not call.method.startswith(_HEALTH):
                    self._refuse(context)
                answer = await inner(request if read is None else read(request), context)
                return answer if write is None else write(answer)

            return await self._guarded(call, context, work)

        return handle

    def _stream(self, call: _Call, inner: Any, read: Transform | None) -> Any:
        async def handle(request: Any, context: Context) -> None:
            call.begins = begins = partial(self._refuses, call.method, request, read)  # without the call, which would refer to itself
            refused = begins()

            async def work() -> None:
                if self.draining:
                    if refused or begins():
                        self._refuse(context)
                    return
                result = inner(request if read is None else read(request), context)
                if inspect.isawaitable(result):
                    await result
                else:
                    await write_all(result, context)

            # a refusal comes without anything before it, so that proxies send the call again
            await self._guarded(call, context, work, opens=not refused)

        return handle

    def _refuses(self, method: str, request: Any, read: Transform | None) -> bool:
        """Whether a stream that comes now is to be sent somewhere else. What is handed on as bytes is not looked into."""
        wanted = self._refused_at_stop.get(method) if self.draining else None
        if wanted is None:
            return False
        try:
            message = request if read is None else read(request)
        except MalformedMessage:
            return True
        return isinstance(message, bytes) or wanted(message)

    def _refuse(self, context: Context) -> NoReturn:
        context.set_trailing_metadata((NOT_ACTED,))
        raise _StoppingError(_STOPPING)

    async def _guarded(self, call: _Call, context: Context, work: Callable[[], Awaitable[Any]], *, opens: bool = False) -> Any:
        """Runs a handler with everything around it; what it raises leaves here as a status, an AbortError or a cancellation."""
        method = call.method
        task = asyncio.current_task()
        assert task is not None
        if opens:
            await _open(context)
        call.task = task
        self._running[task] = call
        _CALLS.set(self)
        started = time.perf_counter()
        code = grpc.StatusCode.CANCELLED
        telemetry.RPC_OPEN.labels(method).inc()
        metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        call.handed_on_by = metadata.get(HOP, "")
        if stops := metadata.get(STOPS):
            for other in self._running.values():
                other.that_stops = other.that_stops or other.handed_on_by == stops
        telemetry.continue_trace(metadata)
        bind_contextvars(rpc=method)
        try:
            with _span(method, traced=UPKEEP[0] not in metadata) as span:
                try:
                    answer = await (self._in_time(method, work) if call.begins is None else work())
                    code = code_of(context)
                    return answer
                except BaseException as error:
                    try:
                        status = self._judge(error, call)
                    except grpc.aio.AbortError:
                        code = code_of(context)
                        raise
                    code = status.code
                    if code is grpc.StatusCode.OK:
                        return None
                    try:
                        await context.abort(code, status.details)
                    except grpc.aio.InternalError:  # nobody is there any more
                        code = grpc.StatusCode.CANCELLED
                        raise asyncio.CancelledError from error
                finally:
                    span.set_attribute("rpc.grpc.status_code", code.value[0])
                    if code in _FAULTS:
                        span.set_status(trace.StatusCode.ERROR)
        finally:
            del self._running[task]
            call.left.set()
            telemetry.RPC_OPEN.labels(method).dec()
            telemetry.RPC_SECONDS.labels(method, code.name).observe(time.perf_counter() - started)

    async def _in_time(self, method: str, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(self._unary_timeout) as limit:
                return await work()
        except (TimeoutError, asyncio.CancelledError) as error:
            # a failed TaskGroup may leave a stale cancellation request behind (Python < 3.13); asyncio.timeout then lets its own pass
            if not limit.expired():
                raise
            log.warning("runtime.call_timed_out", extra={"method": method, "seconds": self._unary_timeout})
            raise _DeadlineError("the service did not answer in time; repeat the call") from error

    def _judge(self, error: BaseException, call: _Call) -> Status:
        """What the client gets to see; raises what is to leave the guard as it is: an AbortError, a cancellation, a KeyboardInterrupt."""
        found = list(leaves(error))
        aborts = [leaf for leaf in found if isinstance(leaf, grpc.aio.AbortError)]
        fatal = [leaf for leaf in found if isinstance(leaf, KeyboardInterrupt | GeneratorExit)]
        faults = [leaf for leaf in found if not isinstance(leaf, grpc.aio.AbortError | asyncio.CancelledError | grpc.aio.InternalError)]
        if fatal:
            raise fatal[0]
        if (aborts or call.told_to_end) and faults:
            _log_failure(call.method, error, "-")  # what the client gets is settled; what went wrong beside it must not pass unseen
        if aborts:
            raise aborts[0]
        if call.told_to_end:
            while call.task.cancelling():
                call.task.uncancel()
            if call.method in self._completing:
                return Status(grpc.StatusCode.UNAVAILABLE, _STOPPING)
            return Status(grpc.StatusCode.OK, "")
        if not faults and (call.task.cancelling() or not any(isinstance(leaf, asyncio.CancelledError) for leaf in found)):
            # the caller left (a write then raises InternalError), or the grace of a stop is over
            if call.given_up:
                return Status(grpc.StatusCode.UNAVAILABLE, _STOPPING)
            return Status(grpc.StatusCode.CANCELLED, CUT_OFF)
        # a CancelledError that comes here is not the call's own: the handler awaited something that somebody else cancelled
        status = status_of(error, self._public)
        if status.error_id:
            _log_failure(call.method, error, status.error_id)
        return status


async def _open(context: Context) -> None:
    """Sends a stream's initial metadata before anything of ours can cancel its handler.

    A handler cancelled in its first write leaves grpc.aio in doubt whether they were sent; it then sends them again with the status, which
    gRPC's core refuses, so that the stream would never end.
    """
    try:
        await context.send_initial_metadata(())
    except grpc.aio.InternalError as error:  # the caller is gone already
        raise asyncio.CancelledError from error


async def _all_left(calls: list[_Call], timeout: float) -> list[_Call]:
    """Waits until the handlers have ended, at most `timeout` seconds. Returns those that have not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            for call in calls:
                await call.left.wait()
    return [call for call in calls if not call.left.is_set()]


def _log_failure(method: str, error: BaseException, error_id: str) -> None:
    log.error("runtime.call_failed", extra={"method": method, "error_id": error_id}, exc_info=error)


class _DeadlineError(Exception):
    """Our own deadline of a unary call has passed."""

    grpc_status = "DEADLINE_EXCEEDED"


class _StoppingError(Exception):
    """A call that would do something came after the streams were told to end."""

    grpc_status = "UNAVAILABLE"


def _span(method: str, *, traced: bool) -> Any:
    if not traced or method.startswith(_HEALTH):
        return trace.use_span(trace.INVALID_SPAN)
    service, _, name = method.rpartition("/")
    return telemetry.tracer(__name__).start_as_current_span(
        method,
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        record_exception=False,
        set_status_on_exception=False,
    )
