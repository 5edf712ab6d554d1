"""`trial_process` as a subprocess."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent / "trial_process.py"
START_SECONDS = 20.0


class Process:
    """A running `trial_process` and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.address = ""

    @property
    def text(self) -> str:
        """Everything it has written to standard error."""
        return self._log.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its log's events."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    @property
    def names(self) -> list[str]:
        """The names of its events."""
        return [event["event"] for event in self.events]

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def serving(self) -> None:
        """Waits until it says which address it serves."""
        async with asyncio.timeout(START_SECONDS):
            while "runtime.ready" not in self.names:
                assert self._process.returncode is None, self.text
                await asyncio.sleep(0.01)
        self.address = next(e["address"] for e in self.events if e["event"] == "runtime.serving")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    async def ended(self, timeout: float = START_SECONDS) -> int:
        """Waits for its end; returns the exit code."""
        async with asyncio.timeout(timeout):
            return await self._process.wait()


@asynccontextmanager
async def started(folder: Path, **environ: str) -> AsyncIterator[Process]:
    """Starts `trial_process` with settings from `environ`; kills it at the end if it still runs."""
    log = folder / "trial.log"
    settings = {"OTTO_LISTEN": "127.0.0.1:0", "OTTO_METRICS_LISTEN": "off", "OTTO_LOG_FORMAT": "json", **environ}
    with log.open("wb") as stderr:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTTO_")}
        process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), env={**clean, **settings}, stderr=stderr)
    try:
        yield Process(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
