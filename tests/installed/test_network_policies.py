"""`networkPolicy.*` of a release where policies are kept: who has to come in comes in, everybody else is kept out, and all of it works."""

import json
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..quick import unless_quick
from .cluster_nodes import UNTIL_SECONDS, get, until
from .conftest import installing
from .in_pods.dials import gets_in
from .installation import RELEASE, Installation, said
from .outsiders import LISTENS, SCRIPTS, Pod, outsiders, running, who_reaches
from .policy_enforcer import policies_kept

pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, unless_quick, pytest.mark.timeout(1800)]

Values = Any
"""As in values.yaml."""
COMPONENTS = ("front-door", "scaler", "pipeline-executor", "log-relay")
KEPT_SECONDS = 120
"""For a network to notice a policy."""
METRICS = {f"{component} metrics" for component in COMPONENTS}
OUTSIDE = {"client", "stranger", "dns", "api"}
"""What the policies of a release say nothing about."""
NOBODY: Values = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "nobody"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}
WORKING = {"kind": "PipelineRun", "apiVersion": "ottoscaler.io/v1alpha1", "metadata": {"name": "listening"}}
PIPELINE = """
name: through policies
stages:
  - name: first
    worker_count: 2
    commands: [echo "first $OTTO_WORKER_INDEX of $OTTO_WORKER_COUNT"]
  - name: second
    dependencies: [first]
    commands: [echo second]
"""
RUNS = """
import os, pathlib, sys
pathlib.Path("/tmp/pipeline.yaml").write_text(sys.argv[2])
words = ["--address", sys.argv[1], "--patience", "60", "pipeline", "run", "/tmp/pipeline.yaml", "--id", sys.argv[3]]
os.execv(sys.executable, [sys.executable, "-m", "ottoctl", *words])
"""
SCRAPES = """
import sys, urllib.request
for address in sys.argv[1:]:
    print(address, b"# TYPE " in urllib.request.urlopen(f"http://{address}/metrics", timeout=60).read())
"""


def peer(namespace: str, app: str) -> Values:
    """A pod of another namespace, as policies name it."""
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"app": app}},
    }


@dataclass
class Scene:
    """A release with two workers that listen; around it a client, Prometheus, otto-handler, and a stranger who calls himself client."""

    installation: Installation
    friends: dict[str, Pod]
    stranger: Pod
    values: dict[str, Values] = field(default_factory=dict)

    def upgrade(self, **values: Values) -> None:
        """To these of `networkPolicy.*`, and the chart's own for the others."""
        wanted = {"enabled": True, "clients": [], "metrics": [], "workers": {"ingress": [], "egress": []}} | values
        if wanted != self.values:
            self.installation.upgrade(networkPolicy=wanted)
            self.values = wanted

    @property
    def client(self) -> Values:
        """As a peer."""
        return peer(self.friends["client"].namespace, "client")

    def narrow(self, **values: Values) -> None:
        """To who may dial the front door, who may read metrics, and where workers may dial; `values` win."""
        names = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
        ports = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
        workers = {"ingress": [], "egress": [{"to": [names], "ports": ports}, {"to": [self.client]}]}
        metrics = [peer(self.friends["prometheus"].namespace, "prometheus")]
        self.upgrade(**{"clients": [self.client], "metrics": metrics, "workers": workers} | values)

    def parts(self) -> dict[str, list[Pod]]:
        """The release's pods and its workers."""
        return {component: running(self.installation.namespace, component) for component in (*COMPONENTS, "worker")}

    def seen(self) -> dict[str, set[str]]:
        """Who reaches what; of two pods of a kind the first dials, and the last is dialled."""
        parts = self.parts()
        ports = {"grpc": 9090, "metrics": 9464}
        targets = {f"{name} {port}": f"{parts[name][-1].address}:{number}" for name in COMPONENTS for port, number in ports.items()}
        targets["front-door health"] = f"{parts['front-door'][-1].address}:9901"
        targets["worker"] = f"{parts['worker'][-1].address}:8000"
        targets |= {name: f"{pod.address}:8000" for name, pod in (("client", self.friends["client"]), ("stranger", self.stranger))}
        for name, (service, namespace, port) in {"dns": ("kube-dns", "kube-system", 53), "api": ("kubernetes", "default", 443)}.items():
            targets[name] = f"{get('service', service, '--namespace', namespace)['spec']['clusterIP']}:{port}"
        sources = {name: pods[0] for name, pods in parts.items()}
        sources |= {"client": self.friends["client"], "prometheus": self.friends["prometheus"], "stranger": self.stranger}
        return who_reaches(sources, targets)

    def settles(self, wanted: dict[str, set[str]]) -> None:
        """Back when who reaches what is as wanted: policies are kept some moments after they have changed."""
        deadline = time.monotonic() + UNTIL_SECONDS
        while (seen := self.seen()) != wanted and time.monotonic() < deadline:
            time.sleep(0.5)
        assert seen == wanted


