"""Memory that is not needed any more goes back to the machine."""

import subprocess
import sys

import pytest

GIVEN_BACK = """
import asyncio, sys
from pathlib import Path
from otto_runtime.memory import given_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

async def main():
    async with given_back(0.01):
        before = resident()
        kept = [bytes(1000) for _ in range(100_000)]
        full = resident()
        kept = kept[-1:]  # what lies at the end of the heap holds the rest of it
        for _ in range(500 if int(sys.argv[1]) else 0):
            await asyncio.sleep(0.01)
            if resident() < before + 30:
                break
        print(full - before, resident() - before)

asyncio.run(main())
"""


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a while"])
def test_what_was_freed_is_given_back(waits: bool) -> None:
    """100 MB that the C library keeps at first, which shows that the rest of this test does."""
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK, str(int(waits))], capture_output=True, text=True, timeout=60, check=True)
    used, left = map(float, done.stdout.split())
    assert used > 90
    assert left < 30 if waits else left > 90, (used, left)
