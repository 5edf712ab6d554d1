"""A JavaScript file of this directory, run by Node beside a test.

The two talk in lines: what the script writes to standard output is for the test, what the test says arrives on its standard input.
Standard error is the script's report, shown when it fails. Tests that need this are `slow` or `long`: `make test` and `make test-long`
fetch the packages, the pipeline of `make run` does without them.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node")
READY = HERE / "node_modules/.ready"
PROTOS = HERE.parents[1] / "protos"

needs_node = pytest.mark.skipif(
    NODE is None or not (READY.exists() or shutil.which("npm")),
    reason="no `node` and `npm` on PATH: install Node.js 18 or later with npm (Debian, Ubuntu: apt-get install nodejs npm), then make node",
)


class Script:
    """A running script."""

    def __init__(self, process: asyncio.subprocess.Process, report: Path) -> None:
        self._process = process
        self._report = report

    @property
    def report(self) -> str:
        """What it has written to standard error."""
        return self._report.read_text()

    async def line(self, timeout: float = 30.0) -> str:
        """The next line of its standard output; "" when there are no more. AssertionError, with its report, after `timeout` seconds."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                return (await self._process.stdout.readline()).decode().rstrip("\n")
        except TimeoutError as error:
            raise AssertionError(f"it said nothing for {timeout:g} s; its report: {self.report}") from error

    def say(self, line: str) -> None:
        """Sends it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()

    async def ended(self, timeout: float = 30.0) -> int:
        """Waits for its end; returns the exit code, negative for a signal. AssertionError, with its report, after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._process.wait()
        except TimeoutError as error:
            raise AssertionError(f"it still runs after {timeout:g} s; its report: {self.report}") from error


@asynccontextmanager
async def running(name: str, *arguments: str, report: Path, **environ: str) -> AsyncIterator[Script]:
    """Starts the file `name` with `arguments`, its report going to the file `report`; kills it at the end if it still runs.

    In its environment OTTO_PROTOS is the directory of our protos, beside whatever `environ` says.
    """
    assert NODE is not None
    assert READY.exists(), "the packages are missing: make node"
    with report.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            NODE,
            "--test-reporter=spec",
            "--test-reporter-destination=stderr",
            str(HERE / name),
            *arguments,
            env={**os.environ, "OTTO_PROTOS": str(PROTOS), **environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        yield Script(process, report)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
