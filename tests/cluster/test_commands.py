"""What `make` offers beside a running cluster: how it stands, a shell that reaches it, an image of one's own."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from .kubectl import IMAGE, Namespace, pod

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from testcluster import place  # noqa: E402 - tools/ is no package of the project's environment
from testcluster.images import base  # noqa: E402

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def ours(kubeconfig: Path) -> None:
    """The cluster is that of this checkout, which these commands are about."""
    if kubeconfig != place.of_this_checkout().kubeconfig:
        pytest.skip("these commands are about this checkout's own cluster")


def made(*words: str, stdin: str = "", **variables: str) -> str:
    """What make printed."""
    command = ["make", "--no-print-directory", *words]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def nodes() -> list[str]:
    """As the cluster knows them."""
    listed = subprocess.run(["kubectl", "get", "nodes", "--output=json"], capture_output=True, timeout=60, check=True)
    return [node["metadata"]["name"] for node in json.loads(listed.stdout)["items"]]


@pytest.mark.usefixtures("ours")
def test_status_tells_how_to_reach_it_and_what_runs_there(kubeconfig: Path) -> None:
    """The file that leads there, every node, and the pods of all namespaces."""
    told = made("cluster-status")
    assert str(kubeconfig) in told
    assert all(f"node/{name}" in told for name in nodes())
    assert "pod/coredns-" in told


@pytest.mark.usefixtures("ours")
def test_a_shell_has_what_reaches_it() -> None:
    """Also from outside of its network: kubectl, kind and helm on the PATH, each with this cluster in mind."""
    script = "kubectl get nodes --output name && kind get clusters && helm list --all-namespaces && exit 0"
    without = {"KUBECONFIG": "", "OTTO_TEST_KUBECONFIG": "", "DOCKER_HOST": ""}
    told = made("cluster-shell", stdin=script, SHELL="/bin/sh", **without)
    assert all(f"node/{name}" in told for name in nodes())
    assert place.of_this_checkout().name in told.splitlines()
    assert "NAMESPACE" in told


@pytest.mark.usefixtures("ours")
def test_an_image_of_the_engine_or_of_an_archive_runs_in_a_pod(namespace: Namespace, tmp_path: Path) -> None:
    """Both ways, and what is missing is said."""
    names = [f"test-load-{uuid.uuid4().hex[:8]}:latest" for _ in range(2)]
    subprocess.run(["docker", "load", "--quiet", "--input", base()], capture_output=True, timeout=120, check=True)
    archive = tmp_path / "image.tar"
    try:
        for name in names:
            subprocess.run(["docker", "tag", IMAGE, name], timeout=60, check=True)
        subprocess.run(["docker", "save", "--output", archive, names[1]], timeout=120, check=True)
        made("cluster-load", f"IMAGE={names[0]}")
        made("cluster-load", f"ARCHIVE={archive}")
        for number, name in enumerate(names):
            one = pod(f"one-{number}", "echo loaded")
            one["spec"]["containers"][0] |= {"image": name, "imagePullPolicy": "Never"}
            namespace.create(one)
            namespace.ended(f"one-{number}", "Succeeded")
            assert namespace.logs(f"one-{number}") == "loaded\n"
    finally:
        subprocess.run(["docker", "rmi", *names], capture_output=True, timeout=60, check=False)
        for node in nodes():
            subprocess.run(["docker", "exec", node, "crictl", "rmi", *names], capture_output=True, timeout=60, check=False)

    done = subprocess.run(
        ["make", "cluster-load", "ARCHIVE=missing.tar"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode
    assert "ARCHIVE=missing.tar: no such file" in done.stderr
