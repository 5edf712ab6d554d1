"""Nodes of the cluster that are containers of this machine's engine: frozen, killed, and brought back whatever was done to them."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..outside import TOOLS
from .installation import said

UNTIL_SECONDS = 240
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
LONGEST_SECONDS = 3600
"""After which a program that a killed test has left on a node ends by itself."""
WORKERS, SERVICES = "otto-test-workers", "otto-test-services"
"""Labels of nodes to which workers and services may go."""


def get(*words: str) -> dict[str, Any]:
    """An object of the cluster, or a list of them."""
    found: dict[str, Any] = json.loads(said("kubectl", "get", *words, "--output", "json"))
    return found


def names() -> list[str]:
    """Of all nodes; the first has the API server."""
    found = [node["metadata"] for node in get("nodes")["items"]]
    return [node["name"] for node in sorted(found, key=lambda node: CONTROL_PLANE not in node["labels"])]


def until(condition: Callable[[], bool]) -> None:
    """Asks until it is so; raises AssertionError when it has not become so in a few minutes."""
    deadline = time.monotonic() + UNTIL_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.5)


@dataclass(frozen=True)
class Node:
    """One of them, by its name, which is its container's too."""

    name: str

    @property
    def ours(self) -> bool:
        """Whether it is a container that we may do things to."""
        return self._succeeds("docker", "inspect", self.name)

    @property
    def ready(self) -> bool:
        """Whether the cluster believes that it answers."""
        found = [n for n in get("nodes")["items"] if n["metadata"]["name"] == self.name]
        return any(c["type"] == "Ready" and c["status"] == "True" for node in found for c in node["status"]["conditions"])

    def takes(self, *what: str) -> None:
        """Nothing but this may go there from now on, of what goes by these labels."""
        labels = (f"{label}=here" if label in what else f"{label}-" for label in (WORKERS, SERVICES))
        said("kubectl", "label", "--overwrite", "node", self.name, *labels)

    def freeze(self) -> None:
        """Everything on it stands still, and its connections stay open."""
        said("docker", "pause", self.name)

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        said("docker", "unpause", self.name)

    def kill(self) -> None:
        """As by a power cut."""
        said("docker", "kill", self.name)

    def forget(self) -> None:
        """Deletes its object, as a cloud's controller does for a machine that is gone for good."""
        said("kubectl", "delete", "node", self.name, "--wait=false")

    def come_back(self) -> None:
        """Runs, is in the cluster with its pods' network, and takes pods, whatever was done to it. Harmless for one that is all that."""
        state = said("docker", "inspect", "--format", "{{.State.Status}}", self.name).strip()
        if state == "paused":
            self.thaw()
        elif state != "running":
            said("docker", "start", self.name)
        if self.name not in names() and state in {"paused", "running"}:
            said("docker", "exec", self.name, "systemctl", "restart", "kubelet")  # which registers its node only when it starts
        until(lambda: self.name in names())
        if self.has_our_network:
            said(sys.executable, "-m", "testcluster", "connect", directory=TOOLS)
        until(lambda: self.ready)
        until(lambda: not get("node", self.name)["spec"].get("taints"))

    def put(self, home: str, files: Mapping[str, bytes]) -> None:
        """Programs and what they read, for root only."""
        for name, content in files.items():
            write = f"mkdir -p {home}; cat >{home}/{name}; chmod 700 {home}/{name}"
            subprocess.run(["docker", "exec", "--interactive", self.name, "sh", "-c", write], input=content, check=True)

    def start(self, unit: str, *command: str, settings: Mapping[str, str] | None = None, after: str = "") -> None:
        """A program that runs there until `stop`, and then the command `after`; `settings` are its environment."""
        options = [f"--setenv={name}={value}" for name, value in (settings or {}).items()]
        options += [f"--property=ExecStopPost={after}"] if after else []
        longest = f"--property=RuntimeMaxSec={LONGEST_SECONDS}"
        said("docker", "exec", self.name, "systemd-run", f"--unit={unit}", "--collect", "--quiet", longest, *options, *command)

    def stop(self, unit: str) -> None:
        """Back when it has ended. Harmless where it does not run."""
        said("docker", "exec", self.name, "sh", "-c", f"systemctl --quiet stop {unit} 2>/dev/null || true")

    def drop(self, home: str) -> None:
        """What `put` has put there."""
        said("docker", "exec", self.name, "rm", "-rf", home)

    @property
    def has_our_network(self) -> bool:
        """Not a plugin's that looks after itself."""
        return self._succeeds("docker", "exec", self.name, "test", "-e", "/etc/pod-routes")

    @staticmethod
    def _succeeds(*command: str) -> bool:
        try:
            return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
        except FileNotFoundError:
            return False
