"""Keeps a process as small as what it holds, as far as the C library lets it (glibc; others are left as they are).

Each thread that allocates gets a heap of its own, and what one frees of another's leaves holes there: a standalone with 1,000 pipelines
open at once takes 132 MB with the heaps of gRPC's threads, 86 with a single one, and is no slower.

What is freed is kept for its next use, unless it lies at the very end of the heap: a bare grpc.aio server that has had 2,000 calls open at
once stays at 81 MB, having begun with 35. Asked to, the library gives whole free pages back: 48 MB then, in 10 ms, in which nobody can
allocate anything; a heap of 275 MB takes 44 ms, and 8 when there is nothing to give.
"""

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from otto_runtime.tasks import cancelled

SECONDS = 30.0
"""Between two times that the library is asked."""
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def one_heap() -> None:
    """All threads that begin from now on share the heap of the main one, unless the environment says how many there may be."""
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    said = os.environ.get("MALLOC_ARENA_MAX") or "arena_max" in os.environ.get("GLIBC_TUNABLES", "")
    if mallopt is not None and not said:
        mallopt(_M_ARENA_MAX, 1)


@asynccontextmanager
async def given_back(seconds: float = SECONDS) -> AsyncIterator[None]:
    """While this is entered free memory is given back every so many seconds; the event loop waits for it."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        yield
        return

    async def give() -> None:
        while True:
            await asyncio.sleep(seconds)
            trim(0)

    giving = asyncio.create_task(give(), name="give memory back")
    try:
        yield
    finally:
        await cancelled(giving)
