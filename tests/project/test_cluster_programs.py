"""What `make cluster-up` needs of a machine, and what it says where that is missing."""

import os
import platform
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from testcluster import clients, place  # noqa: E402  it is no package that is installed
from testcluster.kind import Cluster  # noqa: E402
from testcluster.steps import ClusterError  # noqa: E402


def having(monkeypatch: pytest.MonkeyPatch, directory: Path, *names: str) -> Path:
    """A directory with programs of these names, all that is on the PATH."""
    directory.mkdir()
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    return directory


def test_where_the_pinned_clients_do_not_run_those_of_the_machine_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the cluster's shell as they are, in .venv/bin as links, also to newer ones where there are links already."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    own = having(monkeypatch, tmp_path / "own", "kubectl", "helm", "kind")
    environment = Cluster(place.of_this_checkout(), own=False).environment
    assert environment["PATH"] == str(own)
    target = tmp_path / "bin"
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (target, own))))
    for _ in range(2):
        clients.install(target)
        assert {link.name: link.readlink() for link in target.iterdir()} == {name: own / name for name in ("kubectl", "helm")}


def test_a_client_that_such_a_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what helps: a place on the PATH, not a directory that is ours."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    having(monkeypatch, tmp_path / "own", "kubectl", "kind")
    for asked in (lambda: Cluster(place.of_this_checkout(), own=False).environment, lambda: clients.install(tmp_path / "bin")):
        with pytest.raises(clients.NoClientsError, match=r"^helm can be fetched for Linux on x86-64 only: .* on the PATH$"):
            asked()


def test_without_go_it_is_said_what_does_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kind is built also where a Docker engine answers, unless it is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    having(monkeypatch, tmp_path / "own", "kubectl", "helm")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")  # whose clients are not fetched
    assert shutil.which("go") is None
    with pytest.raises(ClusterError, match=r"Go 1\.26 or later is needed .*: install it; .* kind on the PATH"):
        _ = Cluster(place.of_this_checkout(), own=False).environment
