"""A real standalone process on a free port, with its state in the test's own directory."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..ports import HOST

START_SECONDS = 120.0


class Standalone:
    """`ottoscaler-standalone` as a subprocess that can be killed and started again on the same state."""

    def __init__(self, state: Path, **environ: str) -> None:
        self.state = state
        self.address = ""
        self._environ = {"OTTO_LISTEN": f"{HOST}:0", **environ}
        self._process: asyncio.subprocess.Process | None = None
        self._starts = 0

    @property
    def log(self) -> Path:
        """What the last started process wrote to standard error."""
        return self.state.parent / f"standalone-{self._starts}.log"

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Starts it and waits until it is SERVING."""
        self._starts += 1
        environ = {
            **os.environ,
            "OTTO_STANDALONE_STATE_DIR": str(self.state),
            "OTTO_METRICS_LISTEN": "off",
            "OTTO_LOG_FORMAT": "json",
            **self._environ,
        }
        with self.log.open("wb") as stderr:
            self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "otto_standalone", env=environ, stderr=stderr)
        async with asyncio.timeout(START_SECONDS):
            while not (address := self._logged_address()):
                if self.process.returncode is not None:
                    raise AssertionError(f"standalone ended with {self.process.returncode}: {self.log.read_text()}")
                await asyncio.sleep(0.02)
            self.address = address
            async with self.channel() as channel:
                health = health_pb2_grpc.HealthStub(channel)
                async for answer in health.Watch(health_pb2.HealthCheckRequest()):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return

    @property
    def metrics(self) -> str:
        """Where its /metrics are, if OTTO_METRICS_LISTEN was not left off."""
        return self._logged_address("runtime.metrics_serving")

    def _logged_address(self, event: str = "runtime.serving") -> str:
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and json.loads(line).get("event") == event:
                return str(json.loads(line)["address"])
        return ""

    async def kill(self) -> None:
        """`kill -9`."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(START_SECONDS):
                await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """An insecure channel to the running process."""
        async with grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield channel


async def ottoctl(standalone: Standalone, *arguments: str, **environ: str) -> tuple[int, str]:
    """Runs ottoctl in a pipe, with these variables more; its exit code and everything it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ottoctl",
        *arguments,
        env={**os.environ, "OTTO_ADDRESS": standalone.address, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


@asynccontextmanager
async def serving(state: Path, **environ: str) -> AsyncIterator[Standalone]:
    """A standalone on this state; at the end whatever is left of it and of its workers is stopped."""
    instance = Standalone(state, **environ)
    await instance.start()
    try:
        yield instance
    finally:
        if instance.process.returncode is None:
            await instance.stop()
        await end_workers(instance.state)


@pytest.fixture
async def standalone(tmp_path: Path) -> AsyncIterator[Standalone]:
    """A running standalone in the test's own directory."""
    async with serving(tmp_path / "state") as instance:
        yield instance


async def end_workers(state: Path) -> None:
    """Kills what still runs with its working directory or executable arguments below `state` (supervisors and their workers)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            directory = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(state).encode() in command or directory.startswith(str(state)):
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
