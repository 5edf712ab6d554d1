"""How many runs may be unfinished at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from otto_executor.errors import TooManyRunsError


class Places:
    """Those for unfinished runs. A run that is still being stored has one too: many that come at once would all find room otherwise."""

    def __init__(self, most: int) -> None:
        """There are `most`."""
        self._most = most
        self._beginning = 0

    @contextmanager
    def taken(self, active: int) -> Iterator[None]:
        """A place for a run while it is begun, beside `active` that go on. Raises TooManyRunsError."""
        unfinished = active + self._beginning
        if unfinished >= self._most:
            raise TooManyRunsError(
                f"INSUFFICIENT_RESOURCES: {unfinished} pipelines are unfinished, which is the configured maximum; try again later"
            )
        self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1
