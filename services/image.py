"""What goes into an image: of requirements.lock the part that a distribution needs, and the code of it and of ours that it depends on.

Run while images are built (services/Dockerfile), by the Python of the base image, so it knows the standard library only.

    image.py lock NAME       prints the pins of everything that NAME depends on; of NAME itself if it is not one of ours
    image.py code NAME DIR   copies its code and that of our distributions it depends on into DIR

Files get one fixed time, so that what has not changed is the same layer.
"""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = {
    tomllib.loads(path.read_text())["project"]["name"]: path
    for folder in ("libs", "services")
    for path in ROOT.glob(f"{folder}/*/pyproject.toml")
}
TIME = 0


def ours(name: str) -> list[str]:
    """A distribution of ours and those it depends on, the innermost first."""
    found: list[str] = []
    for requirement in tomllib.loads(DISTRIBUTIONS[name].read_text())["project"]["dependencies"]:
        needed = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        if needed in DISTRIBUTIONS:
            found += [other for other in ours(needed) if other not in found]
    return [*found, name]


def lock(name: str) -> str:
    """The pins that `name` needs, with their hashes, as they stand in requirements.lock, whose comments say who asked for each."""
    blocks, askers = {}, {}
    for block in re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text()):
        pin = block.partition("==")[0].partition("[")[0]
        head, _, via = block.partition("# via")
        blocks[pin], askers[pin] = head.rstrip() + "\n", set(re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]+", via))
    needed = set(ours(name)) if name in DISTRIBUTIONS else {name}
    while more := {pin for pin, by in askers.items() if by & needed} - needed:
        needed |= more
    pins = sorted(needed & set(blocks))
    if not pins:
        raise SystemExit(f"requirements.lock has nothing for {name}")
    return "".join(blocks[pin] for pin in pins)


def code(name: str, target: Path) -> None:
    """Copies the packages, and says their versions as an installation does; what is compiled or said about types alone stays out."""
    for distribution in ours(name):
        left_out = shutil.ignore_patterns("__pycache__", "*.pyi", "testing", "testing.py", "py.typed")
        shutil.copytree(DISTRIBUTIONS[distribution].parent / "src", target, dirs_exist_ok=True, ignore=left_out)
        version = tomllib.loads(DISTRIBUTIONS[distribution].read_text())["project"]["version"]
        metadata = target / f"{distribution.replace('-', '_')}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    for path in (target, *target.rglob("*")):
        os.utime(path, (TIME, TIME))


def main(command: str, name: str, *target: str) -> None:
    """Runs a command; the exit code is not 0 when something is missing."""
    if command == "lock":
        sys.stdout.write(lock(name))
    elif command == "code":
        code(name, Path(target[0]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
