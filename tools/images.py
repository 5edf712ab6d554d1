"""Builds the images of services/Dockerfile with whatever is there (docker, podman or buildah), and says how large they are.

Each image gets its own id as its tag, so that an installation gets new pods exactly where something has changed. The names are written
into DIRECTORY/values.yaml, for `helm --values`, that of the workshop into workshop.yaml; where there is no engine to load from, as with
buildah, each image is a file beside them. With --push each is pushed to the registry that its name begins with.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("scaler", "pipeline-executor", "log-relay", "ottoctl", "front-door")
SERVICES = {"scaler": "otto_scaler", "pipeline-executor": "otto_executor", "log-relay": "otto_relay"}
"""What each service's image runs."""
VALUES = {"scaler": "scaler", "pipeline-executor": "executor", "log-relay": "relay", "ottoctl": "test", "front-door": "frontDoor"}
"""Which part of the chart's values an image belongs to."""
WORKSHOP = "workshop"
"""What workers of this repository's own pipelines run in: no part of a release, so built only when it is asked for."""
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
DEFAULT_BASE = "python:3.13-slim"


class BuildError(Exception):
    """Images can't be built here; the text says why, and what to do."""


@dataclass(frozen=True)
class Image:
    """One that was built."""

    target: str
    name: str
    seconds: float


def engine() -> str:
    """The one that ENGINE names, else the first that works here. Raises BuildError."""
    if named := os.environ.get("ENGINE"):
        return named
    for program in ("docker", "podman", "buildah"):
        if shutil.which(program) and _works(program, "images", "--quiet"):
            return program
    raise BuildError(
        "neither docker (with an engine that answers) nor podman nor buildah is here; Debian has buildah: apt-get install buildah"
    )


def _works(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def said(*command: str) -> str:
    """What a command prints. Raises BuildError with what it said against it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command[:3])} …: {done.stderr.strip()[-2000:] or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def base(program: str) -> str:
    """The image that all others are built on: what BASE names; the default; or, where that can't be pulled, one that is made here."""
    given = os.environ.get("BASE", "")
    if not given and (_works(program, "inspect", DEFAULT_BASE) or _works(program, "pull", "--quiet", DEFAULT_BASE)):
        return DEFAULT_BASE
    if not given and program != "docker":
        print(f"{DEFAULT_BASE} can't be pulled, so the images are built on a Debian with Python that is made here", file=sys.stderr)
        made = said(sys.executable, "-m", "testcluster", "base").splitlines()[-1]
        given = f"docker-archive:{made}"
    if not given:
        raise BuildError(f"{DEFAULT_BASE} can't be pulled; name an image with Python 3.11 or later: make images BASE=…")
    return _squashed(program, given) if given.startswith("docker-archive:") and program != "docker" else given


def _squashed(program: str, archive: str) -> str:
    """An archive as an image of one layer, made once: podman and buildah build on none whose history says less than its layers.

    Made again it would be another image, as its directories bear the time, and everything would be built anew.
    """
    with Path(archive.removeprefix("docker-archive:")).open("rb") as file:
        name = f"localhost/ottoscaler-base:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    if not _works(program, "inspect", "--type", "image", name):
        whole = "--squash-all" if program == "podman" else "--squash"
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "Dockerfile").write_text(f"FROM {archive}\n")
            said(program, "build", "--quiet", whole, "--format", "docker", "--timestamp", "0", "--tag", name, directory)
    return name


def build(program: str, on: str, target: str, registry: str) -> Image:
    """Builds one image and names it by its id."""
    began = time.monotonic()
    number = built(program, on, target)
    name = f"{registry}/{target}:{number[:12]}"
    for called in (name, f"{registry}/{target}:latest"):
        said(program, "tag", number, called)
    return Image(target, name, time.monotonic() - began)


def built(program: str, on: str, target: str, **parameters: str) -> str:
    """Builds a target of the Dockerfile, with values for its ARGs; what the engine calls the image then."""
    # `buildah build` and `podman build` are the same; both know what a plain `docker build` does not need.
    own = ["--layers", "--format", "docker", "--timestamp", "0"] if program != "docker" else []
    if program == "buildah":
        own += ["--isolation", "chroot"]
    if program != "docker" and BUNDLE.exists():  # as behind any company proxy: whom this machine trusts, the build trusts
        own += ["--volume", f"{BUNDLE}:{BUNDLE}:ro"]
    index = os.environ.get("PIP_INDEX_URL")
    parameters |= {"BASE": on} | ({"PIP_INDEX_URL": index} if index else {})
    arguments = [word for name, value in parameters.items() for word in ("--build-arg", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as directory:
        told = Path(directory, "id")  # by the engine, of this very build: another checkout may build the same target now
        own += ["--iidfile", str(told)]
        said(program, "build", "--network", "host", *own, *arguments, "--target", target, "--file", "services/Dockerfile", ".")
        return told.read_text().strip().removeprefix("sha256:")


def saved(program: str, image: Image, directory: Path) -> Path:
    """The image as a file that `docker load` and `kind load image-archive` take; made unless it is there."""
    path = directory / f"{image.name.rpartition('/')[2].replace(':', '-')}.tar"
    if not path.exists():
        for older in directory.glob(f"{image.target}-*.tar"):
            older.unlink()
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        save(program, image.name, part)
        part.replace(path)
    return path


def save(program: str, name: str, path: Path) -> None:
    """An image as a file, which must not be there yet."""
    if program == "buildah":
        said("buildah", "push", "--quiet", name, f"docker-archive:{path}:{name}")
    else:
        said(program, "save", "--output", str(path), name)


def values(images: Sequence[Image]) -> str:
    """The chart's values that name these images."""
    lines = []
    for image in images:
        repository, _, tag = image.name.rpartition(":")
        # in quotes, as a tag may look like a number
        lines.append(f'{VALUES[image.target]}: {{image: {{repository: {repository}, tag: "{tag}"}}}}\n')
    return "".join(lines)


def main() -> int:
    """Runs the command; what a person can do about a failure is on stderr."""
    parser = argparse.ArgumentParser(description="Build Ottoscaler's images.")
    parser.add_argument("directory", type=Path, help="where values.yaml and files of images go")
    parser.add_argument("--registry", default="localhost/ottoscaler", help="what their names begin with")
    parser.add_argument("--workshop", action="store_true", help="also the image for workers of this repository's own pipelines")
    parser.add_argument("--push", action="store_true", help="push them to that registry, as whoever is logged in there")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    try:
        program = engine()
        on = base(program)
        images = []
        print(f"with {program} on {on}")
        print(f"{'image':<62} {'seconds':>7} {'MB':>6}")
        for target in (*TARGETS, *([WORKSHOP] if given.workshop else [])):
            image = build(program, on, target, given.registry)
            size = (
                saved(program, image, given.directory).stat().st_size
                if program != "docker"
                else int(said("docker", "inspect", "--format", "{{.Size}}", image.name))
            )
            print(f"{image.name:<62} {image.seconds:>7.1f} {size / 1e6:>6.0f}", flush=True)
            if given.push:
                said(program, "push", "--quiet", image.name)
            images.append(image)
        (given.directory / "values.yaml").write_text(values([image for image in images if image.target in TARGETS]))
        for image in images[len(TARGETS) :]:
            (given.directory / f"{WORKSHOP}.yaml").write_text(f"workers: {{image: {image.name}}}\n")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
