"""Which engine `make images` builds with."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER, DEAD, PODMAN, BUILDAH = {"docker": 0}, {"docker": 1}, {"podman": 0}, {"buildah": 0}


@pytest.mark.parametrize(
    ("there", "named", "chosen"),
    [
        (DOCKER | PODMAN | BUILDAH, "", "docker"),
        (DEAD | PODMAN | BUILDAH, "", "podman"),
        (DEAD | BUILDAH, "", "buildah"),
        (BUILDAH, "", "buildah"),
        (DOCKER | BUILDAH, "buildah", "buildah"),
        (DEAD, "", "neither docker (with an engine that answers) nor podman nor buildah is here"),
    ],
    ids=["all", "no engine behind docker", "nor podman", "buildah alone", "named", "none"],
)
def test_the_first_that_works_builds(tmp_path: Path, there: dict[str, int], named: str, chosen: str) -> None:
    """Docker only where its engine answers, then podman, then buildah; ENGINE decides. Without any it is said what to do."""
    for program, code in there.items():
        (tmp_path / program).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / program).chmod(0o755)
    script = "import images\ntry: print(images.engine())\nexcept images.BuildError as error: print(error)"
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "tools"), "ENGINE": named}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(chosen)


@pytest.mark.parametrize("program", ["docker", "podman", "buildah"])
def test_an_image_is_known_by_the_id_that_its_engine_writes(tmp_path: Path, program: str) -> None:
    """Docker's client removes the file that it is to write the id into, and puts another one there."""
    script = 'while [ "$1" != --iidfile ]; do shift; done; rm -f "$2"; echo sha256:0123abcd > "$2.new"; mv "$2.new" "$2"\n'
    (tmp_path / program).write_text(f"#!/bin/sh\n{script}")
    (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHONPATH": str(ROOT / "tools")}
    build = f"import images\nprint(images.built({program!r}, 'base', 'scaler'))"
    done = subprocess.run([sys.executable, "-c", build], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0123abcd\n"


@pytest.mark.parametrize(("program", "squash"), [("podman", "--squash-all"), ("buildah", "--squash")])
def test_an_archive_is_built_on_as_one_layer(tmp_path: Path, program: str, squash: str) -> None:
    """Both commit no image on one whose history tells of fewer layers than it has, as archives that were not built do."""
    said = 'case $1 in inspect) exit 1 ;; esac\nfor last; do :; done\ncat "$last/Dockerfile" > dockerfile\necho " $* " > arguments\n'
    (tmp_path / program).write_text(f"#!/bin/sh\ncd {tmp_path}\n{said}")
    (tmp_path / program).chmod(0o755)
    (tmp_path / "base.tar").write_text("layers")
    archive = f"docker-archive:{tmp_path / 'base.tar'}"
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHONPATH": str(ROOT / "tools"), "BASE": archive}
    script = f"import images\nprint(images.base({program!r}))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True)
    name = done.stdout.strip()
    assert name.startswith("localhost/ottoscaler-base:")
    assert (tmp_path / "dockerfile").read_text() == f"FROM {archive}\n"
    assert f" {squash} " in (tmp_path / "arguments").read_text()
    assert f" --tag {name} " in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("tag", ["595279198725", "1234e5678901", "0"])
def test_a_tag_that_looks_like_a_number_is_one_to_nobody(tag: str) -> None:
    """A tag is the beginning of a hash, so now and then of digits alone; the chart takes nothing but texts."""
    script = f"import images\nprint(images.values([images.Image('scaler', 'host:5000/scaler:{tag}', 0.0)]))"
    environment = {"PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert yaml.safe_load(done.stdout) == {"scaler": {"image": {"repository": "host:5000/scaler", "tag": tag}}}
