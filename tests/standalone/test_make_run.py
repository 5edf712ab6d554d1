"""What `make`, `make run` and `make serve` start: the help, the scripts in tools/, and where standalone keeps its state."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Standalone, end_workers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SERVES = "is serving on"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def environ(tmp_path: Path, address: str, **more: str) -> dict[str, str]:
    """As a user's, with everything kept below `tmp_path`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTTO_", "GIT_", "MAKE"))}
    own = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "OTTO_LISTEN": address,
        "OTTO_METRICS_LISTEN": "off",
        "OTTO_STANDALONE_STATE_DIR": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
    }
    return {**inherited, **own, **more}


async def run(*command: str, env: dict[str, str], cwd: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=env, cwd=cwd, stdout=pipe, stderr=pipe)
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def test_make_alone_shows_the_help() -> None:
    """Who types `make` changes nothing and sees every command."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = [
        subprocess.run(["make", *goal], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=30).stdout
        for goal in ([], ["help"])
    ]
    assert shown[0] == shown[1]
    for command in ("run", "serve", "check", "test", "bench"):
        assert f"  make {command} " in shown[0]


async def test_the_command_gets_the_address_and_its_exit_code_is_the_scripts(tmp_path: Path) -> None:
    """Standalone serves while the command runs and is stopped after it; the log goes to a file that is named."""
    address = free_address()
    command = 'grpcurl -plaintext "$OTTO_ADDRESS" grpc.health.v1.Health/Check; exit 7'
    code, output, errors = await run("tools/with-standalone", "sh", "-c", command, env=environ(tmp_path, address))
    assert code == 7, errors
    assert '"SERVING"' in output
    assert f"Ottoscaler {SERVES} {address}\n" in errors
    assert f"The log of Ottoscaler itself: {tmp_path}" in errors
    assert not answers(address)
    log = next(tmp_path.glob("ottoscaler-standalone.*.log"))
    assert "Stopped after" in log.read_text()


async def test_one_that_serves_already_is_used_and_left_running(standalone: Standalone, tmp_path: Path) -> None:
    """No second one is started."""
    env = environ(tmp_path, standalone.address)
    code, output, errors = await run("tools/with-standalone", "sh", "-c", 'echo "$OTTO_ADDRESS"', env=env)
    assert (code, output.strip()) == (0, standalone.address)
    assert f"{SERVES} {standalone.address} already" in errors
    assert answers(standalone.address)


async def test_when_it_cannot_start_its_log_is_shown(tmp_path: Path) -> None:
    """The command is not run, the exit code is not 0."""
    (tmp_path / "file").touch()
    env = environ(tmp_path, free_address(), OTTO_STANDALONE_STATE_DIR=str(tmp_path / "file" / "state"))
    code, output, errors = await run("tools/with-standalone", "echo", "ran", env=env)
    assert (code, output) == (1, "")
    assert "OTTO_STANDALONE_STATE_DIR" in errors


@pytest.mark.parametrize(("script", "expected"), [("true", 0), ("exit 3", 1)], ids=["completes", "fails"])
async def test_make_run_runs_what_is_committed(tmp_path: Path, script: str, expected: int) -> None:
    """A repository with the same script and a small pipeline: it is checked out at HEAD, without what is not committed, and told of the
    user's package index; the exit code is the pipeline's.
    """
    repository = tmp_path / "repository"
    (repository / "tools").mkdir(parents=True)
    (repository / "tools/run-self").write_bytes((ROOT / "tools/run-self").read_bytes())
    (repository / "tools/run-self").chmod(0o755)
    (repository / "pipelines").mkdir()
    commands = f"git rev-parse HEAD; cat marker; echo index=$PIP_INDEX_URL; {script}"
    (repository / "pipelines/self.yaml").write_text(f"- name: look\n  commands: '{commands}'\n")
    (repository / "marker").write_text("committed\n")
    env = environ(tmp_path, free_address(), PIP_INDEX_URL="https://packages.example.com/simple")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    for git in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", *git], cwd=repository, env=env, check=True, timeout=30)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, env=env, capture_output=True, text=True, check=True).stdout.strip()
    (repository / "marker").write_text("not committed\n")
    try:
        code, output, errors = await run(str(ROOT / "tools/with-standalone"), "tools/run-self", "--logs", env=env, cwd=repository)
    finally:
        await end_workers(tmp_path / "state")
    assert code == expected, output + errors
    for line in (head, "committed", "index=https://packages.example.com/simple"):
        assert line in output
    assert "not committed" not in output


def test_make_run_and_serve_start_these_scripts() -> None:
    """And nothing else."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(["make", "-n", "run", "serve"], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.splitlines()[-2:] == ["tools/with-standalone tools/run-self", "exec ottoscaler-standalone"]


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"XDG_STATE_HOME": "{}/xdg"}, "xdg/ottoscaler"),
        ({"XDG_STATE_HOME": "", "HOME": "{}/home"}, "home/.local/state/ottoscaler"),
        ({"XDG_STATE_HOME": "{}/xdg", "OTTO_STANDALONE_STATE_DIR": "{}/own"}, "own"),
    ],
    ids=["XDG_STATE_HOME", "HOME", "its own setting wins"],
)
async def test_where_the_state_lies(tmp_path: Path, variables: dict[str, str], where: str) -> None:
    """In the directory that the user's settings name, and in no other."""
    given = {name: value.format(tmp_path) for name, value in variables.items()}
    instance = Standalone(tmp_path / "unused", **{"OTTO_STANDALONE_STATE_DIR": "", **given})
    await instance.start()
    await instance.stop()
    assert {"lock", "runs.sqlite", "spool", "workers"} <= {path.name for path in (tmp_path / where).iterdir()}
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("runs.sqlite")) == [Path(where) / "runs.sqlite"]
