"""How a release stands: who acts, what the front door reaches, room on the relay's disk, and runs that do not move."""

from datetime import UTC, datetime

from ottoctl.cluster.connection import ClusterError, Object
from ottoctl.cluster.release import FRONT_DOOR, PIPELINE_RUNS, SERVICES, figures
from ottoctl.doctor.case import Case, Finding, fail, ok, warn
from ottoctl.doctor.installation import is_ready, selects
from ottoctl.doctor.machine import NO_BYTES, size
from ottoctl.doctor.work import stands_still

WITH_LEASE = ("scaler", "pipeline-executor")
LATE_SECONDS = 30.0
"""Beside a lease's own time: clocks differ, and somebody else may just be taking over."""
SLOW_SECONDS = 60.0
"""A run that nobody has begun, or a deleted one that is still there, is worth a word after this."""
LITTLE = 0.1
"""Share of the relay's disk that is free, below which somebody should know, unless all that may still be kept fits nevertheless."""
SHOWN = 20


def age(text: str | None) -> float:
    """Seconds since a time of the cluster's; 0 for none."""
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds() if text else 0.0


async def leases(case: Case) -> list[Finding]:
    """One replica of the scaler and one of the executor acts."""
    cluster, release = case.cluster, case.release
    assert cluster is not None
    assert release is not None
    found = []
    holders = {}
    for service in WITH_LEASE:
        name = release.object_name(service)
        remedy = f"{release.kubectl(f'logs deploy/{name}')}: no pod is ready, or none may use Leases (see permissions)"
        try:
            spec = (await cluster.get(cluster.path("coordination.k8s.io", "leases", name))).get("spec", {})
        except ClusterError as error:
            if error.code != 404:
                raise
            found.append(fail(f"nobody acts as {service}: the Lease {name} is not there", remedy))
            continue
        holder = str(spec.get("holderIdentity") or "")
        silent = age(spec.get("renewTime"))
        holders[service] = holder
        if not holder:
            found.append(fail(f"nobody acts as {service}: the Lease {name} has no holder", remedy))
        elif silent > float(spec.get("leaseDurationSeconds") or 0) + LATE_SECONDS:
            found.append(fail(f"nobody acts as {service}: {holder} has not renewed the Lease {name} for {silent:.0f} s", remedy))
    case.facts["holders"] = holders
    return found or [ok("; ".join(f"{service}: {holder} acts" for service, holder in holders.items()))]


async def front_door(case: Case) -> list[Finding]:
    """The one address is there, and what stands behind it serves."""
    cluster, release = case.cluster, case.release
    assert cluster is not None
    assert release is not None
    if FRONT_DOOR not in release.workloads:
        return [ok("there is no front door (frontDoor.enabled: false): the routes of your Gateway are not looked at")]
    name = release.object_name(FRONT_DOOR)
    try:
        service = await cluster.get(cluster.path("", "services", name))
    except ClusterError as error:
        if error.code != 404:
            raise
        return [fail(f"the Service {name} is not there: nobody reaches Ottoscaler", f"helm -n {release.namespace} upgrade makes it again")]
    port = next((port["port"] for port in service["spec"].get("ports") or [] if port.get("name") == "grpc"), 9090)
    case.way_in = release.kubectl(f"port-forward service/{name} 9090:{port}")
    found: list[Finding] = []
    for pod in release.pods[FRONT_DOOR]:
        if is_ready(pod):
            found += await _behind(case, pod)
    if not any(is_ready(pod) for pod in release.pods[FRONT_DOOR]):
        found.append(fail(f"no pod of the front door is ready: nobody reaches {name}.{release.namespace}:{port}", "see pods"))
    return found or [ok(f"{name}.{release.namespace}:{port} reaches {', '.join(SERVICES)}, each of them serves")]


async def _behind(case: Case, pod: Object) -> list[Finding]:
    """What a front door says about whom it reaches."""
    assert case.cluster is not None
    assert case.release is not None
    name = pod["metadata"]["name"]
    try:
        told = await figures(case.cluster, pod)
    except ClusterError as error:
        words = f"what {name} reaches can't be asked through the API server: {error}"
        return [warn(words, f"look from outside: {case.way_in}, then ottoctl doctor")]
    healthy = {
        figure.labels.get("envoy_cluster_name"): figure.value for figure in told if figure.name == "envoy_cluster_membership_healthy"
    }
    found = []
    for service in SERVICES:
        if service not in healthy:
            found.append(
                fail(f"{name} has no route to {service}", f"helm -n {case.release.namespace} upgrade gives it its configuration back")
            )
        elif not healthy[service]:
            remedy = case.release.kubectl(f"logs -l app.kubernetes.io/component={service}")
            found.append(
                fail(f"{name} does not reach {service}: it is not SERVING, or a network policy is between them", f"see pods; {remedy}")
            )
    return found


