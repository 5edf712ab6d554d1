"""The messages of a run that goes on, as readers see them: what is stored, by sequence, and whether more can be; one wake-up for all.

A reader has nothing of its own here but its place, so any number of them, at any speed, costs nothing.
"""

import asyncio
from collections.abc import Sequence

from otto_executor.progress import Progress
from otto_executor.stage import StageStatus


class Journal:
    """The last messages of a run, in memory; older ones are in the store."""

    def __init__(self, last_sequence: int, limit: int) -> None:
        """Begins after `last_sequence`; keeps at least the last `limit` messages."""
        self._tail: list[Progress] = []
        self._first = last_sequence + 1
        self._limit = limit
        self._news = asyncio.Event()
        self.closed = False
        self.held_up: Progress | None = None
        """Says that what happens can't be stored now. Not stored itself, it has no sequence."""

    @property
    def last_sequence(self) -> int:
        """The sequence of the last message that is stored."""
        return self._first + len(self._tail) - 1

    def add(self, progress: Sequence[Progress]) -> None:
        """These were stored: readers may have them."""
        self.held_up = None
        self._tail += progress
        if len(self._tail) > 2 * self._limit:
            surplus = len(self._tail) - self._limit
            self._first += surplus
            del self._tail[:surplus]
        self._wake()

    def hold_up(self, words: str, at: float) -> None:
        """Nothing can be stored for the reason in `words`, until the next `add`; saying it again changes nothing."""
        if self.held_up is None or self.held_up.message != words:
            overall = self._tail[-1].overall if self._tail else 0
            self.held_up = Progress(0, "", StageStatus.RUNNING, words, at, percentage=overall, overall=overall)
            self._wake()

    def close(self) -> None:
        """No message will follow here; whether one follows elsewhere, the last one tells."""
        self.closed = True
        self._wake()

    def after(self, sequence: int, limit: int) -> list[Progress] | None:
        """At most `limit` messages after a sequence; None if they are in the store only."""
        if sequence + 1 < self._first:
            return None
        start = sequence + 1 - self._first
        return self._tail[start : start + limit]

    async def news(self, sequence: int, told: Progress | None) -> None:
        """Waits until there is a message after `sequence`, the journal is closed, or held up otherwise than was `told`."""
        while self.last_sequence <= sequence and not self.closed and (self.held_up is None or self.held_up is told):
            await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
