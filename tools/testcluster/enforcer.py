"""What lets nodes keep network policies for a while: kube-router, and what it runs that nodes are without."""

import shutil
import tarfile
from pathlib import Path, PurePath

from testcluster import images, programs
from testcluster.parts import part

PACKAGES = ["ipset"]
TAKEN = ["sbin/ipset", "libipset.so.13"]  # of all that they bring: the rest is in nodes


def directory() -> Path:
    """With kube-router and ipset, for nodes of clusters that are made here; takes minutes when it is not there yet."""
    return part("enforcer", [images.SUITE, *PACKAGES, Path(__file__), str(programs.kube_router())], _make)


def _make(target: Path) -> None:
    packages = images.debian(target / "packages.tar", "extract", PACKAGES)
    with tarfile.open(packages) as archive:
        for member in archive:
            if any(PurePath(member.name).match(path) for path in TAKEN) and (content := archive.extractfile(member)):
                file = target / PurePath(member.name).name
                file.write_bytes(content.read())
                file.chmod(0o755)
    packages.unlink()
    shutil.copy2(programs.kube_router(), target)
