"""Threads of our own for what blocks: work on files and processes that nobody else's work waits behind, and that no stop waits for."""

import asyncio
import errno
import queue
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

IDLE_SECONDS = 2.0
"""How long a thread waits for more work before it ends."""
P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A few daemon threads that take work in turn, started with the first work.

    Unlike asyncio's executor they are shared with nobody, and a disk that hangs can't keep the process from ending.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._started = 0
        self._owed = 0
        """Work that has not been done yet: what waits, and what is under way."""
        self._lock = threading.Lock()
        # Bounded by who awaits: each piece of work has a caller that waits for it.
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does it in one of the threads. Cancelled, it goes on there, and what comes of it is dropped.

        Raises OSError (EAGAIN) when there is no thread and the machine has none left: then it is not done.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # a T, whenever there is no error

        def do() -> None:
            result, error = None, None
            try:
                result = work(*args, **kwargs)
            except BaseException as raised:  # whatever it is belongs to the one who waits
                error = raised
            try:
                loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        with self._lock:
            if self._started < self._count and self._owed >= self._started:
                self._start_one()
            self._owed += 1
            self._work.put(do)
        return await future

    def _start_one(self) -> None:
        try:
            threading.Thread(target=self._live, name=f"{self._name} {self._started + 1}", daemon=True).start()
        except RuntimeError as error:
            if not self._started:
                raise OSError(errno.EAGAIN, "no thread can be started") from error
        else:
            self._started += 1

    def _live(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._started -= 1
                        return
                continue
            work()
            del work
            with self._lock:
                self._owed -= 1
