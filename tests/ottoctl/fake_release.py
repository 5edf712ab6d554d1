"""A release of the chart on a FakeCluster: the objects that helm renders, with pods, Leases and metrics as a healthy one has them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from otto_kubekit.testing import FakeCluster
from otto_kubekit.testing.resources import Resource
from otto_kubekit.testing.storage import Object
from ottoctl.cluster.place import Place
from ottoctl.doctor.case import Case, Finding
from ottoctl.doctor.examination import diagnose

from ..chart import rendering

NAMESPACE = "ci"
SERVICES = ("scaler", "pipeline-executor", "log-relay")
COMPONENTS = (*SERVICES, "front-door")
CRD = rendering.CHART / "crds/pipelineruns.yaml"
METRICS_PORT = 9464
GIB = 2**30
GATE = {"name": "tests/hands-off"}
"""Keeps the fake's kubelet from running the pod: how it stands is what a test says."""
NOWHERE = "127.0.0.1:9"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass
class FakeRelease:
    """The cluster with the release, and what can be changed about it."""

    cluster: FakeCluster
    kubeconfig: Path
    pods: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Where it is, as options say it."""
        return Place(kubeconfig=str(self.kubeconfig), namespace=NAMESPACE)

    def find(self, api_version: str, kind: str) -> Resource:
        """A kind that the fake knows."""
        resource = self.cluster.resources.named(api_version, kind)
        assert resource is not None, (api_version, kind)
        return resource

    def put(self, item: Object) -> Object:
        """Stores an object as it is, status included, as controllers would have it."""
        resource = self.find(item["apiVersion"], item["kind"])
        metadata = {"creationTimestamp": now(), "uid": f"uid-{item['metadata']['name']}", **item["metadata"]}
        if resource.namespaced:
            metadata.setdefault("namespace", NAMESPACE)
        return self.cluster.storage.put(resource, {**item, "metadata": metadata})

    def get(self, api_version: str, kind: str, name: str) -> Object:
        """An object as it is stored."""
        namespace = NAMESPACE if self.find(api_version, kind).namespaced else ""
        return self.cluster.verbs.get(self.find(api_version, kind), namespace, name)

    def remove(self, api_version: str, kind: str, name: str) -> None:
        """An object goes."""
        resource = self.find(api_version, kind)
        self.cluster.storage.remove(resource, NAMESPACE if resource.namespaced else "", name)

    def pod(self, component: str, **status: Any) -> None:
        """The component's one pod is there and stands like this, ready unless something else is said."""
        kind = "StatefulSet" if component == "log-relay" else "Deployment"
        template = self.get("apps/v1", kind, f"otto-ottoscaler-{component}")["spec"]["template"]
        name = self.pods.setdefault(component, f"otto-ottoscaler-{component}-0")
        running = {"name": component, "ready": True, "restartCount": 0, "state": {"running": {}}}
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [running]}
        metadata = {**template["metadata"], "name": name}
        self.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": {**template["spec"], "nodeName": "fake-node", "schedulingGates": [GATE]},
                "status": {**ready, **status},
            }
        )

    def lease(self, component: str, holder: str = "10.0.0.7:9090", renewed: str = "") -> None:
        """Who acts."""
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 10, "renewTime": renewed or now()}
        name = f"otto-ottoscaler-{component}"
        self.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec})

    def metrics(self, component: str, *lines: str) -> None:
        """What its pod tells at /metrics."""
        self.cluster.serve(self.pods[component], METRICS_PORT, "metrics", "".join(f"{line}\n" for line in lines), NAMESPACE)

    def spool(self, free: int, disk: int = 10 * GIB) -> None:
        """The relay's disk."""
        figures = {"disk_free_bytes": free, "disk_bytes": disk, "bytes": GIB, "limit_bytes": 8 * GIB}
        self.metrics("log-relay", build_info(), *(f"otto_relay_spool_{name} {value}" for name, value in figures.items()))

    def reaches(self, **healthy: int) -> None:
        """How many of each service the front door finds healthy."""
        all_of_them = {service: healthy.get(service.replace("-", "_"), 1) for service in SERVICES}
        lines = (f'envoy_cluster_membership_healthy{{envoy_cluster_name="{name}"}} {count}' for name, count in all_of_them.items())
        self.metrics("front-door", *lines)

    def run(self, name: str, status: Object | None = None, **metadata: Any) -> None:
        """A PipelineRun."""
        meta = {"name": name, "labels": {"ottoscaler.io/instance": "otto"}, **metadata}
        self.put({"apiVersion": "ottoscaler.io/v1alpha1", "kind": "PipelineRun", "metadata": meta, "spec": {}, "status": status or {}})

    async def doctor(
        self, address: str = NOWHERE, *, named: bool = False, place: Place | None = None
    ) -> tuple[list[tuple[str, Finding]], Case]:
        """What doctor finds."""
        found: list[tuple[str, Finding]] = []
        environ = {"HOME": "/nonexistent"}
        case = await diagnose(address, environ, lambda check, finding: found.append((check, finding)), place or self.place, named=named)
        return found, case


def build_info(number: str = "") -> str:
    """The line of metrics in which a service tells its version."""
    return f'otto_build_info{{version="{number or version("ottoctl")}",python="3.11.2"}} 1'


@asynccontextmanager
async def fake_release(directory: Path) -> AsyncIterator[FakeRelease]:
    """A healthy one."""
    async with FakeCluster() as cluster:
        cluster.add_namespace(NAMESPACE)
        release = FakeRelease(cluster, cluster.kubeconfig(directory / "kubeconfig.json"))
        cluster.verbs.create(release.find("apiextensions.k8s.io/v1", "CustomResourceDefinition"), "", yaml.safe_load(CRD.read_text()))
        for item in rendering.objects():
            hook = "helm.sh/hook" in item["metadata"].get("annotations", {})
            if not hook and cluster.resources.named(item["apiVersion"], item["kind"]) is not None:
                release.put(item)
        for component in COMPONENTS:
            release.pod(component)
        for service in SERVICES[:2]:
            release.lease(service)
            release.metrics(service, build_info())
        release.spool(free=9 * GIB)
        release.reaches()
        yield release
