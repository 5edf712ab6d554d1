"""Traces and metrics, seen by an OTLP collector of our own on a loopback port."""

import asyncio
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otto_runtime.otlp import MOST_SPANS
from otto_runtime.spans import is_sampled

from ..kubekit.test_credentials import certificate
from .processes import started

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


@dataclass
class Collector:
    """What was exported to it."""

    address: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    services: set[str] = field(default_factory=set)

    def note(self, resource: Any) -> None:
        self.services |= {a.value.string_value for a in resource.attributes if a.key == "service.name"}


@asynccontextmanager
async def collecting(port: int = 0, tls: Path | None = None) -> AsyncIterator[Collector]:
    """A collector that takes everything; behind TLS, if it is given its key and its certificate in one file."""
    collector = Collector()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
            for resource in request.resource_spans:
                collector.note(resource.resource)
                for scope in resource.scope_spans:
                    collector.spans += scope.spans
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
            for resource in request.resource_metrics:
                collector.note(resource.resource)
                for scope in resource.scope_metrics:
                    collector.metrics |= {metric.name: metric for metric in scope.metrics}
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.aio.server()
    add_traces: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add_traces(Traces(), server)
    add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
    add_metrics(Metrics(), server)
    if tls is None:
        collector.address = f"http://127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    else:
        credentials = grpc.ssl_server_credentials([(tls.read_bytes(), tls.read_bytes())])
        collector.address = f"https://127.0.0.1:{server.add_secure_port(f'127.0.0.1:{port}', credentials)}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


