"""What lies in the directory of the workers and is none: what nobody understands, set aside or not; and what a disk does to all of it."""

import errno
import logging
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from otto_scaler.backends.process.directory import ASIDE, Record, WorkerDirectory
from otto_scaler.backends.process.supervisor.control import UnreadableError
from otto_scaler.errors import BackendError

log = logging.getLogger(__name__)

ASIDE_SECONDS = 7 * 86_400.0
"""How long directories that can't be understood are kept for somebody to look at them: a week, the longest that a worker may run."""
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


def scarce(error: Exception) -> bool:
    """Whether that passes, and says nothing about the file it happened to."""
    return isinstance(error, OSError) and error.errno in _SCARCE


def made(directory: WorkerDirectory, record: Record, *, held: bool) -> Record:
    """Makes a worker's directory; returns what lies there, which is `record` unless a worker of that name was there before.

    What lies there and can't be understood is set aside: nobody could ever ask for that worker again. Raises OSError.
    """
    if directory.make(record, held=held):
        return record
    try:
        return directory.load()
    except (ValueError, UnreadableError) as error:
        log.warning("scaler.worker.unreadable", extra={"worker": directory.name, "why": str(error)})
        directory.set_aside()
    directory.make(record, held=held)
    return directory.load()


def not_understood(root: Path, known: Container[str]) -> list[Path]:
    """What was set aside, or is no worker that is known and can't be read as one, and has not changed for ASIDE_SECONDS.

    The age alone would say nothing: a worker's directory does not change while it runs, and a clock may be put right. Raises OSError.
    """
    old = time.time() - ASIDE_SECONDS
    unknown = [p for p in root.iterdir() if p.name.startswith(ASIDE) or (p.name[0] != "." and p.name not in known and not _readable(p))]
    return [path for path in unknown if path.is_dir() and path.stat().st_mtime < old]


def _readable(path: Path) -> bool:
    """Whether there is a worker's record, or that can't be told now."""
    try:
        WorkerDirectory(path).load()
    except (ValueError, UnreadableError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def edge(words: str) -> Iterator[None]:
    """Within, what the disk does to us is a BackendError to those above."""
    try:
        yield
    except OSError as error:
        raise BackendError(f"{words}: {error.strerror or 'it failed'}") from error
