"""A real metrics server for as long as a test takes: a process of the node with the control plane, behind an APIService."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ..outside import built
from .cluster_nodes import UNTIL_SECONDS, Node, until
from .control_plane import ControlPlane
from .installation import CommandError, said

API = "v1beta1.metrics.k8s.io"
HOME = "/opt/metrics-server"
"""Where it is on its node meanwhile."""
UNIT = "metrics-server"
PORT = 10251
"""Of its node, where kube-scheduler has long stopped to listen."""


def available() -> bool | None:
    """Whether the API server says that there is somebody behind the API; None where there is no such API."""
    found = said("kubectl", "get", "apiservice", API, "--ignore-not-found", "--output", "json")
    conditions = json.loads(found).get("status", {}).get("conditions", []) if found else None
    return conditions if conditions is None else any(c["type"] == "Available" and c["status"] == "True" for c in conditions)


def measured(namespace: str) -> set[str]:
    """The names of pods of which it has figures."""
    try:
        found = json.loads(said("kubectl", "get", "--raw", f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"))
    except CommandError:  # it does not answer before it has looked twice
        return set()
    return {pod["metadata"]["name"] for pod in found["items"]}


@dataclass(frozen=True)
class MetricsServer:
    """One that can be taken away and brought back."""

    node: Node

    def listen(self) -> None:
        """Back when somebody could ask it."""
        kubeconfigs = [f"--{what}kubeconfig={HOME}/kubeconfig" for what in ("", "authentication-", "authorization-")]
        kubelets = ["--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP"]
        often = ["--metric-resolution=10s", "--kubelet-request-timeout=9s"]
        serving = [f"--cert-dir={HOME}/certificates", f"--secure-port={PORT}"]
        self.node.start(UNIT, f"{HOME}/metrics-server", *kubeconfigs, *kubelets, *often, *serving)
        until(self._listens)

    def start(self) -> None:
        """Back when the API server hands on to it what it is asked."""
        self.listen()
        until(lambda: available() is True)

    def stop(self) -> None:
        """Nobody is behind the API any more; back when the API server knows it."""
        self.node.stop(UNIT)
        until(lambda: available() is False)

    def _listens(self) -> bool:
        """Raises CommandError where it has ended."""
        try:
            return said("docker", "exec", self.node.name, "curl", "--silent", "--insecure", f"https://127.0.0.1:{PORT}/livez") == "ok"
        except CommandError:
            said("docker", "exec", self.node.name, "systemctl", "is-active", UNIT)
            return False


@contextmanager
def metrics_server(plane: ControlPlane) -> Iterator[MetricsServer]:
    """Skips the test where there is one already. Leaves nothing behind."""
    if available() is not None:
        pytest.skip("this cluster has a metrics server, or what is left of one: kubectl get apiservice " + API)
    node = Node(plane.node)
    server = MetricsServer(node)
    objects = _objects(plane.address)
    try:
        kubeconfig = plane.on_node("cat", "/etc/kubernetes/admin.conf").encode()
        node.put(HOME, {"metrics-server": built("metrics-server").read_bytes(), "kubeconfig": kubeconfig})
        server.listen()  # first: until somebody answers for an API, the cluster deletes no namespace
        said("kubectl", "apply", "--filename", "-", stdin=objects)
        until(lambda: available() is True)
        yield server
    finally:
        said("kubectl", "delete", "--ignore-not-found", f"--timeout={UNTIL_SECONDS}s", "--filename", "-", stdin=objects)
        node.stop(UNIT)
        node.drop(HOME)
    assert available() is None


def _objects(address: str) -> str:
    """The API, and where it is: a Service that is no pod's. It asks with its node's rights, so it needs none of its own."""
    metadata: dict[str, Any] = {"name": "otto-test-metrics-server", "namespace": "kube-system"}
    named = {"kubernetes.io/service-name": metadata["name"]}
    port = {"port": 443, "protocol": "TCP", "targetPort": PORT}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [port]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": named},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "service": {key: metadata[key] for key in ("name", "namespace")},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
