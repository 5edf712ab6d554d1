"""Directories that workers share by name. A name that is to be deleted is marked by a file, so that it is, even after a restart."""

import logging
from collections.abc import Container
from pathlib import Path

from otto_scaler.backends.process.trash import TRASH

log = logging.getLogger(__name__)

MARKS = ".delete"


class Workspaces:
    """All workspaces, below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, name: str) -> Path:
        """Where the workspace of that name is, or would be."""
        return self._root / name

    def mark(self, name: str) -> bool:
        """Notes for good that it is to be deleted; False if there is no such workspace. Raises OSError."""
        if not self.path(name).exists():
            return False
        marks = self._root / MARKS
        marks.mkdir(exist_ok=True, mode=0o700)
        (marks / name).touch(mode=0o600)
        return True

    def marked(self) -> list[str]:
        """What is to be deleted."""
        try:
            return sorted(path.name for path in (self._root / MARKS).iterdir())
        except FileNotFoundError:
            return []

    def sweep(self, used: Container[str]) -> list[Path]:
        """Takes away what is to be deleted and not `used`; returns what is left to be deleted. What fails is said, and tried next time."""
        trash = []
        try:
            for name in self.marked():
                if name not in used:
                    try:
                        trash.append(self.discard(name))
                    except OSError as error:
                        log.warning("scaler.tidy_failed", extra={"path": str(self.path(name)), "why": str(error)})
        except OSError as error:
            log.warning("scaler.look_failed", extra={"why": str(error)})
        return [path for path in trash if path is not None]

    def discard(self, name: str) -> Path | None:
        """Takes it away at once; returns what is left to be deleted, if anything. Raises OSError."""
        trash: Path | None = self._root / f"{TRASH}{name}"
        assert trash is not None
        number = 0
        while trash.exists():
            number += 1
            trash = self._root / f"{TRASH}{name}-{number}"
        try:
            self.path(name).rename(trash)
        except FileNotFoundError:
            trash = None
        (self._root / MARKS / name).unlink(missing_ok=True)
        return trash
