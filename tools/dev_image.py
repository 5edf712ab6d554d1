"""Builds the image of a service for those who work on it, and loads it into the nodes of a Kind cluster; Tilt calls it (Tiltfile).

Where such a cluster is reached, packages may not be: then it is built outside of that network namespace (OTTO_OUTSIDE).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import images
from testcluster import parts, place


def main() -> int:
    """Runs the command; what a person can do about a failure is on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", choices=images.SERVICES)
    parser.add_argument("name", help="what the image is to be called")
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--cluster", help="the Kind cluster that gets it")
    to.add_argument("--archive", type=Path, help="the file that gets it")
    given = parser.parse_args()
    try:
        if given.archive:
            place.cache().mkdir(parents=True, exist_ok=True)
            with parts.locked(place.cache() / ".dev-image.lock"):  # what one service's image is made of others are too: it is made once
                _write(given.service, given.name, given.archive)
        else:
            with tempfile.TemporaryDirectory() as directory:
                archive = str(Path(directory, "image.tar"))
                images.said(*_outside(), sys.executable, __file__, given.service, given.name, "--archive", archive)
                images.said("kind", "load", "image-archive", "--name", given.cluster, archive)
    except images.BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write(service: str, name: str, archive: Path) -> None:
    program = images.engine()
    number = images.built(program, images.base(program), "dev", SERVICE=service, PACKAGE=images.SERVICES[service])
    kept = f"{name.rpartition(':')[0]}:latest"  # only the last one's layers are kept
    for called in (name, kept):
        images.said(program, "tag", number, called)
    images.save(program, name, archive)
    images.said(program, "rmi", name)


def _outside() -> list[str]:
    """What to put before a command that fetches packages."""
    tools = f"PYTHONPATH={Path(__file__).parent}"
    there = os.environ.get("OTTO_OUTSIDE", "")
    return ["nsenter", f"--net={there}", "--", "env", "--unset=DOCKER_HOST", tools] if there else ["env", tools]


if __name__ == "__main__":
    sys.exit(main())
