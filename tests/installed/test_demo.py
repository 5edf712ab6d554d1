"""`make demo-cluster`: a pipeline of this repository as pods that have no way out of their cluster."""

import os
import subprocess

import pytest

from .installation import ROOT, WORKSHOP, Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_this_repository_is_looked_over_by_pods(installation: Installation) -> None:
    """Its script brings HEAD to the cluster through kubectl, shows the run to its end, and leaves nothing but the run there."""
    if not WORKSHOP.exists():
        pytest.skip(f"{WORKSHOP} is not there, so the image of workers has neither Git nor our packages: make install makes it")
    environ = {**os.environ, "NAMESPACE": installation.namespace}
    done = subprocess.run([ROOT / "tools/demo-cluster"], env=environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert f"Checkout | checked out {head}" in done.stdout
    for stage in ("prepare", "lint", "contract", "test", "build"):
        assert f" {stage}: COMPLETED" in done.stdout
    assert "ottoscaler_contracts-" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("cluster-")
    assert ": COMPLETED in " in done.stdout.splitlines()[-1]
    installation.kubectl("wait", "--for=delete", "pod", "--selector", "app.kubernetes.io/component=repository", "--timeout=60s")
