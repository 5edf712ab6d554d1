"""Tilt: a cluster that follows the files that are worked on, as CONTRIBUTING.md tells it."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..cluster_report import reported
from ..quick import QUICK
from . import tilt as tilts
from .installation import ROOT, said
from .tilt import READY_SECONDS, SEEN_SECONDS, Tilt

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def program() -> str:
    """Where it is."""
    return tilts.program()


@pytest.fixture
def tilt(program: str, tmp_path: Path) -> Tilt:
    """Nothing is started yet."""
    return tilts.copied(program, tmp_path)


@pytest.fixture
def removed(tilt: Tilt) -> Iterator[None]:
    """In the end all is gone."""
    with reported(tilt.namespace):
        yield
    tilts.taken_down(tilt)


@pytest.mark.long
@pytest.mark.usefixtures("removed")
def test_tilt_ci_ends_green_and_what_is_saved_runs_in_its_pod(tilt: Tilt) -> None:
    """Everything is built, installed and ready, and `ottoctl doctor` finds nothing wrong with it; then Tilt follows the files.

    The line of CONTRIBUTING that changes something does so in the pod that runs; a change of what is installed gives each another.
    """
    assert tilt.started("ci").wait(READY_SECONDS) == 0, tilt.told("ci")
    assert "doctor" in tilt.told("ci")
    with tilts.following(tilt):
        follows(tilt)


def follows(up: Tilt) -> None:
    """What is saved runs where it belongs."""
    before = up.pods()
    assert up.first_words() == "accepted: 1 stage"
    change = re.search(r"^sed -i .*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert change
    began = time.monotonic()
    subprocess.run(["sh", "-c", change[0]], cwd=up.checkout, check=True)
    up.until(lambda: up.first_words() == "taken: 1 stage", SEEN_SECONDS)
    print(f"seen {time.monotonic() - began:.1f} s after it was saved")
    assert up.pods() == before
    if QUICK:
        return  # what follows builds all that is installed, for every service
    with (up.checkout / "requirements.lock").open("a") as lock:
        lock.write("# another\n")
    up.until(lambda: all(up.pods().get(service, before[service])[0] != uid for service, (uid, _) in before.items()))
    up.until(lambda: up.first_words() == "taken: 1 stage", SEEN_SECONDS)


@pytest.mark.parametrize("context", ["prod", "kind-Production", "arn:aws:eks:eu-1:1:cluster/x"])
def test_a_cluster_that_may_be_in_production_is_refused(context: str, tilt: Tilt, tmp_path: Path) -> None:
    """Before anything is built or sent there."""
    config = tmp_path / "kubeconfig"
    config.write_text(said("kubectl", "config", "view", "--raw", "--minify"))
    current = said("kubectl", "config", "current-context").strip()
    said("kubectl", "--kubeconfig", str(config), "config", "rename-context", current, context)
    tilt.environ["KUBECONFIG"] = str(config)
    assert tilt.started("ci").wait(120) != 0
    assert f"kubectl reaches {context}: this is for Kind clusters" in tilt.told("ci")
    said("kubectl", "wait", "--for=delete", f"namespace/{tilt.namespace}", "--timeout=1s")
