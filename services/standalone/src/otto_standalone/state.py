"""The state directory: made, checked and held by one instance."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StateUnusableError(Exception):
    """The state directory can't be used; the text says why and what to do."""


@contextmanager
def held(directory: Path) -> Iterator[Path]:
    """Makes `directory` (mode 0700) and holds it against other instances while it is entered.

    The lock is the kernel's (flock), so it ends with the process however that ends. Raises StateUnusableError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise StateUnusableError(
                f"the state directory {directory} is held by another instance (process {holder}). "
                "Stop that one or name another directory in OTTO_STANDALONE_STATE_DIR"
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise _unusable(directory, error) from error
        yield directory
    finally:
        os.close(descriptor)


def _unusable(directory: Path, error: OSError) -> StateUnusableError:
    full = error.errno == errno.ENOSPC
    what = "the disk is full" if full else str(error.strerror).lower()
    remedy = "Make room there" if full else "Make it writable"
    return StateUnusableError(
        f"the state directory {directory} can't be used: {what}. {remedy} or name another one in OTTO_STANDALONE_STATE_DIR"
    )
