"""`make build deploy logs forward`, with a `python` that writes down what the cluster would be asked, for helm and kubectl to judge."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from otto_scaler.backends.kubernetes.marks import labels

from ..chart.rendering import BIN
from ..scaler.conftest import spec

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RECORDER = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open('asked', 'a'))\n"
SAID = {"ARGS", "MAKEFLAGS", "NAMESPACE", "PORT", "REGISTRY", "RELEASE", "USER_NAME"}
"""What those who run the tests may have told their own make."""
TO_CLUSTER = ["-m", "testcluster"]


def asked(directory: Path, *goals: str, **environ: str) -> list[list[str]]:
    """What `make` asks of `python` for these goals, in a directory that is like a checkout with images."""
    (directory / "tools").mkdir()
    for name in ("install", "load-images"):
        shutil.copy(ROOT / "tools" / name, directory / "tools")
    (directory / "charts").symlink_to(ROOT / "charts")
    images = directory / ".cache/images"
    images.mkdir(parents=True)
    (images / "values.yaml").write_text('scaler: {image: {repository: localhost/ottoscaler/scaler, tag: "1"}}\n')
    (images / "workshop.yaml").write_text("workers: {image: localhost/ottoscaler/workshop:1}\n")
    (directory / "bin").mkdir()
    (directory / "bin/python").write_text(RECORDER)
    (directory / "bin/python").chmod(0o755)
    known = {name: word for name, word in os.environ.items() if name not in SAID}
    recipes = subprocess.run(
        ["make", "--dry-run", "--silent", "--assume-old=setup", *goals],
        cwd=ROOT,
        env=known,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    environ = {**known, **environ, "PATH": f"{directory / 'bin'}:{known['PATH']}"}
    subprocess.run(["bash", "-euc", recipes.stdout], cwd=directory, env=environ, check=True, capture_output=True, timeout=60)
    return [json.loads(line) for line in (directory / "asked").read_text().splitlines()]


def run_there(words: list[str], program: str) -> list[str]:
    """The words of a program that is run on the cluster, which it knows all of."""
    assert words[:4] == [*TO_CLUSTER, "run", program]
    subprocess.run([BIN / program, *words[4:], "--help"], check=True, capture_output=True, timeout=60)
    return words[4:]


def value(words: list[str], flag: str) -> str:
    """What stands behind a flag."""
    return words[words.index(flag) + 1]


def rendered(directory: Path, install: list[str]) -> list[dict[str, Any]]:
    """What an installation with these words of `helm upgrade` consists of; the chart refuses values that it does not know."""
    command = [str(BIN / "helm"), "template", *(word for word in install[1:] if word not in {"--install", "--create-namespace", "--wait"})]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def templates(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods of its workloads."""
    return [each["spec"]["template"] for each in objects if each["kind"] in {"Deployment", "StatefulSet"}]


def selected(selector: str, found: dict[str, str]) -> bool:
    """Whether a selector takes these labels."""
    terms = [(name, wanted, name.endswith("!")) for name, _, wanted in (term.partition("=") for term in selector.split(","))]
    return all((found.get(name.rstrip("!")) == wanted) is not unwanted for name, wanted, unwanted in terms)


def test_what_is_built_is_installed_and_its_services_are_followed(tmp_path: Path) -> None:
    """Images, the CRDs, which helm never renews, the release with what was built; then the logs of all its containers and of no worker."""
    images, _, _, _, crds, install, logs = asked(tmp_path, "build", "deploy", "logs", "ARGS=--set scaler.replicas=2")
    assert images[:2] == ["tools/images.py", ".cache/images"]
    assert "--workshop" in images
    applied = run_there(crds, "kubectl")
    assert applied[0] == "apply"
    assert list((tmp_path / value(applied, "-f")).glob("*.yaml"))
    upgrade = run_there(install, "helm")
    assert upgrade[:4] == ["upgrade", "--install", "otto", "charts/ottoscaler"]
    pods = templates(rendered(tmp_path, upgrade))
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in pods}
    assert set(components) == {"scaler", "pipeline-executor", "log-relay", "front-door"}
    (scaler,) = components["scaler"]["spec"]["containers"]
    assert scaler["image"] == "localhost/ottoscaler/scaler:1"
    followed = run_there(logs, "kubectl")
    assert value(followed, "--namespace") == value(upgrade, "--namespace") == "ottoscaler"
    assert "logs" in followed
    assert "--follow" in followed
    assert all(selected(value(followed, "--selector"), pod["metadata"]["labels"]) for pod in pods)
    assert not selected(value(followed, "--selector"), labels(spec("a worker"), "otto"))
    with_two_of_each = 2 * sum(len(pod["spec"]["containers"]) for pod in pods)
    assert int(value(followed, "--max-log-requests")) >= with_two_of_each


def test_where_it_is_installed_and_with_what_can_be_said(tmp_path: Path) -> None:
    """NAMESPACE, RELEASE and ARGS."""
    *_, install, logs = asked(tmp_path, "deploy", "logs", "ARGS=--set scaler.replicas=2", NAMESPACE="mine", RELEASE="second")
    upgrade = run_there(install, "helm")
    objects = rendered(tmp_path, upgrade)
    (scaler,) = (each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "second-ottoscaler-scaler")
    assert (scaler["spec"]["replicas"], scaler["metadata"]["namespace"]) == (2, "mine")
    assert value(logs, "--namespace") == "mine"


def test_what_is_forwarded_is_the_front_door(tmp_path: Path) -> None:
    """By the labels of its pods, in the namespace and at the port that are said."""
    *_, install, forward = asked(tmp_path, "deploy", "forward", NAMESPACE="mine", PORT="9191")
    assert forward[:4] == [*TO_CLUSTER, "forward", "9191"]
    assert value(forward, "--namespace") == "mine"
    found = [pod["metadata"]["labels"] for pod in templates(rendered(tmp_path, run_there(install, "helm")))]
    chosen = [each["app.kubernetes.io/component"] for each in found if selected(value(forward, "--selector"), each)]
    assert chosen == ["front-door"]


@pytest.mark.parametrize("verb", ["setup", "remove"])
def test_a_user_has_a_name(verb: str) -> None:
    """It is handed on to tools/user, on the cluster; without one make says that it lacks it."""
    known = {name: word for name, word in os.environ.items() if name not in SAID}
    command = ["make", "--dry-run", "--silent", "--assume-old=setup", "--assume-old=clients", f"{verb}-user"]
    named = subprocess.run([*command, "USER_NAME=mia"], cwd=ROOT, env=known, check=True, capture_output=True, text=True, timeout=60)
    assert named.stdout.splitlines() == [f"PYTHONPATH=tools python -m testcluster run tools/user {verb} mia"]
    nobody = subprocess.run(command, cwd=ROOT, env=known, check=False, capture_output=True, text=True, timeout=60)
    assert f"{verb}-user needs USER_NAME=name" in nobody.stderr
