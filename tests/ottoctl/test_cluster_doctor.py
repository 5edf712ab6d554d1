"""`ottoctl doctor` looks at a release on a cluster: each thing that can be wrong there is found, in words, with what to do."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import typer
import yaml

from otto_kubekit.testing.faults import Asked
from ottoctl.cluster import place
from ottoctl.cluster.place import Place
from ottoctl.doctor import installation
from ottoctl.doctor.case import Finding, Level
from ottoctl.doctor.cluster_examination import CLUSTER_CHECKS
from ottoctl.doctor.examination import CHECKS, healthy
from ottoctl.doctor.ground import rights

from ..chart import rendering
from .fake_release import GIB, NAMESPACE, FakeRelease, build_info, fake_release

pytestmark = pytest.mark.skipif(not (rendering.BIN / "helm").exists(), reason="no helm: make clients")
Findings = list[tuple[str, Finding]]
LONG_AGO = "2026-01-01T00:00:00Z"


@pytest.fixture
async def release(tmp_path: Path) -> AsyncIterator[FakeRelease]:
    async with fake_release(tmp_path) as made:
        yield made


def bad(findings: Findings, check: str) -> Finding:
    """The one finding of a check that is not ok; nothing else of the cluster is bad."""
    names = {check.name for check in CLUSTER_CHECKS}
    (found,) = [(name, finding) for name, finding in findings if finding.level is not Level.OK and name in names]
    assert found[0] == check, found
    assert found[1].remedy
    return found[1]


def break_role(release: FakeRelease) -> None:
    role = release.get("rbac.authorization.k8s.io/v1", "Role", "otto-ottoscaler-scaler")
    rules = [{**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]} for rule in role["rules"]]
    release.put({**role, "rules": rules})


def take_binding(release: FakeRelease) -> None:
    release.remove("rbac.authorization.k8s.io/v1", "RoleBinding", "otto-ottoscaler-pipeline-executor")


def take_secrets(release: FakeRelease) -> None:
    role = release.get("rbac.authorization.k8s.io/v1", "Role", "otto-ottoscaler-log-relay")
    release.put({**role, "rules": [rule for rule in role["rules"] if rule["resources"] != ["secrets"]]})


def stored_elsewhere(release: FakeRelease) -> None:
    there = release.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "pipelineruns.ottoscaler.io")
    release.put({**there, "status": {**there["status"], "storedVersions": ["v1alpha0", "v1alpha1"]}})


def another_version(release: FakeRelease) -> None:
    there = release.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "pipelineruns.ottoscaler.io")
    versions = [{**version, "name": "v2"} for version in there["spec"]["versions"]]
    release.put({**there, "spec": {**there["spec"], "versions": versions}})


def waiting(name: str, reason: str, message: str) -> dict[str, object]:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


def no_pods_for_a_quota(release: FakeRelease) -> None:
    there = release.get("apps/v1", "Deployment", "otto-ottoscaler-scaler")
    condition = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: small'}
    release.put({**there, "status": {"conditions": [condition]}})
    release.remove("v1", "Pod", release.pods["scaler"])


def crashed(release: FakeRelease) -> None:
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    status = {"name": "scaler", "restartCount": 3, "state": {"running": {}}, "lastState": last}
    release.pod("scaler", containerStatuses=[status])


def not_scheduled(release: FakeRelease) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    release.pod("pipeline-executor", phase="Pending", conditions=[condition])


def no_image(release: FakeRelease) -> None:
    release.pod("scaler", conditions=[], containerStatuses=[waiting("scaler", "ImagePullBackOff", "Back-off pulling image")])


def no_volume(release: FakeRelease) -> None:
    """Only an event says it."""
    release.pod("scaler", conditions=[], containerStatuses=[waiting("scaler", "ContainerCreating", "")])
    about = {"kind": "Pod", "name": release.pods["scaler"]}
    event = {
        "involvedObject": about,
        "type": "Warning",
        "reason": "FailedMount",
        "message": "configmap not found",
        "lastTimestamp": LONG_AGO,
    }
    release.put({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e1"}, **event})


def running_but_stuck(words: str) -> dict[str, object]:
    return {"state": "Running", "stages": [{"stageId": "test", "state": "Running", "message": words}]}


SITUATIONS: list[tuple[str, Callable[[FakeRelease], object], str, Level, str, str]] = [
    ("an old Kubernetes", lambda r: setattr(r.cluster.api, "minor", 29), "cluster", Level.FAIL, "older than 1.30", "upgrade the cluster"),
    ("an image that is not there", no_image, "pods", Level.FAIL, "ImagePullBackOff: Back-off", "describe pod otto-ottoscaler-scaler-0"),
    ("no node", not_scheduled, "pods", Level.FAIL, "Unschedulable: 0/3 nodes are available", "describe pod"),
    ("a volume", no_volume, "pods", Level.FAIL, "FailedMount: configmap not found", "describe pod"),
    ("no pod", no_pods_for_a_quota, "pods", Level.FAIL, "scaler has 0 of 1 pods: pods", "describe deployment otto-ottoscaler-scaler"),
    (
        "restarts",
        crashed,
        "pods",
        Level.WARN,
        "started again 3 times: scaler ended with 137, OOMKilled",
        "logs otto-ottoscaler-scaler-0 --previous",
    ),
    ("another version", lambda r: r.metrics("scaler", build_info("9.9.9")), "versions", Level.WARN, "scaler: 9.9.9", "upgrade is going on"),
    (
        "a Role without create",
        break_role,
        "permissions",
        Level.FAIL,
        "may not create pods; create persistentvolumeclaims; create leases",
        "helm",
    ),
    ("no RoleBinding", take_binding, "permissions", Level.FAIL, "get, list, watch, create, patch, delete pipelineruns", "rbac.create"),
    ("no secrets", take_secrets, "permissions", Level.WARN, "without masking the secrets", "relay.maskSecrets: true"),
    ("versions that are not served", stored_elsewhere, "crd", Level.WARN, "stored as v1alpha0", "kubectl replace"),
    ("another CRD", another_version, "crd", Level.FAIL, "the CRD serves v2, this release speaks v1alpha1", "kubectl apply --server-side"),
    (
        "a quota",
        lambda r: r.cluster.set_quota(1, NAMESPACE),
        "quotas",
        Level.FAIL,
        "exceeded quota: fake",
        "describe resourcequota,limitrange",
    ),
    (
        "a limit range",
        lambda r: r.cluster.refuse(lambda resource, _: "maximum memory usage per Container is 512Mi" * (resource.plural == "pods")),
        "quotas",
        Level.FAIL,
        "maximum memory usage per Container is 512Mi",
        "workers.resources",
    ),
    (
        "a Lease without holder",
        lambda r: r.lease("scaler", holder=""),
        "leases",
        Level.FAIL,
        "Lease otto-ottoscaler-scaler has no holder",
        "logs",
    ),
    (
        "a Lease that is not renewed",
        lambda r: r.lease("scaler", renewed=LONG_AGO),
        "leases",
        Level.FAIL,
        "10.0.0.7:9090 has not renewed",
        "logs",
    ),
    (
        "no Lease",
        lambda r: r.remove("coordination.k8s.io/v1", "Lease", "otto-ottoscaler-pipeline-executor"),
        "leases",
        Level.FAIL,
        "nobody acts as pipeline-executor",
        "logs deploy/otto-ottoscaler-pipeline-executor",
    ),
    ("no Service", lambda r: r.remove("v1", "Service", "otto-ottoscaler-front-door"), "front door", Level.FAIL, "is not there", "helm"),
    (
        "a service that the front door does not reach",
        lambda r: r.reaches(log_relay=0),
        "front door",
        Level.FAIL,
        "does not reach log-relay",
        "component=log-relay",
    ),
    (
        "no route",
        lambda r: r.metrics(
            "front-door",
            'envoy_cluster_membership_healthy{envoy_cluster_name="scaler"} 1',
            'envoy_cluster_membership_healthy{envoy_cluster_name="log-relay"} 1',
        ),
        "front door",
        Level.FAIL,
        "no route to pipeline-executor",
        "helm",
    ),
    (
        "a full disk",
        lambda r: r.spool(free=1 << 20),
        "spool",
        Level.FAIL,
        "the relay's disk is full: 1.0 MiB of 10.0 GiB",
        "relay.spool.size",
    ),
    (
        "a disk that is nearly full",
        lambda r: r.spool(free=GIB // 2),
        "spool",
        Level.WARN,
        "512.0 MiB of 10.0 GiB are free",
        "retention_seconds",
    ),
    (
        "a run that nobody begins",
        lambda r: r.run("new", creationTimestamp=LONG_AGO),
        "runs",
        Level.FAIL,
        "nobody has begun it",
        "see leases",
    ),
    (
        "a run that does not go",
        lambda r: r.run("old", {"state": "Running"}, deletionTimestamp=LONG_AGO),
        "runs",
        Level.WARN,
        "still there",
        "leases",
    ),
    (
        "a refused run",
        lambda r: r.run("wrong", {"state": "Refused", "message": "a cycle"}),
        "runs",
        Level.WARN,
        "refused: a cycle",
        "mend it",
    ),
    (
        "a stage that does not go on",
        lambda r: r.run("slow", running_but_stuck("waits for the scaler, which can't do it now: no")),
        "runs",
        Level.WARN,
        "slow: test waits for the scaler",
        "goes on by itself",
    ),
]


async def test_a_healthy_release_is_all_ok(release: FakeRelease) -> None:
    """Every check of a cluster runs and is content; where nobody has named an address, that none answers there is no failure."""
    release.run("done", {"state": "Completed"})
    release.run("goes", running_but_stuck("1 runs"))
    findings, case = await release.doctor()
    assert {name for name, _ in findings} == {check.name for check in CLUSTER_CHECKS} | {"address"}
    assert [(name, finding) for name, finding in findings if finding.level is not Level.OK and name != "address"] == []
    (address,) = [finding for name, finding in findings if name == "address"]
    assert address.level is Level.WARN
    assert address.remedy.startswith("kubectl -n ci port-forward service/otto-ottoscaler-front-door 9090:9090")
    assert healthy(findings)
    assert case.facts["holders"] == {"scaler": "10.0.0.7:9090", "pipeline-executor": "10.0.0.7:9090"}
    assert ("runs", "2 runs are kept, 1 go on, none stands still") in [(name, finding.words) for name, finding in findings]


@pytest.mark.parametrize(("situation", "check", "level", "words", "remedy"), [s[1:] for s in SITUATIONS], ids=[s[0] for s in SITUATIONS])
async def test_what_is_wrong_is_named(
    situation: Callable[[FakeRelease], object], check: str, level: Level, words: str, remedy: str, release: FakeRelease
) -> None:
    """By the check that it belongs to and by no other, in words, and with something to do."""
    situation(release)
    findings, _ = await release.doctor()
    finding = bad(findings, check)
    assert finding.level is level
    assert words in finding.words
    assert remedy in finding.remedy


async def test_a_cluster_without_the_crd(release: FakeRelease) -> None:
    """That it is not there is said, and how to get it; runs can't be asked for then."""
    release.remove("apiextensions.k8s.io/v1", "CustomResourceDefinition", "pipelineruns.ottoscaler.io")
    release.cluster.resources._known.pop(("ottoscaler.io", "v1alpha1", "pipelineruns"))
    findings, _ = await release.doctor()
    failed = {name: finding for name, finding in findings if finding.level is Level.FAIL}
    assert set(failed) == {"crd", "runs"}
    assert "does not know PipelineRuns" in failed["crd"].words
    assert failed["crd"].remedy == "kubectl apply --server-side --force-conflicts -f charts/ottoscaler/crds"


async def test_a_large_disk_that_others_fill_has_room_enough(release: FakeRelease) -> None:
    """Little of it is free, and more than the lines that may still be kept need: that is no reason for a warning."""
    release.spool(free=20 * GIB, disk=250 * GIB)
    findings, _ = await release.doctor()
    assert [finding.level for name, finding in findings if name == "spool"] == [Level.OK]


async def test_runs_of_another_release_are_not_looked_at(release: FakeRelease) -> None:
    """Two releases may share a namespace; each has its own runs."""
    release.run("theirs", {"state": "Refused"}, labels={"ottoscaler.io/instance": "another"})
    findings, _ = await release.doctor()
    assert [f.words for name, f in findings if name == "runs"] == ["0 runs are kept, 0 go on, none stands still"]


async def test_what_may_not_be_looked_at_is_said(release: FakeRelease) -> None:
    """A kubeconfig with few rights gets what it may, and is told what not; a dry run that is not allowed leaves the quotas themselves."""
    words = 'User "kim" cannot {} resource "{}" in API group "" in the namespace "ci"'
    for verb, plural, method in (("list", "leases", "GET"), ("create", "pods", "POST")):

        def fits(asked: Asked, plural: str = plural, method: str = method) -> bool:
            return asked.method == method and f"/{plural}" in asked.path

        release.cluster.faults.answer(403, message=f"{plural} is forbidden: {words.format(verb, plural)}", times=None, when=fits)
    quota = {"hard": {"pods": "4"}, "used": {"pods": "4"}}
    release.put({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {}, "status": quota})
    findings, _ = await release.doctor()
    found = {name: finding for name, finding in findings if finding.level is not Level.OK and name != "address"}
    assert set(found) == {"leases", "quotas"}
    assert "this could not be looked at" in found["leases"].words
    assert "kim" in found["leases"].words
    assert found["quotas"].words == "the quota small is used up: pods 4 of 4"


