"""`ottoctl doctor` and `ottoctl support-bundle` on a real cluster: a healthy release is well, and what is broken is named."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage

from ..ottoctl.bundles import data, files, leaks
from ..patient_clients import Clients
from .conftest import Install
from .installation import CHART, RELEASE, Installation, said

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
CRD = "pipelineruns.ottoscaler.io"
CHECKS = ("cluster", "release", "pods", "versions", "permissions", "crd", "quotas", "leases", "front door", "spool", "runs", "health")
PLANTED = {
    name: f"{name.replace(' ', '')}-Zq8&{number}+/xy!"
    for number, name in enumerate(("variable", "script", "config map", "secret", "annotation", "repository", "service", "last words"))
}


async def ottoctl(installation: Installation, *arguments: str) -> tuple[int, str]:
    """Ottoctl with the cluster's kubeconfig and the front door's address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "--address", installation.address, *arguments,
        "--kubeconfig", os.environ["OTTO_TEST_KUBECONFIG"], "--namespace", installation.namespace,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def findings(installation: Installation) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Doctor's exit code, and what it finds by check."""
    code, output = await ottoctl(installation, "doctor", "--output", "json")
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(output)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return code, found


async def failed(installation: Installation, check: str) -> str:
    """What a check that fails says; the exit code is 1 then."""
    code, found = await findings(installation)
    words = "\n".join(finding["words"] for finding in found[check] if finding["level"] == "fail")
    assert words, found
    assert code == 1
    assert all(finding["remedy"] for finding in found[check] if finding["level"] == "fail")
    return words


async def test_a_healthy_release_is_well(installation: Installation) -> None:
    """Nothing fails, and every check of the cluster has looked, with a run and its worker there."""
    stage = PipelineStage(stage_id="a", command=["sh", "-c"], args=["echo hello"])
    await Clients(installation).run(PipelineRequest(pipeline_id=f"well-{secrets.token_hex(3)}", stages=[stage]))
    code, found = await findings(installation)
    bad = {check: [f["words"] for f in told if f["level"] == "fail"] for check, told in found.items()}
    assert {check: words for check, words in bad.items() if words} == {}
    assert code == 0
    assert set(CHECKS) <= set(found)
    for check in ("permissions", "crd", "quotas", "leases", "front door", "spool", "runs"):
        assert {finding["level"] for finding in found[check]} == {"ok"}, found[check]


async def test_a_bundle_of_a_release_has_no_secret(installation: Installation, tmp_path: Path) -> None:
    """Secrets in whatever a real cluster keeps of a run, its worker and their surroundings; all that helps is there."""
    values = json.dumps({"key": PLANTED["config map"]}), json.dumps({"key": PLANTED["secret"]})
    annotation = {"annotations": {"example.com/who": PLANTED["annotation"]}}
    for kind, field, value in (("ConfigMap", "data", values[0]), ("Secret", "stringData", values[1])):
        item = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "planted", **annotation}, field: json.loads(value)}
        installation.kubectl("apply", "--filename", "-", stdin=json.dumps(item))
    words = f"echo '{PLANTED['last words']}' > /dev/termination-log; : '{PLANTED['script']}'; exit 3"
    stage = PipelineStage(stage_id="a", command=["sh", "-c"], args=[words], config={"DB": PLANTED["variable"]})
    ill = PipelineStage(stage_id="b", command=["sh", "-c"], args=["true"], depends_on=["a"])
    url = f"https://bob:{PLANTED['repository']}@127.0.0.1:1/a.git"
    pipeline_id = f"ill-{secrets.token_hex(3)}"
    await Clients(installation).run(PipelineRequest(pipeline_id=pipeline_id, stages=[stage, ill]))
    await Clients(installation).run(PipelineRequest(pipeline_id=f"{pipeline_id}-url", stages=[stage], repository=url))
    path = tmp_path / "b.tar.gz"
    code, output = await ottoctl(installation, "support-bundle", "--file", str(path))
    assert code == 0, output
    assert leaks(path, PLANTED) == []
    found = files(path)
    assert {pipeline_id, f"{pipeline_id}-url"} <= {run["pipelineId"] for run in data(found, "cluster/runs.json")}
    assert any("***" in json.dumps(worker) for worker in data(found, "cluster/workers.json"))
    for name in ("doctor.json", "services/runs.json", "cluster/leases.json", "cluster/crd.json", "cluster/settings/scaler.json"):
        assert name in found
    for component in ("scaler", "pipeline-executor", "log-relay", "front-door"):
        (pod, *_) = (pod["metadata"]["name"] for pod in installation.pods(component))
        assert f"cluster/metrics/{pod}.txt" in found
        assert f"cluster/logs/{pod}.log" in found
    assert data(found, "MANIFEST.json")["missing"] == []


