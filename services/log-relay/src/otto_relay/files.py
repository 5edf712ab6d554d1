"""A bounded number of open files for an unbounded number of paths, shared by all who read and write the spool."""

import contextlib
import errno
import os
import shutil
from collections import OrderedDict
from pathlib import Path

from otto_relay.errors import SpoolWriteError


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable; blocks. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_directory(path: Path) -> None:
    """Removes a directory with all that is in it; one that is not there is fine. Raises SpoolWriteError; then something of it is left."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolWriteError(f"{path}: {error.strerror}") from error


class Files:
    """Descriptors by path; the one that was not used for longest is closed when there are too many. Reads and writes are positional."""

    def __init__(self, limit: int) -> None:
        """`limit` is how many may be open at once."""
        self._limit = limit
        self._open: OrderedDict[Path, int] = OrderedDict()

    def _descriptor(self, path: Path, flags: int) -> int:
        descriptor = self._open.get(path)
        if descriptor is not None:
            self._open.move_to_end(path)
            return descriptor
        while len(self._open) >= self._limit:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self._open[path] = descriptor
        return descriptor

    def write(self, path: Path, data: bytes, at: int) -> None:
        """Writes all of `data` at an offset, making the file if need be.

        Raises SpoolWriteError; then the file is as long as before, if the disk lets it.
        """
        try:
            descriptor = self._descriptor(path, os.O_CREAT)
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:] if written else data, at + written)
        except OSError as error:
            # What can't be cut now is written over by the next attempt, or cut when the file is opened again.
            with contextlib.suppress(OSError):
                os.truncate(path, at)
            raise SpoolWriteError(f"{path}: {error.strerror}") from error

    def overwrite(self, path: Path, data: bytes) -> None:
        """Writes `data` over the beginning of a file with one system call, making the file if need be. Raises OSError."""
        if os.pwrite(self._descriptor(path, os.O_CREAT), data, 0) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, path: Path, at: int, count: int) -> bytes:
        """At most `count` bytes from an offset. Raises FileNotFoundError when the file was deleted."""
        return os.pread(self._descriptor(path, 0), count, at)

    def sync(self, path: Path) -> None:
        """Makes what was written to the file durable; blocks. A deleted file needs none."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def delete(self, path: Path) -> None:
        """Closes and removes a file; one that is not there is fine."""
        self.forget(path)
        path.unlink(missing_ok=True)

    def forget(self, path: Path) -> None:
        """Closes a file."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Closes all."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
