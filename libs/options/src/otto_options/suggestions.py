"""What was probably meant by a name that nobody knows."""

import difflib
from collections.abc import Iterable

MOST_HINTS = 3
MOST_COMPARISONS = 500
"""Comparing texts is slow, and a single request may hold tens of thousands of unknown names."""
LONGEST_NAME = 48
"""Characters; the time to compare two texts grows with the square of their length."""


class Suggestions:
    """Hints for the first few unknown names of a request; who mistyped thousands has another problem than a typo."""

    def __init__(self, known: Iterable[str]) -> None:
        """`known` are the names that are right."""
        self._known = [name for name in known if len(name) <= LONGEST_NAME]
        self._left = min(MOST_HINTS, max(1, MOST_COMPARISONS // max(1, len(self._known))))

    def hint(self, name: str) -> str:
        """`; did you mean 'x'?`, or "" if nothing is near or enough hints were given."""
        if not self._left or len(name) > LONGEST_NAME:
            return ""
        self._left -= 1
        near = difflib.get_close_matches(name, self._known[:MOST_COMPARISONS], n=1)
        return f"; did you mean {near[0]}?" if near else ""
