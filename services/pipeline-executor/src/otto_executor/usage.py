"""What workers used, in whole numbers: those of one, or of several together. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Of `workers` that were measured: cores in thousandths, memory in bytes. Averages are over the workers, peaks those of one of them."""

    workers: int = 1
    cpu_average: int = 0
    cpu_peak: int = 0
    memory_average: int = 0
    memory_peak: int = 0


def together(usages: Iterable[Usage | None]) -> Usage | None:
    """The figures of all of these together; None if there are none."""
    known = [usage for usage in usages if usage is not None and usage.workers]
    workers = sum(usage.workers for usage in known)
    if not workers:
        return None
    return Usage(
        workers,
        sum(usage.cpu_average * usage.workers for usage in known) // workers,
        max(usage.cpu_peak for usage in known),
        sum(usage.memory_average * usage.workers for usage in known) // workers,
        max(usage.memory_peak for usage in known),
    )
