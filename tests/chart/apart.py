"""The three services as processes of their own on loopback, as in their pods; only that workers are processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ..ports import HOST, free_port

MODULES = {"scaler": "otto_scaler", "pipeline-executor": "otto_executor", "log-relay": "otto_relay"}
END_SECONDS = 60.0


class Apart:
    """The three processes, each of which can be stopped, killed and started again."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.addresses = {name: f"{HOST}:{free_port()}" for name in MODULES}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        """Starts one; when it is SERVING is for its health to tell."""
        environ = {
            **os.environ,
            "HOME": str(self.state),
            "OTTO_METRICS_LISTEN": "off",
            "OTTO_LISTEN": self.addresses[name],
            "OTTO_DRAIN_DELAY": "0.2",
            **{
                f"OTTO_{service}_{peer}_ADDRESS": address
                for service in ("SCALER", "EXECUTOR", "RELAY")
                for peer, address in (("SCALER", self.addresses["scaler"]), ("EXECUTOR", self.addresses["pipeline-executor"]))
                if service != peer
            },
        }
        with (self.state / f"{name}.log").open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULES[name], env=environ, stderr=log)

    async def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):  # it may have ended by itself; the others are to be ended all the same
            process.send_signal(number)
        async with asyncio.timeout(END_SECONDS):
            return await process.wait()

    async def end_all(self) -> None:
        """Stops what still runs, the log-relay first as nobody depends on it."""
        for name in reversed(list(self._processes)):
            await self.end(name)


@asynccontextmanager
async def apart(state: Path) -> AsyncIterator[Apart]:
    """All three, started; stopped at the end."""
    services = Apart(state)
    try:
        for name in MODULES:
            await services.start(name)
        yield services
    finally:
        await services.end_all()
