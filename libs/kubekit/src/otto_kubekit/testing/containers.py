"""Containers of the fake: they follow a script, or are processes of this machine."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from otto_kubekit.testing.logs import ContainerLog
from otto_kubekit.testing.storage import Object

KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Script:
    """What becomes of a container. Times are seconds.

    It waits `after`, writes `lines` (of stdout, or pairs of stream and text) and ends with `exit_code` after `runs`, None: when it is
    stopped. Stopped, it ends with `stop_code`, or when it `ignores_term` only when it is killed. With `waiting` (ErrImagePull …) it never
    starts, with `unschedulable` its pod gets no node.
    """

    lines: Sequence[str | tuple[str, str]] = ()
    after: float = 0.0
    runs: float | None = None
    exit_code: int = 0
    stop_code: int = 128 + signal.SIGTERM
    ignores_term: bool = False
    reason: str = ""
    message: str = ""
    waiting: str = ""
    unschedulable: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """How a container ended."""

    exit_code: int
    reason: str = ""
    message: str = ""


class Stop:
    """The wish that a container ends, and how long it may take."""

    def __init__(self) -> None:
        self.grace = 0.0
        self._wanted = asyncio.Event()

    def want(self, grace: float) -> None:
        """Asks for the end within `grace` seconds."""
        self.grace = grace
        self._wanted.set()

    async def wanted(self) -> None:
        """Waits for the wish."""
        await self._wanted.wait()


Life = Callable[[Object, dict[str, Any], ContainerLog, Stop], Awaitable[End]]
"""Runs a container of a pod until its end."""


def scripted(script: Script, ended: "asyncio.Future[End]") -> Life:
    """The life that a script describes; `ended` ends it from outside."""

    async def live(_pod: Object, _container: dict[str, Any], log: ContainerLog, stop: Stop) -> End:
        for line in script.lines:
            stream, text = line if isinstance(line, tuple) else ("stdout", line)
            log.write(text, stream)
        stopping = asyncio.create_task(stop.wanted())
        try:
            waited: set[asyncio.Future[Any]] = {stopping, ended}
            await asyncio.wait(waited, timeout=script.runs, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            if not stopping.done():
                return End(script.exit_code, script.reason, script.message)
            if script.ignores_term:
                await asyncio.wait({ended}, timeout=stop.grace)
                return ended.result() if ended.done() else End(KILLED)
            return End(script.stop_code)
        finally:
            stopping.cancel()

    return live


async def local_process(pod: Object, container: dict[str, Any], log: ContainerLog, stop: Stop) -> End:
    """A container as a process of this machine: its command, its variables, its lines; the image is ignored."""
    command = [*container.get("command", []), *container.get("args", [])]
    if not command:
        return End(127, "ContainerCannotRun", "the fake runs commands, not images")
    variables = {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOSTNAME": pod["metadata"]["name"], **variables}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return End(128, "StartError", str(error))
    assert process.stdout is not None
    assert process.stderr is not None
    copies = [asyncio.create_task(_copied(process.stdout, "stdout", log)), asyncio.create_task(_copied(process.stderr, "stderr", log))]
    ending = asyncio.create_task(_exited(process))
    stopping = asyncio.create_task(stop.wanted())
    try:
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            # As in a container only the first process is told; all of them are killed.
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait({ending}, timeout=stop.grace)
        _kill_all(process)
        code = await ending
        await asyncio.wait(copies, timeout=2.0)
    finally:
        _kill_all(process)
        for task in (*copies, stopping, ending):
            task.cancel()
        await asyncio.gather(*copies, stopping, ending, return_exceptions=True)
        await process.wait()
    return End(code if code >= 0 else 128 - code)


async def _exited(process: asyncio.subprocess.Process) -> int:
    """The code of the first process, whoever of the others still holds its pipes: `wait` of Python 3.11 waits for those too."""
    while (code := process.returncode) is None:  # noqa: ASYNC110 - asyncio tells nobody of the exit alone
        await asyncio.sleep(0.01)
    return code


def _kill_all(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _copied(source: asyncio.StreamReader, stream: str, log: ContainerLog) -> None:
    rest = b""
    while chunk := await source.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            log.write(line, stream)
    if rest:
        log.write(rest, stream)
