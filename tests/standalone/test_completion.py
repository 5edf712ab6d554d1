"""Completion in the real shells, of what the service knows: and silence when it can't be asked."""

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from .conftest import Standalone, ottoctl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # many short processes: on a busy machine each takes seconds to start
BIN = Path(sys.executable).parent
PIPELINE = """
id: nightly-1
name: Nightly
stages:
  - {name: 우분투 준비, commands: 'true'}
  - {name: go, type: approval, dependencies: [우분투 준비]}
  - {name: other, type: approval, dependencies: [우분투 준비]}
"""


async def shell(standalone_address: str, *command: str, cwd: Path | None = None) -> str:
    """What a shell prints that has ottoctl on its PATH; it must write no errors."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "OTTO_ADDRESS": standalone_address, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(cwd or Path.cwd())},
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert errors == b"", errors
    return output.decode()


async def in_bash(address: str, *words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        'eval "$(_OTTOCTL_COMPLETE=source_bash ottoctl)"; '
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _ottoctl_completion ottoctl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return [line for line in (await shell(address, "bash", "--norc", "-c", script, cwd=cwd)).splitlines() if line]


@pytest.fixture
async def waiting(standalone: Standalone, tmp_path: Path) -> Standalone:
    """A service with a pipeline of which two stages wait for an approval, and a task."""
    (tmp_path / "p.yaml").write_text(PIPELINE)
    assert (await ottoctl(standalone, "pipeline", "run", str(tmp_path / "p.yaml"), "--detach"))[0] == 0
    assert (await ottoctl(standalone, "scale", "up", "task-7", "--", "sleep", "300"))[0] == 0
    async with asyncio.timeout(90):
        while "waits for approval: go, other" not in (await ottoctl(standalone, "pipeline", "list"))[1]:
            await asyncio.sleep(0.1)
    return standalone


@pytest.mark.slow
async def test_bash_completes_what_the_service_knows(waiting: Standalone) -> None:
    """Commands, ids, stages (quoted for bash, where they need it), waiting stages, tasks, workers, words."""
    address = waiting.address
    assert await in_bash(address, "ottoctl", "pipeline", "gr") == ["graph"]
    assert await in_bash(address, "ottoctl", "pipeline", "watch", "ni") == ["nightly-1"]
    assert await in_bash(address, "ottoctl", "pipeline", "watch", "x") == []
    assert await in_bash(address, "ottoctl", "pipeline", "approve", "nightly-1", "") == ["go", "other"]
    assert await in_bash(address, "ottoctl", "logs", "-p", "nightly-1", "--stage", "우") == ["우분투\\ 준비"]
    assert await in_bash(address, "ottoctl", "scale", "down", "t") == ["task-7"]
    assert "task-7" in "".join(await in_bash(address, "ottoctl", "logs", "otto-task"))
    assert await in_bash(address, "ottoctl", "status", "--status", "p") == ["pending"]
    assert await in_bash("127.0.0.1:1", "ottoctl", "--address", address, "pipeline", "get", "") == ["nightly-1"]


async def typed(address: str, line: str, cwd: Path) -> str:
    """What an interactive bash makes of a line and the tabulator key, as it runs it: ottoctl is a function that says its words."""
    ours, theirs = os.openpty()
    script = (
        f'eval "$(_OTTOCTL_COMPLETE=source_bash {BIN}/ottoctl)"; _ask() {{ _ottoctl_completion {BIN}/ottoctl; }}; '
        "complete -F _ask ottoctl; ottoctl() { local IFS='|'; echo \"<$*>\"; }"
    )
    (cwd / "rc").write_text(f"{script}\nPS1='ready> '\n")
    process = await asyncio.create_subprocess_exec(
        "bash", "--noprofile", "--rcfile", str(cwd / "rc"), "-i",
        env={**os.environ, "OTTO_ADDRESS": address, "TERM": "dumb", "HOME": str(cwd)},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = ""

    async def read(until: str) -> None:
        nonlocal said
        while until not in said:
            said += (await asyncio.to_thread(os.read, ours, 4096)).decode()

    try:
        async with asyncio.timeout(60):
            await read("ready> ")
            os.write(ours, f"{line}\t\n".encode())
            await read(">\r\n")
    finally:
        process.kill()
        await process.wait()
        os.close(ours)
    return said.rpartition("<")[2].partition(">")[0]


@pytest.mark.slow
async def test_an_interactive_bash_completes_ids_with_colons(standalone: Standalone, tmp_path: Path) -> None:
    """Bash takes words apart at colons and equals signs; what it is offered fits behind them, in arguments and behind options."""
    (tmp_path / "p.yaml").write_text(PIPELINE)
    for identity in ("2026:night=ly:1", "other"):
        assert (await ottoctl(standalone, "pipeline", "run", str(tmp_path / "p.yaml"), "--id", identity, "--detach"))[0] == 0
    for line in ("20", "2026:", "2026:ni", "2026:night=", "2026:night=ly:"):
        assert await typed(standalone.address, f"ottoctl pipeline watch {line}", tmp_path) == "pipeline|watch|2026:night=ly:1", line
    assert await typed(standalone.address, "ottoctl logs --pipeline=2026:ni", tmp_path) == "logs|--pipeline=2026:night=ly:1"
    assert (
        await typed(standalone.address, "ottoctl pipeline approve 2026:night=ly:1 oth", tmp_path)
        == "pipeline|approve|2026:night=ly:1|other"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
async def test_fish_completes_what_the_service_knows(waiting: Standalone, tmp_path: Path) -> None:
    """In fish itself: ids with their state beside them, stages as they are, and names of files where nothing is offered."""
    (tmp_path / "ci.yaml").touch()

    async def offered(line: str) -> list[str]:
        script = f"_OTTOCTL_COMPLETE=source_fish ottoctl | source; complete -C '{line}'"
        return (await shell(waiting.address, "fish", "--no-config", "-c", script, cwd=tmp_path)).splitlines()

    assert await offered("ottoctl pipeline watch ni") == ["nightly-1\trunning, Nightly"]
    assert "우분투 준비\tcompleted" in await offered("ottoctl logs -p nightly-1 --stage ")
    assert any("ci.yaml" in line for line in await offered("ottoctl pipeline run c"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
async def test_zsh_takes_the_script_and_the_answer(waiting: Standalone, tmp_path: Path) -> None:
    """Zsh parses the completion script, and evaluates an answer to the ids; where there are none it is told to offer files."""
    script = tmp_path / "_ottoctl"
    script.write_text(await shell(waiting.address, "bash", "-c", "_OTTOCTL_COMPLETE=source_zsh ottoctl"))
    assert "compdef" in script.read_text()
    assert await shell(waiting.address, "zsh", "-f", "-n", str(script)) == ""
    doubles = "_arguments() { print -r -- $1 }; _files() { print files }; "
    ask = doubles + "eval $(_OTTOCTL_COMPLETE=complete_zsh _TYPER_COMPLETE_ARGS='%s' ottoctl)"
    assert '"nightly-1":"running, Nightly"' in await shell(waiting.address, "zsh", "-f", "-c", ask % "ottoctl pipeline watch ni")
    assert await shell(waiting.address, "zsh", "-f", "-c", ask % "ottoctl pipeline run c") == "files\n"


async def test_a_service_that_is_not_there_costs_neither_words_nor_time(tmp_path: Path) -> None:
    """Refused, silent or no address at all: nothing is offered, nothing is written, and the shell is not kept waiting."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        for address in ("127.0.0.1:1", f"127.0.0.1:{port}", "no such host:9"):
            started = time.monotonic()
            assert await in_bash(address, "ottoctl", "pipeline", "watch", "") == []
            assert time.monotonic() - started < 20  # a second and the shell's own time, on a machine that is five times slower
    finally:
        server.close()
