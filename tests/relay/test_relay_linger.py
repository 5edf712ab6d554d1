"""A line that comes after a quiet moment is sent at once, those that come right after it together."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from otto_relay.build_log import Part
from otto_relay.build_reader import BuildReader
from otto_relay.encoder import Fresh
from otto_relay.lanes import Limits
from otto_relay.readers import worker_entries
from otto_relay.registry import Registry
from otto_relay.selection import Selection
from otto_relay.wire import LINE
from otto_relay.worker_log import PUSHED, Facts, WorkerLog
from ottoscaler.v1.log_pb2 import BuildLogEntry, LogEntry

Reader = Callable[[Registry, WorkerLog, Limits], AsyncGenerator[list[str]]]


@pytest.fixture
def known(registry: Registry) -> WorkerLog:
    """A worker of a pipeline."""
    return registry.add(Facts("w-1", "task", "p", "s", 1, origin=PUSHED))


async def _of_worker(registry: Registry, known: WorkerLog, limits: Limits) -> AsyncGenerator[list[str]]:
    async for batch in worker_entries(known, Selection(), limits):
        yield [LogEntry.FromString(entry).message for entry in batch]


async def _of_pipeline(registry: Registry, known: WorkerLog, limits: Limits) -> AsyncGenerator[list[str]]:
    reader = BuildReader(registry, registry.builds["p"], Part(), Selection())
    async for batch in reader.entries(limits, heartbeat=1000.0):
        if lines := [entry.entry.message for entry in map(BuildLogEntry.FromString, batch) if entry.kind == LINE]:
            yield lines


@pytest.mark.parametrize("read", [_of_worker, _of_pipeline], ids=["worker", "pipeline"])
async def test_a_line_waits_only_for_a_batch_that_was_just_sent(registry: Registry, known: WorkerLog, read: Reader) -> None:
    """The first one would come after a minute, if it waited for others; the second one waits, and brings the third along."""
    batches = read(registry, known, Limits(linger=60.0))
    following = asyncio.ensure_future(anext(batches))
    await _turns()
    known.append([Fresh(1, 0, b"first")])
    async with asyncio.timeout(20):
        assert await following == ["first"]
    await batches.aclose()

    batches = read(registry, known, Limits(linger=5.0))
    assert await anext(batches) == ["first"]
    following = asyncio.ensure_future(anext(batches))
    await _turns()
    known.append([Fresh(2, 0, b"second")])
    await _turns()
    assert not following.done()
    known.append([Fresh(3, 0, b"third")])
    assert await following == ["second", "third"]
    await batches.aclose()


async def _turns() -> None:
    """Of the event loop, far more than a reader needs to have seen a line."""
    for _ in range(20):
        await asyncio.sleep(0)
