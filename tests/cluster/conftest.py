"""What tests on the real cluster share: a namespace each, and a report of it when they fail."""

import os
import re
import subprocess
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .kubectl import Namespace, report

REPORTS = Path(__file__).resolve().parents[2] / ".reports"


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """The cluster's kubeconfig; tests reach its addresses too, because `make test-cluster` runs them inside its network namespace."""
    given = os.environ.get("OTTO_TEST_KUBECONFIG", "")
    if not given:
        pytest.fail("OTTO_TEST_KUBECONFIG names no cluster: `make cluster-up`, then `make test-cluster`", pytrace=False)
    return Path(given)


@pytest.fixture
def namespace(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """A fresh namespace that takes only pods of the "restricted" profile; it is deleted afterwards."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    made = Namespace(f"test-{uuid.uuid4().hex[:8]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.name, "labels": labels}})
    try:
        yield made
    finally:
        made.kubectl("delete", "namespace", made.name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails leaves a report of its namespace, written before that is deleted."""
    outcome = yield
    namespace = getattr(item, "funcargs", {}).get("namespace")
    if outcome.when == "call" and outcome.failed and isinstance(namespace, Namespace):
        REPORTS.mkdir(exist_ok=True)
        path = REPORTS / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', item.name)}.txt"
        try:
            path.write_text(report(namespace))
        except (OSError, subprocess.SubprocessError) as error:
            outcome.sections.append(("cluster", f"what was in namespace {namespace.name} could not be written to {path}: {error}"))
        else:
            outcome.sections.append(("cluster", f"what was in namespace {namespace.name}: {path}"))
    return outcome