async def test_a_release_that_is_not_there(release: FakeRelease) -> None:
    """In another namespace: which one has a release is told. Another name: which names there are."""
    findings, case = await release.doctor(place=Place(str(release.kubeconfig), namespace="default"))
    assert bad(findings, "release").words == "there is no release of Ottoscaler in namespace default; there is one in ci"
    assert bad(findings, "release").remedy == "--namespace ci"
    assert case.release is None
    findings, _ = await release.doctor(place=Place(str(release.kubeconfig), namespace=NAMESPACE, release="prod"))
    assert bad(findings, "release").words == "there is no release prod in namespace ci: otto"


async def test_no_cluster_that_answers(release: FakeRelease) -> None:
    """A kubeconfig that is none, and an API server that is gone: a finding each, and no more is asked."""
    findings, _ = await release.doctor(place=Place("/nonexistent/config"))
    assert "/nonexistent/config" in bad(findings, "cluster").words
    await release.cluster.stop()
    findings, _ = await release.doctor()
    assert "the cluster does not answer" in bad(findings, "cluster").words
    assert [name for name, _ in findings] == ["cluster", "address"]


async def test_an_address_that_was_named_has_to_answer(release: FakeRelease) -> None:
    """Whoever names the front door's address is told that it fails."""
    findings, _ = await release.doctor(named=True)
    assert [finding.level for name, finding in findings if name == "address"] == [Level.FAIL]


