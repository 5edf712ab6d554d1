"""Draws the trace of a pipeline as SVG: takes OTLP over gRPC, as a collector does, until a run has ended. For docs/, and a first look.

python tools/trace_picture.py --listen 127.0.0.1:4317 > picture.svg
OTTO_OTLP_ENDPOINT=http://127.0.0.1:4317 ottoscaler-standalone         # and run a pipeline
"""

import argparse
import queue
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

WIDTH, NAMES, ROW, TOP = 1200, 330, 22, 58
ERROR = 2
"""Status of a span that failed."""
WHO = (
    ("call", "otto_runtime", "#8e8e8e"),
    ("pipeline-executor", "otto_executor", "#3274d9"),
    ("scaler", "otto_scaler", "#56a64b"),
    ("log-relay", "otto_relay", "#e0752d"),
    ("the worker's own", "", "#8f3bb8"),
)
"""Whose a span is, by how the name of its scope begins."""
STYLE = """
text { font: 12px sans-serif; fill: #222 } .dim { fill: #777 } .line { stroke: #ddd }
.link { stroke: #c4162a; fill: none; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .dim { fill: #999 } .line { stroke: #444 } }
"""


@dataclass
class Span:
    """One of the trace. Times are seconds since the epoch."""

    id: str
    parent: str
    trace: str
    name: str
    scope: str
    start: float
    end: float
    failed: bool
    links: list[str]


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what is exported."""

    def __init__(self) -> None:
        self.got: queue.SimpleQueue[Span] = queue.SimpleQueue()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002  the RPC's name and arguments
        """Takes a batch."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = span.span_id.hex(), span.parent_span_id.hex(), span.trace_id.hex()
                    times = span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9
                    links = [link.span_id.hex() for link in span.links if link.trace_id == span.trace_id]
                    self.got.put(Span(*ids, span.name, scope.scope.name, *times, span.status.code == ERROR, links))
        return trace_service_pb2.ExportTraceServiceResponse()


def received(listen: str, patience: float, silence: float, ready: Callable[[str], None]) -> list[Span]:
    """The spans of the first run that ends, once nothing more has come for `silence` seconds. Gives up after `patience` seconds of it."""
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(4))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(receiver, server)
    port = server.add_insecure_port(listen)
    server.start()
    ready(f"{listen.rpartition(':')[0]}:{port}")
    spans: dict[str, Span] = {}
    trace = ""
    try:
        while True:
            span = receiver.got.get(timeout=silence if trace else patience)
            spans.setdefault(span.id, span)
            if span.name.startswith("RUN") and not trace:
                trace = span.trace
    except queue.Empty:
        if not trace:
            raise SystemExit(f"no pipeline has ended within {patience:g} s") from None
    finally:
        server.stop(None)
    return [span for span in spans.values() if span.trace == trace]


def rows(spans: list[Span]) -> Iterator[tuple[int, Span]]:
    """Each below its parent, in the order of their beginnings; those whose parent is not ours come first. With their depth."""
    children: defaultdict[str, list[Span]] = defaultdict(list)
    known = {span.id for span in spans}
    for span in sorted(spans, key=lambda one: (one.start, one.end)):
        children[span.parent if span.parent in known else ""].append(span)

    def below(parent: str, depth: int) -> Iterator[tuple[int, Span]]:
        for span in children[parent]:
            yield depth, span
            yield from below(span.id, depth + 1)

    return below("", 0)


def colour(span: Span) -> str:
    """By whose it is."""
    return next(shade for _, scope, shade in WHO if span.scope.startswith(scope))


def drawn(spans: list[Span]) -> Iterator[str]:
    """The picture."""
    lines = list(rows(spans))
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    scale = (WIDTH - NAMES - 80) / max(end - start, 0.001)
    height = TOP + ROW * len(lines) + 10
    places = {span.id: (NAMES + (span.start - start) * scale, TOP + ROW * row) for row, (_, span) in enumerate(lines)}
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="the trace of a pipeline">'
    yield f"<style>{STYLE}</style>"
    at = 10
    for name, _, shade in WHO:
        yield f'<rect x="{at}" y="8" width="12" height="12" rx="2" fill="{shade}"/><text x="{at + 18}" y="18">{escape(name)}</text>'
        at += 40 + 7 * len(name)
    yield f'<path d="M{at} 14h26" class="link"/><text x="{at + 32}" y="18">link</text>'
    for part in range(5):
        x = NAMES + (end - start) * scale * part / 4
        yield f'<path d="M{x:.1f} {TOP - 14}V{height}" class="line"/>'
        yield f'<text x="{x + 3:.1f}" y="{TOP - 18}" class="dim">{(end - start) * part / 4:.1f} s</text>'
    for row, (depth, span) in enumerate(lines):
        x, y = places[span.id]
        width = max((span.end - span.start) * scale, 2)
        edge = ' stroke="#c4162a" stroke-width="2"' if span.failed else ""
        yield f'<text x="{8 + depth * 14}" y="{TOP + ROW * row + 13}">{escape(span.name.rpartition("/")[2])}</text>'
        yield f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{ROW - 8}" rx="2" fill="{colour(span)}"{edge}/>'
        yield f'<text x="{x + width + 4:.1f}" y="{y + 13}" class="dim">{span.end - span.start:.2f} s</text>'
        for link in span.links:
            if link in places:
                to_x, to_y = places[link]
                curve = f"M{x:.1f} {y + 8}C{x - 30:.1f} {y},{to_x - 30:.1f} {to_y + 16},{to_x:.1f} {to_y + 8}"
                yield f'<path d="{curve}" class="link"/>'
    yield "</svg>"


def main() -> None:
    """Receives, then draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:4317")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that a pipeline may take to end")
    parser.add_argument("--silence", type=float, default=5.0, help="seconds without a span after which it is complete")
    chosen = parser.parse_args()
    spans = received(
        chosen.listen, chosen.patience, chosen.silence, lambda address: print(f"takes OTLP at http://{address}", file=sys.stderr)
    )
    print("\n".join(drawn(spans)))


if __name__ == "__main__":
    main()
