"""The cluster and the release in it: there, of one version, every pod ready; and if not, in whose words why not."""

import asyncio
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from ottoctl.cluster.connection import ClusterError, Object
from ottoctl.cluster.release import INSTANCE, SERVICES, VERSION, NoReleaseError, Release, figures, find
from ottoctl.doctor.case import Case, Finding, fail, ok, warn

LEAST, TESTED = (1, 30), (1, 37)
"""Versions of Kubernetes: the chart takes none below the first, and the second is what Ottoscaler is tested with."""
BUILD_INFO = "otto_build_info"


async def api_server(case: Case) -> list[Finding]:
    """It answers, and is of a version that Ottoscaler knows."""
    assert case.cluster is not None
    told = await case.cluster.get("/version")
    shown = str(told.get("gitVersion", "?"))
    case.facts["kubernetes"] = shown
    try:
        here = (int(told["major"]), int("".join(c for c in told["minor"] if c.isdigit())))
    except (KeyError, ValueError):
        return [warn(f"the cluster's version can't be read: {shown}", f"Ottoscaler needs Kubernetes {_dotted(LEAST)} or later")]
    if here < LEAST:
        return [fail(f"Kubernetes {shown} is older than {_dotted(LEAST)}", "upgrade the cluster: releases before that are not supported")]
    newer = f"; newer than {_dotted(TESTED)}, which is what Ottoscaler is tested with" if here > TESTED else ""
    return [ok(f"Kubernetes {shown} answers{newer}")]


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


async def release(case: Case) -> list[Finding]:
    """There is a release of the chart, whole."""
    assert case.cluster is not None
    assert case.place is not None
    try:
        found = await find(case.cluster, case.place.release)
    except NoReleaseError as error:
        return [fail(str(error), error.remedy)]
    case.release = found
    case.facts["release"] = {"name": found.name, "namespace": found.namespace}
    lacking = [service for service in SERVICES if service not in found.workloads]
    if lacking:
        return [
            fail(
                f"release {found.name} in namespace {found.namespace} has no {', '.join(lacking)}",
                f"helm -n {found.namespace} get manifest {found.name} shows what was installed: install the chart again",
            )
        ]
    return [ok(f"release {found.name} in namespace {found.namespace}: {', '.join(sorted(found.workloads))}")]


async def versions(case: Case) -> list[Finding]:
    """All services are of one version, and ottoctl too."""
    assert case.release is not None
    told = await asyncio.gather(*(_version(case, component, pod) for component in SERVICES for pod in case.release.pods.get(component, [])))
    theirs: dict[str, set[str]] = {}
    for component, number in told:
        theirs.setdefault(number, set()).add(component)
    ours = version("ottoctl")
    case.facts["versions"] = {"ottoctl": ours, **dict(told)}
    if set(theirs) <= {ours}:
        return [ok(f"the services and this ottoctl are all of version {ours}")]
    words = "; ".join(f"{', '.join(sorted(components))}: {number}" for number, components in sorted(theirs.items()))
    if len(theirs) > 1:
        return [warn(f"not all services are of one version ({words})", "an upgrade is going on, or stopped half-way: look at pods")]
    return [warn(f"the services are of version {', '.join(theirs)}, this ottoctl is {ours}", "install the ottoctl of the same version")]


async def _version(case: Case, component: str, pod: Object) -> tuple[str, str]:
    """As the running service tells it; where that can't be had, as the chart labels its pod."""
    assert case.cluster is not None
    try:
        for figure in await figures(case.cluster, pod):
            if figure.name == BUILD_INFO:
                return component, figure.labels.get("version", "?")
    except ClusterError:
        pass
    return component, str(pod["metadata"].get("labels", {}).get(VERSION, "?"))


