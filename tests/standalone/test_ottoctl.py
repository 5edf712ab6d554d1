"""ottoctl against a real standalone: exit codes, forms of output, logs, and what it says when something fails."""

import asyncio
import json
import os
import pty
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import Standalone, ottoctl

pytestmark = pytest.mark.slow

FAILING = """
- {name: fine, commands: "echo all well"}
- name: broken
  worker_count: 2
  commands: |
    for i in $(seq 1 30); do echo line $i of $OTTO_WORKER_INDEX; done
    if test $OTTO_WORKER_INDEX = 1; then touch first; exit 0; fi
    until test -e first; do sleep 0.05; done
    exit 7
- {name: after, dependencies: [broken], commands: "echo never"}
"""


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    path = tmp_path / "failing.yaml"
    path.write_text(FAILING)
    return path


async def test_a_failure_is_explained(standalone: Standalone, failing: Path) -> None:
    """Exit code 1, the cause in words, the last lines of the worker that failed and no other, and how to see the rest."""
    code, output = await ottoctl(standalone, "pipeline", "run", str(failing), "--id", "f", "--no-logs")
    assert code == 1, output
    explanation = output[output.index("\nbroken failed (") + 1 :]
    assert "EXIT_CODE" in explanation
    assert "7" in explanation.splitlines()[0]
    assert "| line 30 of 2" in explanation
    assert "line 10 of 2" not in explanation
    assert "of 1\n" not in explanation
    assert "ottoctl logs otto-" in explanation
    assert "f: FAILED in" in output
    assert "after: SKIPPED" in output


async def test_forms_of_output_are_for_programs(standalone: Standalone, failing: Path) -> None:
    """JSON and YAML hold the contract's field names; a table in a pipe is tab-separated."""
    await ottoctl(standalone, "pipeline", "run", str(failing), "--id", "f", "--no-logs")
    _, listed = await ottoctl(standalone, "pipeline", "list", "-o", "json")
    assert [(p["pipeline_id"], p["state"]) for p in json.loads(listed)] == [("f", "PIPELINE_STATE_FAILED")]
    _, got = await ottoctl(standalone, "--output", "yaml", "pipeline", "get", "f")
    assert [s["stage_id"] for s in yaml.safe_load(got)["stages"]] == ["fine", "broken", "after"]
    _, table = await ottoctl(standalone, "pipeline", "get", "f")
    assert any(line.startswith("broken\tfailed\t1\t2\t") for line in table.splitlines()), table
    _, workers = await ottoctl(standalone, "status", "-o", "json")
    assert json.loads(workers)["total_count"] == 3


async def test_a_run_is_drawn(standalone: Standalone, failing: Path) -> None:
    """`pipeline graph` of an id shows how its stages stand, of a file what it would be, and says so when there is neither."""
    await ottoctl(standalone, "pipeline", "run", str(failing), "--id", "f", "--no-logs")
    _, output = await ottoctl(standalone, "pipeline", "graph", "f")
    assert "✘ broken ×2  failed in " in output, output
    assert "↷ after      skipped · after broken" in output, output
    _, output = await ottoctl(standalone, "pipeline", "graph", str(failing))
    assert "○ broken ×2" in output, output
    _, output = await ottoctl(standalone, "pipeline", "graph", "f", "--format", "dot")
    assert output.startswith("digraph pipeline {")
    code, output = await ottoctl(standalone, "pipeline", "graph", "nothing")
    assert code == 5, output
    assert "there is no file 'nothing' here" in output


async def test_logs_are_selected(standalone: Standalone, failing: Path) -> None:
    """By stage, worker, tail, words, level and source."""
    await ottoctl(standalone, "pipeline", "run", str(failing), "--id", "f", "--no-logs")
    _, output = await ottoctl(standalone, "logs", "--pipeline", "f", "--stage", "fine")
    assert output == "all well\n"
    _, output = await ottoctl(standalone, "logs", "--pipeline", "f", "--stage", "broken", "--grep", "LINE 30")
    assert sorted(output.splitlines()) == ["line 30 of 1", "line 30 of 2"]
    _, got = await ottoctl(standalone, "pipeline", "get", "f", "-o", "json")
    worker = json.loads(got)["stages"][1]["worker_pod_names"][1]
    _, output = await ottoctl(standalone, "logs", worker, "--tail", "2")
    assert output == "line 29 of 2\nline 30 of 2\n"
    _, output = await ottoctl(standalone, "logs", worker, "--level", "error")
    assert output == "ottoctl: no line fits what was asked for, or none was written\n"
    _, output = await ottoctl(standalone, "logs", worker, "-f", "--since", "5m", "--source", "stdout", "-o", "json")
    assert [json.loads(line)["sequence"] for line in output.splitlines()] == [str(n) for n in range(1, 31)]