@contextmanager
def changed(installation: Installation, kind: str, name: str, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """An object is otherwise for a while."""
    before = json.loads(installation.kubectl("get", kind, name, "--output", "json"))
    for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        before["metadata"].pop(field, None)
    other = json.loads(json.dumps(before))
    change(other)
    installation.kubectl("replace", "--filename", "-", stdin=json.dumps(other))
    try:
        yield
    finally:
        installation.kubectl("replace", "--filename", "-", stdin=json.dumps(before))


async def test_a_broken_role_is_named(installation: Installation) -> None:
    """The verbs that the scaler lacks, as the cluster answers for its ServiceAccount; given back, all is well."""

    def without_patch(role: dict[str, Any]) -> None:
        for rule in role["rules"]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != "patch"]

    with changed(installation, "role", f"{RELEASE}-ottoscaler-scaler", without_patch):
        words = await failed(installation, "permissions")
    account = f"system:serviceaccount:{installation.namespace}:{RELEASE}-ottoscaler-scaler"
    assert f"{account}, may not patch pods; patch persistentvolumeclaims" in words
    _, found = await findings(installation)
    assert [finding["level"] for finding in found["permissions"]] == ["ok"]


async def test_a_quota_that_refuses_workers_is_named(installation: Installation) -> None:
    """In the API server's words, though nothing is created to find out; a limit range likewise."""
    installation.kubectl("create", "quota", "small", "--hard=pods=1")
    limits = {"limits": [{"type": "Container", "max": {"memory": "20Mi"}}]}
    limit_range = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tight"}, "spec": limits}
    try:
        async with asyncio.timeout(60):
            # A quota counts once its controller has looked at the namespace.
            while not json.loads(installation.kubectl("get", "quota", "small", "--output", "json")).get("status", {}).get("used"):
                await asyncio.sleep(0.2)
        assert "exceeded quota: small" in await failed(installation, "quotas")
        installation.kubectl("delete", "quota", "small")
        installation.kubectl("apply", "--filename", "-", stdin=json.dumps(limit_range))
        assert "maximum memory usage per Container is 20Mi" in await failed(installation, "quotas")
    finally:
        installation.kubectl("delete", "quota/small", "limitrange/tight", "--ignore-not-found")
    assert "doctor" not in installation.kubectl("get", "pods", "--output", "name")


@pytest.mark.disruptive
async def test_a_deleted_crd_is_named(installed: Install) -> None:
    """That it is not there, and the command that brings it back, which does. Last: other releases share it."""
    here = installed()
    said("kubectl", "delete", "crd", CRD, "--timeout=120s")
    try:
        assert "the CRD pipelineruns.ottoscaler.io is not there" in await failed(here, "crd")
    finally:
        said("kubectl", "apply", "--server-side", "--force-conflicts", "--filename", str(CHART / "crds"))
        said("kubectl", "wait", f"crd/{CRD}", "--for=condition=Established", "--timeout=60s")
    async with asyncio.timeout(180):
        while (await findings(here))[1]["crd"][0]["level"] != "ok":
            await asyncio.sleep(1)
    here.kubectl("wait", "pods", "--selector", "app.kubernetes.io/component=pipeline-executor", "--for=condition=Ready", "--timeout=180s")