def keeps(network_is_ours: bool, source: Pod, target: Pod) -> None:
    """Skips the tests where nobody keeps policies; where we do, it is an error that a policy changes nothing."""
    in_there = ("kubectl", "--namespace", target.namespace)
    said(*in_there, "apply", "--filename", "-", stdin=json.dumps(NOBODY))
    deadline = time.monotonic() + KEPT_SECONDS
    while source.reaches({"target": f"{target.address}:8000"}):
        if time.monotonic() > deadline:
            (pytest.fail if network_is_ours else pytest.skip)("the network of this cluster keeps no policies")
        time.sleep(0.5)
    said(*in_there, "delete", "networkpolicy", NOBODY["metadata"]["name"])


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """For all tests here: a release of two replicas that pushes to otto-handler."""
    name = f"otto-test-{secrets.token_hex(3)}"
    handler = ["python3", "-c", (SCRIPTS / "otto_handler.py").read_text()]
    friends = {"client": LISTENS, "prometheus": LISTENS, "otto-handler": handler}
    with (
        policies_kept() as by_us,
        outsiders(f"{name}-friends", friends) as invited,
        outsiders(f"{name}-strangers", {"client": LISTENS}) as uninvited,
        installing() as install,
    ):
        keeps(by_us, invited["client"], uninvited["client"])
        handler_address = f"{invited['otto-handler'].address}:50051"
        installation = install("scaler.replicas=2", "executor.replicas=2", f"relay.settings.handler_address={handler_address}")
        listening = {"stageId": "listening", "workerCount": 2, "command": LISTENS, "timeoutSeconds": 3600}
        installation.kubectl("apply", "--filename", "-", stdin=json.dumps(WORKING | {"spec": {"stages": [listening]}}))
        yield Scene(installation, invited, uninvited["client"])


NARROW = {
    "client": {"front-door grpc"} | OUTSIDE - {"client"},
    "prometheus": METRICS | OUTSIDE,
    "stranger": OUTSIDE - {"stranger"},
    "worker": {"client", "dns"},
    "front-door": {"scaler grpc", "pipeline-executor grpc", "log-relay grpc"} | OUTSIDE,
    "scaler": {"scaler grpc", "pipeline-executor grpc"} | OUTSIDE,
    "pipeline-executor": {"scaler grpc", "pipeline-executor grpc"} | OUTSIDE,
    "log-relay": {"scaler grpc", "pipeline-executor grpc"} | OUTSIDE,
}
"""Who reaches what when everything is narrowed."""


def test_without_policies_everybody_reaches_everybody(scene: Scene) -> None:
    """So whoever does not get in somewhere below is kept out by a policy, and by nothing else."""
    scene.upgrade(enabled=False)
    everything = {*METRICS, *OUTSIDE, *(f"{component} grpc" for component in COMPONENTS), "front-door health", "worker"}
    own = {
        "front-door": {"front-door grpc", "front-door metrics", "front-door health"},
        "log-relay": {"log-relay grpc", "log-relay metrics"},
    }
    scene.settles({source: everything - own.get(source, {source} & OUTSIDE) for source in NARROW})


def test_only_those_get_in_who_have_to(scene: Scene) -> None:
    """A service is dialled by those that call it and by nobody else; front door, metrics and what workers dial are as the values say."""
    scene.narrow()
    scene.settles(NARROW)


def test_a_release_works_when_all_of_it_is_narrowed(scene: Scene) -> None:
    """Its pods, started anew, find each other, the API server and names; calls, lines, pushes, metrics and `helm test` arrive."""
    scene.narrow()
    scene.settles(NARROW)
    scene.installation.restart("front-door", "scaler", "pipeline-executor", "log-relay")
    run = f"narrow-{secrets.token_hex(4)}"
    door = f"{RELEASE}-ottoscaler-front-door.{scene.installation.namespace}:9090"
    shown = scene.friends["client"].python(RUNS, door, PIPELINE, run)
    assert {"first/1 | first 1 of 2", "first/2 | first 2 of 2", "second | second"} <= set(shown.splitlines())
    parts = scene.parts()
    replicas = [f"{component}={pod.address}" for component in ("scaler", "pipeline-executor") for pod in parts[component]]
    assert len(replicas) == 4
    parts["log-relay"][0].python((SCRIPTS / "asks.py").read_text(), run, *replicas)
    scraped = [f"{pod.address}:9464" for component in COMPONENTS for pod in parts[component]]
    assert scene.friends["prometheus"].python(SCRAPES, *scraped).splitlines() == [f"{address} True" for address in scraped]
    handler = scene.friends["otto-handler"]
    printed = ("kubectl", "--namespace", handler.namespace, "logs", handler.name)
    until(lambda: {"first 1 of 2", "first 2 of 2", "second"} <= set(said(*printed).splitlines()))
    said("helm", "test", RELEASE, "--namespace", scene.installation.namespace, "--timeout=240s")
    scene.settles(NARROW)


def test_clients_by_a_node_are_named_by_address(scene: Scene) -> None:
    """Who comes by a node's port has that node's address or his own; and workers are dialled by those that `workers.ingress` names."""
    port = scene.installation.address.rpartition(":")[2]
    nodes = [a["address"] for node in get("nodes")["items"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    doors = {f"{node}:{port}" for node in nodes}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((nodes[0], 9))
        own = towards.getsockname()[0]
    scene.narrow()
    scene.settles(NARROW)
    assert {door for door in doors if gets_in(door)} == set()
    blocks = [{"ipBlock": {"cidr": f"{address}/32"}} for address in {own, *nodes}]
    among = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "worker"}}}
    scene.narrow(clients=[scene.client, *blocks], workers={"ingress": [{"from": [among]}], "egress": [{"to": [scene.client, among]}]})
    scene.settles(NARROW | {"worker": {"client", "worker"}})
    assert {door for door in doors if gets_in(door)} == doors


def test_who_names_nobody_lets_everybody_in(scene: Scene) -> None:
    """By `networkPolicy.enabled` alone front door and metrics are open to all, workers dial whom they like; all else is kept as before."""
    scene.upgrade()
    everybody = METRICS | OUTSIDE | {"front-door grpc"}
    own = {"front-door": {"front-door grpc", "front-door metrics"}, "log-relay": {"log-relay metrics"}}
    scene.settles({source: (NARROW[source] - {"dns"} | everybody) - own.get(source, {source} & OUTSIDE) for source in NARROW})
