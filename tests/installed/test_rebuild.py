"""What a change of code costs those who build images: one layer, made without a network; and what is built twice is the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ..quick import unless_quick
from .installation import IMAGES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import images  # noqa: E402 - tools/ is no package of the project's environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Podman or buildah, in a network namespace of its own with nothing in it."""
    found = images.engine()
    if found == "docker":
        pytest.skip("Docker builds in its engine, whose network is not ours to take away")
    if os.geteuid() != 0:
        pytest.skip("only root can take the network away from a build")
    (tmp_path / "bin").mkdir()
    apart = tmp_path / "bin" / found
    apart.write_text(f'#!/bin/sh\nexec unshare --net {shutil.which(found)} "$@"\n')
    apart.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apart.parent}:{os.environ['PATH']}")
    return found


@pytest.fixture
def base(program: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the images of this checkout are built on."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tools"))
    return images.base(program)


def copied(directory: Path) -> Path:
    """The files of this checkout that images are made of, as if they had just been fetched."""
    listed = ["git", "ls-files", "-z", "requirements.lock", ".dockerignore", "libs", "services"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, directory / name)
        shutil.copymode(ROOT / name, directory / name)
    return directory


def layers(program: str, image: str) -> list[str]:
    """An image's layers by their digests."""
    words = ["--type", "image"] if program == "buildah" else []
    told = json.loads(images.said(program, "inspect", *words, image))
    found: list[str] = told["OCIv1"]["rootfs"]["diff_ids"] if program == "buildah" else told[0]["RootFS"]["Layers"]
    return found


def test_a_change_of_code_makes_one_layer_anew_without_a_network(
    program: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line more in a service that `make images` has built: Debian, Python's library and the packages are the same layers."""
    chosen = yaml.safe_load(IMAGES.read_text())["scaler"]["image"]
    before = layers(program, f"{chosen['repository']}:{chosen['tag']}")
    monkeypatch.setattr(images, "ROOT", copied(tmp_path / "changed"))
    with (tmp_path / "changed/services/scaler/src/otto_scaler/__main__.py").open("a") as code:
        code.write("# changed\n")
    changed = images.built(program, base, "scaler")
    try:
        after = layers(program, changed)
    finally:
        images.said(program, "rmi", changed)
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


@pytest.mark.long
@unless_quick
def test_what_is_built_twice_is_the_same_layer_by_layer(program: str, base: str, tmp_path: Path) -> None:
    """Python's library and our code, compiled once more from other copies of the same files, nothing out of a cache."""
    told = []
    for name in ("first", "second"):
        command = [program, "build", "--no-cache", "--layers=false", "--format", "docker", "--timestamp", "0", "--network", "host"]
        command += ["--isolation", "chroot", "--build-arg", f"BASE={base}", "--target", "parts", "--file", "services/Dockerfile"]
        file = tmp_path / f"{name}.id"
        subprocess.run([*command, "--iidfile", str(file), "."], cwd=copied(tmp_path / name), check=True, capture_output=True)
        image = file.read_text().strip().removeprefix("sha256:")
        told.append(layers(program, image))
        images.said(program, "rmi", image)
    assert told[0] == told[1]
    assert len(told[0]) == 3  # the base, Python's library, our code
