"""How long the cluster has refused the same thing: what may pass is borne for as long as a worker may be pending, then it is final."""

import time
from collections.abc import Callable

from otto_scaler.errors import AwayError, RefusedError
from otto_scaler.worker import Cause

FORGOTTEN_SECONDS = 60.0
"""Nobody has tried for so long: whoever tries again begins anew. Callers repeat within seconds."""


class Lasting:
    """Refusals by a cluster that answers, by worker. One that can't be reached refuses nothing."""

    def __init__(self, patience: float, steady: Callable[[], float] = time.monotonic) -> None:
        """`patience` is in seconds; `steady` gives seconds that only grow."""
        self._patience = patience
        self._steady = steady
        self._since: dict[str, tuple[float, float]] = {}
        """When each was refused first and last."""

    def judged(self, name: str, error: AwayError) -> AwayError | RefusedError:
        """What to raise of what was tried for the worker."""
        if not error.answered:
            return error
        now = self._steady()
        self._since = {other: times for other, times in self._since.items() if now - times[1] < FORGOTTEN_SECONDS}
        since = self._since.get(name, (now, now))[0]
        if now - since < self._patience:
            self._since[name] = (since, now)
            return error
        self.over(name)
        return RefusedError(f"{error}, for {now - since:.0f} s by now", Cause.INTERNAL)

    def over(self, name: str) -> None:
        """It was done, or nobody wants it any more."""
        self._since.pop(name, None)
