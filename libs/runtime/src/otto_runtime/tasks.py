"""Ownership of tasks, the exceptions that come out of their groups, and the pacing of repeated attempts."""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, TypeVar

from structlog.contextvars import bind_contextvars

T = TypeVar("T")


class EndedUnexpectedly(RuntimeError):  # noqa: N818 - says what happened
    """A task that should have run until it is cancelled has returned."""


def owned(group: asyncio.TaskGroup, work: Coroutine[Any, Any, T], name: str, **fields: Any) -> "asyncio.Task[T]":
    """Starts a task that may outlive the call that brought it about: of that call's trace and fields its events show nothing.

    `fields` are bound to its events instead.
    """
    context = contextvars.Context()
    context.run(bind_contextvars, **fields)
    return group.create_task(work, name=name, context=context)


async def forever(name: str, work: Awaitable[None]) -> None:
    """Awaits work that is to run until cancelled; raises EndedUnexpectedly if it returns, and what it raises as it is."""
    await work
    raise EndedUnexpectedly(f"{name} ended, though it should run until it is stopped")


async def cancelled(task: "asyncio.Task[Any]", timeout: float = 10.0) -> None:
    """Cancels a task and waits until it has ended, at most `timeout` seconds. What it raised is dropped: its owner has moved on."""
    task.cancel()
    await asyncio.wait({task}, timeout=timeout)
    if task.done() and not task.cancelled():
        task.exception()


async def first(*work: Coroutine[Any, Any, Any]) -> None:
    """Runs all until the first ends, cancels and awaits the others, then raises what the first raised, if anything.

    Cancellation of the caller reaches all of them.
    """
    tasks = [asyncio.create_task(w, name=getattr(w, "__qualname__", "first")) for w in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if not task.cancelled():
            task.result()


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions inside nested groups (what TaskGroups make of them), or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def single(error: BaseException) -> BaseException:
    """The one exception inside nested groups of one, or the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Backoff:
    """Delays between attempts: exponential with equal jitter, back to the start after success.

    Equal jitter (a delay drawn evenly between half the bound and the bound) as in "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015: clients that failed together do not return together, and none returns at once.
    """

    def __init__(self, initial: float = 0.05, maximum: float = 5.0, factor: float = 2.0) -> None:
        """`initial` and `maximum` are seconds."""
        self._initial = initial
        self._maximum = maximum
        self._factor = factor
        self._bound = initial

    def reset(self) -> None:
        """The last attempt worked: the next failure waits the shortest time again."""
        self._bound = self._initial

    def next_delay(self) -> float:
        """Seconds to wait now; the bound grows for the time after."""
        delay = random.uniform(self._bound / 2, self._bound)
        self._bound = min(self._bound * self._factor, self._maximum)
        return delay

    async def wait(self) -> None:
        """Sleeps for the next delay."""
        await asyncio.sleep(self.next_delay())