async def spool(case: Case) -> list[Finding]:
    """The relay has room for lines."""
    cluster, release = case.cluster, case.release
    assert cluster is not None
    assert release is not None
    pod = next((pod for pod in release.pods["log-relay"] if is_ready(pod)), None)
    if pod is None:
        return [warn("no relay is ready, so nobody tells how full its disk is", "see pods")]
    try:
        told = {figure.name: figure.value for figure in await figures(cluster, pod)}
        free, whole = told["otto_relay_spool_disk_free_bytes"], told["otto_relay_spool_disk_bytes"]
        kept, limit = told["otto_relay_spool_bytes"], told["otto_relay_spool_limit_bytes"]
    except (ClusterError, KeyError) as error:
        name = pod["metadata"]["name"]
        return [
            warn(f"{name} can't be asked through the API server: {error}", release.kubectl(f"exec {name} -- df -h /var/lib/ottoscaler"))
        ]
    case.facts["spool"] = {"disk_bytes": int(whole), "free_bytes": int(free), "kept_bytes": int(kept), "limit_bytes": int(limit)}
    room = f"{size(int(free))} of {size(int(whole))} are free on the relay's disk"
    words = f"{room}; {size(int(kept))} of lines are kept, {size(int(limit))} may be"
    remedy = (
        "a larger claim (relay.spool.size, or the claim itself where its class lets it grow), or lower relay.settings.retention_seconds"
    )
    if free < NO_BYTES:
        return [fail(f"the relay's disk is full: {words}", remedy)]
    return [warn(words, remedy)] if free < min(LITTLE * whole, limit - kept) else [ok(words)]


async def runs(case: Case) -> list[Finding]:
    """Every run moves, or has ended."""
    cluster = case.cluster
    assert cluster is not None
    found: list[Finding] = []
    going = total = 0
    try:
        async for run in cluster.each(cluster.path(PIPELINE_RUNS[0], PIPELINE_RUNS[1], version=PIPELINE_RUNS[2])):
            if not _of(case, run):
                continue
            total += 1
            going += run.get("status", {}).get("state") == "Running"
            if len(found) < SHOWN and (finding := _stuck(case, run)) is not None:
                found.append(finding)
    except ClusterError as error:
        if error.code != 404:
            raise
        return [fail("the cluster does not know PipelineRuns", "see crd")]
    return found or [ok(f"{total} runs are kept, {going} go on, none stands still")]


def _of(case: Case, run: Object) -> bool:
    """Those of other releases are theirs; one without a label nobody has begun, or everybody may."""
    label, _, name = selects(case).partition("=")
    return bool(run["metadata"].get("labels", {}).get(label, name) == name)


def _stuck(case: Case, run: Object) -> Finding | None:
    assert case.release is not None
    metadata, status = run["metadata"], run.get("status", {})
    name, state = metadata["name"], status.get("state", "")
    log = case.release.kubectl(f"logs deploy/{case.release.object_name('pipeline-executor')}")
    if "deletionTimestamp" in metadata and age(metadata["deletionTimestamp"]) > SLOW_SECONDS:
        return warn(
            f"{name} was deleted {age(metadata['deletionTimestamp']):.0f} s ago and is still there",
            f"its workers can't be stopped: see leases; {log}",
        )
    if not state and age(metadata.get("creationTimestamp")) > SLOW_SECONDS:
        return fail(
            f"{name} was asked for {age(metadata.get('creationTimestamp')):.0f} s ago, and nobody has begun it", f"see leases; {log}"
        )
    if state == "Refused":
        return warn(f"{name} is refused: {status.get('message', '')}", "delete it, mend it, apply it again")
    if state == "Pending":
        return warn(f"{name} is not begun: {status.get('message', '')}", "it begins by itself when that is over")
    if state == "Running":
        for stage in status.get("stages") or []:
            if stage.get("state") in {"Pending", "Running"} and stands_still(stage.get("message", "")):
                return warn(
                    f"{name}: {stage['stageId']} {stage['message']}",
                    "it goes on by itself when that is over: see pods, leases and permissions",
                )
    return None
