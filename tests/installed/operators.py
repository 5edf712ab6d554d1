"""Somebody else's operators while a test runs: their kinds in the cluster, themselves processes of this machine."""

import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .cluster_nodes import UNTIL_SECONDS, get
from .installation import said


@contextmanager
def kinds(directory: Path, groups: Collection[str]) -> Iterator[None]:
    """Those of a directory's files are there, which are all of these API groups. Skips the test where the cluster has some already."""
    if there := _there(groups):
        pytest.skip(f"this cluster has kinds already: {', '.join(there)}")
    files = ("--filename", str(directory))
    try:
        said("kubectl", "create", *files)
        said("kubectl", "wait", "--for=condition=Established", f"--timeout={UNTIL_SECONDS}s", *files)
        yield
    finally:
        said("kubectl", "delete", "--ignore-not-found", f"--timeout={UNTIL_SECONDS}s", *files)
    assert not _there(groups)


@contextmanager
def beside(*command: str | Path, log: Path) -> Iterator[None]:
    """A process of this machine does its work; what it says is in `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _there(groups: Collection[str]) -> list[str]:
    found = get("customresourcedefinitions")["items"]
    return [kind["metadata"]["name"] for kind in found if kind["spec"]["group"] in groups]
