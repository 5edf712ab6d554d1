"""The chart as helm renders it, for the tests of this directory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CHART = ROOT / "charts/ottoscaler"
VALUES = Path(__file__).parent / "values"
SETS = ("default", "small", "gateway", "everything")
RELEASE = ("otto", str(CHART), "--namespace", "ci")
Object = dict[str, Any]


class RefusedError(Exception):
    """helm does not render these values; the text is its own."""


def helm(command: str, *arguments: str, given: str = "") -> str:
    """What a helm command prints, `given` on its standard input. Raises RefusedError with what it says against it."""
    done = subprocess.run([str(BIN / "helm"), command, *arguments], input=given, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RefusedError(done.stdout + done.stderr)
    return done.stdout


def flags(name: str) -> list[str]:
    """The arguments that choose a value set; the default one is what `helm install` takes."""
    return [] if name == "default" else ["--values", str(VALUES / f"{name}.yaml")]


def text(name: str = "default", *arguments: str) -> str:
    """The rendered chart of release `otto` in namespace `ci`."""
    return helm("template", *RELEASE, *flags(name), *arguments)


def objects(name: str = "default", *arguments: str) -> list[Object]:
    """Its objects."""
    return [document for document in yaml.safe_load_all(text(name, *arguments)) if document]


def with_values(values: dict[str, Any], name: str = "default") -> list[Object]:
    """The objects with some values set, as `--set-json` takes them."""
    return objects(name, *(argument for key, value in values.items() for argument in ("--set-json", f"{key}={json.dumps(value)}")))


def one(found: list[Object], kind: str, component: str) -> Object:
    """The only object of its kind that belongs to a component."""
    (only,) = (
        thing for thing in found if thing["kind"] == kind and thing["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    return only


def resources(rule: Object) -> list[str]:
    """What a rule of a Role is about, as kubectl names it: with its group where the plain name is another kind's."""
    group = ".metrics.k8s.io" if "metrics.k8s.io" in rule["apiGroups"] else ""
    return [f"{name}{group}" for name in rule["resources"]]


def workload(found: list[Object], component: str) -> Object:
    """The Deployment or StatefulSet of a component."""
    return one(found, "StatefulSet" if component == "log-relay" else "Deployment", component)


def environment(found: list[Object], component: str, pod_ip: str = "10.0.0.7") -> dict[str, str]:
    """The environment of a service of ours in a pod of that address; what else comes from somewhere else has the empty string."""
    container = workload(found, component)["spec"]["template"]["spec"]["containers"][0]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names)), f"{component} has a variable twice"
    return {variable["name"]: variable.get("value", "").replace("$(POD_IP)", pod_ip) for variable in container["env"]}
