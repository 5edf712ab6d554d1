"""Builds the image of a service for those who work on it, and loads it into the nodes of a Kind cluster; Tilt calls it (Tiltfile)."""

import argparse
import sys
import tempfile
from pathlib import Path

import images


def main() -> int:
    """Runs the command; what a person can do about a failure is on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", choices=images.SERVICES)
    parser.add_argument("name", help="what the image is to be called")
    parser.add_argument("--cluster", help="the Kind cluster that gets it; without one it is only built")
    given = parser.parse_args()
    try:
        program = images.engine()
        number = images.built(program, images.base(program), "dev", SERVICE=given.service, PACKAGE=images.SERVICES[given.service])
        images.said(program, "tag", number, given.name)
        if given.cluster:
            _load(program, given.name, given.cluster)
    except images.BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _load(program: str, name: str, cluster: str) -> None:
    if program == "docker":
        images.said("kind", "load", "docker-image", "--name", cluster, name)
        return
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory, "image.tar")
        images.save(program, name, archive)
        images.said("kind", "load", "image-archive", "--name", cluster, str(archive))


if __name__ == "__main__":
    sys.exit(main())
