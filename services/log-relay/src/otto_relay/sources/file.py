"""The process backend's log files: `<directory>/<worker>/log` in CRI format, `<directory>/<worker>/secrets` beside it.

Files are followed by inotify; where that is not to be had they are looked at again after 5 ms, then twice as long each time nothing has
come, up to the poll interval. A file that is deleted while it is open is still read to its end; one that is cut short is read anew, and
gives what is new in it.
"""

import asyncio
import errno
import json
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from otto_relay.errors import SourceError, SourceLostError
from otto_relay.sources.cri import REACH, Joiner
from otto_relay.sources.inotify import Inotify
from otto_relay.sources.protocol import Ending, Line, Split

log = logging.getLogger(__name__)

_CHUNK = 131072
"""Bytes per read: about 1,000 lines, which take some milliseconds to store."""
_FIRST_DELAY = 0.005
_MOST_SECRETS = 64 * 1024 * 1024
"""Bytes of a worker's secrets; an environment holds less."""


class FileSource:
    """A LogSource over a directory of workers' directories."""

    def __init__(self, directory: Path, poll_interval: float, longest_unsplit: int) -> None:
        """`poll_interval` in seconds; `longest_unsplit` is the length in bytes up to which a line is not split."""
        self._directory = directory
        self._poll_interval = poll_interval
        self._longest = longest_unsplit
        self._inotify: Inotify | None = None
        self._asked_inotify = False

    def close(self) -> None:
        """Gives back what it holds of the kernel."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _path(self, worker_id: str, name: str) -> Path:
        # A worker's name is a DNS label; anything else is no directory of ours.
        if "/" in worker_id or worker_id in {"", ".", ".."} or "\0" in worker_id:
            raise SourceLostError(f"{worker_id!r} can't be a worker's directory")
        return self._directory / worker_id / name

    async def available(self, worker_id: str, ended: Ending) -> bool:
        """See LogSource."""
        path = self._path(worker_id, "log")
        delay = _FIRST_DELAY
        woken = asyncio.Event()
        unsubscribe = ended.subscribe(woken.set)
        try:
            while True:
                # Asked in this order, so that a file that came before the end is not missed.
                over = ended.is_set()
                if path.exists():
                    return True
                if over:
                    return False
                await _wait(woken, delay)
                delay = min(delay * 2, self._poll_interval, 0.25)
        finally:
            unsubscribe()

    async def secrets(self, worker_id: str) -> Sequence[str]:
        """See LogSource."""
        path = self._path(worker_id, "secrets")
        try:
            descriptor = _open_regular(path)
            try:
                values = json.loads(os.read(descriptor, _MOST_SECRETS))
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} can't be read: {type(error).__name__}") from None
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise SourceError(f"{path} holds no list of strings")
        return tuple(values)

    async def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncIterator[list[Line]]:
        """See LogSource."""
        path = self._path(worker_id, "log")
        joiner = Joiner(position, split, self._longest)
        try:
            descriptor = _open_regular(path)
        except FileNotFoundError as error:
            raise SourceLostError(f"{path} is gone") from error
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        changed = asyncio.Event()
        end_watch = self._watch(path, changed)
        unsubscribe = ended.subscribe(changed.set)
        delay = _FIRST_DELAY
        try:
            at = joiner.resume
            if not joiner.fits(os.pread(descriptor, min(at, REACH), max(0, at - REACH)), os.pread(descriptor, REACH, at)):
                joiner.cut()
            while True:
                # Asked in this order: what was written before the end is read before the end counts.
                over = ended.is_set()
                changed.clear()
                data = os.pread(descriptor, _CHUNK, joiner.offset)
                if data:
                    delay = _FIRST_DELAY
                    if found := joiner.feed(data):
                        yield found
                    if len(data) == _CHUNK:
                        await asyncio.sleep(0)
                        continue
                    if not over:
                        continue
                elif os.fstat(descriptor).st_size < max(joiner.resume, joiner.offset):
                    if found := joiner.cut():
                        yield found
                    continue
                elif over:
                    break
                if not over:
                    await _wait(changed, self._poll_interval if end_watch else delay)
                    delay = min(delay * 2, self._poll_interval)
            if found := joiner.close():
                yield found
            if joiner.lost:
                raise SourceLostError(f"{path} was cut short")
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        finally:
            unsubscribe()
            os.close(descriptor)
            if end_watch is not None:
                end_watch()

    def _watch(self, path: Path, changed: asyncio.Event) -> Callable[[], None] | None:
        if not self._asked_inotify:
            self._asked_inotify = True
            try:
                self._inotify = Inotify()
            except (OSError, AttributeError) as error:
                log.warning("relay.source.polling", extra={"reason": str(error)})
        if self._inotify is None:
            return None
        try:
            return self._inotify.watch(path, changed.set)
        except OSError:
            return None


def _open_regular(path: Path) -> int:
    """Opens a file for reading that a worker may have put something else in place of: a pipe would block, a link lead elsewhere.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return descriptor


async def _wait(event: asyncio.Event, timeout: float) -> None:
    """Waits for an event, at most `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass
