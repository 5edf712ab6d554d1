"""Ownership of tasks and the pacing of attempts."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.contextvars import bind_contextvars, get_contextvars

from otto_runtime.tasks import Backoff, EndedUnexpectedly, cancelled, first, forever, owned


async def test_forever_names_what_ended() -> None:
    """Work that should never end raises when it does, by name; its own errors pass."""

    async def ends() -> None:
        return

    async def fails() -> None:
        raise KeyError("own")

    with pytest.raises(EndedUnexpectedly, match="the watch ended"):
        await forever("the watch", ends())
    with pytest.raises(KeyError, match="own"):
        await forever("the watch", fails())


async def test_cancelled_waits_for_the_cleanup() -> None:
    """The task has run its `finally` when `cancelled` returns; what it raised there is dropped; a stubborn one costs the timeout."""
    order: list[str] = []
    release = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            order.append("cleaned")
            raise ValueError("dropped")

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await cancelled(task)
    assert order == ["cleaned"]
    other = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    started = time.monotonic()
    await cancelled(other, timeout=0.05)
    assert 0.04 < time.monotonic() - started < 2
    release.set()
    await other


@pytest.mark.parametrize("how", ["returns", "raises", "outer cancel"])
async def test_first_ends_the_others(how: str) -> None:
    """When one ends, however, the others are cancelled and awaited before `first` is over."""
    cleaned = asyncio.Event()
    waiting = asyncio.Event()

    async def waits() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    async def ends() -> None:
        await waiting.wait()
        if how == "raises":
            raise KeyError("own")
        if how == "outer cancel":
            await asyncio.Event().wait()

    task = asyncio.create_task(first(ends(), waits()))
    await waiting.wait()
    if how == "outer cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "raises":
        with pytest.raises(KeyError, match="own"):
            await task
    else:
        await task
    assert cleaned.is_set()


@given(
    initial=st.floats(0.001, 1),
    maximum=st.floats(1, 60),
    factor=st.floats(1.1, 4),
    failures=st.integers(1, 40),
)
def test_backoff_grows_to_its_bound(initial: float, maximum: float, factor: float, failures: int) -> None:
    """Every delay lies between half the bound and the bound, which grows by the factor up to the maximum; success starts anew."""
    backoff = Backoff(initial, maximum, factor)
    bound = initial
    for _ in range(failures):
        assert bound / 2 <= backoff.next_delay() <= bound
        bound = min(bound * factor, maximum)
    backoff.reset()
    assert initial / 2 <= backoff.next_delay() <= initial


async def test_backoff_waits() -> None:
    """`wait` takes the delay."""
    started = time.monotonic()
    await Backoff(0.04, 0.04).wait()
    assert 0.015 < time.monotonic() - started < 1


async def test_what_outlives_a_call_is_not_logged_as_that_call() -> None:
    """A task that a call brings about has the fields it is given, and none of the call's; a plain one has them all."""
    seen: dict[str, dict[str, object]] = {}

    async def work(name: str) -> None:
        seen[name] = get_contextvars()

    async def call(group: asyncio.TaskGroup) -> None:
        bind_contextvars(rpc="ExecutePipeline")
        owned(group, work("owned"), "run p", pipeline="p")
        group.create_task(work("plain"))

    async with asyncio.TaskGroup() as group:
        group.create_task(call(group))
    assert seen == {"owned": {"pipeline": "p"}, "plain": {"rpc": "ExecutePipeline"}}
