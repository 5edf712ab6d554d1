"""What all tests share: no test may leave a task, a child process or an open channel behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fails an asyncio test that ends while a task it started still runs."""
    if not asyncio.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    before = asyncio.all_tasks()
    yield
    for _ in range(20):
        left = {t for t in asyncio.all_tasks() - before if not t.done()}
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail("tasks left running: " + ", ".join(sorted(t.get_name() + " " + repr(t.get_coro()) for t in left)))
