"""How a process of ours begins and ends: settings from the environment, signals, exit code."""

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import cache
from types import MappingProxyType

import msgspec

# The core of gRPC reads these when it is imported. It would mix lines of its own into our log; what matters of them comes as exceptions.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its own resolver asks on for an IPv6 address in every search domain, and at last the world's servers for "otto-scaler": 2 to 3 s where
# those can't be reached (measured in Kind without a network). The system's is content with the first domain that knows the name: 8 ms.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

from otto_runtime import logs
from otto_runtime.memory import given_back, one_heap
from otto_runtime.replicas import RoleLostError
from otto_runtime.server import Component, PortTaken, bound
from otto_runtime.settings import RuntimeSettings, SettingsError, load, unknown
from otto_runtime.tasks import leaves
from otto_runtime.telemetry import MetricsPortTaken, telemetry

log = logging.getLogger(__name__)
Compose = Callable[[str, RuntimeSettings], Sequence[AbstractAsyncContextManager[Component]]]


class StartError(Exception):
    """The service can't start; the text says what is wrong and what to do, and is all that the user sees."""


@cache
def raised_descriptor_limit() -> tuple[int, int]:
    """How many files this process might have open at first, and how many it may now: as many as it is allowed to allow itself.

    Done once, as early as anybody asks. Programs that are started for others get the first number: some still take time for each file they
    might have open.
    """
    first, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if first != most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return first, resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def host(
    name: str, runtime: RuntimeSettings, compose: Compose, stop: asyncio.Event, started: Callable[[str], None] | None = None
) -> None:
    """Binds the port, enters the composition roots that `compose(address, runtime)` gives, and serves until `stop` is set.

    `started` is called with the dialable address once the roots are entered, shortly before the server answers.
    Raises PortTaken, MetricsPortTaken, what a root raises, or what background work raised.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(bound(runtime))
        await stack.enter_async_context(telemetry(runtime, name))
        await stack.enter_async_context(given_back())
        components = [await stack.enter_async_context(root) for root in compose(server.address, runtime)]
        if started is not None:
            started(server.address)
        await server.serve(components, stop)


def read_settings(kinds: Mapping[str, type[msgspec.Struct]], environ: Mapping[str, str]) -> tuple[list[msgspec.Struct], list[str]]:
    """All settings by their prefixes, in the order given, and the variables that look like ours but are not.

    Raises SettingsError with the problems of all of them at once.
    """
    read: list[msgspec.Struct] = []
    problems: list[str] = []
    for prefix, kind in kinds.items():
        try:
            read.append(load(kind, prefix, environ))
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return read, unknown("OTTO", kinds, environ)


def completed(environ: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The environment with `defaults` for the variables that are not set or empty."""
    return {**environ, **{name: value for name, value in defaults.items() if not environ.get(name, "").strip()}}


def main(
    name: str,
    kinds: Mapping[str, type[msgspec.Struct]],
    compose: Callable[[Sequence[msgspec.Struct]], Compose],
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Runs a service until SIGTERM or SIGINT; a second signal ends it at once (exit code 128 + its number).

    Returns the exit code: 0 after a stop, 1 when it could not start or failed, 2 for settings that can't be used.

    `kinds` maps prefixes to settings classes, RuntimeSettings with prefix OTTO first; `compose` gets them read, in that order.
    `defaults` maps variables to what holds for this service where another default stands in their class.
    """
    try:
        settings, misspelt = read_settings(kinds, completed(os.environ, defaults))
    except SettingsError as error:
        sys.stderr.write(f"{name}: settings can't be used:\n" + "".join(f"  {problem}\n" for problem in error.problems))
        return 2
    runtime = settings[0]
    assert isinstance(runtime, RuntimeSettings)
    logs.configure(runtime)
    raised_descriptor_limit()
    one_heap()
    for variable in misspelt:
        log.warning("runtime.setting_unknown", extra={"variable": variable})
    try:
        asyncio.run(_run(name, runtime, compose(settings)))
    except Exception as error:
        causes = list(leaves(error))
        if all(isinstance(cause, PortTaken | MetricsPortTaken | StartError | RoleLostError) for cause in causes):
            sys.stderr.write("".join(f"{name}: {cause}\n" for cause in causes))
        else:
            log.critical("runtime.failed", extra={"service": name}, exc_info=error)
        return 1
    return 0


async def _run(name: str, runtime: RuntimeSettings, compose: Compose) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    await host(name, runtime, compose, stop)
