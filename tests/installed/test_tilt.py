"""Tilt: a cluster that follows the files that are worked on."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..ports import free_port
from .installation import IMAGES, ROOT, said

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
READY_SECONDS = 600
SEEN_SECONDS = 60


@dataclass
class Tilt:
    """Tilt in a copy of this checkout, for an installation in a namespace of its own."""

    program: str
    checkout: Path
    namespace: str
    environ: dict[str, str]

    def started(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on, and says what it does on its stdout."""
        return subprocess.Popen(
            [self.program, *words, "--", "--namespace", self.namespace, "--port", self.environ["DOOR_PORT"]],
            cwd=self.checkout,
            env=self.environ,
            stdout=(self.checkout / f"{words[0]}.log").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def told(self, verb: str) -> str:
        """What a command has said so far."""
        return (self.checkout / f"{verb}.log").read_text()

    def kubectl(self, *words: str) -> str:
        """In its namespace."""
        return said("kubectl", "--namespace", self.namespace, *words)


@pytest.fixture
def tilt(tmp_path: Path) -> Tilt:
    """Nothing is started yet."""
    checkout = tmp_path / "checkout"
    for name in said("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (source := ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, checkout / name)
    shutil.copytree(IMAGES.parent, checkout / ".cache" / "images", ignore=shutil.ignore_patterns("*.tar"))
    program = shutil.which("tilt") or said("env", f"PYTHONPATH={ROOT / 'tools'}", "python", "-m", "testcluster", "tilt").strip()
    environ = {
        **os.environ,
        "DOOR_PORT": str(free_port()),
        "TILT_PORT": str(free_port()),
        "TILT_WEB_MODE": "embedded",
        "TILT_DISABLE_ANALYTICS": "1",
        "XDG_DATA_HOME": str(tmp_path),
    }
    return Tilt(program, checkout, f"otto-test-{secrets.token_hex(3)}", environ)


@pytest.fixture
def removed(tilt: Tilt) -> Iterator[None]:
    """In the end all is gone that was installed, but what other installations need as well."""
    yield
    tilt.kubectl("delete", "pipelineruns", "--all", "--timeout=60s")
    assert tilt.started("down", "--delete-namespaces").wait(180) == 0, tilt.told("down")
    said("kubectl", "get", "crd", "pipelineruns.ottoscaler.io")


@pytest.fixture
def up(tilt: Tilt, removed: None) -> Iterator[Tilt]:
    """Tilt goes on, with everything ready."""
    process = tilt.started("up", "--stream")
    try:
        _wait(lambda: process.poll() is not None or tilt.kubectl("get", "pods", "--output", "name"), READY_SECONDS, tilt)
        tilt.kubectl("wait", "--for=condition=Ready", "pods", "--all", f"--timeout={READY_SECONDS}s")
        yield tilt
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.usefixtures("removed")
def test_tilt_ci_ends_green(tilt: Tilt) -> None:
    """Everything is built, installed and ready, and `ottoctl doctor` finds nothing wrong with it."""
    assert tilt.started("ci").wait(READY_SECONDS) == 0, tilt.told("ci")
    assert "doctor" in tilt.told("ci")


def test_a_saved_file_runs_in_its_pod(up: Tilt) -> None:
    """The pod stays the same, and nothing is built."""
    pod = up.kubectl("get", "pods", "--selector", "app.kubernetes.io/component=scaler", "--output", "jsonpath={.items[*].metadata.name}")
    word = f"changed-{secrets.token_hex(4)}"
    main = up.checkout / "services/scaler/src/otto_scaler/__main__.py"
    began = time.monotonic()
    main.write_text(f"print({word!r}, flush=True)\n" + main.read_text())
    _wait(lambda: word in up.kubectl("logs", pod), SEEN_SECONDS, up)
    print(f"seen after {time.monotonic() - began:.1f} s")
    up.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")
    said("env", f"OTTO_ADDRESS=127.0.0.1:{up.environ['DOOR_PORT']}", "ottoctl", "doctor")


@pytest.mark.parametrize("context", ["prod", "kind-production", "arn:aws:eks:eu-1:1:cluster/x"])
def test_a_cluster_that_may_be_in_production_is_refused(context: str, tilt: Tilt, tmp_path: Path) -> None:
    """Before anything is built or sent there."""
    config = tmp_path / "kubeconfig"
    config.write_text(said("kubectl", "config", "view", "--raw", "--minify"))
    current = said("kubectl", "config", "current-context").strip()
    said("kubectl", "--kubeconfig", str(config), "config", "rename-context", current, context)
    process = subprocess.run(
        [tilt.program, "ci"],
        cwd=tilt.checkout,
        env={**tilt.environ, "KUBECONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode
    assert context in process.stdout + process.stderr


def _wait(condition: Callable[[], object], seconds: float, tilt: Tilt) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, tilt.told("up")
        time.sleep(0.2)
