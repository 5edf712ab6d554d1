"""`ottoctl support-bundle` of a release on a cluster: what it holds, that no secret is in it, and that it comes whatever is broken."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otto_kubekit.testing.faults import Asked

from ..chart import rendering
from .bundles import data, files, leaks
from .fake_release import NAMESPACE, SERVICES, FakeRelease, fake_release

pytestmark = pytest.mark.skipif(not (rendering.BIN / "helm").exists(), reason="no helm: make clients")
PLANTED = {
    name: f"{word}-Zq8&{number}+/xy!"
    for number, (name, word) in enumerate(
        {
            "environment of a worker": "envworker",
            "environment of a service": "envservice",
            "a config map": "configmap",
            "a secret": "secretobject",
            "a URL in a log": "urllog",
            "an annotation": "annotation",
            "a command": "command",
            "a header of a probe": "header",
            "a header in a log": "logheader",
            "what a run is": "runspec",
            "what a run was stored with": "record",
            "last words": "lastwords",
            "a setting": "setting",
            "an annotation of a run": "runannotation",
            "a variable that a log has too": "envlog",
            "an event": "event",
            "kubectl's copy": "lastapplied",
            "a volume": "volume",
            "a stage's message": "stagemessage",
        }.items()
    )
}


@pytest.fixture
async def release(tmp_path: Path) -> AsyncIterator[FakeRelease]:
    async with fake_release(tmp_path) as made:
        yield made


def plant(release: FakeRelease) -> None:
    """A secret in every place where one can be."""
    known = PLANTED
    url = "https://bob:{}@git.example.com/a.git"
    metadata = {
        "name": "otto-w-1",
        "labels": {"app.kubernetes.io/component": "worker", "ottoscaler.io/instance": "otto"},
        "annotations": {
            "example.com/token": known["an annotation"],
            "ottoscaler.io/pipeline-id": "nightly-of-2026",
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": known["kubectl's copy"]}),
        },
    }
    container = {
        "name": "worker",
        "image": "debian",
        "env": [{"name": "DB", "value": known["environment of a worker"]}, {"name": "OTTO_PIPELINE_ID", "value": "nightly-of-2026"}],
        "command": ["sh", "-c", f"curl {known['a command']}"],
        "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "X-Who", "value": known["a header of a probe"]}]}},
    }
    volumes = [{"name": "v", "csi": {"driver": "x", "volumeAttributes": {"who": known["a volume"]}}}]
    spec = {"containers": [container], "volumes": volumes, "schedulingGates": [{"name": "tests/hands-off"}]}
    ended = {"name": "worker", "state": {"terminated": {"exitCode": 1, "message": known["last words"]}}}
    release.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"containerStatuses": [ended]}})
    maps = {"a.conf": known["a config map"]}
    release.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": maps})
    release.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "stringData": {"a": known["a secret"]}})
    said = url.format(known["a stage's message"])
    stages = [{"stageId": "build", "state": "Failed", "message": f"can't clone {said}"}]
    release.run("nightly", {"state": "Failed", "memory": {"state": known["what a run was stored with"]}, "stages": stages},
                annotations={"who": known["an annotation of a run"]})  # fmt: skip
    there = release.get("ottoscaler.io/v1alpha1", "PipelineRun", "nightly")
    release.put(
        {**there, "spec": {"stages": [{"config": {"TOKEN": known["what a run is"]}}]}, "record": known["what a run was stored with"]}
    )
    about = {"kind": "Pod", "name": "otto-w-1"}
    words = f"pulled with password={json.dumps(known['an event'])}"
    release.put(
        {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": about, "type": "Warning", "message": words}
    )
    deployment = release.get("apps/v1", "Deployment", "otto-ottoscaler-scaler")
    service = deployment["spec"]["template"]["spec"]["containers"][0]
    service["env"] += [
        {"name": "COMPANY", "value": known["environment of a service"]},
        {"name": "OTTO_OTLP_ENDPOINT", "value": "https://bob:{}@collector:4317".format(known["a setting"])},
        {"name": "SAID", "value": known["a variable that a log has too"]},
    ]
    release.put(deployment)
    log = release.cluster.log("otto-ottoscaler-scaler-0", "scaler", NAMESPACE)
    log.write("cloning " + url.format(known["a URL in a log"]))
    log.write(json.dumps({"event": "asked", "headers": {"authorization": f"Bearer {known['a header in a log']}"}}))
    log.write(f"by {known['a variable that a log has too']} in vain")
    log.write("scaler.started")


async def bundle(release: FakeRelease, path: Path, *arguments: str) -> tuple[int, str]:
    """Writes one of the release; exit code and what was said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "--address", "127.0.0.1:9", "support-bundle", "--file", str(path), *arguments,
        "--kubeconfig", str(release.kubeconfig), "--namespace", NAMESPACE,
        env={**os.environ, "HOME": str(path.parent)}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    assert process.returncode is not None
    return process.returncode, said


