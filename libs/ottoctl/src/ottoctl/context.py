"""What every command shares: the address, the form of output, and how an asyncio command is run."""

import asyncio
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


def run(context: typer.Context, work: Callable[[Any], Awaitable[int]], tell: Callable[[str], None] = notice) -> None:
    """Runs `work(client)` and ends ottoctl with the exit code it returns. Ctrl-C cancels it; a second one ends at once."""
    from ottoctl.client import connect
    from ottoctl.contact import PATIENCE_SECONDS

    address, patience = shared(context).address, shared(context).patience

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
    raise typer.Exit(code)
