"""What readers of a worker or a task get: stored lines first, then what follows, then the end.

A reader reads the spool at its own place and waits for a bell when it has everything, so a slow one costs an offset and no memory, and
nothing can be lost or doubled between what is stored and what is new.
"""

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from itertools import repeat

from otto_relay.lanes import CHUNK, Batch, Lane, Limits, Part, tail_places
from otto_relay.registry import Task
from otto_relay.selection import Selection
from otto_relay.wire import entry_batch
from otto_relay.worker_log import WorkerLog

_LEAST = 4096
"""Bytes per look into one of very many spools."""
UNTIL_MARGIN = 2.0
"""Seconds that lines written before `until` may take to arrive, and by which the two streams of a worker may be out of order."""


def passed(selection: Selection) -> bool:
    """Whether nothing that is written now can be wanted any more."""
    return selection.until is not None and time.time_ns() > selection.until + int(UNTIL_MARGIN * 1e9)


def patience(selection: Selection) -> float | None:
    """Seconds until `passed` will be true; None: never."""
    if selection.until is None:
        return None
    return max(selection.until / 1e9 + UNTIL_MARGIN - time.time(), 0.0) + 0.001


async def _worker_lane(known: WorkerLog, selection: Selection) -> Lane:
    wanted = selection.line_filter()
    start = selection.after_sequence + 1
    count_from = None if selection.since is not None else start
    if selection.tail_lines:
        places = await tail_places(known.spool, selection.tail_lines, wanted)
        places = [place for place in places if place[1] >= start]
        start = count_from = places[0][1] if places else max(start, known.spool.last + 1)
    return Lane(known, start, wanted, count_from=count_from, follow=selection.follow)


def worker_entries(known: WorkerLog, selection: Selection, limits: Limits) -> AsyncGenerator[list[bytes]]:
    """The wanted lines of a worker as encoded LogEntries, in batches; ends when all is delivered.

    Raises UnknownLogError when they are deleted meanwhile.
    """
    return _worker_parts(known, selection, limits, lambda lane: zip(repeat(1), lane.entries(), strict=False))


async def worker_batches(known: WorkerLog, selection: Selection, limits: Limits) -> AsyncGenerator[bytes]:
    """As `worker_entries`, as encoded LogBatches: what is stored as it is sent is not looked at line by line."""
    async with aclosing(_worker_parts(known, selection, limits, lambda lane: lane.parts(limits))) as batches:
        async for batch in batches:
            yield b"".join(batch)


async def _worker_parts(
    known: WorkerLog, selection: Selection, limits: Limits, read: Callable[[Lane], Iterable[Part]]
) -> AsyncGenerator[list[bytes]]:
    lane = await _worker_lane(known, selection)
    stop = None if selection.until is None else selection.until + int(UNTIL_MARGIN * 1e9)
    batch = Batch(limits)
    while True:
        replaying = lane.replaying
        found = list(read(lane))
        late = lane.passed(stop)
        for full in batch.gather_parts(found):
            yield full
        if late or lane.done:
            if batch.entries:
                yield batch.take()
            return
        if not lane.caught_up:
            await asyncio.sleep(0)
        elif batch.entries:
            if not replaying and (wait := batch.wait) > 0:
                await asyncio.sleep(wait)
                continue
            yield batch.take()
        elif passed(selection):
            return
        else:
            await known.bell.wait(patience(selection))


class _Merged:
    """The lanes of a task's workers, by time; what they hold together is bounded, however many they are."""

    def __init__(self, lanes: list[Lane]) -> None:
        self.lanes = lanes
        self._chunk = max(_LEAST, min(CHUNK // 4, 16 * CHUNK // max(len(lanes), 1)))
        self._buffers: list[deque[tuple[int, bytes]]] = [deque() for _ in lanes]
        self._heap: list[tuple[int, int]] = []
        self._latest = [0] * len(lanes)

    async def replay(self) -> AsyncIterator[bytes]:
        """Everything that was stored when the lanes began, in the order of time; a worker's lines never change their order."""
        for index in range(len(self.lanes)):
            await self._refill(index)
        heapq.heapify(self._heap)
        while self._heap:
            _, index = heapq.heappop(self._heap)
            yield self._buffers[index].popleft()[1]
            if self._buffers[index]:
                self._push(index)
            else:
                await self._refill(index)

    async def _refill(self, index: int) -> None:
        lane = self.lanes[index]
        while lane.replaying and not self._buffers[index]:
            self._buffers[index].extend(lane.read(self._chunk))
            await asyncio.sleep(0)
        if self._buffers[index]:
            self._push(index)

    def _push(self, index: int) -> None:
        self._latest[index] = max(self._latest[index], self._buffers[index][0][0])
        heapq.heappush(self._heap, (self._latest[index], index))


async def _task_lanes(workers: list[WorkerLog], selection: Selection) -> list[Lane]:
    wanted = selection.line_filter()
    if not selection.tail_lines:
        count_from = 1 if selection.since is None else None
        return [Lane(known, 1, wanted, count_from=count_from, follow=selection.follow) for known in workers]
    places = [await tail_places(known.spool, selection.tail_lines, wanted) for known in workers]
    # As in the merge, a line counts as no older than those before it, so that the newest are the last ones of each worker.
    newest = heapq.nlargest(
        selection.tail_lines,
        (
            (at, index, sequence)
            for index, found in enumerate(places)
            for at, (_, sequence) in zip(itertools.accumulate((at for at, _ in found), max), found, strict=True)
        ),
    )
    starts: dict[int, int] = {}
    for _, index, sequence in newest:
        starts[index] = min(sequence, starts.get(index, sequence))
    lanes = []
    for index, known in enumerate(workers):
        start = starts.get(index, known.spool.last + 1)
        lanes.append(Lane(known, start, wanted, count_from=start, follow=selection.follow))
    return lanes


async def task_batches(task: Task, selection: Selection, limits: Limits, linger: float) -> AsyncGenerator[bytes]:
    """As `task_entries`, as encoded LogBatches."""
    async with aclosing(task_entries(task, selection, limits, linger)) as batches:
        async for batch in batches:
            yield entry_batch(batch)


async def task_entries(task: Task, selection: Selection, limits: Limits, linger: float) -> AsyncGenerator[list[bytes]]:
    """The wanted lines of all workers of a task in the order of time: exact for what is stored, within `linger` seconds for what follows.

    Ends when all its workers have ended and all is delivered.
    """
    merged = _Merged(await _task_lanes(list(task.workers), selection))
    batch = Batch(limits)
    async for entry in merged.replay():
        for full in batch.gather((entry,)):
            yield full
    if batch.entries:
        yield batch.take()
    if not selection.follow:
        return
    lanes = merged.lanes
    wanted = selection.line_filter()
    while True:
        known = {lane.known.worker_id for lane in lanes}
        for worker in task.workers:
            if worker.worker_id not in known:
                lane = Lane(worker, 1, wanted, count_from=1)
                lane.snapshot = 0
                lanes.append(lane)
        found: list[tuple[int, bytes]] = []
        for lane in lanes:
            if not lane.caught_up:
                found += lane.read()
        found.sort(key=lambda one: one[0])
        for full in batch.gather(entry for _, entry in found):
            yield full
        if batch.entries:
            yield batch.take()
            continue
        if all(lane.caught_up for lane in lanes):
            # One that has another task's bell turned out to be that one's.
            if all(lane.known.ended or lane.known.task_bell is not task.bell for lane in lanes) or passed(selection):
                return
            await task.bell.wait(patience(selection))
            if linger:
                await asyncio.sleep(linger)
        else:
            await asyncio.sleep(0)
