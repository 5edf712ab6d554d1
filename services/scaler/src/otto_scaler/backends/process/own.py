"""What is a worker's own: its HOME, and where it works when it has no workspace. Apart from its directory, so that no path it is told leads
to the files by which we know of it.
"""

import os
from pathlib import Path

OWN = ".own"
"""Beside the workspaces, whose names are no hidden ones."""


class OwnDirectory:
    """One worker's, by the directory of the workspaces and the worker's uid; short, as there are limits to the paths of sockets."""

    def __init__(self, workspaces: Path, uid: str) -> None:
        self.path = workspaces / OWN / uid

    @property
    def home(self) -> Path:
        """Its HOME."""
        return self.path / "home"

    @property
    def work(self) -> Path:
        """Where it works when it has no workspace."""
        return self.path / "work"

    def make(self) -> None:
        """Makes what is not there. Raises OSError."""
        for path in (self.home, self.work):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)


def forgotten(workspaces: Path, uids: set[str]) -> list[Path]:
    """The own directories of none of these workers."""
    try:
        return [path for path in (workspaces / OWN).iterdir() if path.name not in uids]
    except FileNotFoundError:
        return []


def discard(path: Path, trash: str) -> Path | None:
    """Takes an own directory away at once; returns what is left to be deleted, if it was there. Raises OSError."""
    try:
        return path.rename(path.parent.parent / f"{trash}{path.name}-{os.urandom(4).hex()}")
    except FileNotFoundError:
        return None
