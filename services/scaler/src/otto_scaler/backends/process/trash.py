"""What was taken away and is to be deleted: at once out of the way by a new name, then piece by piece, for as long as that takes."""

import asyncio
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from otto_scaler.backends.process.threads import Threads

log = logging.getLogger(__name__)

TRASH = ".trash-"
NEW = ".new-"
"""Begins the name of what was being made; left over, it is trash."""


class Trash:
    """Deletes one tree after another, in a thread of its own."""

    def __init__(self) -> None:
        # Bounded by what there is to be deleted: a path for each tree.
        self._waiting: asyncio.Queue[Path] = asyncio.Queue()
        self._stopped = threading.Event()

    def put(self, path: Path) -> None:
        """This is to be deleted, soon."""
        self._waiting.put_nowait(path)

    def put_leftovers(self, root: Path) -> None:
        """What an earlier service took away below `root`, or had no time to make. Raises OSError."""
        for path in root.iterdir():
            if path.name.startswith((TRASH, NEW)):
                self.put(path)

    async def run(self) -> None:
        """Until cancelled, which stops it between two files. What can't be deleted is said, and left for the next start."""
        threads = Threads("delete", 1)
        self._stopped.clear()
        try:
            while True:
                path = await self._waiting.get()
                try:
                    await threads.run(delete_tree, path, self._stopped.is_set)
                except Exception as error:  # one tree that can't be deleted must not keep the others
                    log.warning("scaler.tidy_failed", extra={"path": str(path), "why": str(error)})
        finally:
            self._stopped.set()


def delete_tree(path: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Deletes a directory with all that is in it, also where a worker has made it read-only, however deep it is.

    Directories are moved up to `path` before they are emptied, so neither the length of a path nor a stack bounds the depth. Goes on after
    what can't be deleted; then raises the first OSError. Ends early once `stopped`.
    """
    if not _is_directory(path):
        path.unlink(missing_ok=True)
        return
    path.chmod(stat.S_IRWXU)
    failures: list[OSError] = []
    while not stopped():
        before, moved = len(failures), 0
        names = os.listdir(path)  # noqa: PTH208 - a list that does not change while entries are moved up
        for name in names:
            if stopped():
                return
            moved += _delete_entry(path / name, path, failures, stopped)
        if not names or (len(failures) - before == len(names) and not moved):
            break
    if stopped():
        return
    if failures:
        raise failures[0]
    path.rmdir()


def _delete_entry(entry: Path, top: Path, failures: list[OSError], stopped: Callable[[], bool]) -> int:
    """Deletes a file, or a directory after moving its directories up to `top`; returns how many were moved."""
    moved = 0
    try:
        if not _is_directory(entry):
            entry.unlink(missing_ok=True)
            return 0
        entry.chmod(stat.S_IRWXU)
        with os.scandir(entry) as children:
            for child in children:
                if stopped():
                    return moved
                if child.is_dir(follow_symlinks=False):
                    # Moving a directory writes into it, as its parent changes.
                    os.chmod(child.path, stat.S_IRWXU)  # noqa: PTH101 - a DirEntry's path is text
                    os.rename(child.path, top / f"{TRASH}{os.urandom(8).hex()}")  # noqa: PTH104
                    moved += 1
                else:
                    os.unlink(child.path)  # noqa: PTH108
        entry.rmdir()
    except FileNotFoundError:
        return moved
    except OSError as error:
        failures.append(error)
    return moved


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