async def call(address: str, method: str, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = channel.unary_unary(f"/test.Trial/{method}")
        answer: bytes = await stub(b"", metadata=metadata)
        return answer


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


async def test_a_trace_is_continued_without_the_sdk(tmp_path: Path) -> None:
    """With no endpoint a caller's trace context is still what we hand on; without a caller's trace there is none."""
    async with started(tmp_path) as process:
        await process.serving()
        assert (await call(process.address, "trace", TRACEPARENT)).decode() == TRACEPARENT[0][1]
        assert await call(process.address, "trace") == b""
        assert await call(process.address, "trace", (("traceparent", "rubbish"),)) == b""


async def test_what_is_exported(tmp_path: Path) -> None:
    """Spans continue the caller's trace and say how the call ended; metrics come whole, late families and labels too; all at a stop."""
    async with collecting() as collector, started(tmp_path, OTTO_OTLP_ENDPOINT=collector.address) as process:
        await process.serving()
        handed_on = (await call(process.address, "trace", TRACEPARENT)).decode()
        await call(process.address, "count")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(process.address, "fail")
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        spans = {span.name: span for span in collector.spans}
        assert set(spans) == {"test.Trial/trace", "test.Trial/count", "test.Trial/fail"}
        span = spans["test.Trial/trace"]
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
        assert handed_on == f"00-{TRACE}-{span.span_id.hex()}-01"
        assert attributes(span) == {
            "rpc.system": "grpc",
            "rpc.service": "test.Trial",
            "rpc.method": "trace",
            "rpc.grpc.status_code": 0,
        }
        failed = spans["test.Trial/fail"]
        assert (attributes(failed)["rpc.grpc.status_code"], failed.status.code) == (13, 2)
        assert "the-database-password" not in str(collector.spans)
        assert [e["trace_id"] for e in process.events if e["event"] == "runtime.call_failed"] == [failed.trace_id.hex()]
        late = collector.metrics["otto_trial_late"].sum
        assert late.is_monotonic
        assert [(p.as_double, p.attributes[0].value.string_value) for p in late.data_points] == [(3.0, "첫째")]
        durations = collector.metrics["otto_rpc_server_duration_seconds"].histogram.data_points
        methods = {next(a.value.string_value for a in p.attributes if a.key == "method"): p for p in durations}
        point = methods["test.Trial/trace"]
        assert (point.count, sum(point.bucket_counts), len(point.bucket_counts)) == (1, 1, len(point.explicit_bounds) + 1)
        assert 0 < point.sum < 10
        assert point.start_time_unix_nano < point.time_unix_nano
        assert collector.metrics["process_resident_memory_bytes"].gauge.data_points[0].as_double > 1e6
        assert collector.services == {"trial"}


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["known authority", "unknown authority"])
async def test_a_collector_behind_tls_is_one_of_the_authority_that_is_known(tmp_path: Path, known: bool) -> None:
    """With OTEL_EXPORTER_OTLP_CERTIFICATE it gets spans and metrics; without, it gets nothing, and the log says that."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    both = certificate(tmp_path)
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(both.with_name("ca.crt"))} if known else {}
    async with collecting(tls=both) as collector, started(tmp_path, OTTO_OTLP_ENDPOINT=collector.address, **environ) as process:
        await process.serving()
        await call(process.address, "trace", TRACEPARENT)
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        assert [span.name for span in collector.spans] == ["test.Trial/trace"] * known
        assert ("otto_rpc_server_duration_seconds" in collector.metrics) is known
        assert ("runtime.telemetry_lost" in process.names) is not known


UNSAMPLED = (("traceparent", TRACEPARENT[0][1][:-2] + "00"),)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "ratio", "sampled"),
    [
        ("parentbased_traceidratio", "1", (True, True, False)),
        ("parentbased_traceidratio", "0", (False, True, False)),
        ("parentbased_always_on", "0", (True, True, False)),
        ("parentbased_always_off", "1", (False, True, False)),
        ("traceidratio", "0", (False, False, False)),
        ("always_on", "0", (True, True, True)),
        ("always_off", "1", (False, False, False)),
    ],
)
async def test_samplers_decide_as_opentelemetry_names_them(
    tmp_path: Path, sampler: str, ratio: str, sampled: tuple[bool, bool, bool]
) -> None:
    """About a trace that begins here, one that its caller samples and one that its caller does not; what is handed on says so."""
    environ = {"OTTO_TRACE_SAMPLER": sampler, "OTTO_TRACE_SAMPLE_RATIO": ratio}
    async with collecting() as collector, started(tmp_path, OTTO_OTLP_ENDPOINT=collector.address, **environ) as process:
        await process.serving()
        handed_on = [(await call(process.address, "trace", metadata)).decode() for metadata in ((), TRACEPARENT, UNSAMPLED)]
        assert [is_sampled(traceparent) for traceparent in handed_on] == list(sampled)
        assert is_sampled((await call(process.address, "begin")).decode()) == sampled[0]
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        assert sum(span.name == "test.Trial/trace" for span in collector.spans) == sum(sampled)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nobody listens", "accepts and never answers", "refuses"])
async def test_a_flood_of_spans_waits_for_nobody_and_does_not_pile_up(tmp_path: Path, how: str) -> None:
    """Beyond the bound the oldest are dropped, while the collector is away, hangs or says no; other calls are answered meanwhile."""
    async with AsyncExitStack() as stack:
        holder = stack.enter_context(socket.socket())
        holder.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{holder.getsockname()[1]}"
        if how == "accepts and never answers":
            holder.listen()
        elif how == "refuses":
            server = grpc.aio.server()  # knows no method
            endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
        process = await stack.enter_async_context(started(tmp_path, OTTO_OTLP_ENDPOINT=endpoint))
        await process.serving()
        for _ in range(2):
            waiting = int(await call(process.address, "flood"))
            assert waiting <= MOST_SPANS + 2 * 512
            assert (await call(process.address, "trace", TRACEPARENT)).decode().startswith(f"00-{TRACE}-")
        assert waiting > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nobody listens", "accepts and never answers"])
async def test_a_dead_endpoint_costs_three_seconds_at_most(tmp_path: Path, how: str) -> None:
    """A collector that is gone or hangs disturbs no call, and the stop ends with code 0 and a warning."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if how != "nobody listens":
            holder.listen()
        endpoint = f"http://127.0.0.1:{holder.getsockname()[1]}"
        async with started(tmp_path, OTTO_OTLP_ENDPOINT=endpoint) as process:
            await process.serving()
            async with asyncio.timeout(5):
                await call(process.address, "trace", TRACEPARENT)
            begun = time.monotonic()
            process.send(signal.SIGTERM)
            assert await process.ended() == 0
            assert time.monotonic() - begun < 5
            assert "runtime.telemetry_lost" in process.names
            assert all(name.startswith("runtime.") for name in process.names), "the SDK logs for itself"


@pytest.mark.slow
async def test_metrics_that_can_not_be_read_once_are_exported_the_next_time(tmp_path: Path) -> None:
    """The log says why; it is not the endpoint's fault."""
    environ = {"OTTO_OTLP_INTERVAL": "1"}
    async with collecting() as collector, started(tmp_path, OTTO_OTLP_ENDPOINT=collector.address, **environ) as process:
        await process.serving()
        await call(process.address, "trouble")
        async with asyncio.timeout(15):
            while "otto_trial_troubled" not in collector.metrics:
                await asyncio.sleep(0.05)
        assert process.names.count("runtime.metrics_unread") == 1
        assert "runtime.export_failed" not in process.names


@pytest.mark.slow
async def test_a_collector_that_comes_late_is_told_once(tmp_path: Path) -> None:
    """While the endpoint takes nothing there is one warning, not one per attempt; when it does, it gets everything."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    async with started(tmp_path, OTTO_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTTO_OTLP_INTERVAL="1") as process:
        await process.serving()
        async with asyncio.timeout(15):
            while "runtime.export_failed" not in process.names:
                await asyncio.sleep(0.05)
        async with collecting(port) as collector, asyncio.timeout(15):
            while "runtime.export_works_again" not in process.names:
                await asyncio.sleep(0.05)
            assert "process_resident_memory_bytes" in collector.metrics
        assert process.names.count("runtime.export_failed") == 1
