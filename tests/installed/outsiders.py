"""Pods that are no part of a release, and those that are, as dialling and being dialled: who reaches whom."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .installation import IMAGES, make_namespace, said

SCRIPTS = Path(__file__).with_name("in_pods")
LISTENS = ["sh", "-c", "trap 'exit 0' TERM; python3 -m http.server 8000 & wait"]
"""On port 8000, until it is told to end."""


@dataclass(frozen=True)
class Pod:
    """One with Python in it."""

    namespace: str
    name: str
    address: str

    def python(self, script: str, *arguments: str) -> str:
        """What a script prints that runs in it."""
        command = ("kubectl", "--namespace", self.namespace, "exec", "--stdin", self.name, "--", "python3", "-", *arguments)
        return said(*command, stdin=script)

    def reaches(self, targets: Mapping[str, str]) -> set[str]:
        """Those of the targets, by name, whose host and port take a connection from it."""
        taken = set(json.loads(self.python((SCRIPTS / "dials.py").read_text(), *targets.values())))
        return {name for name, target in targets.items() if target in taken}


def running(namespace: str, component: str) -> list[Pod]:
    """The pods of a component of a release that run and stay, in the order of their names."""
    return _listed(namespace, f"app.kubernetes.io/component={component}")


def who_reaches(sources: Mapping[str, Pod], targets: Mapping[str, str]) -> dict[str, set[str]]:
    """By the name of each source the names of targets that it reaches, without its own ports, which no network keeps from it."""

    def reached(source: Pod) -> set[str]:
        return source.reaches({name: target for name, target in targets.items() if target.rpartition(":")[0] != source.address})

    with ThreadPoolExecutor(len(sources)) as pool:
        return dict(zip(sources, pool.map(reached, sources.values()), strict=True))


@contextmanager
def outsiders(namespace: str, commands: Mapping[str, list[str]]) -> Iterator[dict[str, Pod]]:
    """Pods of our command line's image in a namespace of their own, by the names in `commands`, which are their label `app` too."""
    image = yaml.safe_load(IMAGES.read_text())["test"]["image"]
    confined: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    listed = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name, "app.kubernetes.io/component": "outsider"}},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "only",
                        "image": f"{image['repository']}:{image['tag']}",
                        "command": command,
                        "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}],
                        "securityContext": confined,
                    }
                ],
            },
        }
        for name, command in commands.items()
    ]
    try:
        make_namespace(namespace)
        said(
            "kubectl",
            "--namespace",
            namespace,
            "apply",
            "--filename",
            "-",
            stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": listed}),
        )
        said("kubectl", "--namespace", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=180s")
        yield {pod.name: pod for pod in _listed(namespace, "app.kubernetes.io/component=outsider")}
    finally:
        said("kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--timeout=180s")


def _listed(namespace: str, selector: str) -> list[Pod]:
    found = json.loads(said("kubectl", "--namespace", namespace, "get", "pods", "--selector", selector, "--output", "json"))["items"]
    staying = [pod for pod in found if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]
    return [Pod(namespace, pod["metadata"]["name"], pod["status"]["podIP"]) for pod in staying]
