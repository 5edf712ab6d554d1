"""Prometheus's operator while a test runs: its kinds in the cluster, itself a process of this machine that knows one namespace."""

import gzip
import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from ..outside import built
from .cluster_nodes import get, until
from .installation import Installation
from .operators import beside, kinds

GROUP = "monitoring.coreos.com"
NAME = "monitored"
"""Of the Prometheus that tests ask it for."""


@contextmanager
def operator() -> Iterator[Path]:
    """Its kinds are there; where it is itself."""
    directory = built("prometheus-operator")
    with kinds(directory / "crds", {GROUP}):
        yield directory / "operator"


def operating(program: Path, here: Installation, log: Path) -> AbstractContextManager[None]:
    """It does its work in the namespace of a release."""
    options = [f"--namespaces={here.namespace}", "--kubelet-endpoints=false", "--web.listen-address=127.0.0.1:0"]
    return beside(program, *options, log=log)


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
