"""A small service of bytes, hosted by the real runtime on a real port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest

from otto_runtime.launch import host
from otto_runtime.server import Component
from otto_runtime.settings import RuntimeSettings

SERVICE = "test.Trial"
KINDS = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "stream": grpc.unary_stream_rpc_method_handler,
    "collect": grpc.stream_unary_rpc_method_handler,
    "bidi": grpc.stream_stream_rpc_method_handler,
}
QUIET = RuntimeSettings(listen="127.0.0.1:0", metrics_listen="off", stop_grace=5.0)

Ready = Callable[[], None]


async def idle(ready: Ready) -> None:
    """Background work of a service that is ready at once."""
    ready()
    await asyncio.Event().wait()


@dataclass
class Trial:
    """A running server and a channel to it."""

    address: str
    channel: grpc.aio.Channel
    stop: asyncio.Event
    serving: "asyncio.Task[None]"
    settings: RuntimeSettings
    closed: list[str] = field(default_factory=list)

    def unary(self, method: str = "unary") -> Any:
        """A stub for a unary method."""
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def stream(self, method: str = "stream") -> Any:
        """A stub for a server-streaming method."""
        return self.channel.unary_stream(f"/{SERVICE}/{method}")

    def bidi(self, method: str = "bidi") -> Any:
        """A stub for a bidirectional method."""
        return self.channel.stream_stream(f"/{SERVICE}/{method}")

    def collect(self, method: str = "collect") -> Any:
        """A stub for a client-streaming method."""
        return self.channel.stream_unary(f"/{SERVICE}/{method}")

    async def ended(self, timeout: float = 10.0) -> None:
        """Asks the server to stop and waits until it has; raises what `serve` raised."""
        self.stop.set()
        async with asyncio.timeout(timeout):
            await asyncio.shield(self.serving)


Serve = Callable[..., AbstractAsyncContextManager[Trial]]


@pytest.fixture
def serve() -> Serve:
    """What hosts handlers under `test.Trial`, each named by its kind (unary, stream, collect, bidi), and stops the server at the end."""

    @asynccontextmanager
    async def serving(
        *,
        settings: dict[str, Any] | None = None,
        run: Callable[[Ready], Awaitable[None]] = idle,
        public_errors: tuple[type[Exception], ...] = (),
        begins: tuple[str, ...] = (),
        completes: tuple[str, ...] = (),
        **handlers: Any,
    ) -> AsyncIterator[Trial]:
        runtime = msgspec.structs.replace(QUIET, **(settings or {}))
        methods = {}
        for name, given in handlers.items():
            handler, *codecs = given if isinstance(given, tuple) else (given,)
            methods[name] = KINDS[name.split("_")[0]](handler, *codecs)
        closed: list[str] = []

        @asynccontextmanager
        async def root() -> AsyncIterator[Component]:
            generic = grpc.method_handlers_generic_handler(SERVICE, methods)
            try:
                beginnings = {f"{SERVICE}/{name}": bool for name in begins}
                completing = tuple(f"{SERVICE}/{name}" for name in completes)
                register = lambda server: server.add_generic_rpc_handlers((generic,))  # noqa: E731
                yield Component("trial", (SERVICE,), register, run, public_errors, begins=beginnings, completes=completing)
            finally:
                closed.append("root")

        loop = asyncio.get_running_loop()
        started: asyncio.Future[str] = loop.create_future()
        stop = asyncio.Event()
        serving_task = asyncio.create_task(host("trial", runtime, lambda *_: [root()], stop, started.set_result), name="host")

        def failed(task: asyncio.Task[None]) -> None:
            if not started.done() and not task.cancelled():
                started.set_exception(task.exception() or AssertionError("the server ended before it started"))

        serving_task.add_done_callback(failed)
        address = await started
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            await channel.channel_ready()
            try:
                yield Trial(address, channel, stop, serving_task, runtime, closed)
            finally:
                stop.set()
                await asyncio.wait({serving_task}, timeout=20)
                if not serving_task.cancelled():
                    serving_task.exception()

    return serving