async def pods(case: Case) -> list[Finding]:
    """Every component has its pods, and they are ready."""
    assert case.release is not None
    found = []
    counts = []
    for component, workload in sorted(case.release.workloads.items()):
        wanted = int(workload["spec"].get("replicas", 1))
        ready = sum(is_ready(pod) for pod in case.release.pods[component])
        counts.append(f"{component} {ready}/{wanted}")
        if ready < wanted:
            found += [finding async for finding in _unready(case, component, workload, wanted)]
        found += [
            _restarted(case.release, pod, *last) for pod in case.release.pods[component] if (last := _last_end(pod)) and is_ready(pod)
        ]
    return found or [ok(f"all pods are ready: {', '.join(counts)}")]


def is_ready(pod: Object) -> bool:
    """Whether it is ready, and not on its way out."""
    conditions = pod.get("status", {}).get("conditions") or []
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


async def _unready(case: Case, component: str, workload: Object, wanted: int) -> Any:
    release = case.release
    assert release is not None
    there = release.pods[component]
    for pod in there:
        if not is_ready(pod):
            name = pod["metadata"]["name"]
            words = why_unready(pod) or await last_warning(case, name) or "nothing is said about why"
            yield fail(
                f"{name} is not ready: {words}",
                f"{release.kubectl(f'describe pod {name}')}; {release.kubectl(f'logs {name} --all-containers')}",
            )
    if len(there) < wanted:
        name = workload["metadata"]["name"]
        refused = [c.get("message", "") for c in workload.get("status", {}).get("conditions") or [] if c["type"] == "ReplicaFailure"]
        words = next(iter(refused), "") or await last_warning(case, name) or "nothing is said about why"
        kind = str(workload.get("kind") or ("statefulset" if component == "log-relay" else "deployment")).lower()
        yield fail(f"{component} has {len(there)} of {wanted} pods: {words}", release.kubectl(f"describe {kind} {name}"))


def why_unready(pod: Object) -> str:
    """In the cluster's own words; "" where it says nothing yet."""
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return "it is being deleted"
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    for container in _containers(status):
        state = container.get("state", {})
        waiting, ended = state.get("waiting", {}), state.get("terminated")
        if ended and ended.get("exitCode"):
            return _end(container["name"], ended)
        if waiting.get("reason") and waiting["reason"] not in {"ContainerCreating", "PodInitializing"}:
            last = container.get("lastState", {}).get("terminated")
            before = f" (before: {_end(container['name'], last)})" if last else ""
            return f"{waiting['reason']}: {waiting.get('message', '')}{before}"
    running = any("running" in container.get("state", {}) for container in _containers(status))
    return "it runs, but does not say that it serves: its log says what it waits for" if running else status.get("message", "")


def _containers(status: Object) -> Iterator[Object]:
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def _end(name: str, ended: Object) -> str:
    said = ended.get("message", "").strip().splitlines()
    return f"{name} ended with {ended.get('exitCode')}, {ended.get('reason', '')}" + (f", {said[-1]}" if said else "")


def _last_end(pod: Object) -> tuple[int, str] | None:
    """How often it was started again, and how it ended the last time, if that was no good end."""
    for container in _containers(pod.get("status", {})):
        last = container.get("lastState", {}).get("terminated")
        if last and last.get("exitCode") and container.get("restartCount"):
            return int(container["restartCount"]), _end(container["name"], last)
    return None


def _restarted(release: Release, pod: Object, times: int, end: str) -> Finding:
    name = pod["metadata"]["name"]
    return warn(f"{name} is ready, but was started again {times} times: {end}", release.kubectl(f"logs {name} --previous"))


async def last_warning(case: Case, name: str) -> str:
    """The newest warning of the cluster's about an object; "" if there is none, or it may not be asked for."""
    assert case.cluster is not None
    try:
        events = await case.cluster.all(case.cluster.path("", "events"), fields=f"involvedObject.name={name},type=Warning")
    except ClusterError:
        return ""
    events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")))
    return f"{events[-1].get('reason', '')}: {events[-1].get('message', '')}" if events else ""


def selects(case: Case) -> str:
    """The label selector of what belongs to the release without being a component: workers and runs have Ottoscaler's own label."""
    assert case.release is not None
    return f"ottoscaler.io/{INSTANCE.rpartition('/')[2]}={case.release.name}"
