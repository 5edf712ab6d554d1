"""How a process of ours begins and ends: settings from the environment, signals, exit code."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

import msgspec

from otto_runtime import logs
from otto_runtime.errors import single
from otto_runtime.server import Component, PortTaken, bound
from otto_runtime.settings import RuntimeSettings, SettingsError, load, unknown
from otto_runtime.telemetry import telemetry

S = TypeVar("S", bound=msgspec.Struct)
Compose = Callable[[str, RuntimeSettings], Sequence[AbstractAsyncContextManager[Component]]]


class StartError(Exception):
    """The service can't start; the text says what is wrong and what to do, and is all that the user sees."""


async def host(
    name: str, runtime: RuntimeSettings, compose: Compose, stop: asyncio.Event, started: Callable[[str], None] | None = None
) -> None:
    """Binds the port, enters the composition roots that `compose(address, runtime)` gives, and serves until `stop` is set.

    `started` is called with the dialable address once the port is held. Raises PortTaken, OSError, or what a root raises.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(telemetry(runtime, name))
        server = await stack.enter_async_context(bound(runtime))
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


def main(name: str, kinds: Mapping[str, type[msgspec.Struct]], compose: Callable[[Sequence[msgspec.Struct]], Compose]) -> int:
    """Runs a service until SIGTERM or SIGINT; a second signal ends it at once. Returns the exit code: 0, 1 for a failure, 2 for bad settings.

    `kinds` maps prefixes to settings classes, RuntimeSettings with prefix OTTO first; `compose` gets them read, in that order.
    """
    try:
        settings, misspelt = read_settings(kinds, os.environ)
    except SettingsError as error:
        print(f"{name}: settings can't be used:\n" + "\n".join(f"  {p}" for p in error.problems), file=sys.stderr)
        return 2
    runtime = settings[0]
    assert isinstance(runtime, RuntimeSettings)
    logs.configure(runtime)
    for variable in misspelt:
        logs.logging.getLogger(__name__).warning("runtime.setting_unknown", extra={"variable": variable})

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                os._exit(130)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked)
        await host(name, runtime, compose(settings), stop)

    try:
        asyncio.run(run())
    except Exception as error:
        cause = single(error)
        if not isinstance(cause, PortTaken | StartError | OSError):
            raise
        print(f"{name}: {cause}", file=sys.stderr)
        return 1
    return 0
