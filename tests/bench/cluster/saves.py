"""How long it takes under `make tilt` from the save of a Python file until its service does what it says now."""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from ...installed import tilt
from .release import Release

SAVES = 5
FILE = "services/pipeline-executor/src/otto_executor/account.py"
WORDS = ("accepted: ", "taken: ")
"""What it says of a run that begins, and what it says instead, in turns."""


async def saves(release: Release, size: float) -> dict[str, float]:
    """Of an installation of its own."""
    return await asyncio.to_thread(_measured, max(2, round(SAVES * min(1.0, size))))


def _measured(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="ottoscaler-bench-") as directory:
        up = tilt.copied(tilt.program(), Path(directory))
        try:
            with tilt.following(up):
                taken = [_saved(up, WORDS[number % 2], WORDS[(number + 1) % 2]) for number in range(count)]
        finally:
            tilt.taken_down(up)
    return {"cluster.save": median(taken), "cluster.save.slowest": max(taken)}


def _saved(up: tilt.Tilt, before: str, after: str) -> float:
    """Seconds from the save until the new words are heard."""
    file = up.checkout / FILE
    text = file.read_text()
    if before not in text:
        raise RuntimeError(f"{FILE} does not say {before!r}")
    begun = time.perf_counter()
    file.write_text(text.replace(before, after))
    up.until(lambda: up.first_words().startswith(after), tilt.SEEN_SECONDS)
    return time.perf_counter() - begun
