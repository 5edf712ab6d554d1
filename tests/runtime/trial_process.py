"""A service of one stream and two unary methods, started by `otto_runtime.launch.main`: what the process tests run."""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec
from prometheus_client import REGISTRY, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from otto_runtime import spans, telemetry
from otto_runtime.launch import Compose, StartError, main
from otto_runtime.server import Component
from otto_runtime.settings import RuntimeSettings
from otto_runtime.telemetry import current_traceparent

MODE = os.environ.get("TRIAL_MODE", "")


async def hold(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.Event().wait()


async def trace(request: bytes, context: Any) -> bytes:
    return current_traceparent().encode()


async def flood(request: bytes, context: Any) -> bytes:
    """Tells of more than may wait, and how many wait then."""
    for number in range(20_000):
        own = spans.fresh()
        telemetry.tell("trial", spans.Span(own, "", f"flood {number}", 1, 2))
    gc.collect()
    return str(sum(type(found).__name__ == "ReadableSpan" for found in gc.get_objects())).encode()


async def begin(request: bytes, context: Any) -> bytes:
    return telemetry.new_traceparent().encode()


async def count(request: bytes, context: Any) -> bytes:
    """Makes a family of metrics that was not there when exporting began."""
    Counter("otto_trial_late_total", "Appears late.", ("kind",)).labels("첫째").inc(3)
    return b""


class _Troubled(Collector):
    """Can't be read the first time."""

    def __init__(self) -> None:
        self._times = 0

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        self._times += 1
        if self._times == 1:
            raise OSError("the disk does not answer")
        return [GaugeMetricFamily("otto_trial_troubled", "Was not to be read at first.", 1.0)]


async def trouble(request: bytes, context: Any) -> bytes:
    """Makes metrics that can't be read at the next export."""
    REGISTRY.register(_Troubled())
    return b""


async def fail(request: bytes, context: Any) -> bytes:
    raise ValueError("the-database-password")


async def stay(request: bytes, context: Any) -> bytes:
    """Ends by nothing; standard error tells that it has begun."""
    sys.stderr.write("staying\n")
    sys.stderr.flush()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def run(ready: Callable[[], None]) -> None:
    ready()
    if MODE == "fails":
        raise ValueError("background work is broken")
    await asyncio.Event().wait()


@asynccontextmanager
async def root() -> AsyncIterator[Component]:
    if MODE == "cannot start":
        raise StartError("the thing is missing; make one")
    methods: dict[str, Any] = {
        "hold": grpc.unary_stream_rpc_method_handler(hold),
        **{f.__name__: grpc.unary_unary_rpc_method_handler(f) for f in (trace, begin, flood, count, trouble, fail, stay)},
    }
    generic = grpc.method_handlers_generic_handler("test.Trial", methods)
    yield Component("trial", ("test.Trial",), lambda server: server.add_generic_rpc_handlers((generic,)), run)


def compose(settings: Sequence[msgspec.Struct]) -> Compose:
    def roots(address: str, runtime: RuntimeSettings) -> list[AbstractAsyncContextManager[Component]]:
        return [root()]

    return roots


if __name__ == "__main__":
    raise SystemExit(main("trial", {"OTTO": RuntimeSettings}, compose))
