"""Metrics and traces. Metrics are prometheus_client's (1 µs each, where an OpenTelemetry counter costs 21); OTLP gets the same ones.

The OpenTelemetry SDK is imported here only, and only when an OTLP endpoint is configured; without one, spans are the API's no-ops, but a caller's
trace context is still passed on.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context, propagate, trace
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

from otto_runtime.settings import RuntimeSettings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

log = logging.getLogger(__name__)

RPC_SECONDS = Histogram(
    "otto_rpc_server_duration_seconds",
    "Duration of calls, streams included, by status code.",
    ("method", "code"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
RPC_OPEN = Gauge("otto_rpc_server_open", "Calls that run now.", ("method",))
MESSAGES_SENT = Counter("otto_rpc_server_messages_sent_total", "Messages sent on streams.", ("method",))


def tracer(name: str) -> trace.Tracer:
    """The tracer of a package, by its import name."""
    return trace.get_tracer(name)


def continue_trace(metadata: Mapping[str, str]) -> None:
    """Makes the trace that call metadata carries the current one of this task; without one, nothing changes."""
    if "traceparent" in metadata:
        context.attach(propagate.extract(metadata))


def current_traceparent() -> str:
    """The W3C traceparent of the current span; empty when there is none."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent", "")


@asynccontextmanager
async def telemetry(settings: RuntimeSettings, service: str) -> AsyncIterator[None]:
    """Serves `/metrics` and exports to OTLP while it is entered; at the end what is left is flushed, for at most 5 seconds.

    Raises OSError when the metrics port is taken.
    """
    server: Any = None
    if settings.metrics_listen != "off":
        host, _, port = settings.metrics_listen.rpartition(":")
        server, thread = start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1")
        log.info("runtime.metrics_serving", extra={"address": f"{host}:{server.server_port}"})
    flush = _export(settings, service) if settings.otlp_endpoint else None
    try:
        yield
    finally:
        if flush is not None:
            flush()
        if server is not None:
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)


def _export(settings: RuntimeSettings, service: str) -> Callable[[], None]:
    from opentelemetry import metrics
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create({"service.name": service, "service.namespace": "ottoscaler"})
    insecure = not settings.otlp_endpoint.startswith("https")
    spans = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)))
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure)))
    trace.set_tracer_provider(spans)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=settings.otlp_endpoint, insecure=insecure))
    meters = MeterProvider(resource=resource, metric_readers=[reader])
    metrics.set_meter_provider(meters)
    _bridge(meters.get_meter("otto_runtime"))

    def flush() -> None:
        spans.force_flush(5_000)
        spans.shutdown()
        meters.shutdown(5_000)

    return flush


def _bridge(meter: Any) -> None:
    """Hands every sample of the Prometheus registry on to OpenTelemetry: counters, and the parts of histograms, as sums; the rest as gauges."""
    from opentelemetry.metrics import Observation

    def reading(sample_name: str) -> Callable[["CallbackOptions"], Iterable["Observation"]]:
        def read(_: "CallbackOptions") -> Iterable["Observation"]:
            for family in REGISTRY.collect():
                for sample in family.samples:
                    if sample.name == sample_name:
                        yield Observation(sample.value, sample.labels)

        return read

    for family in REGISTRY.collect():
        parts = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type)
        for part in parts or ("",):
            create = meter.create_observable_counter if parts else meter.create_observable_gauge
            name = family.name + part
            create(name, callbacks=[reading(name)], description=family.documentation)
