"""Which images `make install` loads into the test cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from testcluster.kind import KUBELET  # noqa: E402  it is no package that is installed

FIRST, SECOND = "ottoscaler/scaler:1", "ottoscaler/log-relay:2"


@pytest.mark.parametrize(
    ("nodes", "loaded"),
    [
        (["a:1 " + FIRST, SECOND], {FIRST, SECOND}),
        ([f"{FIRST} {SECOND}", f"{SECOND} {FIRST} b:2"], set()),
        ([f"{FIRST} {SECOND}", SECOND], {FIRST}),
        ([FIRST + "2"], {FIRST, SECOND}),
    ],
    ids=["each on another node", "everywhere", "on one node alone", "another of a like name"],
)
def test_what_a_node_lacks_is_loaded(tmp_path: Path, nodes: list[str], loaded: set[str]) -> None:
    """An image is left out only if every node tells that it has it."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/load-images", tmp_path / "tools")
    images = tmp_path / ".cache/images"
    images.mkdir(parents=True)
    lines = [f'a: {{repository: {name.partition(":")[0]}, tag: "{name.partition(":")[2]}"}}\n' for name in (FIRST, SECOND)]
    (images / "values.yaml").write_text("".join(lines))
    (images / "workshop.yaml").write_text("")
    (tmp_path / "nodes").write_text("\n".join(nodes) + "\n")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text('#!/bin/sh\ncase "$*" in *kubectl*) cat nodes ;; *load*) echo "$*" >> loaded ;; *) exit 2 ;; esac\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run([tmp_path / "tools/load-images"], check=True, env=environment, timeout=60)
    told = (tmp_path / "loaded").read_text().splitlines() if (tmp_path / "loaded").exists() else []
    assert {line.split()[-1] for line in told} == loaded


def test_nodes_of_the_test_cluster_tell_all_of_their_images() -> None:
    """A kubelet leaves out all but 50 otherwise."""
    assert KUBELET["nodeStatusMaxImages"] == -1
