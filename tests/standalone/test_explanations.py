"""The end of `pipeline run` explains real failures: what happened, what one can do, the failing worker's last lines."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Standalone, ottoctl, serving
from .proxy import proxy
from .test_state import mounted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # many short processes: on a busy machine each takes seconds to start
FAILURES = """
metadata: {otto.fail_fast: "false"}
stages:
  - name: memory
    commands: "echo filling; exec %s -c 'x = bytearray(300_000_000); import time; time.sleep(60)'"
    config: {otto.memory: 100Mi}
  - {name: slow, commands: "echo waiting; sleep 60", timeout: 1}
  - {name: code, commands: "echo before; exit 7"}
  - {name: missing, commands: "no-such-program-at-all"}
  - {name: signal, commands: "echo about to die; kill -SEGV $$"}
  - {name: deleted, commands: "echo tidying up; rm -rf $HOME/../../../../workers/$OTTO_WORKER_NAME; sleep 60"}
  - {name: unwatched, commands: "echo alone; sleep 1; kill -9 $PPID; sleep 60"}
  - {name: go, type: approval, timeout: 1}
"""


@pytest.mark.slow
async def test_real_failures_are_explained(standalone: Standalone, tmp_path: Path) -> None:
    """Out of memory, too slow, an exit code, no such program, a signal, its directory deleted, its supervisor killed, nobody approved:
    cause, limit, remedy and last line of each.
    """
    (tmp_path / "f.yaml").write_text(FAILURES % sys.executable)
    code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "f.yaml"), "--id", "f", "--no-logs")
    assert code == 1, output
    parts = {part.split(" ", 1)[0]: part for part in _explanations(output)}
    for name, cause, said, done, line in (
        ("memory", "OOM_KILLED", "killed at 100Mi", "raise otto.memory (now 100Mi)", "  | filling"),
        ("slow", "TIMEOUT", "stopped after 1 s", "raise the stage's timeout", "  | waiting"),
        ("code", "EXIT_CODE", "exit code 7", "its last lines say why", "  | before"),
        ("missing", "EXIT_CODE", "a program was not found", "PATH", "no-such-program-at-all"),
        ("signal", "EXIT_CODE", "killed by SIGSEGV", "its last lines say why", "  | about to die"),
        ("deleted", "DELETED", "its pod, its directory or its log", "away from Ottoscaler's state directory", ""),
        ("unwatched", "INTERNAL", "its supervisor was killed or failed", "ottoctl doctor, and the service's log", "  | alone"),
        ("go", "TIMEOUT", "nobody decided within 1 s", "ottoctl pipeline approve", ""),
    ):
        assert f"({cause})" in parts[name], parts[name]
        for words in (said, done, line):
            assert words in parts[name], (words, parts[name])


@pytest.mark.slow
async def test_a_worker_killed_from_outside_is_explained(standalone: Standalone, tmp_path: Path) -> None:
    """Somebody who kills a worker's process: the signal, that it was not Ottoscaler, and where to look."""
    pid = tmp_path / "pid"
    (tmp_path / "k.yaml").write_text(
        f"- {{name: victim, commands: 'echo at work; echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 300'}}"
    )
    run = asyncio.create_task(ottoctl(standalone, "pipeline", "run", str(tmp_path / "k.yaml"), "--id", "k", "--no-logs"), name="run")
    async with asyncio.timeout(90):
        while not pid.exists():
            await asyncio.sleep(0.02)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    code, output = await run
    assert code == 1, output
    [part] = _explanations(output)
    for words in ("(EXIT_CODE)", "exit code 137: killed by SIGKILL, not by Ottoscaler", "something outside killed it", "  | at work"):
        assert words in part, (words, part)


