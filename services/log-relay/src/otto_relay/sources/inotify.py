"""Linux tells when files change (inotify), through the C library: one descriptor for all files, no thread, no work in silence."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_EVENT = struct.Struct("iIII")
_IN_MODIFY = 0x2
_IN_CLOSE_WRITE = 0x8
_IN_IGNORED = 0x8000
_IN_Q_OVERFLOW = 0x4000


class Inotify:
    """Changes of files, as calls of functions on the event loop."""

    def __init__(self) -> None:
        """Raises OSError when the kernel has none to give (a limit per user)."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._add_watch = libc.inotify_add_watch
        self._rm_watch = libc.inotify_rm_watch
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._calls: dict[int, list[Callable[[], None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._read)

    def watch(self, path: Path, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` after every write to the file; returns what ends that. Raises OSError."""
        number = self._add_watch(self._descriptor, os.fsencode(path), _IN_MODIFY | _IN_CLOSE_WRITE)
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
        self._calls.setdefault(number, []).append(changed)

        def end() -> None:
            calls = self._calls.get(number)
            if calls is not None and changed in calls:
                calls.remove(changed)
                if not calls:
                    del self._calls[number]
                    self._rm_watch(self._descriptor, number)

        return end

    def close(self) -> None:
        """Ends all watches."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._calls.clear()

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        at = 0
        numbers: set[int] = set()
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                numbers.update(self._calls)
            elif mask & _IN_IGNORED:
                # The kernel dropped the watch: its file is gone.
                numbers.discard(number)
                for call in self._calls.pop(number, []):
                    call()
            else:
                numbers.add(number)
        for number in numbers:
            for call in list(self._calls.get(number, ())):
                call()
