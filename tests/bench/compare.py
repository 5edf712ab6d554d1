"""What changed between two results beyond their noise."""

from collections.abc import Iterator
from dataclasses import dataclass

from .cluster.figures import CLUSTER_FIGURES
from .figures import FIGURES, Results, middle

KNOWN = FIGURES | CLUSTER_FIGURES
"""Those of both kinds of results."""
SMALLEST = 0.05
"""Changes of medians below this share are never called changes: the same build measured twice differs by as much."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in both results. `verdict` is better, worse, same, or unsure: the medians differ but the runs overlap."""

    name: str
    old: float
    new: float
    verdict: str

    @property
    def share(self) -> float:
        """The change as a share of the old value."""
        return (self.new - self.old) / abs(self.old) if self.old else 0.0


def changes(old: Results, new: Results) -> Iterator[Change]:
    """Every figure that both have.

    A change is called one only when no run of one side reaches into the runs of the other: with three runs a side that happens by chance
    to one figure in ten (2 of the 20 orders of six values), with five to one in 126.
    """
    for name, figure in KNOWN.items():
        before, after = old.get(name), new.get(name)
        if not before or not after:
            continue
        change = Change(name, middle(before), middle(after), "same")
        if abs(change.share) >= SMALLEST:
            apart = min(after) > max(before) or max(after) < min(before)
            grew = change.new > change.old
            verdict = ("worse" if grew == figure.lower_is_better else "better") if apart and len(before) > 1 < len(after) else "unsure"
            change = Change(name, change.old, change.new, verdict)
        yield change