async def test_a_run_is_started_left_watched_and_cancelled(standalone: Standalone, tmp_path: Path) -> None:
    """--detach prints the id and leaves; watch shows it; cancel ends it, and watch's exit code says so."""
    (tmp_path / "long.yaml").write_text("- {name: long, commands: sleep 300}")
    code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "long.yaml"), "--id", "l", "--detach")
    assert (code, output.splitlines()[0]) == (0, "l")
    watching = asyncio.create_task(ottoctl(standalone, "pipeline", "watch", "l"), name="watch")
    async with asyncio.timeout(20):
        while '"running_count": 1' not in (await ottoctl(standalone, "status", "-o", "json"))[1]:
            await asyncio.sleep(0.1)
    code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "long.yaml"), "--id", "l")
    assert code == 5
    assert "run l exists already. Watch it: ottoctl pipeline watch l" in output
    code, output = await ottoctl(standalone, "pipeline", "cancel", "l", "--reason", "not needed")
    assert code == 0, output
    assert output.startswith("l: ")
    code, output = await watching
    assert code == 3, output
    assert "not needed" in output


async def test_set_gives_variables_to_all_stages_or_one(standalone: Standalone, tmp_path: Path) -> None:
    """KEY=VALUE, STAGE:KEY=VALUE, and KEY from ottoctl's own environment."""
    (tmp_path / "set.yaml").write_text("- {name: a, commands: 'echo $X $Y $HOME_OF_TEST'}\n- {name: b, commands: 'echo $X $Y'}")
    os.environ["HOME_OF_TEST"] = "here"
    try:
        code, output = await ottoctl(
            standalone,
            "pipeline",
            "run",
            str(tmp_path / "set.yaml"),
            "--set",
            "X=1",
            "--set",
            "a:Y=2",
            "--set",
            "HOME_OF_TEST",
            "--set",
            "UNSET_X",
        )
    finally:
        del os.environ["HOME_OF_TEST"]
    assert code == 0, output
    assert "a | 1 2 here" in output
    assert "b | 1\n" in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pipeline", "get", "nothing"], 5, "NOT_FOUND"),
        (["pipeline", "run", "no-such-file.yaml"], 2, "no-such-file.yaml"),
        (["pipeline", "run"], 2, "either a pipeline file or --type"),
        (["pipeline", "run", "--type", "simple", "--set", "otto.nonsense=1"], 2, "command line: stage 'hello': otto.nonsense"),
        (["logs"], 2, "name one of"),
        (["logs", "no-such-worker"], 5, "NOT_FOUND"),
        (["--address", "127.0.0.1:1", "status"], 4, "Is it running"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
async def test_mistakes_are_sentences_and_exit_codes(standalone: Standalone, arguments: list[str], code: int, words: str) -> None:
    """Every mistake has its code and names its cause; no traceback is shown."""
    got, output = await ottoctl(standalone, *arguments)
    assert got == code, output
    assert words in output
    assert "Traceback" not in output


async def test_on_a_terminal_the_dag_is_shown_live(standalone: Standalone, failing: Path) -> None:
    """Through a pseudo-terminal: symbols for each stage's state, a bar, the failing worker's lines, exit code 1."""
    controller, terminal = pty.openpty()
    os.set_blocking(controller, False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "pipeline", "run", str(failing), "--id", "tty",
        env={**os.environ, "OTTO_ADDRESS": standalone.address, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    async with asyncio.timeout(30):
        while process.returncode is None:
            await asyncio.sleep(0.05)
            try:
                shown += os.read(controller, 1_000_000)
            except (BlockingIOError, OSError):
                continue
    os.close(controller)
    text = shown.decode("utf-8", "replace")
    assert process.returncode == 1, text
    for expected in ("✔", "✘", "↷", "100%", "3 of 3 stages", "line 30 of 2"):
        assert expected in text, (expected, text)


async def test_workers_without_a_pipeline(standalone: Standalone) -> None:
    """Scale up, status, logs of the task, scale down."""
    code, output = await ottoctl(standalone, "scale", "up", "job", "-n", "2", "-e", "A=1", "--", "sh", "-c", "echo $A; sleep 300")
    assert code == 0, output
    async with asyncio.timeout(20):
        while (await ottoctl(standalone, "logs", "--task", "job"))[1].count(" | 1") != 2:
            await asyncio.sleep(0.1)
    code, output = await ottoctl(standalone, "scale", "down", "job")
    assert code == 0, output
    async with asyncio.timeout(20):
        while '"failed_count": 2' not in (await ottoctl(standalone, "status", "job", "-o", "json"))[1]:
            await asyncio.sleep(0.1)
