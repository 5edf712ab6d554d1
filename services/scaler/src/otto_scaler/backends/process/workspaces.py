"""Directories that workers share by name. A name that is to be deleted is marked by a file, so that it is, even after a restart."""

from pathlib import Path

from otto_scaler.backends.process.directory import TRASH, delete_tree

MARKS = ".delete"


class Workspaces:
    """All workspaces, below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, name: str) -> Path:
        """Where the workspace of that name is, or would be."""
        return self._root / name

    def ensure(self, name: str) -> Path:
        """The workspace, made if need be. Raises OSError."""
        path = self.path(name)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

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

    def delete_trash(self) -> None:
        """Deletes what an earlier service took away but had no time to delete. May take long. Raises OSError."""
        if self._root.exists():
            for path in list(self._root.iterdir()):
                if path.name.startswith(TRASH):
                    delete_tree(path)
