"""The life of a gRPC server of ours: bound, serving, stopping in stages.

Stages of a stop, in this order: health NOT_SERVING → (drain_delay) → long streams end with OK, new ones at once, new unary calls are
refused as UNAVAILABLE → running calls get stop_grace → all handlers have ended → no call has come for a moment → no new connections, what
is on its way to clients gets a second → background work is cancelled → what the composition root opened is closed → telemetry is flushed.
`stop_seconds` is the sum that the outside has to allow.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from otto_runtime.addresses import parse
from otto_runtime.calls import LATE_SECONDS, Calls, stopping
from otto_runtime.channels import channel_options
from otto_runtime.handing import TOLD_SECONDS, HandOn
from otto_runtime.settings import RuntimeSettings
from otto_runtime.tasks import cancelled, forever

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""How long a stop waits, after all handlers have ended, for what is on its way to clients. A client that does not read never takes it."""
QUIET_SECONDS = 0.1
"""How long no call may have come before the server stops listening to its connections."""
LONGEST_QUIET_SECONDS = 1.0
"""How long that is waited for: callers that never cease can't hold up a stop."""
MAX_PENDING_CALLS = 20_000
"""Calls of all connections together that may have come and not been looked at: twice what Envoy passes on to one service. A few KB each."""
MAX_PENDING_SECONDS = 600
"""How long they may wait for that."""
KEEPALIVE_SECONDS = 30.0
"""Silence after which a client is asked whether it is there."""
KEEPALIVE_TIMEOUT_SECONDS = 20.0
"""Time for its answer; then the connection is given up, and the handlers of its calls are cancelled as if it had left."""
TELEMETRY_SECONDS = 3.0
"""How long telemetry may take to flush."""


class PortTaken(Exception):  # noqa: N818 - says what happened; callers read `except PortTaken`
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
    described: tuple[str, ...] = ()
    """Full names of proto services that other processes serve at this address: reflection describes them too; their code is imported."""
    hand_on: HandOn | None = None
    """Where calls to its services go while another replica acts."""
    begins: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Methods (`service/Method`) whose streams begin something if their request says so: one that comes while we stop is refused, as
    nothing of it was done.
    """
    completes: tuple[str, ...] = ()
    """Methods whose OK says that all was delivered: at a stop their streams end with UNAVAILABLE, and one that comes then is refused."""


class _Checks(health.aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Health checks whose watchers hear NOT_SERVING as the last thing before their streams end."""

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the RPC's name
        """As grpc.health.v1 has it."""
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if stopping():
                await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING))
            raise


def stop_seconds(settings: RuntimeSettings) -> float:
    """How long a stop may take: what terminationGracePeriodSeconds has to exceed. Closing what the roots opened is not counted."""
    handlers = settings.stop_grace + LATE_SECONDS
    later_ones = LONGEST_QUIET_SECONDS + FLUSH_SECONDS + LATE_SECONDS
    return FLUSH_SECONDS + settings.drain_delay + TOLD_SECONDS + handlers + later_ones + FLUSH_SECONDS + TELEMETRY_SECONDS


