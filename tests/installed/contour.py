"""Contour, an implementation of the Gateway API, and the Envoy that it makes a Gateway of: processes of this machine while tests run."""

import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..outside import built
from ..ports import free_port
from .cluster_nodes import UNTIL_SECONDS, Node, names
from .installation import said
from .operators import beside, kinds

GROUPS = {"gateway.networking.k8s.io", "projectcontour.io"}
HOST = "127.0.0.1"
ABOVE = 8000
"""By so much Contour's Envoys listen above a listener's port, as no privileges are needed there."""
NAME = "shared"
"""Of the Gateway and its class."""
WITHOUT = ("tlsroutes", "tcproutes", "backendtlspolicies")
"""What the standard channel of the Gateway API has no kinds for."""


@dataclass(frozen=True)
class Gateway:
    """One that takes routes of every namespace."""

    namespace: str
    address: str


@contextmanager
def gateway(kubeconfig: Path, directory: Path, settings: Mapping[str, Any]) -> Iterator[Gateway]:
    """It is there, with these of Contour's settings. Skips the test where such kinds are, or this machine does not reach pods."""
    if not all(Node(name).has_our_network for name in names()):
        pytest.skip("an Envoy of this machine does not reach the pods of this cluster by their own addresses")
    program = built("contour")
    namespace = f"otto-test-{secrets.token_hex(3)}"
    ports = {name: free_port() for name in ("listener", "xds", "http", "health", "stats", "debug", "admin")}
    with ExitStack() as there:
        there.enter_context(kinds(program / "crds", GROUPS))
        there.callback(said, "kubectl", "delete", "--ignore-not-found", f"--timeout={UNTIL_SECONDS}s", "namespace", namespace)
        said("kubectl", "create", "namespace", namespace)
        said("kubectl", "create", "--filename", "-", stdin=_objects(namespace, ports["listener"] - ABOVE))
        own = {"gateway": {"gatewayRef": {"name": NAME, "namespace": namespace}}, "network": {"admin-port": ports["admin"]}}
        (config := directory / "contour.yaml").write_text(yaml.safe_dump({**settings, **own}))
        there.enter_context(
            beside(
                *(program / "contour", "serve", "--insecure", "--disable-leader-election", f"--kubeconfig={kubeconfig}"),
                *(f"--config-path={config}", "--envoy-service-http-address=" + HOST, "--ingress-status-address=" + HOST),
                *(f"--{what}-address={HOST}" for what in ("xds", "http", "health", "stats", "debug-http")),
                *(f"--{what}-port={ports[what.removesuffix('-http')]}" for what in ("xds", "http", "health", "stats", "debug-http")),
                *(f"--disable-feature={kind}" for kind in WITHOUT),
                log=directory / "contour.log",
            )
        )
        bootstrap, admin = directory / "envoy.json", directory / "admin.sock"
        told = (f"--admin-address={admin}", f"--xds-address={HOST}", f"--xds-port={ports['xds']}")
        said(str(program / "contour"), "bootstrap", str(bootstrap), *told)
        named = ("--service-cluster", namespace, "--service-node", NAME)
        envoy = Path(sys.executable).with_name("envoy")
        options = ("--config-path", str(bootstrap), *named, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        there.enter_context(beside(envoy, *options, log=directory / "envoy.log"))
        said("kubectl", "--namespace", namespace, "wait", "--for=condition=Programmed", f"--timeout={UNTIL_SECONDS}s", f"gateway/{NAME}")
        yield Gateway(namespace, f"{HOST}:{ports['listener']}")


def _objects(namespace: str, port: int) -> str:
    """The Gateway, and its class."""
    listener = {"name": "grpc", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
    items: list[dict[str, Any]] = [
        {"kind": "GatewayClass", "metadata": {"name": NAME}, "spec": {"controllerName": "projectcontour.io/gateway-controller"}},
        {
            "kind": "Gateway",
            "metadata": {"name": NAME, "namespace": namespace},
            "spec": {"gatewayClassName": NAME, "listeners": [listener]},
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "gateway.networking.k8s.io/v1", **i} for i in items]})
