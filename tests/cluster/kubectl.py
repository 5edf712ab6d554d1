"""A namespace of the real cluster, through kubectl: as people and CI see it, and knowing nothing of ours."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IMAGE = "ottoscaler-base:latest"  # Debian with Python; `make cluster-up` brings it
WAIT_SECONDS = 90
CALL_SECONDS = 60

Manifest = dict[str, Any]


class RefusedError(Exception):
    """The cluster did not do what kubectl was asked for; the text is kubectl's own."""


@dataclass(frozen=True)
class Namespace:
    """One namespace, and what can be done in it."""

    name: str

    def kubectl(self, *words: str, stdin: str | None = None, seconds: float = CALL_SECONDS) -> str:
        """What kubectl printed."""
        command = ["kubectl", f"--namespace={self.name}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode:
            raise RefusedError(done.stderr.strip())
        return done.stdout

    def create(self, *manifests: Manifest) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("create", "--filename=-", stdin=json.dumps(listed))

    def get(self, kind: str, name: str) -> Manifest:
        found: Manifest = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def logs(self, pod: str) -> str:
        return self.kubectl("logs", pod, "--all-containers")

    def wait(self, kind: str, name: str, condition: str) -> Manifest:
        """Wait until kubectl's `condition` holds; what the object is then."""
        self.kubectl("wait", f"--for={condition}", f"{kind}/{name}", f"--timeout={WAIT_SECONDS}s", seconds=WAIT_SECONDS + CALL_SECONDS)
        return self.get(kind, name)

    def ended(self, pod: str, phase: str) -> Manifest:
        """Wait until a pod has ended so; what it is then."""
        return self.wait("pod", pod, f"jsonpath={{.status.phase}}={phase}")


def pod(name: str, script: str, *, memory: str = "64Mi", claim: str = "", node: str = "", **labels: str) -> Manifest:
    """A pod as a worker's is, under the "restricted" profile: `script` runs by sh; a `claim` is its /claim."""
    container: Manifest = {
        "name": "worker",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    }
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 20,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    if claim:
        container["volumeMounts"] = [{"name": "work", "mountPath": "/claim"}]
        spec["volumes"] = [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}]
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def termination(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the only container of a pod has ended."""
    ended: Mapping[str, Any] = found["status"]["containerStatuses"][0]["state"]["terminated"]
    return ended
