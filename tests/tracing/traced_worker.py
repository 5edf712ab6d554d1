"""A worker that speaks OTLP: what it knows of the trace and the collector, it has from its environment."""

import os

from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
with provider.get_tracer("compiler").start_as_current_span("compile", propagate.extract({"traceparent": os.environ["TRACEPARENT"]})):
    print("compiled")
provider.shutdown()
