"""A release of the chart as it is in its namespace: what it consists of, by component."""

import asyncio
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ottoctl.cluster.connection import Cluster, ClusterError, Object

SERVICES = ("scaler", "pipeline-executor", "log-relay")
FRONT_DOOR = "front-door"
PART_OF = "app.kubernetes.io/part-of=ottoscaler"
INSTANCE, COMPONENT, VERSION = (f"app.kubernetes.io/{name}" for name in ("instance", "component", "version"))
PIPELINE_RUNS = ("ottoscaler.io", "pipelineruns", "v1alpha1")
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/pipelineruns.ottoscaler.io"
"""Of their kind."""


class NoReleaseError(Exception):
    """There is none, or more than one; `remedy` says how to name it."""

    def __init__(self, words: str, remedy: str) -> None:
        super().__init__(words)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Figure:
    """A sample of a metric."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(slots=True)
class Release:
    """One release. `workloads` are its Deployments and StatefulSets, `pods` those of its own components, workers not among them."""

    name: str
    namespace: str
    workloads: dict[str, Object]
    pods: dict[str, list[Object]]

    def object_name(self, component: str) -> str:
        """What the component's objects are called."""
        return str(self.workloads[component]["metadata"]["name"])

    def account(self, component: str) -> str:
        """The ServiceAccount that its pods run as."""
        return str(_pod_spec(self.workloads[component]).get("serviceAccountName") or "default")

    def kubectl(self, command: str) -> str:
        """A command of kubectl's for people, in the release's namespace."""
        return f"kubectl -n {self.namespace} {command}"


def _pod_spec(workload: Object) -> Object:
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]  # JSON


async def find(cluster: Cluster, name: str) -> Release:
    """The release of that name, or the only one of the cluster's namespace. Raises NoReleaseError, ClusterError."""
    deployments, stateful = await asyncio.gather(
        *(cluster.all(cluster.path("apps", plural), PART_OF) for plural in ("deployments", "statefulsets"))
    )
    found: dict[str, dict[str, Object]] = {}
    for workload in (*deployments, *stateful):
        labels = workload["metadata"].get("labels", {})
        if COMPONENT in labels:
            found.setdefault(labels.get(INSTANCE, ""), {})[labels[COMPONENT]] = workload
    if not name and len(found) == 1:
        (name,) = found
    if name not in found:
        raise await _none(cluster, name, sorted(found))
    pods: dict[str, list[Object]] = {component: [] for component in found[name]}
    async for pod in cluster.each(cluster.path("", "pods"), f"{PART_OF},{INSTANCE}={name}"):
        component = pod["metadata"].get("labels", {}).get(COMPONENT, "")
        if component in pods:
            pods[component].append(pod)
    return Release(name, cluster.namespace, found[name], pods)


async def _none(cluster: Cluster, name: str, there: list[str]) -> NoReleaseError:
    if there:
        words = (
            f"there is no release {name} in namespace {cluster.namespace}"
            if name
            else f"namespace {cluster.namespace} has several releases"
        )
        return NoReleaseError(f"{words}: {', '.join(there)}", "--release NAME, one of these")
    try:
        everywhere = await cluster.all("/apis/apps/v1/deployments", PART_OF)
    except ClusterError:
        everywhere = []
    namespaces = sorted({str(one["metadata"]["namespace"]) for one in everywhere})
    remedy = f"--namespace {namespaces[0]}" if len(namespaces) == 1 else "--namespace NAME, or install the chart (README, On Kubernetes)"
    elsewhere = f"; there is one in {', '.join(namespaces)}" if namespaces else ""
    return NoReleaseError(f"there is no release of Ottoscaler in namespace {cluster.namespace}{elsewhere}", remedy)


def metrics_path(cluster: Cluster, pod: Object) -> str:
    """Where the API server gets a pod's metrics; "" if it has none."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or []:
            if port.get("name") == "metrics":
                return cluster.path("", "pods", f"{pod['metadata']['name']}:{port['containerPort']}/proxy/metrics")
    return ""


async def figures(cluster: Cluster, pod: Object) -> list[Figure]:
    """What a pod tells of itself through the API server. Raises ClusterError: also if it does not run, or its metrics are switched off."""
    path = metrics_path(cluster, pod)
    if not path:
        raise ClusterError("its metrics are switched off (metrics.enabled)")
    text = (await cluster.text(path)).decode(errors="replace")
    try:
        families: Any = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise ClusterError(f"its metrics can't be read: {error}") from error
    return [Figure(sample.name, dict(sample.labels), sample.value) for family in families for sample in family.samples]
