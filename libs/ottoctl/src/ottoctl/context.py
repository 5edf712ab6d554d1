"""What every command shares: the address, the form of output, and how an asyncio command is run."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ottoctl import exit_codes
from ottoctl.render import Output

DEFAULT_ADDRESS = "127.0.0.1:9090"
OutputOption = Annotated[Output | None, typer.Option("--output", "-o", help="Form of the answer.", show_default="table")]


@dataclass(slots=True)
class Shared:
    """Options given before the command."""

    address: str = DEFAULT_ADDRESS
    named: bool = False
    """Whether somebody has named that address; otherwise it is the default."""
    output: Output = Output.TABLE
    patience: float | None = None
    """Seconds that a lost connection is tried again; None: the default."""


def shared(context: typer.Context) -> Shared:
    """The options given before the command."""
    found = context.find_object(Shared)
    return found if found is not None else Shared()


def chosen(context: typer.Context, output: Output | None) -> Output:
    """The form of output: what the command was given, otherwise what stands before it."""
    return output if output is not None else shared(context).output


def notice(text: str) -> None:
    """Tells the user something beside the answer."""
    print(f"ottoctl: {text}", file=sys.stderr, flush=True)


def wrong_address(address: str) -> str:
    """What is wrong with an address, which gRPC itself would take for another one; empty if nothing is."""
    if address.startswith(("http://", "https://")):
        return f"is a URL; Ottoscaler speaks plain gRPC: name host and port, like {DEFAULT_ADDRESS}"
    if address.startswith("unix:"):
        return ""
    _, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (address.count(":") > 1 and "[" not in address and "/" not in address):
        return f"names no port; a host and a port are needed, like {DEFAULT_ADDRESS} or [::1]:9090"
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        return f"has no port from 1 to 65535 behind the last colon; a host and a port are needed, like {DEFAULT_ADDRESS}"
    return ""


def run(context: typer.Context, work: Callable[[Any], Awaitable[int]], tell: Callable[[str], None] = notice) -> None:
    """Runs `work(client)` and ends ottoctl with the exit code it returns. Ctrl-C cancels it; a second one ends at once."""
    from ottoctl.client import connect
    from ottoctl.contact import PATIENCE_SECONDS

    address, patience = shared(context).address, shared(context).patience
    if words := wrong_address(address):
        raise typer.BadParameter(f"{address!r} {words}", param_hint="--address (or OTTO_ADDRESS)")

    async def connected() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        stop = task.cancel

        def interrupted() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            stop()

        loop.add_signal_handler(signal.SIGINT, interrupted)
        loop.add_signal_handler(signal.SIGTERM, interrupted)
        async with connect(address, tell, PATIENCE_SECONDS if patience is None else patience) as client:
            return await work(client)

    try:
        code = asyncio.run(connected())
    except asyncio.CancelledError:
        code = exit_codes.INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough (`| head`): as quiet as any program that is ended by SIGPIPE. typer would make it a 1.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exit_codes.BROKEN_PIPE
    raise typer.Exit(code)
