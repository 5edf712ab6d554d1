"""The life of a gRPC server of ours: bound, serving, stopping in stages.

Stages of a stop, in this order: health NOT_SERVING → (drain_delay) → long streams end with OK → running unary calls get stop_grace → handlers are
awaited → background work is cancelled → what the composition root opened is closed. `stop_seconds` is the sum that the outside has to allow.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from otto_runtime.calls import Calls
from otto_runtime.settings import RuntimeSettings
from otto_runtime.tasks import forever

log = logging.getLogger(__name__)


class PortTaken(Exception):
    """The address can't be listened on: in use, not ours, or not permitted."""


@dataclass(frozen=True, slots=True)
class Component:
    """One servicer and what keeps it alive, as a composition root hands it to the server."""

    name: str
    """For logs: "scaler"."""
    services: tuple[str, ...]
    """Full names of the proto services, for health and reflection."""
    register: Callable[[grpc.aio.Server], None]
    """Adds the servicers to a server that has not started."""
    run: Callable[[Callable[[], None]], Awaitable[None]]
    """Background work until cancelled. It is given `ready`, to be called once, when the services may be called SERVING."""
    public_errors: tuple[type[Exception], ...] = ()
    """Roots of the error trees whose words clients may read; classes have `grpc_status`."""


def stop_seconds(settings: RuntimeSettings) -> float:
    """How long a stop may take: what terminationGracePeriodSeconds has to exceed."""
    return settings.drain_delay + settings.stop_grace + 1.0 + 5.0


class Host:
    """A bound server: its address is known, nothing is served yet."""

    def __init__(self, server: grpc.aio.Server, calls: Calls, address: str, settings: RuntimeSettings) -> None:
        """Made by `bound` only."""
        self._server = server
        self._calls = calls
        self._settings = settings
        self.address = address
        """Host and port that a client on this machine can dial."""

    async def serve(self, components: Sequence[Component], stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then stops in stages.

        Background work that raises or ends stops the server in the same stages, then its error is raised.
        Cancellation stops at once, without the stages.
        """
        names = [name for component in components for name in component.services]
        checks = health.aio.HealthServicer()
        for name in ["", *names]:
            await checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        for component in components:
            component.register(self._server)
            self._calls.add_public_errors(component.public_errors)
        await self._server.start()
        log.info("runtime.serving", extra={"address": self.address})
        waiting = set(names)

        async def announce(component: Component) -> None:
            for name in component.services:
                await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
                waiting.discard(name)
            log.info("runtime.ready", extra={"service": component.name})
            if not waiting:
                await checks.set("", health_pb2.HealthCheckResponse.SERVING)

        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(
                        forever(component.name, component.run(_once(group, announce, component))), name=f"run {component.name}"
                    )
                    for component in components
                ]
                stopped = asyncio.create_task(stop.wait(), name="wait for stop")
                try:
                    await asyncio.wait({stopped, *background}, return_when=asyncio.FIRST_COMPLETED)
                    reason = "asked to" if stop.is_set() else "a part of the service ended"
                    await asyncio.shield(asyncio.ensure_future(self._stop_in_stages(checks, reason)))
                finally:
                    stopped.cancel()
                    for task in background:
                        task.cancel()
        finally:
            await self._server.stop(0)

    async def _stop_in_stages(self, checks: health.aio.HealthServicer, reason: str) -> None:
        log.info("runtime.stopping", extra={"reason": reason})
        started = time.monotonic()
        await checks.enter_graceful_shutdown()
        if self._settings.drain_delay:
            await asyncio.sleep(self._settings.drain_delay)
        count = self._calls.end_streams()
        log.info("runtime.streams_ended", extra={"count": count})
        await self._server.stop(self._settings.stop_grace)
        late = await self._calls.ended(self._settings.stop_grace)
        if late:
            log.warning("runtime.handlers_cancelled", extra={"count": late})
        log.info("runtime.stopped", extra={"seconds": round(time.monotonic() - started, 3)})


def _once(group: asyncio.TaskGroup, announce: Callable[[Component], Awaitable[None]], component: Component) -> Callable[[], None]:
    called = False

    def ready() -> None:
        nonlocal called
        if not called:
            called = True

            async def run() -> None:
                await announce(component)

            group.create_task(run(), name=f"announce {component.name}")

    return ready


@asynccontextmanager
async def bound(settings: RuntimeSettings) -> AsyncIterator[Host]:
    """A server that holds its port but does not serve yet, so that its address can be given to those who will dial it.

    Raises PortTaken, whose text says the address and what to do.
    """
    calls = Calls(settings)
    server = grpc.aio.server(
        interceptors=[calls],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    host, _, _ = settings.listen.rpartition(":")
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise PortTaken(
            f"OTTO_LISTEN={settings.listen}: the address can't be listened on; is another instance running there? "
            "Stop it, or choose another address (port 0 takes a free one)"
        ) from error
    dialable = "127.0.0.1" if host in {"", "0.0.0.0", "[::]", "::"} else host
    try:
        yield Host(server, calls, f"{dialable}:{port}", settings)
    finally:
        await server.stop(0)
