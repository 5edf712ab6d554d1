"""Watching the fleet: a snapshot, then every change, with a bounded backlog for each watcher."""

import asyncio
import enum
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple, Protocol

from otto_scaler.errors import WatcherTooSlowError
from otto_scaler.worker import Worker


class Kind(enum.Enum):
    """What happened."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    SYNCED = "SYNCED"


class Change(NamedTuple):
    """One step of a watch; no worker with SYNCED."""

    kind: Kind
    worker: Worker | None


class Listener(Protocol):
    """Whoever is told changes."""

    def offer(self, change: Change) -> None:
        """A change; takes no time."""


class Watch:
    """One watcher: iterate it. Holds references only, so a backlog costs some 100 bytes a change."""

    def __init__(self, snapshot: Iterable[Worker], selects: Callable[[Worker], bool], backlog: int) -> None:
        self._snapshot = deque(snapshot)
        self._selects = selects
        self._backlog = backlog
        self._changes: deque[Change] = deque()
        self._more = asyncio.Event()
        self._too_slow = False

    def offer(self, change: Change) -> None:
        """Takes a change in if it is about a selected worker. Beyond the backlog the watch is lost: the next step raises."""
        if self._too_slow or change.worker is None or not self._selects(change.worker):
            return
        if len(self._changes) >= self._backlog:
            self._too_slow = True
            self._changes.clear()
        else:
            self._changes.append(change)
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[Change]:
        """The changes, for ever. Raises WatcherTooSlowError."""
        while self._snapshot:
            yield Change(Kind.ADDED, self._snapshot.popleft())
        yield Change(Kind.SYNCED, None)
        while True:
            while self._changes:
                yield self._changes.popleft()
            if self._too_slow:
                raise WatcherTooSlowError(f"more than {self._backlog} changes were not taken in time; watch again")
            self._more.clear()
            await self._more.wait()
