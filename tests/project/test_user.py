"""What tools/user makes for somebody: a Role with all that a release does, as nobody may give away more, and values that install one."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

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
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> asked
case "$*" in
  *jsonpath=*) echo "$OWNER" ;;
  "get namespace "*) echo "$NAMESPACES" ;;
  "get pods "*) echo "$EXECUTORS" ;;
  "get pipelineruns "*) echo pipelinerun/left ;;
  "list "*) echo otto ;;
  "delete pipelineruns "*) exit "$STUCK" ;;
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


def removed(directory: Path, owner: str = "mia", executors: str = "pod/executor", stuck: bool = False) -> tuple[int, list[str], str]:
    """How `tools/user remove mia` ends, what it changes, and what it says; the namespace is there, made for somebody or for nobody."""
    (directory / "tools").mkdir()
    shutil.copy(ROOT / "tools/user", directory / "tools")
    (directory / "bin").mkdir()
    for program in ("kubectl", "helm"):
        (directory / "bin" / program).write_text(RECORDER)
        (directory / "bin" / program).chmod(0o755)
    (files := directory / ".cache/users").mkdir(parents=True)
    for name in ("mia.kubeconfig", "mia.values.yaml", "leo.kubeconfig"):
        (files / name).touch()
    cluster = {"OWNER": owner, "NAMESPACES": "namespace/otto-mia", "EXECUTORS": executors, "STUCK": str(int(stuck))}
    environment = {**os.environ, **cluster, "PATH": f"{directory / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [directory / "tools/user", "remove", "mia"], env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    asked = (directory / "asked").read_text().splitlines()
    assert all("--namespace otto-mia" in words or "namespace otto-mia" in words for words in asked)
    return done.returncode, [words for words in asked if words.split()[1] not in {"get", "list"}], done.stderr


STOP = "kubectl delete pipelineruns --namespace otto-mia --all --timeout 120s"
LET_GO = 'kubectl patch --namespace otto-mia --type merge --patch {"metadata": {"finalizers": []}} pipelinerun/left'
LEAVE = ["helm uninstall --namespace otto-mia --wait otto", "kubectl delete namespace otto-mia --timeout 180s"]


@pytest.mark.parametrize(
    ("cluster", "steps"),
    [
        ({}, [STOP, *LEAVE]),
        ({"executors": ""}, [LET_GO, *LEAVE]),
        ({"stuck": True}, [STOP, LET_GO, *LEAVE]),
    ],
    ids=["the executor ends runs", "no executor", "an executor that does not end them"],
)
def test_what_runs_is_ended_before_what_would_end_it_is_removed(tmp_path: Path, cluster: dict[str, Any], steps: list[str]) -> None:
    """Runs, then releases, then the namespace; and the files of this one only."""
    code, changes, _ = removed(tmp_path, **cluster)
    assert (code, changes) == (0, steps)
    assert [path.name for path in (tmp_path / ".cache/users").iterdir()] == ["leo.kubeconfig"]


def test_a_namespace_that_it_has_not_made_stays(tmp_path: Path) -> None:
    """Nothing is changed, and that is said."""
    code, changes, told = removed(tmp_path, owner="")
    assert (code, changes) == (1, [])
    assert "was not made by" in told
    assert len(list((tmp_path / ".cache/users").iterdir())) == 3


@pytest.mark.slow  # as above
def test_executors_are_looked_for_as_the_chart_labels_them(tmp_path: Path) -> None:
    """By a selector that one workload has."""
    removed(tmp_path)
    (pods,) = (words.split() for words in (tmp_path / "asked").read_text().splitlines() if words.startswith("kubectl get pods "))
    name, _, component = pods[pods.index("--selector") + 1].partition("=")
    workloads = [each for each in yaml.safe_load_all(helm("template", *RELEASE)) if each and each["kind"] in {"Deployment", "StatefulSet"}]
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in workloads]
    assert [each[name] for each in labels].count(component) == 1
