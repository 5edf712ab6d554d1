"""Who was asked for a short while ago and found neither room nor a place to wait for it: no worker tells of them. Pure bookkeeping."""

RECENT_SECONDS = 15.0
"""How long a request is remembered: pipelines ask again at least every 5 s, so that those who go on asking are always counted."""
MOST = 10_000
"""Workers that are remembered; beyond it the longest known are forgotten."""


class TurnedAway:
    """The names of workers that there is no room for, by task. Times are seconds of a clock that only grows."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[str, float]] = {}
        """The task, and when it was last asked for; in the order of that time."""

    def note(self, task: str, name: str, now: float) -> None:
        """It was asked for, and turned away."""
        self._asked.pop(name, None)
        self._asked[name] = (task, now)
        self._tidy(now)

    def forget(self, name: str) -> None:
        """It has found room or a place after all."""
        self._asked.pop(name, None)

    def count(self, task: str, name: str, now: float) -> int:
        """How many of a task and of that name; an empty text is any."""
        self._tidy(now)
        if not task and not name:
            return len(self._asked)
        if name:
            return int(name in self._asked and task in {"", self._asked[name][0]})
        return sum(of == task for of, _ in self._asked.values())

    def _tidy(self, now: float) -> None:
        while self._asked:
            name = next(iter(self._asked))
            if len(self._asked) <= MOST and now - self._asked[name][1] < RECENT_SECONDS:
                return
            del self._asked[name]
