"""When a supervisor has failed its worker. A worker can stop, kill or blind the supervisor that keeps its limits, as both are processes of
one user; so the service keeps them too, later and less gently.
"""

import enum

from otto_scaler.worker import Cause

NUDGE_SECONDS = 1.0
"""How long after its worker's time a supervisor that still lives is told to go on (SIGCONT)."""


class Step(enum.Enum):
    """What is to be done about a supervisor that still lives."""

    NUDGE = "NUDGE"
    KILL = "KILL"


class Watchdog:
    """The limits of one worker that runs; all times are seconds, `now` on a clock that only grows."""

    def __init__(self, timeout: float, grace: float, patience: float, now: float, ran: float = 0.0) -> None:
        """`ran`: how long it has run already, as far as is known."""
        self._timeout = timeout
        self._over = now + timeout - min(max(0.0, ran), timeout)
        self._kill_after = grace + patience
        self._reason = ""

    def stop(self, reason: str, now: float) -> None:
        """From now on it is to end; the reason counts unless its time was over before."""
        if now < self._over:
            self._over = now
            self._reason = reason

    def step(self, now: float) -> Step | None:
        """What is to be done now."""
        if now >= self._over + self._kill_after:
            return Step.KILL
        return Step.NUDGE if now >= self._over + NUDGE_SECONDS else None

    def verdict(self, now: float) -> tuple[Cause, str] | None:
        """Why it had to end by now, if it had."""
        if now < self._over:
            return None
        return (Cause.CANCELLED, self._reason) if self._reason else (Cause.TIMEOUT, f"ran longer than {self._timeout:g} s")
