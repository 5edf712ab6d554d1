"""What the cluster has to grant: rights of each service, the kind of runs, and room for a worker."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from ottoctl.cluster.connection import ClusterError, Object
from ottoctl.cluster.release import DEFINITION, PIPELINE_RUNS, SERVICES, Release
from ottoctl.doctor.case import Case, Finding, fail, ok, warn

API_VERSION = PIPELINE_RUNS[2]
APPLY = "kubectl apply --server-side --force-conflicts -f charts/ottoscaler/crds"
AT_ONCE = 8
"""Reviews that are asked for at the same time."""
RESOURCES: Object = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
"""What the scaler gives workers where neither the template nor the stage says anything."""


@dataclass(frozen=True, slots=True)
class Right:
    """A line of rights.yaml for one verb."""

    service: str
    group: str
    resource: str
    verb: str
    own: bool = False
    without: str = ""
    value: str = ""


def rights() -> Iterator[Right]:
    """What each service needs to be allowed: the same table that the chart's Roles are made from."""
    table: dict[str, list[dict[str, Any]]] = yaml.safe_load(files("ottoctl.doctor").joinpath("rights.yaml").read_text())
    for service, lines in table.items():
        for line in lines:
            verbs = line.pop("verbs")
            yield from (Right(service=service, verb=verb, **line) for verb in verbs)


async def permissions(case: Case) -> list[Finding]:
    """Every service may do what it has to: the cluster is asked about each right."""
    release = case.release
    assert release is not None
    gate = asyncio.Semaphore(AT_ONCE)
    wanted = [right for right in rights() if right.service in release.workloads]
    answers = await asyncio.gather(*(_reviewed(case, right, gate) for right in wanted))
    found = []
    for service in SERVICES:
        lacking = [right for right, allowed in zip(wanted, answers, strict=True) if right.service == service and not allowed]
        if needed := [right for right in lacking if not right.without]:
            name = release.object_name(service) if service in release.workloads else service
            found.append(
                fail(
                    f"{service}, as {_subject(release, service)}, may not {_told(needed)}",
                    f"helm upgrade gives it its Role back (rbac.create: true); {release.kubectl(f'describe role,rolebinding {name}')}",
                )
            )
        found += [
            warn(f"{service} may not {_told([right])}, so it does without {right.without}", f"{right.value}: true, unless that is meant")
            for right in lacking
            if right.without
        ]
    return found or [ok(f"each service may do what it has to ({len(wanted)} rights)")]


def _subject(release: Release, service: str) -> str:
    return f"system:serviceaccount:{release.namespace}:{release.account(service)}"


async def _reviewed(case: Case, right: Right, gate: asyncio.Semaphore) -> bool:
    """Asked in the namespace: an administrator of that alone may ask there too."""
    cluster, release = case.cluster, case.release
    assert cluster is not None
    assert release is not None
    resource, _, subresource = right.resource.partition("/")
    attributes = {"namespace": release.namespace, "verb": right.verb, "group": right.group, "resource": resource}
    if subresource:
        attributes["subresource"] = subresource
    if right.own:
        attributes["name"] = release.object_name(right.service)
    account = f"system:serviceaccounts:{release.namespace}"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "LocalSubjectAccessReview",
        "metadata": {"namespace": release.namespace},
        "spec": {
            "user": _subject(release, right.service),
            "groups": ["system:serviceaccounts", account, "system:authenticated"],
            "resourceAttributes": attributes,
        },
    }
    async with gate:
        answer = await cluster.post(cluster.path("authorization.k8s.io", "localsubjectaccessreviews"), review)
    return bool(answer.get("status", {}).get("allowed"))


def _told(lacking: list[Right]) -> str:
    verbs: dict[str, list[str]] = {}
    for right in lacking:
        verbs.setdefault(right.resource + (" of its own" if right.own else ""), []).append(right.verb)
    return "; ".join(f"{', '.join(names)} {resource}" for resource, names in verbs.items())


