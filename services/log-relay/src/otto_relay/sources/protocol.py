"""What the collector needs of a source of lines."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

Split = Callable[[bytes, bool], int]
"""Where to split a line: given its bytes so far and whether that is all of it, how many make the next entry.

0: none before more has come.
"""


class Line(NamedTuple):
    """One entry's worth of output: a line, or a part of one that is too long."""

    time: int
    """When it was written; nanoseconds since 1970, UTC."""
    stderr: bool
    text: bytes
    """Any bytes but a line end."""
    position: bytes
    """Where to go on after it: at most 255 bytes, understood by the source only."""
    container: str = ""
    """Whose output it is, if not the worker's own: an init container's, or one that runs beside it."""
    notice: str = ""
    """What has to be said right before it: in which way lines of this container may be missing here."""


class Ending:
    """Whether a worker has ended, and calls for those who wait for it."""

    def __init__(self) -> None:
        self._over = False
        self._calls: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        """Whether it has."""
        return self._over

    def set(self) -> None:
        """It has: everything it wrote can be read now."""
        self._over = True
        for call in list(self._calls):
            call()

    def subscribe(self, call: Callable[[], None]) -> Callable[[], None]:
        """Calls `call` when it ends; returns what takes that back."""
        self._calls.append(call)
        return lambda: self._calls.remove(call)


class LogSource(Protocol):
    """Gives each line of a worker exactly once to whoever comes back with the position after the last one they have."""

    async def available(self, worker_id: str, ended: Ending) -> bool:
        """Waits until there is something to read. False: the worker has ended (`ended` is set) and there is nothing."""
        ...

    async def secrets(self, worker_id: str) -> Sequence[str]:
        """The values that must not be stored, once the worker is available. Raises SourceError if they can't be read now."""
        ...

    def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncIterator[list[Line]]:
        """The lines after `position` (empty: all), as they come, in non-empty batches; ends when `ended` is set and everything was given.

        `split` is asked for every line that is not complete and for every long one; its answers have to depend on their arguments only.
        Raises SourceLostError when what is at `position` is gone, SourceError when it can't be read now.
        """
        ...
