"""Tilt in a copy of this checkout, for an installation in a namespace of its own."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageType

from ..outside import built
from ..ports import free_port
from .installation import IMAGES, ROOT, said

READY_SECONDS = 1000
SEEN_SECONDS = 120
"""Far more than it takes, which is told: how quick it is depends on the machine."""
SERVICES = ("scaler", "pipeline-executor", "log-relay")


@dataclass
class Tilt:
    """Nothing is started yet."""

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

    def ready(self) -> bool:
        """Whether the Tilt that goes on has built and started each service, and has nothing to do for any."""
        names = [f"uiresource/{name}" for name in (*SERVICES, "front-door")]
        asked = ["tilt", "get", *names, "--output", "json"]
        answer = subprocess.run(asked, check=False, env=self.environ, cwd=self.checkout, capture_output=True, text=True, timeout=60)
        if answer.returncode:
            return False  # it listens to nobody yet, or has not read its file
        found = json.loads(answer.stdout)["items"]
        return all(
            {"Ready", "UpToDate"} <= {each["type"] for each in one["status"].get("conditions", []) if each["status"] == "True"}
            for one in found
        )

    def first_words(self) -> str:
        """What the executor says first about a run, which is cancelled then; nothing while it can't be asked."""
        stage = PipelineStage(stage_id="wait", type=StageType.STAGE_TYPE_APPROVAL)
        own = {"otto.on_disconnect": "cancel"}
        request = PipelineRequest(pipeline_id=f"first-{secrets.token_hex(4)}", stages=[stage], metadata=own)
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

    def until(self, condition: Callable[[], object], seconds: float = READY_SECONDS) -> None:
        """Returns when that holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.told("up")
            time.sleep(0.2)


def program() -> str:
    """The one that is installed, or that can be built."""
    if found := shutil.which("tilt"):
        return found
    return str(built("tilt"))


def copied(program: str, directory: Path) -> Tilt:
    """With what is in this checkout now, below an empty directory."""
    checkout = directory / "checkout"
    for name in said("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (source := ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, checkout / name)
    shutil.copytree(IMAGES.parent, checkout / ".cache" / "images", ignore=shutil.ignore_patterns("*.tar"))
    namespace, port = f"otto-test-{secrets.token_hex(3)}", free_port()
    own = {"NAMESPACE": namespace, "PORT": str(port), "TILT_PORT": str(free_port()), "XDG_DATA_HOME": str(directory)}
    path = os.pathsep.join([str(Path(program).parent), os.environ["PATH"]])
    return Tilt(checkout, namespace, port, {**os.environ, **own, "PATH": path})


@contextmanager
def following(tilt: Tilt) -> Iterator[None]:
    """Tilt goes on, with everything ready."""
    process = tilt.started("up")
    try:
        # Of pods it can't be told whether they are of an earlier `ci`: what is built now replaces them.
        tilt.until(lambda: process.poll() is not None or tilt.ready())
        assert process.poll() is None, tilt.told("up")
        for name in (
            "deployment/otto-ottoscaler-scaler",
            "deployment/otto-ottoscaler-pipeline-executor",
            "statefulset/otto-ottoscaler-log-relay",
        ):
            said(
                "kubectl", "--namespace", tilt.namespace, "rollout", "status", name, "--timeout=240s"
            )  # until the last pod of before is gone
        tilt.until(tilt.first_words)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def taken_down(tilt: Tilt) -> None:
    """All is gone then that was installed, but what other installations need as well."""
    assert tilt.started("down").wait(300) == 0, tilt.told("down")
    said("kubectl", "wait", "--for=delete", f"namespace/{tilt.namespace}", "--timeout=120s")
    said("kubectl", "get", "crd", "pipelineruns.ottoscaler.io")
