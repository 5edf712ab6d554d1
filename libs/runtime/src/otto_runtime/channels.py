"""Client channels to other services: retries by service config, so gRPC's core does them, and a deadline for every unary call.

Every unary method that our services call is idempotent by contract, so UNAVAILABLE is retried by the channel. (RerunPipeline without an id
for the new run is not, and no service calls it.) Streams have no deadline; keepalive finds dead peers. Deadlines are not in the service
config: the core counts those from the time of day as it was when the process began, so after the machine's clock is set back every call
would be DEADLINE_EXCEEDED at once (measured with grpcio 1.85; forward, later by as much).
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import grpc.aio

UPKEEP = ("otto-upkeep", "1")
"""Metadata of calls between services that are made for nobody's call: watches and the like, which would be traces of their own."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
KEEPALIVE_SECONDS = 20.0
"""Silence after which a peer with open calls is asked whether it is there; proxies commonly wait a minute."""
KEEPALIVE_TIMEOUT_SECONDS = 10.0
"""Time for its answer; then the connection is given up, and its calls end with UNAVAILABLE."""


class ServiceDescriptor(Protocol):
    """What `<module>_pb2.DESCRIPTOR.services_by_name[…]` gives."""

    full_name: str

    @property
    def methods(self) -> Iterable[Any]:
        """Their names, and which sides stream."""


def service_config(services: Iterable[ServiceDescriptor]) -> str:
    """The service config (JSON) that has every unary method wait for a connection, and retry UNAVAILABLE.

    gRPC caps maxAttempts at 5 (gRFC A6).
    """
    unary = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    ]
    retry = {
        "maxAttempts": 5,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": unary, "waitForReady": True, "retryPolicy": retry}]})


def channel_options() -> list[tuple[str, Any]]:
    """What all our channels have in common."""
    return [
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        # Without it gRPC waits a minute for any ping, those with which it measures the line too, whatever keepalive says.
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


@asynccontextmanager
async def dial(address: str, services: Iterable[ServiceDescriptor], unary_timeout: float = 15.0) -> AsyncIterator[grpc.aio.Channel]:
    """An insecure channel to `address`; connects when first used, reconnects by itself, is closed at the end.

    `services` are the descriptors of the services that are called through it; `unary_timeout` is in seconds and includes retries.
    """
    options = [("grpc.service_config", service_config(services)), *channel_options()]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        make, make_stream = channel.unary_unary, channel.unary_stream

        # What is given with a call wins. Interceptors would cost each call a task of its own.
        def unary_unary(method: str, *args: Any, **kwargs: Any) -> Any:
            return partial(make(method, *args, **kwargs), timeout=unary_timeout, metadata=(UPKEEP,))

        def unary_stream(method: str, *args: Any, **kwargs: Any) -> Any:
            return partial(make_stream(method, *args, **kwargs), metadata=(UPKEEP,))

        channel.unary_unary = unary_unary  # type: ignore[method-assign]  # see above
        channel.unary_stream = unary_stream  # type: ignore[method-assign]  # see above
        yield channel
