"""What tools/user makes for somebody: a Role with all that a release does, as nobody may give away more, and values that install one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ..chart.rendering import CHART, RELEASE, helm

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = """#!/bin/sh
case "$*" in
  *"--filename -"*) cat > applied ;;
  "config view "*) echo '{"clusters": [{"name": "kind", "cluster": {}}]}' ;;
  "create token "*) echo secret ;;
esac
"""
BUILT = ("values.yaml", "workshop.yaml")


def set_up(directory: Path, *, built: bool = True, ours: bool = True) -> subprocess.CompletedProcess[str]:
    """`tools/user setup mia` in a directory, with or without built images there, on the cluster of `make cluster-up` or on another."""
    (directory / "tools").mkdir()
    shutil.copy(ROOT / "tools/user", directory / "tools")
    (directory / "bin").mkdir()
    (directory / "bin/kubectl").write_text(KUBECTL)
    (directory / "bin/kubectl").chmod(0o755)
    (images := directory / ".cache/images").mkdir(parents=True)
    for name in BUILT if built else ():
        (images / name).touch()
    environment = {name: value for name, value in os.environ.items() if name != "OTTO_TEST_KUBECONFIG"}
    environment["PATH"] = f"{directory / 'bin'}:{environment['PATH']}"
    if ours:
        environment["OTTO_TEST_KUBECONFIG"] = "kubeconfig"
    return subprocess.run(
        [directory / "tools/user", "setup", "mia"], check=True, env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_role_holds_what_the_chart_gives_its_services(tmp_path: Path) -> None:
    """Each right of `files/rights.yaml` is in it; otherwise its owner could not install a release."""
    set_up(tmp_path)
    applied = yaml.safe_load_all((tmp_path / "applied").read_text())
    (rules,) = (each["rules"] for each in applied if each["kind"] == "Role")

    def held(group: str, resource: str, verb: str) -> bool:
        return any(
            group in rule["apiGroups"] and {resource, "*"} & set(rule["resources"]) and {verb, "*"} & set(rule["verbs"]) for rule in rules
        )

    rights = yaml.safe_load((ROOT / "charts/ottoscaler/files/rights.yaml").read_text())
    wanted = [(right["group"], right["resource"], verb) for service in rights.values() for right in service for verb in right["verbs"]]
    assert wanted
    assert [right for right in wanted if not held(*right)] == []


@pytest.mark.slow  # helm, which the pipeline of `make run` does without
def test_a_release_with_the_values_shares_files_and_can_be_forwarded_to(tmp_path: Path) -> None:
    """The chart takes them; runs have a storage class, and the front door has a node port that no other release has asked for."""
    set_up(tmp_path)
    rendered = helm("template", *RELEASE, "--values", str(tmp_path / ".cache/users/mia.values.yaml"))
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    (door,) = (each for each in objects if each["kind"] == "Service" and each["metadata"]["name"].endswith("front-door"))
    assert door["spec"]["type"] == "NodePort"
    assert ["nodePort" in port for port in door["spec"]["ports"]] == [False]
    (scaler,) = (each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("scaler"))
    environment = {each["name"]: each.get("value") for each in scaler["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["OTTO_SCALER_WORKSPACE_CLASS"] == "default"


@pytest.mark.parametrize(
    ("ours", "steps", "build"),
    [
        (True, ["make cluster-shell", "make forward NAMESPACE=otto-mia"], "make build"),
        (False, ["kubectl port-forward service/otto-ottoscaler-front-door 9090:9090"], "make images REGISTRY="),
    ],
    ids=["make cluster-up", "another cluster"],
)
def test_it_says_how_to_install_and_what_that_still_lacks(tmp_path: Path, ours: bool, steps: list[str], build: str) -> None:
    """With files that are there, but for those of the images, of which it says how they are made."""
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    told = set_up(tmp_path / "with", ours=ours)
    assert told.stderr == ""
    lines = [line.strip() for line in told.stdout.splitlines()]
    assert [step for step in steps if step not in lines] == []
    (install,) = (line.split() for line in lines if line.startswith("helm "))
    files = [install[place + 1] for place, word in enumerate(install) if word == "--values"]
    assert files == [".cache/users/mia.values.yaml", *(f".cache/images/{name}" for name in BUILT)]
    assert all((tmp_path / "with" / file).exists() for file in files)
    assert (ROOT / install[4]).samefile(CHART)
    assert build in set_up(tmp_path / "without", ours=ours, built=False).stderr
