"""`ottoctl support-bundle` of a standalone: what it holds of the instance, the work and this machine, and no secret of theirs."""

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from ..ottoctl.bundles import data, files, leaks
from ..ports import free_port
from .conftest import Standalone, ottoctl, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PLANTED = {
    "a worker's variable": "workerenv-Zq8&1+/xy!",
    "a URL of a repository": "repository-Zq8&2+xy!",
    "a setting": "setting-Zq8&3+xy!",
    "a variable that is no setting": "nosetting-Zq8&4+/xy!",
    "a worker's secret": "secretfile-Zq8&5+/xy!",
    "a script": "script-Zq8&6+/xy!",
    "metadata": "metadata-Zq8&7+/xy!",
    "a line of a worker": "workerline-Zq8&8+/xy!",
}


async def bundle(standalone: Standalone, path: Path, *arguments: str) -> tuple[int, str]:
    return await ottoctl(standalone, "support-bundle", "--file", str(path), *arguments)


async def test_what_it_holds_of_a_standalone_and_that_no_secret_is_in_it(tmp_path: Path) -> None:
    """Settings in effect, log, metrics, runs, workers, and what lies in the state directory; nothing of what runs or was given to it."""
    secrets = tmp_path / "secrets"
    (secrets / "db").mkdir(parents=True)
    (secrets / "db" / "password").write_text(PLANTED["a worker's secret"])
    metrics = free_port()
    environ = {
        "OTTO_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "OTTO_SCALER_SECRETS_DIR": str(secrets),
        "OTTO_SCALER_DEFAULT_COMMAND": f"curl http://bob:{PLANTED['a setting']}@127.0.0.1/",
        "OTTO_COMPANY": PLANTED["a variable that is no setting"],
        "OTTO_SCALER_MAX_WORKERS": "7",
    }
    pipeline = [
        {
            "name": "build",
            "commands": [f"echo '{PLANTED['a line of a worker']}'; : '{PLANTED['a script']}'; exit 3"],
            "config": {"DB": PLANTED["a worker's variable"], "otto.secrets": {"P": "db/password"}},
        }
    ]
    document = {
        "repository": f"https://bob:{PLANTED['a URL of a repository']}@127.0.0.1:{free_port()}/a.git",
        "metadata": {"who": PLANTED["metadata"]},
        "stages": pipeline,
    }
    (tmp_path / "p.yaml").write_text(json.dumps(document))
    (tmp_path / "q.yaml").write_text(json.dumps(pipeline))
    path = tmp_path / "b.tar.gz"
    async with serving(tmp_path / "state", **environ) as standalone:
        for name in ("p", "q"):
            code, said = await ottoctl(standalone, "pipeline", "run", str(tmp_path / f"{name}.yaml"), "--id", name)
            assert code == 1, said
        code, said = await bundle(standalone, path)
    assert code == 0, said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert leaks(path, PLANTED) == []
    assert all(secret not in said for secret in PLANTED.values())
    found = files(path)
    manifest = data(found, "MANIFEST.json")
    assert manifest["missing"] == []
    assert {entry["name"] for entry in manifest["files"]} == set(found) - {"MANIFEST.json"}
    settings = data(found, "machine/settings.json")
    assert settings["given"]["OTTO_SCALER_MAX_WORKERS"] == "7"
    assert settings["given"]["OTTO_SCALER_DEFAULT_COMMAND"] == "curl http://***@127.0.0.1/"
    assert settings["defaults"]["OTTO_EXECUTOR_MAX_STAGES"]
    assert settings["not settings"] == ["OTTO_COMPANY"]
    assert "runtime.serving" in found["machine/service.log"].decode()
    assert "otto_build_info" in found["machine/metrics.txt"].decode()
    runs = data(found, "services/runs.json")
    assert {run["pipeline_id"]: run["state"] for run in runs["runs"]} == dict.fromkeys("pq", "PIPELINE_STATE_FAILED")
    assert {
        stage["stage_id"]: stage["exit_code"] for run in runs["whole"] for stage in run["stages"] if run["summary"]["pipeline_id"] == "q"
    } == {"build": 3}
    assert all("request" not in run for run in runs["whole"])
    assert {worker["pipeline_id"] for worker in data(found, "services/workers.json")["workers"]} == set("pq")
    state = data(found, "machine/state.json")
    assert {"runs.sqlite", "workers", "spool", "lock"} <= {entry["name"] for entry in state["entries"]}
    assert all(entry["name"].count("/") < 3 for entry in state["entries"])
    assert data(found, "machine/machine.json")["process"]["pid"] == standalone.process.pid
    assert [f["level"] for f in data(found, "doctor.json")["findings"] if f["check"] == "health"] == ["ok"] * 4


async def test_without_an_instance_it_says_what_there_is(tmp_path: Path) -> None:
    """Nothing runs: what doctor finds, this machine, and the name of everything that could not be had. By default it lies here."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "--address", f"127.0.0.1:{free_port()}", "support-bundle", "-o", "json",
        cwd=tmp_path, env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "OTTO_STANDALONE_STATE_DIR": ""}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    answer = json.loads((await process.communicate())[0])
    assert process.returncode == 0
    (path,) = tmp_path.glob("ottoscaler-support-*.tar.gz")
    assert answer["file"] == path.name
    assert {one["name"] for one in answer["missing"]} == {
        "services/health.json",
        "services/runs.json",
        "services/workers.json",
        "machine/service.log",
    }
    assert {"doctor.json", "machine/machine.json", "machine/settings.json", "machine/state.json", "MANIFEST.json"} == set(files(path))
