"""What tests on the real cluster share: a namespace each, and a report of it when they fail."""

import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from ..cluster_report import tell
from .kubectl import Namespace


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
        tell(outcome, item.name, [namespace.name])
    return outcome
