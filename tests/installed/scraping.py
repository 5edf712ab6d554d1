"""A release that is scraped by a Prometheus of this machine, which can't find pods itself and reaches them through the API server."""

import base64
import json
import re
import secrets
from pathlib import Path
from typing import Any

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy

from ..patient_clients import Clients
from .installation import Installation, said

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


def scraped(directory: Path, here: Installation, described: dict[str, Any]) -> dict[str, Any]:
    """A job that would find pods in a cluster, for the same pods from outside of it; what it relabels stays as it is."""
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
        "static_configs": _found(here),
        "relabel_configs": [*described["relabel_configs"], *through],
    }


def _found(here: Installation) -> list[dict[str, Any]]:
    """All ports of all pods of the namespace, labelled as Prometheus's own look for pods does it, which Debian's build does without."""

    def name(kind: str, label: str) -> str:
        return f"__meta_kubernetes_pod_{kind}_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}"

    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                "__meta_kubernetes_namespace": here.namespace,
                "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                "__meta_kubernetes_pod_phase": pod["status"]["phase"],
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                "__meta_kubernetes_pod_container_port_number": str(port["containerPort"]),
                **{name("label", label): value for label, value in pod["metadata"]["labels"].items()},
                **{name("labelpresent", label): "true" for label in pod["metadata"]["labels"]},
                **{name("annotation", label): value for label, value in pod["metadata"]["annotations"].items()},
            },
        }
        for pod in json.loads(here.kubectl("get", "pods", "--output", "json"))["items"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]