async def definition(case: Case) -> list[Finding]:
    """The cluster knows PipelineRuns, in the version that this release speaks, and keeps none in another one."""
    assert case.cluster is not None
    try:
        there = await case.cluster.get(DEFINITION)
    except ClusterError as error:
        if error.code != 404:
            raise
        return [fail("the CRD pipelineruns.ottoscaler.io is not there: the cluster does not know PipelineRuns, so nothing can run", APPLY)]
    status = there.get("status", {})
    served = {version["name"]: version for version in there["spec"]["versions"] if version.get("served")}
    stored = list(status.get("storedVersions") or [])
    case.facts["crd"] = {"served": sorted(served), "stored": stored}
    if "deletionTimestamp" in there["metadata"]:
        return [fail("the CRD pipelineruns.ottoscaler.io is being deleted, and all runs with it", f"when it is gone: {APPLY}")]
    if API_VERSION not in served:
        return [fail(f"the CRD serves {', '.join(served) or 'no version'}, this release speaks {API_VERSION}", APPLY)]
    unmet = [c for c in status.get("conditions") or [] if c["type"] in {"Established", "NamesAccepted"} and c["status"] != "True"]
    if unmet:
        return [fail(f"the CRD is not {unmet[0]['type']}: {unmet[0].get('message', '')}", f"mend what it names, then {APPLY}")]
    if others := [name for name in stored if name not in served]:
        return [
            warn(
                f"objects may still be stored as {', '.join(others)}, which the CRD does not serve any more",
                "write them anew before that version goes out of the CRD: kubectl get plr -A -o json | kubectl replace -f -",
            )
        ]
    return [ok(f"the CRD serves {', '.join(sorted(served))}, stored as {', '.join(stored) or API_VERSION}")]


async def quotas(case: Case) -> list[Finding]:
    """A worker would be taken: a pod as the scaler makes them is tried, without being made."""
    cluster, release = case.cluster, case.release
    assert cluster is not None
    assert release is not None
    pod = _worker(release, await _template(case))
    try:
        await cluster.post(cluster.path("", "pods"), pod, {"dryRun": "All"})
    except ClusterError as error:
        if error.may_not:
            return await _full(case)
        if error.code == 0:
            raise
        words = str(error).partition(" is forbidden: ")[2] or str(error)
        describe = release.kubectl("describe resourcequota,limitrange")
        return [fail(f"the cluster would take no worker now: {words}", f"{describe}; raise it, ask for less (workers.resources), or wait")]
    return [ok("a worker would be taken: no quota, limit range, policy or webhook refuses one")]


async def _template(case: Case) -> Object:
    """The chart's template of workers."""
    assert case.cluster is not None
    assert case.release is not None
    name = case.release.object_name("scaler").removesuffix("scaler") + "workers"
    try:
        found = await case.cluster.get(case.cluster.path("", "configmaps", name))
        return json.loads(found["data"]["worker.json"])  # type: ignore[no-any-return]  # an object, as the chart renders it
    except (ClusterError, KeyError, ValueError):
        return {}


def _worker(release: Release, template: Object) -> Object:
    """A worker's pod, as far as somebody could refuse it."""
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, **template.get("spec", {})}
    containers = [dict(container) for container in spec.get("containers") or [{"name": "worker"}]]
    for container in containers:
        if container["name"] == "worker":
            container.setdefault("image", "worker")
            container["resources"] = container.get("resources") or RESOURCES
    metadata = template.get("metadata", {})
    labels = {**metadata.get("labels", {}), "app.kubernetes.io/component": "worker", "ottoscaler.io/instance": release.name}
    name = f"ottoctl-doctor-{secrets.token_hex(4)}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": metadata.get("annotations", {})},
        "spec": {**spec, "containers": containers},
    }


async def _full(case: Case) -> list[Finding]:
    """Who may not try a pod can read which quotas are used up."""
    assert case.cluster is not None
    assert case.release is not None
    found = []
    for quota in await case.cluster.all(case.cluster.path("", "resourcequotas")):
        status = quota.get("status", {})
        used = status.get("used", {})
        full = [f"{name} {used[name]} of {most}" for name, most in status.get("hard", {}).items() if used.get(name) == most]
        if full:
            describe = case.release.kubectl(f"describe resourcequota {quota['metadata']['name']}")
            found.append(warn(f"the quota {quota['metadata']['name']} is used up: {', '.join(full)}", f"{describe}; raise it, or wait"))
    return found or [ok("no quota is used up; whether a worker would be taken may not be tried with this kubeconfig (create pods)")]
