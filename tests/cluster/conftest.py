"""What tests on the real cluster share: a namespace each."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..cluster_report import reported
from .kubectl import Namespace


@pytest.fixture
def namespace(kubeconfig: Path) -> Iterator[Namespace]:
    """A fresh namespace that takes only pods of the "restricted" profile; it is deleted afterwards."""
    made = Namespace(f"test-{uuid.uuid4().hex[:8]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.name, "labels": labels}})
    try:
        with reported(made.name):
            yield made
    finally:
        made.kubectl("delete", "namespace", made.name, "--wait=false")
