"""Tilt: a cluster that follows the files that are worked on, as CONTRIBUTING.md tells it."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..cluster_report import reported
from ..ports import free_port
from .installation import IMAGES, ROOT, said

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(3000)]
BUILD_SECONDS = 1200
READY_SECONDS = 1000


@dataclass
class Tilt:
    """Tilt in a copy of this checkout, for an installation in a namespace of its own."""

    checkout: Path
    namespace: str
    port: int
    environ: dict[str, str]

    def started(self, verb: str) -> "subprocess.Popen[bytes]":
        """A command that goes on."""
        with self._log(verb).open("wb") as log:
            command = [str(self.checkout / "tools/tilt"), verb]
            return subprocess.Popen(command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def told(self, verb: str) -> str:
        """What a command has said so far."""
        return self._log(verb).read_text()

    def _log(self, verb: str) -> Path:
        return self.checkout / f".tilt-{verb}.log"


@pytest.fixture(scope="module")
def program() -> str:
    """The one that is installed, or that can be built: outside, as packages are fetched."""
    if found := shutil.which("tilt"):
        return found
    outside = os.environ.get("OTTO_OUTSIDE", "")
    there = ["nsenter", f"--net={outside}", "--"] if outside else []
    command = [*there, "env", f"PYTHONPATH={ROOT / 'tools'}", sys.executable, "-m", "testcluster", "tilt"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS, check=True).stdout.strip()


@pytest.fixture
def tilt(program: str, tmp_path: Path) -> Tilt:
    """Nothing is started yet."""
    checkout = tmp_path / "checkout"
    for name in said("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (source := ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, checkout / name)
    shutil.copytree(IMAGES.parent, checkout / ".cache" / "images", ignore=shutil.ignore_patterns("*.tar"))
    namespace, port = f"otto-test-{secrets.token_hex(3)}", free_port()
    own = {"NAMESPACE": namespace, "PORT": str(port), "TILT_PORT": str(free_port()), "XDG_DATA_HOME": str(tmp_path)}
    path = os.pathsep.join([str(Path(program).parent), os.environ["PATH"]])
    return Tilt(checkout, namespace, port, {**os.environ, **own, "PATH": path})


@pytest.fixture
def removed(tilt: Tilt) -> Iterator[None]:
    """In the end all is gone that was installed, but what other installations need as well."""
    with reported(tilt.namespace):
        yield
    assert tilt.started("down").wait(300) == 0, tilt.told("down")
    said("kubectl", "wait", "--for=delete", f"namespace/{tilt.namespace}", "--timeout=120s")
    said("kubectl", "get", "crd", "pipelineruns.ottoscaler.io")


@pytest.mark.usefixtures("removed")
def test_tilt_ci_ends_green(tilt: Tilt) -> None:
    """Everything is built, installed and ready, and `ottoctl doctor` finds nothing wrong with it."""
    assert tilt.started("ci").wait(READY_SECONDS) == 0, tilt.told("ci")
    assert "doctor" in tilt.told("ci")


@pytest.mark.parametrize("context", ["prod", "kind-Production", "arn:aws:eks:eu-1:1:cluster/x"])
def test_a_cluster_that_may_be_in_production_is_refused(context: str, tilt: Tilt, tmp_path: Path) -> None:
    """Before anything is built or sent there."""
    config = tmp_path / "kubeconfig"
    config.write_text(said("kubectl", "config", "view", "--raw", "--minify"))
    current = said("kubectl", "config", "current-context").strip()
    said("kubectl", "--kubeconfig", str(config), "config", "rename-context", current, context)
    tilt.environ["KUBECONFIG"] = str(config)
    assert tilt.started("ci").wait(120) != 0
    assert f"kubectl reaches {context}: this is for Kind clusters" in tilt.told("ci")
    said("kubectl", "wait", "--for=delete", f"namespace/{tilt.namespace}", "--timeout=1s")
