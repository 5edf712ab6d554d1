"""Tests on a real cluster: which one they act on, and what they leave when they fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = """#!/bin/sh
echo "$KUBECONFIG" >> {calls}
case "$*" in
*--output=name) echo pod/one ;;
*restartCount*) printf "pod/one " ;;
*get*|*describe*|*logs*) echo "here are: $*" ;;
*) exit 1 ;;
esac
"""
FAILING = """
import pytest
from tests import cluster_report

@pytest.fixture
def namespace():
    with cluster_report.reported("given"):
        yield

def test_with_a_namespace(namespace):
    raise AssertionError

def test_that_makes_one():
    with cluster_report.reported("made"):
        raise AssertionError

def test_that_is_well(namespace):
    pass
"""

pytestmark = pytest.mark.slow  # pytest in a process of its own


def ran(tmp_path: Path, *arguments: str, **environ: str) -> tuple[str, set[str]]:
    """What pytest says, and the KUBECONFIGs with which it had kubectl and helm called, which are ours."""
    calls, tools = tmp_path / "calls", tmp_path / "bin"
    tools.mkdir()
    for name in ("kubectl", "helm"):
        (tools / name).write_text(KUBECTL.format(calls=calls))
        (tools / name).chmod(0o755)
    (images := tmp_path / "images.yaml").touch()
    clean = {name: value for name, value in os.environ.items() if name != "OTTO_TEST_KUBECONFIG"}
    clean["PATH"] = f"{tools}:{clean['PATH']}"
    settings = {"KUBECONFIG": "mine", "OTTO_TEST_IMAGES": str(images), "OTTO_TEST_REPORTS": str(tmp_path / "reports"), **environ}
    command = [sys.executable, "-m", "pytest", "-rA", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**clean, **settings}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, set(calls.read_text().splitlines()) if calls.exists() else set()


INSTALLED = ("-m", "cluster", "tests/installed/test_kubectl.py::test_helm_test")


def test_the_cluster_that_is_named_is_the_only_one_they_reach(tmp_path: Path) -> None:
    """Whatever kubectl and helm would reach by themselves, a release is installed where OTTO_TEST_KUBECONFIG says."""
    assert ran(tmp_path, *INSTALLED, OTTO_TEST_KUBECONFIG="named")[1] == {"named"}


def test_where_none_is_named_nothing_is_done(tmp_path: Path) -> None:
    """Somebody's own cluster is no place for tests."""
    words, reached = ran(tmp_path, *INSTALLED)
    assert reached == set()
    assert "OTTO_TEST_KUBECONFIG names no cluster" in words


def test_a_test_that_fails_leaves_a_report_of_its_namespaces(tmp_path: Path) -> None:
    """Nodes, objects, events, pods, runs and logs, those from before a restart too, in a file each, which pytest names."""
    (test := tmp_path / "test_failing.py").write_text(FAILING)
    own = ("-c", os.devnull, "--rootdir", str(tmp_path), "-p", "tests.conftest", str(test))
    words, reached = ran(tmp_path, *own, OTTO_TEST_KUBECONFIG="named")
    assert reached == {"named"}
    left = sorted((tmp_path / "reports").iterdir())
    assert [path.name for path in left] == ["test_that_makes_one-made.txt", "test_with_a_namespace-given.txt"]
    for path, namespace in zip(left, ("made", "given"), strict=True):
        assert str(path) in words
        parts = path.read_text().split("##### ")[1:]
        assert [part.splitlines()[0] for part in parts] == [
            *("nodes", "objects", "events", "pods", "runs", "logs of pod/one", "logs of pod/one before it restarted")
        ]
        assert all(f"--namespace={namespace} " in part for part in parts)
