"""Who leaves a run: it goes on, or it is cancelled, and what is said of it is true."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from ..ports import free_port
from .conftest import Standalone, end_workers, ottoctl

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LONG = "- {name: long, commands: 'trap \"echo gone > %s; exit 1\" TERM; echo begun; for i in $(seq 3000); do sleep 0.1; done'}"


async def line_with(stream: asyncio.StreamReader, words: str) -> str:
    """The first line that holds the words."""
    async with asyncio.timeout(60):
        while line := await stream.readline():
            if words in line.decode():
                return line.decode()
    raise AssertionError(f"nobody said {words!r}")


@pytest.mark.parametrize("how", ["detach", "cancel"])
async def test_ctrl_c_leaves_a_run_or_cancels_it(standalone: Standalone, tmp_path: Path, how: str) -> None:
    """By default the run goes on, and ottoctl says so; with --on-disconnect cancel it ends, and ottoctl waits for that."""
    (tmp_path / "long.yaml").write_text(LONG % (tmp_path / "gone"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "pipeline", "run", str(tmp_path / "long.yaml"), "--id", "l", "--on-disconnect", how,
        env={**os.environ, "OTTO_ADDRESS": standalone.address}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await line_with(process.stdout, "long | begun")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        _, told = await process.communicate()
    assert process.returncode == 130
    state = json.loads((await ottoctl(standalone, "pipeline", "get", "l", "-o", "json"))[1])["summary"]["state"]
    if how == "detach":
        assert "left; it goes on" in told.decode()
        assert state == "PIPELINE_STATE_RUNNING"
    else:
        assert "goes on" not in told.decode()
        assert "l: CANCELLED in" in told.decode()
        assert state == "PIPELINE_STATE_CANCELLED"
        assert (tmp_path / "gone").exists()


async def test_ctrl_c_in_make_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C, to the whole group as a terminal sends it, ends the workers, the run and the service that was started for them."""
    (tmp_path / "long.yaml").write_text(LONG % (tmp_path / "gone"))
    script = (
        f'test "$WITH_STANDALONE" = started && exec {sys.executable} -m ottoctl pipeline run {tmp_path}/long.yaml --on-disconnect cancel'
    )
    with Path(os.devnull).open("rb") as nothing:
        process = await asyncio.create_subprocess_exec(
            ROOT / "tools" / "with-standalone", "sh", "-c", script,
            env={
                **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OTTO_LISTEN": f"127.0.0.1:{free_port()}",
                "OTTO_METRICS_LISTEN": "off", "OTTO_STANDALONE_STATE_DIR": str(tmp_path / "state"), "TMPDIR": str(tmp_path),
            },
            stdin=nothing, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        await line_with(process.stdout, "long | begun")
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(60):
            _, told = await process.communicate()
        assert process.returncode == 130, told
        assert "CANCELLED in" in told.decode()
        assert (tmp_path / "gone").exists()
        log = next(tmp_path.glob("ottoscaler-standalone.*.log"))
        assert str(log) in told.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await end_workers(tmp_path)
