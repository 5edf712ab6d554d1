"""What lies in the state directory: names and sizes, no content. Workers' files are among it, so there may be as much of it, as deep, as
anybody likes.
"""

import asyncio
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

MOST_ENTRIES = 5_000
"""Of the listing; as many, directories too, are counted below each directory of which only sums are told."""
DEEPEST = 3
"""Levels of the state directory that are listed."""
DEEPEST_COUNTED = 100
"""Levels that are counted below a directory of which only sums are told."""
SECONDS = 20.0
"""For all of it."""
OWNERS_OWN = ("workspaces", "secrets", "homes")
"""Directories of the state in which users' files lie: how much there is, and no names."""
Over = Callable[[], bool]
"""Whether there is no time for more."""


async def listed(directory: Path) -> dict[str, Any]:
    """What lies in a state directory. `cut` says what is not told, of all or of one directory. Stops looking when it is cancelled."""
    cancelled = threading.Event()
    until = time.monotonic() + SECONDS
    try:
        return await asyncio.to_thread(listing, directory, lambda: cancelled.is_set() or time.monotonic() > until)
    finally:
        cancelled.set()


def listing(directory: Path, over: Over) -> dict[str, Any]:
    """The same, at once."""
    entries: list[dict[str, Any]] = []
    told: dict[str, Any] = {"directory": str(directory), "entries": entries}
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return {**told, "error": error.strerror}
    told |= {"disk_bytes": disk.f_blocks * disk.f_frsize, "free_bytes": disk.f_bavail * disk.f_frsize, "free_files": disk.f_favail}
    for path, found, depth in _below(directory, 1):
        if len(entries) >= MOST_ENTRIES or over():
            told["cut"] = "there was no time for more" if over() else f"there are more than {MOST_ENTRIES}"
            break
        entry = {"name": str(path.relative_to(directory)), "bytes": found.st_size, "mode": stat.filemode(found.st_mode)}
        entry["modified"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
        if stat.S_ISDIR(found.st_mode) and (depth == DEEPEST or path.name in OWNERS_OWN):
            entry |= _sums(path, over)
        entries.append(entry)
    return told


def _below(directory: Path, depth: int) -> Iterator[tuple[Path, os.stat_result, int]]:
    try:
        with os.scandir(directory) as there:
            names = sorted(entry.name for entry in islice(there, MOST_ENTRIES + 1))
    except OSError:
        return
    for name in names:
        path = directory / name
        try:
            found = path.lstat()
        except OSError:
            continue
        yield path, found, depth
        if stat.S_ISDIR(found.st_mode) and depth < DEEPEST and path.name not in OWNERS_OWN:
            yield from _below(path, depth + 1)


def _sums(directory: Path, over: Over) -> dict[str, Any]:
    told: dict[str, Any] = {"files_below": 0, "directories_below": 0, "bytes_below": 0}
    left = [(str(directory), 1)]
    looked = 0
    while left:
        place, depth = left.pop()
        try:
            found = os.scandir(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            told["cut"] = f"not all of it can be read: {error.strerror}"
            continue
        with found, suppress(OSError):
            for entry in found:
                if looked == MOST_ENTRIES or over():
                    return {**told, "cut": "there was no time for more" if over() else f"there are more than {MOST_ENTRIES}"}
                looked += 1
                if not entry.is_dir(follow_symlinks=False):
                    told["files_below"] += 1
                    with suppress(OSError):
                        told["bytes_below"] += entry.stat(follow_symlinks=False).st_size
                    continue
                told["directories_below"] += 1
                if depth < DEEPEST_COUNTED:
                    left.append((entry.path, depth + 1))
                else:
                    told["cut"] = f"there are more than {DEEPEST_COUNTED} levels"
    return told
