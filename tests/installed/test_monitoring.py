"""A real Prometheus that finds the pods of a release as docs/monitoring.md says, and answers what its alerts and the dashboard ask."""

import asyncio
import base64
import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy

from ..monitoring.prometheus import answered, needed, panels, prometheus, selectors
from ..patient_clients import Clients
from .conftest import Install
from .installation import CHART, RELEASE, ROOT, Installation, said

pytestmark = [needed, pytest.mark.cluster, pytest.mark.timeout(1500)]
FAULTS = re.compile(r"UNKNOWN|5\.\.|401|expired|otto_relay_handler|Calls that fail")
"""What has nothing to show where nothing is wrong, and there is no otto-handler: tests/monitoring has both."""


def pipeline(name: str, *stages: PipelineStage) -> PipelineRequest:
    return PipelineRequest(pipeline_id=f"{name}-{secrets.token_hex(4)}", stages=stages)


def stage(name: str, text: str, **fields: Any) -> PipelineStage:
    return PipelineStage(stage_id=name, command=["sh", "-c"], args=[text], **fields)


async def work(here: Installation) -> None:
    """Pipelines that go well and badly, one after the other, until it is cancelled."""
    clients = Clients(here)
    well = stage("build", "echo built", worker_count=3), stage("test", "echo tested", depends_on=["build"])
    ill = stage("broken", "exit 3", retry_policy=RetryPolicy(max_attempts=1))
    while True:
        await clients.run(pipeline("well", *well))
        await clients.run(pipeline("ill", ill))


def found(here: Installation) -> list[dict[str, Any]]:
    """All ports of all pods of the namespace, labelled as Prometheus's own look for pods does it, which Debian's build does without."""

    def name(kind: str, label: str) -> str:
        return f"__meta_kubernetes_pod_{kind}_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}"

    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                "__meta_kubernetes_namespace": here.namespace,
                "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                "__meta_kubernetes_pod_container_port_number": str(port["containerPort"]),
                **{name("label", label): value for label, value in pod["metadata"]["labels"].items()},
                **{name("annotation", label): value for label, value in pod["metadata"]["annotations"].items()},
            },
        }
        for pod in json.loads(here.kubectl("get", "pods", "--output", "json"))["items"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


def job(directory: Path, here: Installation) -> dict[str, Any]:
    """The job that the page describes, from outside of the cluster: pods are read through the API server."""
    page = (ROOT / "docs/monitoring.md").read_text()
    (text,) = re.findall(r"^```yaml\n(scrape_configs:\n  - job_name: kubernetes-pods.*?)^```", page, re.MULTILINE | re.DOTALL)
    (described,) = yaml.safe_load(text)["scrape_configs"]
    assert described.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    access = json.loads(said("kubectl", "config", "view", "--raw", "--minify", "--output", "json"))
    cluster, user = access["clusters"][0]["cluster"], access["users"][0]["user"]
    files = {"ca": cluster["certificate-authority-data"], "cert": user["client-certificate-data"], "key": user["client-key-data"]}
    for name, data in files.items():
        (directory / f"{name}.pem").write_bytes(base64.b64decode(data))
    through = [
        {
            "source_labels": ["__meta_kubernetes_namespace", "__meta_kubernetes_pod_name", "__meta_kubernetes_pod_container_port_number"],
            "regex": "(.+);(.+);(.+)",
            "replacement": "/api/v1/namespaces/$1/pods/$2:$3/proxy/metrics",
            "target_label": "__metrics_path__",
        },
        {"source_labels": ["pod"], "target_label": "instance"},
        {"replacement": cluster["server"].removeprefix("https://"), "target_label": "__address__"},
    ]
    return {
        **described,
        "scheme": "https",
        "tls_config": {f"{name}_file": str(directory / f"{name}.pem") for name in files},
        "static_configs": found(here),
        "relabel_configs": [*described["relabel_configs"], *through],
    }


async def test_a_prometheus_that_finds_pods_by_annotations_answers_for_a_release(installed: Install, tmp_path: Path) -> None:
    """All pods with metrics are found, front door and replicas too; every query has an answer for this release, and no alert fires."""
    here = installed("scaler.replicas=2", "executor.replicas=2", "scaler.settings.max_workers=2")
    on = ("--set", "metrics.rules.enabled=true", "--show-only", "templates/prometheus-rule.yaml")
    spec = yaml.safe_load(said("helm", "template", RELEASE, str(CHART), "--namespace", here.namespace, *on))["spec"]
    (rules := tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    alerts = {rule["alert"]: rule for rule in spec["groups"][0]["rules"]}
    wanted = selectors(alerts) | panels(here.namespace, RELEASE)
    working = asyncio.create_task(work(here), name="work")
    try:
        async with prometheus(tmp_path, job(tmp_path, here), rules, "2s") as server:
            await answered(server, {name: query for name, query in wanted.items() if not FAULTS.search(f"{name}{query}")})
            acting = await server.query("sum by (service) (otto_replica_acting)")
            assert {one["metric"]["service"]: one["value"][1] for one in acting} == {"scaler": "1", "pipeline-executor": "1"}
            targets = (await server.get("targets"))["activeTargets"]
            assert sorted(target["labels"]["app_kubernetes_io_component"] for target in targets) == [
                *("front-door", "log-relay", "pipeline-executor", "pipeline-executor", "scaler", "scaler")
            ]
            assert {target["health"] for target in targets} == {"up"}
            (group,) = (await server.get("rules"))["groups"]
            assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing" or rule["health"] != "ok"] == []
    finally:
        working.cancel()
        await asyncio.wait({working})
