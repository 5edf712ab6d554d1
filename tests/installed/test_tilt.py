"""Tilt: a cluster that follows the files that are worked on, as CONTRIBUTING.md tells it."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageType

from ..cluster_report import reported
from ..ports import free_port
from ..quick import QUICK
from .installation import IMAGES, ROOT, said

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
BUILD_SECONDS = 1200
READY_SECONDS = 1000
SEEN_SECONDS = 120
"""Far more than it takes, which is told: how quick it is depends on the machine."""
SERVICES = ("scaler", "pipeline-executor", "log-relay")


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

    def pods(self) -> dict[str, tuple[str, list[int]]]:
        """The uid of each service's pod, and how often its container has been started anew."""
        words = ("--selector", f"app.kubernetes.io/component in ({','.join(SERVICES)})", "--output", "json")
        found = json.loads(said("kubectl", "--namespace", self.namespace, "get", "pods", *words))["items"]
        return {
            pod["metadata"]["labels"]["app.kubernetes.io/component"]: (
                pod["metadata"]["uid"],
                [container["restartCount"] for container in pod["status"].get("containerStatuses", [])],
            )
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def first_words(self) -> str:
        """What the executor says first about a run, which waits for somebody then; nothing while it can't be asked."""
        stage = PipelineStage(stage_id="wait", type=StageType.STAGE_TYPE_APPROVAL)
        request = PipelineRequest(pipeline_id=f"first-{secrets.token_hex(4)}", stages=[stage])
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = PipelineServiceStub(channel).ExecutePipeline(request, timeout=10)
            try:
                return str(next(call).message)
            except grpc.RpcError:
                return ""
            finally:
                call.cancel()

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


@pytest.fixture
def up(tilt: Tilt, removed: None) -> Iterator[Tilt]:
    """Tilt goes on, with everything ready."""
    process = tilt.started("up")
    try:
        _wait(lambda: process.poll() is not None or set(tilt.pods()) == set(SERVICES), READY_SECONDS, tilt)
        assert process.poll() is None, tilt.told("up")
        said("kubectl", "--namespace", tilt.namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=240s")
        _wait(tilt.first_words, READY_SECONDS, tilt)
        yield tilt
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.usefixtures("removed")
def test_tilt_ci_ends_green(tilt: Tilt) -> None:
    """Everything is built, installed and ready, and `ottoctl doctor` finds nothing wrong with it."""
    assert tilt.started("ci").wait(READY_SECONDS) == 0, tilt.told("ci")
    assert "doctor" in tilt.told("ci")


@pytest.mark.long
def test_what_is_saved_runs_in_its_pod(up: Tilt) -> None:
    """The line of CONTRIBUTING that changes something does so in the pod that runs; a change of what is installed gives each another."""
    before = up.pods()
    assert up.first_words() == "accepted: 1 stage"
    change = re.search(r"^sed -i .*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert change
    began = time.monotonic()
    subprocess.run(["sh", "-c", change[0]], cwd=up.checkout, check=True)
    _wait(lambda: up.first_words() == "taken: 1 stage", SEEN_SECONDS, up)
    print(f"seen {time.monotonic() - began:.1f} s after it was saved")
    assert up.pods() == before
    if QUICK:
        return  # what follows builds all that is installed, for every service
    with (up.checkout / "requirements.lock").open("a") as lock:
        lock.write("# another\n")
    _wait(lambda: all(up.pods().get(service, before[service])[0] != uid for service, (uid, _) in before.items()), READY_SECONDS, up)
    _wait(lambda: up.first_words() == "taken: 1 stage", SEEN_SECONDS, up)


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


def _wait(condition: Callable[[], object], seconds: float, tilt: Tilt) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, tilt.told("up")
        time.sleep(0.2)