class Host:
    """A bound server: its address is known, nothing is served yet."""

    def __init__(self, server: grpc.aio.Server, calls: Calls, address: str, settings: RuntimeSettings) -> None:
        """Made by `bound` only."""
        self._server = server
        self._calls = calls
        self._settings = settings
        self.address = address
        """Host and port that a client on this machine can dial."""
        self.started = False
        """Whether `serve` has been entered so far that the server was started."""

    async def serve(self, components: Sequence[Component], stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then stops in stages.

        Background work that raises or ends stops the server in the same stages, then its error is raised (several as a group).
        Cancellation stops at once, without the stages.
        """
        names = [name for component in components for name in component.services]
        checks = _Checks()
        for name in ["", *names]:
            await checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)
        described = dict.fromkeys([*names, *(name for component in components for name in component.described)])
        reflection.enable_server_reflection([*described, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        for component in components:
            component.register(self._server)
            self._calls.add_public_errors(component.public_errors)
            self._calls.add_beginnings(component.begins)
            self._calls.add_completing(component.completes)
            if component.hand_on is not None:
                for name in component.services:
                    self._calls.hand_on(name, component.hand_on)
        self.started = True
        await self._server.start()
        log.info("runtime.serving", extra={"address": self.address})
        waiting = set(names)
        failures: list[Exception] = []
        failed = asyncio.Event()

        async def keep_running(component: Component) -> None:
            ready = asyncio.Event()
            announcing = asyncio.create_task(self._announce(component, checks, waiting, ready), name=f"announce {component.name}")
            try:
                await forever(component.name, component.run(ready.set))
            except Exception as error:
                log.error("runtime.part_ended", extra={"service": component.name})  # noqa: TRY400 - its traceback is raised from `serve`
                failures.append(error)
                failed.set()
            finally:
                await cancelled(announcing)

        try:
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(keep_running(component), name=f"run {component.name}") for component in components]
                await _either(stop, failed)
                await self._stop_in_stages(checks)
                for task in background:
                    task.cancel()
        finally:
            await self._server.stop(None)
        if failures:
            raise failures[0] if len(failures) == 1 else ExceptionGroup("several parts of the service ended", failures)

    async def _announce(self, component: Component, checks: _Checks, waiting: set[str], ready: asyncio.Event) -> None:
        """Says SERVING for a component once it is ready, and for the server as a whole once all are."""
        await ready.wait()
        for name in component.services:
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
            waiting.discard(name)
        log.info("runtime.ready", extra={"service": component.name})
        if not waiting:
            await checks.set("", health_pb2.HealthCheckResponse.SERVING)

    async def _stop_in_stages(self, checks: _Checks) -> None:
        log.info("runtime.stopping")
        started = time.monotonic()
        with suppress(TimeoutError):  # a watcher that does not read could hold it up for ever
            async with asyncio.timeout(FLUSH_SECONDS):
                await checks.enter_graceful_shutdown()
        if self._settings.drain_delay:
            await asyncio.sleep(self._settings.drain_delay)
        count = await self._calls.end_streams()
        log.info("runtime.streams_ended", extra={"count": count})
        # grpc.aio lets calls that come during its own grace hang until its end: so it is stopped when there is nothing to wait for
        late = await self._calls.ended(self._settings.stop_grace)
        if late:
            log.warning("runtime.handlers_cancelled", extra={"count": late})
        async with grpc.aio.insecure_channel(self.address, options=channel_options()) as channel:
            ask = health_pb2_grpc.HealthStub(channel).Check
            await self._calls.quiet(QUIET_SECONDS, LONGEST_QUIET_SECONDS, lambda: ask(health_pb2.HealthCheckRequest()))
        await self._calls.ended(FLUSH_SECONDS)  # of those that came since
        await self._server.stop(FLUSH_SECONDS)
        log.info("runtime.stopped", extra={"seconds": round(time.monotonic() - started, 3)})


async def _either(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    tasks = [asyncio.create_task(event.wait(), name="wait for an event") for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            await cancelled(task)


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
            # Of calls that came and were not looked at yet gRPC drops some beyond 1,000, with CANCELLED: a burst is no reason for that.
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            # And those that have waited for 30 s: how long a call may wait its client knows best.
            ("grpc.server_max_unrequested_time_in_server", MAX_PENDING_SECONDS),
            ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
            # Without it gRPC waits a minute for any ping, those with which it measures the line too, whatever keepalive says.
            ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    address = parse(settings.listen)
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise PortTaken(
            f"OTTO_LISTEN={settings.listen}: the address can't be listened on; is another instance running there, or is the address "
            "not one of this machine's? Stop the other one, or choose another address (port 0 takes a free one)"
        ) from error
    held = Host(server, calls, address.dialable(port), settings)
    try:
        yield held
    finally:
        if not held.started:
            await server.start()  # grpc.aio gives the port of a server that never started back only when the process ends
        await server.stop(None)