@pytest.mark.slow
async def test_a_worker_that_fills_its_disk_is_explained(tmp_path: Path) -> None:
    """The disk of the workers' logs gets full: whose log it was, in the system's words, what to look at; a stage beside it completes."""
    (tmp_path / "state").mkdir()
    (tmp_path / "d.yaml").write_text(
        "- {name: flood, commands: 'while :; do echo 0123456789abcdef0123456789abcdef0123456789abcdef; done'}\n"
        "- {name: beside, commands: 'echo beside'}\n"
    )
    with mounted(tmp_path / "state" / "workers", "size=3m"):
        async with serving(tmp_path / "state", OTTO_EXECUTOR_INFRASTRUCTURE_RETRIES="0") as instance:
            code, output = await ottoctl(instance, "pipeline", "run", str(tmp_path / "d.yaml"), "--id", "d", "--no-logs")
    assert code == 1, output
    assert "beside: COMPLETED" in output
    [part] = _explanations(output)
    for words in (
        "flood failed (INTERNAL)",
        "its log could not be written: No space left on device",
        "ottoctl doctor",
        "  | 0123456789abcdef",
    ):
        assert words in part, (words, part)


def _explanations(output: str) -> list[str]:
    """The explanation of each stage."""
    found: list[str] = []
    for line in output.splitlines():
        if " failed (" in line and not line[:2].isdigit():
            found.append(line)
        elif found and line.startswith("  "):
            found[-1] += "\n" + line
    return found


@pytest.mark.slow
async def test_a_rejection_and_a_cancellation_say_who_and_why(standalone: Standalone, tmp_path: Path) -> None:
    """Who refused an approval, or stopped a run, stands at the end with their words."""
    (tmp_path / "a.yaml").write_text("- {name: go, type: approval}")
    for verb, words in (("reject", "rejected by kim: not on Fridays"), ("cancel", "no longer needed")):
        running = asyncio.create_task(ottoctl(standalone, "pipeline", "run", str(tmp_path / "a.yaml"), "--id", verb), name=verb)
        async with asyncio.timeout(90):
            while "waits for approval" not in (await ottoctl(standalone, "pipeline", "list", "--state", "running"))[1]:
                await asyncio.sleep(0.1)
        if verb == "reject":
            await ottoctl(standalone, "pipeline", "reject", verb, "go", "--as", "kim", "--comment", "not on Fridays")
        else:
            await ottoctl(standalone, "pipeline", "cancel", verb, "--reason", "no longer needed")
        code, output = await running
        assert code == (1 if verb == "reject" else 3), output
        end = output[output.rindex("pipeline: ") :].split("\n", 1)[1]
        assert words in end, output
        assert verb != "reject" or "run it again" in end


@pytest.mark.slow
async def test_status_says_why_workers_wait(tmp_path: Path) -> None:
    """Under a cap of 1 the second worker is pending, and `status` says what it waits for."""
    instance = Standalone(tmp_path / "state", OTTO_SCALER_MAX_WORKERS="1")
    await instance.start()
    try:
        for task in ("first", "second"):
            await ottoctl(instance, "scale", "up", task, "--queue", "--", "sleep", "300")
        _, output = await ottoctl(instance, "status", "--status", "pending", "-o", "json")
        (worker,) = json.loads(output)["workers"]
        assert worker["task_id"] == "second"
        _, table = await ottoctl(instance, "status")
        row = next(line for line in table.splitlines() if "\tsecond\t" in line)
        assert row.endswith("\t" + worker["pending_reason"])
        assert "room" in row or "capacity" in row, row
    finally:
        for task in ("first", "second"):
            await ottoctl(instance, "scale", "down", task)
        await instance.stop()