async def test_no_secret_is_in_it(release: FakeRelease, tmp_path: Path) -> None:
    """Planted in every place there is, none is found in any form; what was not secret is there. Secrets are never asked for."""
    plant(release)
    path = tmp_path / "b.tar.gz"
    code, said = await bundle(release, path)
    assert code == 0, said
    assert leaks(path, PLANTED) == []
    assert leaks(path, {"to be sure": "scaler.started"}) != []
    assert all(secret not in said for secret in PLANTED.values())
    assert [asked for asked in release.cluster.requests if "/secrets" in asked.path] == []
    found = files(path)
    (worker,) = data(found, "cluster/workers.json")
    assert worker["metadata"]["annotations"]["ottoscaler.io/pipeline-id"] == "nightly-of-2026"
    assert {"name": "DB", "value": "***"} in worker["spec"]["containers"][0]["env"]
    (run,) = data(found, "cluster/runs.json")
    assert run["status"]["stages"][0]["message"] == "can't clone https://***@git.example.com/a.git"
    assert "spec" not in run
    assert run["pipelineId"] == "nightly"
    log = found["cluster/logs/otto-ottoscaler-scaler-0.log"].decode()
    assert "cloning https://***@git.example.com/a.git" in log
    assert "by *** in vain" in log
    assert {"metadata", "sizes"} == set(data(found, "cluster/configmaps.json")[0])


async def test_what_it_holds(release: FakeRelease, tmp_path: Path) -> None:
    """Everything that helps, each file named in the manifest with its size; the file is its owner's alone, and nothing else is left."""
    release.run("nightly", {"state": "Running"})
    path = tmp_path / "b.tar.gz"
    code, said = await bundle(release, path)
    assert code == 0, said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith((".b", "b"))] == ["b.tar.gz"]
    found = files(path)
    manifest = data(found, "MANIFEST.json")
    assert {entry["name"]: entry["bytes"] for entry in manifest["files"]} == {
        name: len(content) for name, content in found.items() if name != "MANIFEST.json"
    }
    kinds = {"deployments", "statefulsets", "services", "leases", "events", "resourcequotas", "limitranges", "roles", "rolebindings"}
    names = {
        f"cluster/{name}.json" for name in (*kinds, "version", "pods", "workers", "runs", "configmaps", "crd", "persistentvolumeclaims")
    }
    names |= {f"cluster/settings/{service}.json" for service in SERVICES} | {"doctor.json"}
    names |= {f"cluster/metrics/otto-ottoscaler-{component}-0.txt" for component in (*SERVICES, "front-door")}
    assert names <= set(found)
    settings = data(found, "cluster/settings/scaler.json")
    assert settings["given"]["OTTO_SCALER_BACKEND"] == "kubernetes"
    assert settings["defaults"]["OTTO_SCALER_MAX_WORKERS"] == "100"
    assert "otto_relay_spool_disk_free_bytes" in found["cluster/metrics/otto-ottoscaler-log-relay-0.txt"].decode()
    assert [f["level"] for f in data(found, "doctor.json")["findings"] if f["check"] == "permissions"] == ["ok"]
    (run,) = data(found, "cluster/runs.json")
    assert (run["metadata"]["name"], run["status"]["state"]) == ("nightly", "Running")
    assert {"services/health.json", "services/runs.json", "services/workers.json"} <= {one["name"] for one in manifest["missing"]}
    assert "missing" in said
    assert "look through it before you pass it on" in said


async def test_what_can_not_be_had_is_said(release: FakeRelease, tmp_path: Path) -> None:
    """Rights that are missing, and an API server that stops answering in the middle: the rest is there, in time."""

    def leases(asked: Asked) -> bool:
        return asked.path.endswith("/leases")

    def events(asked: Asked) -> bool:
        return asked.path.endswith("/events")

    release.cluster.faults.answer(403, message="leases is forbidden", times=None, when=leases)
    release.cluster.faults.stall(events)
    path = tmp_path / "b.tar.gz"
    code, said = await bundle(release, path, "--timeout", "8")
    assert code == 0, said
    missing = {one["name"]: one["why"] for one in data(files(path), "MANIFEST.json")["missing"]}
    assert "leases is forbidden" in missing["cluster/leases.json"]
    assert "not all of it came within 8 s (--timeout)" in missing["cluster"]
    assert "cluster/pods.json" in files(path)


async def test_it_is_bounded(release: FakeRelease, tmp_path: Path) -> None:
    """What finds no room is left out and named; of a long log the end is kept."""
    log = release.cluster.log("otto-ottoscaler-scaler-0", "scaler", NAMESPACE)
    for number in range(40):
        log.write(f"{number:04} " + "words " * 10_000)
    path = tmp_path / "b.tar.gz"
    code, said = await bundle(release, path, "--max-size", "1")
    assert code == 0, said
    manifest = data(files(path), "MANIFEST.json")
    assert sum(entry["bytes"] for entry in manifest["files"]) <= 1 << 20
    assert (
        "found no room in the 1 MiB"
        in {one["name"]: one["why"] for one in manifest["missing"]}["cluster/logs/otto-ottoscaler-scaler-0.log"]
    )


async def test_no_cluster_is_no_reason_for_no_bundle(release: FakeRelease, tmp_path: Path) -> None:
    """The API server is gone: what doctor says about that is what is in it."""
    await release.cluster.stop()
    path = tmp_path / "b.tar.gz"
    code, said = await bundle(release, path)
    assert code == 0, said
    found = files(path)
    assert data(found, "doctor.json")["findings"][0]["level"] == "fail"
    assert "cluster" in {one["name"] for one in data(found, "MANIFEST.json")["missing"]}


async def test_a_bundle_that_can_not_be_written_leaves_nothing(release: FakeRelease, tmp_path: Path) -> None:
    """A directory that is not there is said, with ottoctl's exit code for a wrong file."""
    code, said = await bundle(release, tmp_path / "nowhere" / "b.tar.gz")
    assert code == 2
    assert "No such file or directory" in said
