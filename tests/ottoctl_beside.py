"""ottoctl as a program that runs beside a test, and what it says meanwhile."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Ottoctl:
    """An ottoctl that runs beside the test; what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.told: list[str] = []
        self.reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Reads until it ends."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None

        async def take(stream: asyncio.StreamReader, lines: list[str]) -> None:
            async for line in stream:
                lines.append(line.decode().rstrip("\n"))

        await asyncio.gather(take(self.process.stdout, self.out), take(self.process.stderr, self.told))
        await self.process.wait()

    async def says(self, *words: str, count: int = 1) -> None:
        """Waits until so many lines of either stream hold one of the words."""
        async with asyncio.timeout(90):
            while sum(any(word in line for word in words) for line in [*self.out, *self.told]) < count:
                if self.process.returncode is not None:
                    raise AssertionError(f"it ended with {self.process.returncode} and never said {words}: {self.out} {self.told}")
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(address: str, *arguments: str) -> AsyncIterator[Ottoctl]:
    """Starts ottoctl with these arguments; killed if it is left running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "--address", address, *arguments,
        env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    program = Ottoctl(process)
    reading = program.reading = asyncio.create_task(program.read(), name=f"read ottoctl {arguments[0]}")
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await reading


async def ended(program: Ottoctl, seconds: float = 90) -> int:
    """Its exit code, once it has ended by itself."""
    async with asyncio.timeout(seconds):
        code = await program.process.wait()
        assert program.reading is not None
        await program.reading
    return code