@pytest.mark.slow
async def test_status_says_that_the_queue_is_full(tmp_path: Path) -> None:
    """Under a cap of 1 and a queue of 1 a stage of three workers has none yet: `status` says how many were turned away."""
    (tmp_path / "three.yaml").write_text("- {name: three, commands: 'true', worker_count: 3}")
    async with serving(tmp_path / "state", OTTO_SCALER_MAX_WORKERS="1", OTTO_SCALER_MAX_QUEUED="1") as instance:
        await ottoctl(instance, "scale", "up", "others", "--count", "2", "--queue", "--", "sleep", "300")
        code, said = await ottoctl(instance, "pipeline", "run", str(tmp_path / "three.yaml"), "--id", "p", "--detach")
        assert code == 0, said
        async with asyncio.timeout(90):
            while "INSUFFICIENT_RESOURCES: 3 more were asked for" not in (await ottoctl(instance, "status"))[1]:
                await asyncio.sleep(0.1)
        _, of_another = await ottoctl(instance, "status", "others")
        assert "INSUFFICIENT_RESOURCES" not in of_another
        await ottoctl(instance, "pipeline", "cancel", "p")


class Terminal:
    """ottoctl on a pseudo-terminal of 80 by 24."""

    def __init__(self) -> None:
        self.shown = ""

    async def run(self, address: str, *arguments: str, until: str, term: str = "xterm", then: Callable[[], None] | None = None) -> int:
        """Runs it; once `until` is shown does `then`, or sends Ctrl-C. Returns the exit code."""
        controller, terminal = pty.openpty()
        os.set_blocking(controller, False)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ottoctl", *arguments,
            env={**os.environ, "OTTO_ADDRESS": address, "TERM": term, "COLUMNS": "80", "LINES": "24"},
            stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        sent = False
        try:
            async with asyncio.timeout(90):
                while process.returncode is None:
                    try:
                        self.shown += os.read(controller, 65536).decode("utf-8", "replace")
                    except (BlockingIOError, OSError):
                        await asyncio.sleep(0.02)
                    if until in self.shown and not sent:
                        sent = True
                        if then is not None:
                            then()
                        else:
                            process.send_signal(signal.SIGINT)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        with contextlib.suppress(BlockingIOError, OSError):
            self.shown += os.read(controller, 65536).decode("utf-8", "replace")
        os.close(controller)
        return process.returncode or 0


@pytest.mark.slow
@pytest.mark.parametrize("term", ["xterm", "dumb"])
async def test_ctrl_c_leaves_the_pipeline_running(standalone: Standalone, tmp_path: Path, term: str) -> None:
    """On a terminal Ctrl-C ends ottoctl with 130 and says how to come back; the pipeline runs on. A dumb terminal gets plain lines."""
    (tmp_path / "long.yaml").write_text("- {name: long, commands: 'echo it runs; sleep 300'}")
    terminal = Terminal()
    code = await terminal.run(standalone.address, "pipeline", "run", str(tmp_path / "long.yaml"), "--id", "l", until="it runs", term=term)
    assert code == 130, terminal.shown
    assert "left; it goes on. Watch it: ottoctl pipeline watch l" in terminal.shown
    assert ("\x1b[" in terminal.shown) == (term == "xterm"), terminal.shown
    _, output = await ottoctl(standalone, "pipeline", "get", "l")
    assert output.startswith("l: running"), output
    await ottoctl(standalone, "pipeline", "cancel", "l")


@pytest.mark.slow
async def test_a_break_is_told_above_the_picture(standalone: Standalone, tmp_path: Path) -> None:
    """On a terminal the loss and the return of the connection are lines of their own, and the picture goes on to the end."""
    (tmp_path / "gated.yaml").write_text(f"- {{name: long, commands: 'echo it runs; until test -e {tmp_path}/go; do sleep 0.1; done'}}")
    async with proxy(standalone.address) as bad:
        terminal = Terminal()
        running = asyncio.create_task(
            terminal.run(bad.address, "pipeline", "run", str(tmp_path / "gated.yaml"), "--id", "t", until="it runs", then=bad.cut),
            name="run",
        )
        async with asyncio.timeout(90):
            while "connected again" not in terminal.shown:
                await asyncio.sleep(0.05)
        (tmp_path / "go").touch()
        assert await running == 0, terminal.shown
    assert "lost the connection to" in terminal.shown
    assert "t: COMPLETED in" in terminal.shown
    assert "ottoctl: lost" not in terminal.shown  # not written to standard error, into the middle of the picture
