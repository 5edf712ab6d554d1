"""Telling a clock that was set from time that has passed."""

from collections.abc import Callable

NOTICED = 1.0
"""Seconds by which the clocks may drift apart before it counts: below that it is the slewing of NTP, or a pause between two readings."""


class Clock:
    """The time of day as long as the process lives; notices when it was set (also by a suspended machine's waking up)."""

    def __init__(self, day: Callable[[], float], steady: Callable[[], float]) -> None:
        """`day` gives seconds since the epoch, `steady` seconds since any moment, as long as they really take."""
        self._day = day
        self._steady = steady
        self._apart = day() - steady()

    def read(self) -> tuple[float, float]:
        """The time of day, and by how many seconds the clock was set since the last call: forward, or back if negative."""
        now = self._day()
        apart = now - self._steady()
        if abs(apart - self._apart) < NOTICED:
            return now, 0.0
        set_by, self._apart = apart - self._apart, apart
        return now, set_by