async def test_the_command(release: FakeRelease) -> None:
    """Options as kubectl has them, and its variable; the exit code is that of the findings."""

    def doctor(*arguments: str) -> tuple[int, dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-m", "ottoctl", "doctor", *arguments, "-o", "json"],
            env={**os.environ, "KUBECONFIG": str(release.kubeconfig)}, capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    code, answer = await asyncio.to_thread(doctor, "-n", NAMESPACE, "--release", "otto")
    assert (code, answer["healthy"]) == (0, True), answer
    break_role(release)
    code, answer = await asyncio.to_thread(doctor, "--cluster", "--namespace", NAMESPACE)
    assert (code, answer["healthy"]) == (1, False), answer


def test_kubekit_is_imported_only_when_a_cluster_is_asked_for() -> None:
    """The command line starts, and doctor examines a machine, without what a cluster needs."""
    script = (
        "import sys\n"
        "import ottoctl.cli, ottoctl.doctor.examination\n"
        "heavy = {'otto_kubekit', 'kubernetes', 'aiohttp', 'prometheus_client', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_kubekit_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image for `helm test`; who asks for no cluster notices nothing."""
    monkeypatch.setattr(place, "find_spec", lambda _: None)
    assert place.asked_for(False, "", "", "", "") is None
    with pytest.raises(typer.BadParameter, match=re.escape("install ottoctl[cluster]")):
        place.asked_for(False, "", "", "ottoscaler", "")


def test_every_check_is_a_function_of_its_own_with_a_name() -> None:
    """In both tables together, as output names them; each says in its docstring what it wants to be true."""
    checks = (*CLUSTER_CHECKS, *CHECKS)
    assert len({check.name for check in checks}) == len({check.look for check in checks}) == len(checks)
    assert all(check.look.__doc__ for check in checks)


def test_the_chart_and_doctor_agree_about_kubernetes_and_rights() -> None:
    """The oldest version is that of the chart; the rights are those of the Roles that it renders, one by one."""
    chart = yaml.safe_load((rendering.CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={installation.LEAST[0]}.{installation.LEAST[1]}.0-0"
    rendered = {
        (component, rule["apiGroups"][0], rule["resources"][0], verb, bool(rule.get("resourceNames")))
        for component in ("scaler", "pipeline-executor", "log-relay")
        for rule in rendering.one(rendering.objects(), "Role", component)["rules"]
        for verb in rule["verbs"]
    }
    assert {(right.service, right.group, right.resource, right.verb, right.own) for right in rights()} == rendered
