"""Export of traces and metrics by OTLP: the only module that knows the OpenTelemetry SDK, imported only when an endpoint is configured.

Spans wait in a queue that drops the oldest when it is full; one thread sends them, and gives each batch up after FLUSH_SECONDS. So a
collector that is away, slow or refuses holds up nothing and makes nothing grow. Headers, certificates and attributes of the resource are
taken from the environment by the SDK itself (`OTEL_EXPORTER_OTLP_HEADERS`, `_CERTIFICATE`, `OTEL_RESOURCE_ATTRIBUTES`).

Metrics are read from the Prometheus registry as a whole at every export, so that families and labels that appear later are exported too,
histograms stay histograms, and nothing is counted twice.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from otto_runtime import spans, telemetry
from otto_runtime.settings import RuntimeSettings

log = logging.getLogger(__name__)

FLUSH_SECONDS = 3.0
"""How long the last export may take; a stop does not wait longer for a collector that is gone."""
SPANS_DELAY = 1.0
"""Seconds that spans wait for others. A killed process loses those that wait, so not OpenTelemetry's five."""
MOST_SPANS = 4096
"""That wait to be sent: a run of 500 stages that ends tells as many at once. All of them take 12 MB."""


@asynccontextmanager
async def exporting(settings: RuntimeSettings, service: str) -> AsyncIterator[None]:
    """Exports spans as they end and metrics every `otlp_interval` seconds while entered; flushes at the end, at most FLUSH_SECONDS.

    The tracer provider is the process's, so this can be entered once per process.
    """
    endpoint, insecure = settings.otlp_endpoint, not settings.otlp_endpoint.startswith("https")
    resource = Resource.create({"service.name": service, "service.namespace": "ottoscaler", "service.version": version("otto-runtime")})
    sampler = _sampler(settings.trace_sampler, settings.trace_sample_ratio)
    provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    queue = BatchSpanProcessor(
        OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=FLUSH_SECONDS),
        max_queue_size=MOST_SPANS,
        schedule_delay_millis=SPANS_DELAY * 1000,
    )
    provider.add_span_processor(queue)
    trace.set_tracer_provider(provider)
    exporter = OTLPMetricExporter(endpoint=endpoint, insecure=insecure, timeout=FLUSH_SECONDS)
    ended = threading.Event()

    def export() -> bool:
        return exporter.export(metrics_data(REGISTRY, resource)) is MetricExportResult.SUCCESS

    def export_repeatedly() -> None:
        reachable = readable = True
        while not ended.wait(settings.otlp_interval):
            was = reachable
            try:
                reachable = export()
            except Exception as error:  # what services collect is read from disks, and while it changes
                if readable:
                    log.warning("runtime.metrics_unread", extra={"why": repr(error)})
                readable = False
                continue
            readable = True
            if was and not reachable:
                log.warning("runtime.export_failed", extra={"endpoint": endpoint})
            elif reachable and not was:
                log.info("runtime.export_works_again", extra={"endpoint": endpoint})

    def sampled(traceparent: str, parent: str = "", name: str = "") -> bool:
        decided = sampler.should_sample(_context(parent), _ids(traceparent)[0], name)
        return decided.decision is Decision.RECORD_AND_SAMPLE

    def tell(package: str, span: spans.Span) -> None:
        if sampled(span.context, span.parent, span.name):
            queue.on_end(_readable(span, resource, InstrumentationScope(package)))

    def flush() -> bool:
        # what became of the spans the SDK does not tell; they and the metrics go to the same endpoint
        try:
            return provider.force_flush(int(FLUSH_SECONDS * 1000)) and export()
        except Exception as error:
            log.warning("runtime.metrics_unread", extra={"why": repr(error)})
            return False

    # the SDK logs sentences of its own at every attempt; ours are the events above, once
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    threading.Thread(target=export_repeatedly, name="otlp metrics", daemon=True).start()
    try:
        with telemetry.told_by(tell, sampled):
            yield
    finally:
        ended.set()
        if not await _in_daemon_thread(flush, FLUSH_SECONDS):
            log.warning("runtime.telemetry_lost", extra={"endpoint": endpoint})
        # both only set a flag that ends waiting retries; the threads are daemons
        threading.Thread(target=provider.shutdown, name="otlp end of spans", daemon=True).start()
        threading.Thread(target=exporter.shutdown, name="otlp end of metrics", daemon=True).start()


