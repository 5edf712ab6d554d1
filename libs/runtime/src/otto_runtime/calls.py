"""One server interceptor around every call: deadline, status of errors, metrics, trace, and the end of open streams at a stop.

A stop ends long streams with OK: the handler's task is cancelled, its `finally` blocks run, and what the client sees is the end of the stream.
That is the only place where a cancellation is not passed on, because it was ours (as `asyncio.timeout` does it).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from structlog.contextvars import bind_contextvars

from otto_runtime import telemetry
from otto_runtime.errors import single, status_of
from otto_runtime.settings import RuntimeSettings

log = logging.getLogger(__name__)
Handler = Callable[[Any, Any], Any]


class Calls(grpc.aio.ServerInterceptor):
    """Every call that runs, and what happens around it."""

    def __init__(self, settings: RuntimeSettings) -> None:
        """Takes the deadline of unary calls from the settings."""
        self._unary_timeout = settings.unary_timeout
        self._public: tuple[type[Exception], ...] = ()
        self._running: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._draining = False

    def add_public_errors(self, errors: tuple[type[Exception], ...]) -> None:
        """Instances of these classes are told to clients in their own words."""
        self._public += errors

    def end_streams(self) -> int:
        """Ends every open stream with OK, and every later one at once. Returns how many were open."""
        self._draining = True
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        return len(streams)

    async def ended(self, timeout: float) -> int:
        """Waits until every handler has run to its end (grpc.aio's stop does not), at most `timeout` seconds; cancels and counts the rest."""
        if not self._running:
            return 0
        _, late = await asyncio.wait(set(self._running), timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
        return len(late)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wraps the handler that was found; an unknown method has none and stays UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method.lstrip("/")
        serializers = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(method, handler.stream_stream), **serializers)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), **serializers)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary(method, handler.stream_unary), **serializers)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **serializers)

    def _unary(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _Around(self, method, context, stream=False):
                async with asyncio.timeout(self._unary_timeout):
                    return await inner(request, context)

        return call

    def _stream(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async with _Around(self, method, context, stream=True):
                if self._draining:
                    return
                sent = telemetry.MESSAGES_SENT.labels(method)
                result = inner(request, context)
                if not hasattr(result, "__aiter__"):
                    await result
                    return
                try:
                    async for message in result:
                        await context.write(message)
                        sent.inc()
                finally:
                    await result.aclose()

        return call


class _Around:
    """What happens before and after one call."""

    def __init__(self, calls: Calls, method: str, context: grpc.aio.ServicerContext[Any, Any], *, stream: bool) -> None:
        self._calls = calls
        self._method = method
        self._context = context
        self._stream = stream

    async def __aenter__(self) -> None:
        self._started = time.perf_counter()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._calls._running.add(task)
        if self._stream:
            self._calls._streams.add(task)
        telemetry.RPC_OPEN.labels(self._method).inc()
        metadata = {k: v for k, v in self._context.invocation_metadata() or () if isinstance(v, str)}
        telemetry.continue_trace(metadata)
        bind_contextvars(rpc=self._method)
        self._span = telemetry.tracer(__name__).start_as_current_span(
            self._method, kind=telemetry.trace.SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        )
        self._recorded = self._span.__enter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        code = "OK"
        try:
            if error is None:
                return False
            error = single(error)
            if isinstance(error, grpc.aio.AbortError):
                code = getattr(self._context.code(), "name", "UNKNOWN")
                return False
            if isinstance(error, asyncio.CancelledError):
                if self._stream and self._calls._draining and not self._context.cancelled():
                    self._task.uncancel()
                    return True
                code = "CANCELLED"
                return False
            if not isinstance(error, Exception):
                code = "INTERNAL"
                return False
            status = status_of(error, self._calls._public)
            code = status.code.name
            if status.error_id:
                log.error("runtime.call_failed", extra={"method": self._method, "error_id": status.error_id}, exc_info=error)
            await self._context.abort(status.code, status.details)
        finally:
            self._recorded.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
            if code not in {"OK", "CANCELLED"}:
                self._recorded.set_status(telemetry.trace.StatusCode.ERROR)
            self._span.__exit__(None, None, None)
            self._calls._running.discard(self._task)
            self._calls._streams.discard(self._task)
            telemetry.RPC_OPEN.labels(self._method).dec()
            telemetry.RPC_SECONDS.labels(self._method, code).observe(time.perf_counter() - self._started)
        return False
