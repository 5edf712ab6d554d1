"""How many calls of a kind are under way at once: as many as the API server takes well.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as TCP finds out what a network takes: each good answer makes room for
a fraction of a call more, a bad one (throttled, failed, slow) halves the room, once for all that was under way by then.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from otto_kubekit.errors import DeadlineError, ServerError, ThrottledError, UnreachableError

FIRST, LEAST, MOST = 16.0, 1.0, 64.0
SLOW_SECONDS = 1.0
"""A creation takes some milliseconds; a second is the server's way of saying that it has enough, or a Retry-After that was waited for."""
OVERLOADED = (ThrottledError, ServerError, DeadlineError, UnreachableError)


class Pace:
    """Turns, first come, first served."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._limit = FIRST
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._slowed = float("-inf")

    @property
    def limit(self) -> int:
        """How many may be under way now."""
        return int(self._limit)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn; how the call within goes says how many more there are."""
        await self._enter()
        began = self._clock()
        try:
            yield
        except OVERLOADED:
            self._slow(began)
            raise
        else:
            if self._clock() - began > SLOW_SECONDS:
                self._slow(began)
            else:
                self._limit = min(MOST, self._limit + 1 / self._limit)
        finally:
            self._under_way -= 1
            self._wake()

    async def _enter(self) -> None:
        if not self._waiting and self._under_way < self.limit:
            self._under_way += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._under_way -= 1
                self._wake()
            else:
                self._waiting.remove(turn)
            raise

    def _slow(self, began: float) -> None:
        if began > self._slowed:
            self._slowed = self._clock()
            self._limit = max(LEAST, self._limit / 2)

    def _wake(self) -> None:
        while self._waiting and self._under_way < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._under_way += 1
                turn.set_result(None)