def _sampler(name: str, ratio: float) -> Sampler:
    root = {"traceidratio": TraceIdRatioBased(ratio), "always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}[name.removeprefix("parentbased_")]
    return ParentBased(root) if name.startswith("parentbased_") else root


def _ids(traceparent: str) -> tuple[int, int, int]:
    _, trace_id, span_id, flags = traceparent.split("-", 3)
    return int(trace_id, 16), int(span_id, 16), int(flags, 16)


def _span_context(traceparent: str) -> trace.SpanContext:
    trace_id, span_id, flags = _ids(traceparent)
    return trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))


def _context(parent: str) -> Context | None:
    return trace.set_span_in_context(trace.NonRecordingSpan(_span_context(parent)), Context()) if parent else None


def _readable(span: spans.Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """What the SDK's tracer would have made; that one has no way to say which id a span is to have."""
    return ReadableSpan(
        span.name,
        context=_span_context(span.context),
        parent=_span_context(span.parent) if span.parent else None,
        resource=resource,
        attributes=dict(span.attributes),
        links=[trace.Link(_span_context(link)) for link in span.links],
        kind=trace.SpanKind.SERVER if span.serves else trace.SpanKind.INTERNAL,
        status=trace.Status(trace.StatusCode.UNSET) if span.error is None else trace.Status(trace.StatusCode.ERROR, span.error),
        start_time=span.start,
        end_time=max(span.start, span.end),
        instrumentation_scope=scope,
    )


async def _in_daemon_thread(work: Callable[[], bool], timeout: float) -> bool:
    """Runs blocking work in a thread that the process's end does not wait for.

    False when the work says so or has not ended after `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    worked = False

    def run() -> None:
        nonlocal worked
        worked = work()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="otlp flush", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await done.wait()
    return worked


def metrics_data(registry: CollectorRegistry, resource: Resource) -> MetricsData:
    """All that the registry has now, as OTLP data points."""
    now = time.time_ns()
    metrics = [metric for family in registry.collect() for metric in _metrics_of(family, now)]
    scope = ScopeMetrics(scope=InstrumentationScope("otto_runtime"), metrics=metrics, schema_url="")
    return MetricsData(resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _metrics_of(family: Family, now: int) -> Iterable[Metric]:
    created = {_key(s): int(s.value * 1e9) for s in family.samples if s.name.endswith("_created")}
    if family.type == "histogram":
        points = list(_histograms(family, created, now))
        if points:
            yield Metric(family.name, family.documentation, family.unit, Histogram(points, AggregationTemporality.CUMULATIVE))
        return
    counts = family.type == "counter"
    numbers = [
        NumberDataPoint(dict(s.labels), created.get(_key(s), now), now, s.value) for s in family.samples if not s.name.endswith("_created")
    ]
    if not numbers:
        return
    if counts:
        yield Metric(family.name, family.documentation, family.unit, Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True))
    else:
        yield Metric(family.name, family.documentation, family.unit, Gauge(numbers))


def _key(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))


def _histograms(family: Family, created: dict[tuple[tuple[str, str], ...], int], now: int) -> Iterable[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for sample in family.samples:
        part = sample.labels["le"] if sample.name.endswith("_bucket") else sample.name.removeprefix(family.name)
        series.setdefault(_key(sample), {})[part] = sample.value
    for key, parts in series.items():
        bounds = sorted(float(part) for part in parts if not part.startswith("_") and part != "+Inf")
        cumulative = [*(parts[_bound_text(parts, bound)] for bound in bounds), parts.get("+Inf", parts.get("_count", 0.0))]
        yield HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=created.get(key, now),
            time_unix_nano=now,
            count=int(cumulative[-1]),
            sum=parts.get("_sum", 0.0),
            bucket_counts=[int(upper - lower) for lower, upper in zip([0.0, *cumulative], cumulative, strict=False)],
            explicit_bounds=bounds,
            min=float("nan"),
            max=float("nan"),
        )


def _bound_text(parts: dict[str, float], bound: float) -> str:
    return next(text for text in parts if not text.startswith("_") and float(text) == bound)
