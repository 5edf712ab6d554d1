"""Memory that is not needed any more goes back to the machine."""

import os
import subprocess
import sys

import pytest

HEAPS = """
import ctypes, sys, threading
from otto_runtime.memory import one_heap

if int(sys.argv[1]):
    one_heap()
together = threading.Barrier(4)

def work():
    together.wait()
    kept = [bytes(1000) for _ in range(1000)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""
GIVEN_BACK = """
import asyncio, resource, sys
from pathlib import Path
from otto_runtime.memory import given_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

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


@pytest.mark.parametrize(
    ("asked", "environ", "expected"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"MALLOC_ARENA_MAX": "4"}, False),
        (True, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, False),
        (True, {"MALLOC_ARENA_MAX": ""}, True),
    ],
    ids=["glibc's own way", "one", "as somebody says", "as somebody tunes", "nobody says"],
)
def test_threads_share_a_heap(asked: bool, environ: dict[str, str], expected: bool) -> None:
    """Unless the environment says how many there may be."""
    own = {name: value for name, value in os.environ.items() if name not in {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}}
    command = [sys.executable, "-c", HEAPS, str(int(asked))]
    done = subprocess.run(command, env={**own, **environ}, capture_output=True, text=True, timeout=60, check=True)
    heaps = done.stdout.count("<heap nr=")
    assert heaps == 1 if expected else heaps > 1, done.stdout


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a while"])
def test_what_was_freed_is_given_back(waits: bool) -> None:
    """100 MB that the C library keeps at first, which shows that the rest of this test does."""
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK, str(int(waits))], capture_output=True, text=True, timeout=60, check=True)
    used, left = map(float, done.stdout.split())
    assert used > 90
    assert left < 30 if waits else left > 90, (used, left)
