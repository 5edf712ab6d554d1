"""How readers learn that there is something new: they look, and if there is nothing, wait for the next ring.

No queue, so nothing to overflow.
"""

import asyncio


class Bell:
    """Any number of waiters; a ring wakes them all."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wakes everyone who waits now."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits for the next ring, at most `timeout` seconds; whether it rang.

        Nothing is missed if what is waited for was looked at just before, without an await between.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
            return True
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
