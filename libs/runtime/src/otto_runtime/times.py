"""Times as the fixed part of the contract writes them, and a day that nobody sets. Standard library only: domain modules import it too."""

import time
from collections.abc import Callable


def rfc3339(nanoseconds: int) -> str:
    """UTC with milliseconds, of nanoseconds since the epoch; "" for 0."""
    if not nanoseconds:
        return ""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1_000_000:03d}Z"


def nanoseconds(seconds: float | None) -> int:
    """Of seconds since the epoch, to the microsecond, which is what such a number holds; 0 for None."""
    return 0 if seconds is None else round(seconds * 1_000_000) * 1000


class SteadyDay:
    """The time of day by the clock as it stood when this was made: a clock that is set to next year makes nothing a year old."""

    def __init__(self, day: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        """`day` gives seconds since the epoch and may be set; `steady` gives seconds as they pass, from any moment."""
        self._steady = steady
        self._apart = day() - steady()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._apart + self._steady()
