"""Metrics and traces. Metrics are prometheus_client's (1 µs each, where an OpenTelemetry counter costs 21); OTLP gets the same ones.

The OpenTelemetry SDK is imported in `otlp` only, and that only when an OTLP endpoint is configured; without one, spans are the API's
no-ops, but a caller's trace context is still passed on.
"""

import asyncio
import logging
import platform
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from otto_runtime import spans
from otto_runtime.addresses import parse
from otto_runtime.settings import RuntimeSettings
from otto_runtime.tasks import cancelled

log = logging.getLogger(__name__)
LAG_SECONDS = 0.5
CALLER = "otto-caller"
"""Call metadata of a call that is handed on: the traceparent that its first caller sent; `-`: none. What outlives a call belongs there, and
not to the spans of services in between, which are lost when those are killed.
"""
_W3C = TraceContextTextMapPropagator()
"""Not OpenTelemetry's default, which hands a caller's baggage on too: nothing here reads it, it grows with each hop, and gRPC refuses calls
with more than 8 KiB of metadata at random.
"""
MOST_TRACESTATE = 512
"""Characters of a tracestate that are handed on, the most that W3C's Trace Context asks for."""
_CALLER: ContextVar[str | None] = ContextVar("otto_runtime_caller", default=None)

RPC_SECONDS = Histogram(
    "otto_rpc_server_duration_seconds",
    "Duration of calls, streams included, by status code.",
    ("method", "code"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
RPC_OPEN = Gauge("otto_rpc_server_open", "Calls that run now.", ("method",))
TASKS = Gauge("otto_asyncio_tasks", "Tasks of the event loop; they come and go with what runs, and do not grow with what has ended.")
LOOP_LAG = Histogram(
    "otto_event_loop_lag_seconds",
    "By how much the event loop was late, looked at twice a second: all calls of the process wait so long.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
BUILD = Gauge("otto_build_info", "1; the labels say which version this is.", ("version", "python"))
ACTING = Gauge("otto_replica_acting", "1 while this replica is the one that acts, 0 while it hands calls on.", ("service",))
MESSAGES_SENT = Counter("otto_rpc_server_messages_sent_total", "Messages sent on streams.", ("method",))


class MetricsPortTaken(Exception):  # noqa: N818 - says what happened, as server.PortTaken
    """The address of `/metrics` can't be listened on; the text says which and what to do."""


def tracer(name: str) -> trace.Tracer:
    """The tracer of a package, by its import name."""
    return trace.get_tracer(name)


def continue_trace(metadata: Mapping[str, str]) -> None:
    """Makes the trace that call metadata carries the current one of this task; without one, nothing changes."""
    sent = metadata.get("traceparent", "")
    caller = metadata.get(CALLER, sent)
    _CALLER.set(caller if spans.valid(caller) else "")
    if sent:
        context.attach(_W3C.extract(metadata))


def current_traceparent() -> str:
    """The W3C traceparent of the current span; empty when there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent", "")


def callers_traceparent() -> str:
    """That of the span in which the running call was made, wherever it was handed on; empty when the caller has none."""
    return _CALLER.get() or ""


def handed_on() -> tuple[tuple[str, str], ...]:
    """Call metadata that continues the current trace, and says who began it; empty when there is none. Of a long tracestate the first
    entries are kept, which are the latest; baggage is left out.
    """
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    if len(state := carrier.pop("tracestate", "")) > MOST_TRACESTATE:
        state = state[: MOST_TRACESTATE + 1].rpartition(",")[0]
    if state:
        carrier["tracestate"] = state
    caller = _CALLER.get()
    if carrier and caller is not None:
        carrier[CALLER] = caller or "-"
    return tuple(carrier.items())


def link_to(traceparent: str) -> None:
    """Says that the running call has to do with that span."""
    span = trace.get_current_span()
    if traceparent and span.is_recording():
        span.add_link(trace.get_current_span(_W3C.extract({"traceparent": traceparent})).get_span_context())


class _Telling:
    """Where spans of what is over go: nowhere, until `otlp` puts its own functions in."""

    def __init__(self) -> None:
        self.tell: Callable[[str, spans.Span], None] | None = None
        self.sampled: Callable[[str], bool] = lambda _: True


_TELLING = _Telling()


@contextmanager
def told_by(tell: Callable[[str, spans.Span], None], sampled: Callable[[str], bool]) -> Iterator[None]:
    """While entered, `tell` gets spans and the names of packages that tell them; `sampled` decides about a new trace. Neither may block."""
    before = _TELLING.tell, _TELLING.sampled
    _TELLING.tell, _TELLING.sampled = tell, sampled
    try:
        yield
    finally:
        _TELLING.tell, _TELLING.sampled = before


def new_traceparent() -> str:
    """The beginning of a trace for what nobody's trace led to; sampled as the settings say."""
    begun = spans.fresh()
    return begun if _TELLING.sampled(begun) else begun[:-2] + "00"


def telling() -> bool:
    """Whether spans go anywhere."""
    return _TELLING.tell is not None


def tell(package: str, span: spans.Span) -> None:
    """Something is over. Costs nothing where nobody is told; never waits."""
    if _TELLING.tell is not None and spans.is_sampled(span.context):
        _TELLING.tell(package, span)


@contextmanager
def registered(figures: Collector) -> Iterator[None]:
    """What a service collects itself is among the process's metrics while this is entered."""
    REGISTRY.register(figures)
    try:
        yield
    finally:
        REGISTRY.unregister(figures)


@asynccontextmanager
async def telemetry(settings: RuntimeSettings, service: str) -> AsyncIterator[None]:
    """Serves `/metrics` and exports to OTLP while it is entered; at the end what is left is flushed, for at most 3 seconds.

    Raises MetricsPortTaken. Flushing happens in a thread, so that an endpoint that does not answer holds up nothing but the end itself.
    """
    loop = asyncio.get_running_loop()
    TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))
    BUILD.labels(version("otto-runtime"), platform.python_version()).set(1)
    async with _lag_observed():
        with _metrics(settings.metrics_listen):
            async with _exported(settings, service):
                yield


@asynccontextmanager
async def _exported(settings: RuntimeSettings, service: str) -> AsyncIterator[None]:
    if not settings.otlp_endpoint:
        yield
        return
    from otto_runtime.otlp import exporting  # the SDK costs memory and start-up time that only those who export shall pay

    async with exporting(settings, service):
        yield


@asynccontextmanager
async def _lag_observed() -> AsyncIterator[None]:
    async def look() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            LOOP_LAG.observe(max(0.0, clock() - due))

    looking = asyncio.create_task(look(), name="observe the event loop's lag")
    try:
        yield
    finally:
        await cancelled(looking)


@contextmanager
def _metrics(listen: str) -> Iterator[None]:
    if listen == "off":
        yield
        return
    address = parse(listen)
    try:
        server, thread = start_http_server(address.port, addr=address.bare_host)
    except OSError as error:
        raise MetricsPortTaken(
            f"OTTO_METRICS_LISTEN={listen}: the address can't be listened on ({error.strerror}). "
            "Choose another one (port 0 takes a free one), or `off`"
        ) from error
    server.set_app(_whatever_is_accepted(server.get_app()))
    server.handle_error = _without_who_left(server.handle_error)  # type: ignore[assignment, method-assign]  # prometheus_client makes the server
    log.info("runtime.metrics_serving", extra={"address": address.dialable(server.server_port)})
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def _without_who_left(told: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """The server's own prints a traceback for each connection that its client has cut."""

    def handle_error(request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            told(request, client_address)

    return handle_error


def _whatever_is_accepted(app: Any) -> Callable[[dict[str, Any], Any], Any]:
    """prometheus_client fails, and prints why, at an Accept with a version that is no number: who sends one gets the plain format."""

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            choose_encoder(environ.get("HTTP_ACCEPT", ""))
        except (TypeError, ValueError):
            environ = {**environ, "HTTP_ACCEPT": ""}
        return app(environ, start_response)

    return answer
