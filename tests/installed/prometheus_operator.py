"""Prometheus's operator while a test runs: its kinds in the cluster, itself a process of this machine that knows one namespace."""

import gzip
import json
import os
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from .cluster_nodes import UNTIL_SECONDS, built, get, until
from .installation import Installation, said

GROUP = "monitoring.coreos.com"
NAME = "monitored"
"""Of the Prometheus that tests ask it for."""


@contextmanager
def kinds() -> Iterator[Path]:
    """Its kinds are there; where it is itself. Skips the test where there are some already."""
    if there := _there():
        pytest.skip(f"this cluster has kinds of {GROUP} already: {', '.join(there)}")
    directory = built("prometheus-operator")
    files = ("--filename", str(directory / "crds"))
    try:
        said("kubectl", "create", *files)
        said("kubectl", "wait", "--for=condition=Established", f"--timeout={UNTIL_SECONDS}s", *files)
        yield directory / "operator"
    finally:
        said("kubectl", "delete", "--ignore-not-found", f"--timeout={UNTIL_SECONDS}s", *files)
    assert not _there()


@contextmanager
def operating(operator: Path, kubeconfig: Path, here: Installation, log: Path) -> Iterator[None]:
    """It does its work in the namespace of a release."""
    options = [f"--namespaces={here.namespace}", "--kubelet-endpoints=false", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as output:
        process = subprocess.Popen([operator, *options], stdout=output, stderr=output, env={**os.environ, "KUBECONFIG": str(kubeconfig)})
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def configured(here: Installation, spec: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The configuration that it makes for a Prometheus with this `spec`, as that one's pod has it; its rule files go into `directory`."""
    asked = {"apiVersion": f"{GROUP}/v1", "kind": "Prometheus", "metadata": {"name": NAME}, "spec": {"replicas": 0, **spec}}
    here.kubectl("apply", "--filename", "-", stdin=json.dumps(asked))
    until(lambda: bool(here.kubectl("get", "statefulset", f"prometheus-{NAME}", "--ignore-not-found", "--output", "name")))  # comes last
    directory.mkdir()
    rules = f"prometheus-{NAME}-rulefiles-0"
    for name, text in get("configmap", rules, "--namespace", here.namespace)["data"].items():
        (directory / name).write_text(text)
    secret = get("secret", f"prometheus-{NAME}", "--namespace", here.namespace)["data"]
    text = gzip.decompress(b64decode(secret["prometheus.yaml.gz"])).decode()
    # what its reloader, beside the Prometheus, puts in
    text = text.replace("$(POD_NAME)", f"prometheus-{NAME}-0").replace("$(SHARD)", "0")
    found: dict[str, Any] = yaml.safe_load(text.replace(f"/etc/prometheus/rules/{rules}", str(directory)))
    return found


def _there() -> list[str]:
    kinds = get("customresourcedefinitions")["items"]
    return [kind["metadata"]["name"] for kind in kinds if kind["spec"]["group"] == GROUP]
