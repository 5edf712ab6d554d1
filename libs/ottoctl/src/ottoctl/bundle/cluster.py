"""What a cluster has of a release: its objects, pods, workers, events, Leases, runs, settings, logs and metrics. No Secret is ever read."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ottoctl.bundle.archive import ITEM_BYTES, Item, Missing
from ottoctl.bundle.collecting import Found
from ottoctl.bundle.masking import Masker
from ottoctl.bundle.objects import Objects
from ottoctl.bundle.settings import effective
from ottoctl.cluster.connection import Cluster, ClusterError, Object, connected
from ottoctl.cluster.place import Place
from ottoctl.cluster.release import DEFINITION, FRONT_DOOR, PIPELINE_RUNS, SERVICES, NoReleaseError, Release, find, metrics_path

MOST_OBJECTS = 1_000
"""Of each kind; events and runs come in no order that tells which matter."""
LOG_SECONDS = 3_600
"""How far back logs go."""
NAMESPACED = (
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
    ("", "resourcequotas"),
    ("", "limitranges"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("coordination.k8s.io", "leases"),
    ("", "events"),
)


async def cluster(place: Place, environ: Mapping[str, str], masker: Masker) -> AsyncIterator[Found]:
    """All of it, what helps most first."""
    try:
        async with connected(place, environ) as found:
            async for item in _release(found, place, masker):
                yield item
    except (ClusterError, NoReleaseError) as error:
        yield Missing("cluster", str(error))


async def _release(cluster: Cluster, place: Place, masker: Masker) -> AsyncIterator[Found]:
    objects = Objects(masker)
    yield Item("cluster/version.json", "the cluster's version", await cluster.get("/version"))
    release = await find(cluster, place.release)
    masker.spare(
        {release.name, release.namespace, *release.workloads, *(release.object_name(component) for component in release.workloads)}
    )
    for service in SERVICES:
        if service in release.workloads:
            yield Item(
                f"cluster/settings/{service}.json", "settings as they are in effect", effective(_environment(release, service), masker)
            )
    pods = {component: [objects.told(pod) for pod in there] for component, there in release.pods.items()}
    yield Item("cluster/pods.json", "pods of the release's own components", pods)
    async for item in _logs(cluster, release):
        yield item
    async for item in _metrics(cluster, release):
        yield item
    runs = cluster.path(PIPELINE_RUNS[0], PIPELINE_RUNS[1], version=PIPELINE_RUNS[2])
    yield await _objects(cluster, "runs", runs, objects.run)
    workers = f"app.kubernetes.io/component=worker,ottoscaler.io/instance={release.name}"
    yield await _objects(cluster, "workers", cluster.path("", "pods"), objects.worker, workers)
    for group, plural in NAMESPACED:
        yield await _objects(cluster, plural, cluster.path(group, plural), objects.told)
    yield await _objects(cluster, "configmaps", cluster.path("", "configmaps"), objects.config_map)
    try:
        there = await cluster.get(DEFINITION)
        versions = [{name: version.get(name) for name in ("name", "served", "storage")} for version in there["spec"]["versions"]]
        told = {"metadata": objects.told(there["metadata"]), "versions": versions, "status": there.get("status", {})}
        yield Item("cluster/crd.json", "the kind of runs: its versions, not its schema", told)
    except ClusterError as error:
        yield Missing("cluster/crd.json", str(error))


def _environment(release: Release, service: str) -> dict[str, str]:
    """What its container is given; what comes from elsewhere by where that is."""
    found = {}
    for container in release.workloads[service]["spec"]["template"]["spec"]["containers"]:
        if container["name"] == service:
            for variable in container.get("env") or []:
                found[variable["name"]] = variable["value"] if "value" in variable else f"(from {', '.join(variable.get('valueFrom', {}))})"
    return found


async def _objects(cluster: Cluster, name: str, path: str, told: Callable[[Object], Any], labels: str = "") -> Found:
    items: list[Any] = []
    cut = False
    try:
        async for item in cluster.each(path, labels):
            if cut := len(items) == MOST_OBJECTS:
                break
            items.append(told(item))
    except ClusterError as error:
        return Missing(f"cluster/{name}.json", str(error))
    about = f"{name} of the namespace" + (f": only {MOST_OBJECTS}, there are more" if cut else "")
    return Item(f"cluster/{name}.json", about, items)


async def _logs(cluster: Cluster, release: Release) -> AsyncIterator[Found]:
    """Of each service's and the front door's own container the last hour, and of one that was started again how it ended before."""
    for component in (*SERVICES, FRONT_DOOR):
        for pod in release.pods.get(component, []):
            name = pod["metadata"]["name"]
            statuses = {status["name"]: status for status in pod.get("status", {}).get("containerStatuses") or []}
            again = bool(statuses.get(component, {}).get("restartCount"))
            for kind, query in (("log", {"sinceSeconds": str(LOG_SECONDS)}), *([("previous.log", {"previous": "true"})] if again else [])):
                file = f"cluster/logs/{name}.{kind}"
                wanted = {"container": component, "limitBytes": str(ITEM_BYTES), "timestamps": "true", **query}
                try:
                    text = await cluster.text(cluster.path("", "pods", f"{name}/log"), wanted)
                except ClusterError as error:
                    yield Missing(file, str(error))
                    continue
                yield Item(file, f"what {component} logged", text.decode("utf-8", "replace"), log=True)


async def _metrics(cluster: Cluster, release: Release) -> AsyncIterator[Found]:
    for component in (*SERVICES, FRONT_DOOR):
        for pod in release.pods.get(component, []):
            name = f"cluster/metrics/{pod['metadata']['name']}.txt"
            path = metrics_path(cluster, pod)
            if not path:
                yield Missing(name, "metrics are switched off (metrics.enabled)")
                continue
            try:
                yield Item(name, f"figures of {component} at that moment", (await cluster.text(path)).decode("utf-8", "replace"))
            except ClusterError as error:
                yield Missing(name, str(error))
