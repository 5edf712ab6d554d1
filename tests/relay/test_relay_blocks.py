"""Stored blocks go out as they lie there, and readers can't tell: every line is the same as if it had been looked at."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otto_relay.encoder import Fresh
from otto_relay.lanes import CHUNK, Limits
from otto_relay.levels import level_of, levels_of
from otto_relay.readers import worker_batches, worker_entries
from otto_relay.registry import Registry
from otto_relay.selection import Selection
from otto_relay.sources.cri import Joiner
from otto_relay.sources.protocol import Line
from otto_relay.worker_log import PUSHED, Facts, WorkerLog
from ottoscaler.v1.log_pb2 import LogBatch, LogEntry

LIMITS = Limits()
SECOND = 1_000_000_000


def stored(registry: Registry, count: int, task_id: str = "task") -> WorkerLog:
    """A worker whose lines are stored, ten at a time."""
    known = registry.add(Facts("w-1", task_id, origin=PUSHED))
    for start in range(1, count + 1, 10):
        known.append([Fresh(number * SECOND, 0, b"line %d" % number) for number in range(start, min(start + 10, count + 1))])
    return known


async def batches(stream: AsyncIterator[bytes]) -> list[LogBatch]:
    return [LogBatch.FromString(batch) async for batch in stream]


async def both(known: WorkerLog, selection: Selection, limits: Limits = LIMITS) -> list[LogEntry]:
    """What a reader of batches gets, which has to be what a reader of single lines gets."""
    single = [LogEntry.FromString(entry) async for part in worker_entries(known, selection, limits) for entry in part]
    together = [entry for batch in await batches(worker_batches(known, selection, limits)) for entry in batch.entries]
    assert together == single
    return single


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(follow=False), range(1, 96)),
        (Selection(follow=False, after_sequence=34), range(35, 96)),
        (Selection(follow=False, after_sequence=40), range(41, 96)),
        (Selection(follow=False, tail_lines=7), range(89, 96)),
        (Selection(follow=False, since=33 * SECOND), range(33, 96)),
        (Selection(follow=False, until=33 * SECOND), range(1, 33)),
        (Selection(follow=False, keywords=("line 5",)), [5, *range(50, 60)]),
    ],
    ids=["all", "from within a block", "from a block on", "the last ones", "since", "until", "some words"],
)
async def test_readers_of_batches_get_what_readers_of_lines_get(registry: Registry, selection: Selection, expected: list[int]) -> None:
    """Wherever a selection begins or ends, within a block or between two, each line comes once, as stored before."""
    entries = await both(stored(registry, 95), selection)
    assert [(entry.sequence, entry.message, entry.replayed) for entry in entries] == [
        (number, f"line {number}", True) for number in expected
    ]
    assert all(entry.worker_id == "w-1" and entry.task_id == "task" and not entry.dropped_before for entry in entries)


@pytest.mark.parametrize("limits", [Limits(7, 65536), Limits(500, 1024), Limits(1, 1024)], ids=["lines", "bytes", "a line"])
async def test_a_block_larger_than_a_batch_may_be_is_taken_apart(registry: Registry, limits: Limits) -> None:
    """Batches keep their limits, whatever a block holds."""
    known = stored(registry, 95)
    found = await batches(worker_batches(known, Selection(follow=False), limits))
    assert [entry.sequence for batch in found for entry in batch.entries] == list(range(1, 96))
    assert all(len(batch.entries) <= limits.lines and (batch.ByteSize() <= limits.bytes or len(batch.entries) == 1) for batch in found)


async def test_lines_that_a_reader_saw_come_are_not_marked_as_replayed(registry: Registry) -> None:
    """What was stored when it asked is replayed, what came after is not, in batches as line by line."""
    known = stored(registry, 30)
    reads: list[AsyncGenerator[Any]] = [worker_batches(known, Selection(), LIMITS), worker_entries(known, Selection(), LIMITS)]
    for read in reads:
        before = known.spool.last
        found: list[LogEntry] = []
        async for part in read:
            found += LogBatch.FromString(part).entries if isinstance(part, bytes) else map(LogEntry.FromString, part)
            if found[-1].sequence == before:
                known.append([Fresh(0, 0, "\u00a8\x06\x01 이 줄".encode()), Fresh(0, 1, b"more")])
            elif found[-1].sequence == before + 2:
                break
        await read.aclose()
        assert [entry.sequence for entry in found] == list(range(1, before + 3))
        assert [entry.replayed for entry in found] == [True] * before + [False, False]
        assert [entry.message for entry in found[-2:]] == ["\u00a8\x06\x01 이 줄", "more"]


async def test_lines_stored_under_another_task_say_the_task_that_it_is_now(registry: Registry) -> None:
    """A worker that turns out to be another task's: all its lines are that one's, those stored before too."""
    known = stored(registry, 25, "guessed")
    registry.move(known, "true", "", "", 0)
    known.append([Fresh(0, 0, b"after")])
    entries = await both(known, Selection(follow=False))
    assert [entry.sequence for entry in entries] == list(range(1, 27))
    assert {entry.task_id for entry in entries} == {"true"}


async def test_what_damage_took_is_counted_before_the_next_line(registry: Registry) -> None:
    """Also where whole blocks follow that nobody looks into."""
    known = stored(registry, 50)
    (segment,) = known.spool.segments
    data = bytearray(segment.path.read_bytes())
    at = data.index(b"line 23")
    data[at : at + 7] = b"nobody!"
    segment.path.write_bytes(data)
    entries = await both(known, Selection(follow=False))
    assert [entry.sequence for entry in entries] == [*range(1, 23), *range(24, 51)]
    assert [entry.sequence for entry in entries if entry.dropped_before == 1] == [24]
    assert sum(entry.dropped_before for entry in entries) == 1


async def test_a_gap_that_the_source_told_of_reaches_readers(registry: Registry) -> None:
    """A line before which others were lost says how many, from within a block."""
    known = registry.add(Facts("w-1", "task", origin=PUSHED))
    known.append([Fresh(0, 0, b"one"), Fresh(0, 0, b"two", dropped=3), Fresh(0, 0, b"three")])
    assert [entry.dropped_before for entry in await both(known, Selection(follow=False))] == [0, 3, 0]


def entries_of(data: bytes, sizes: list[int], longest: int) -> list[Line]:
    joiner = Joiner(b"", lambda text, complete: min(len(text), longest) if complete or len(text) >= longest else 0, longest)
    found: list[Line] = []
    at = 0
    for size in sizes:
        found += joiner.feed(data[at : at + size])
        at += size
    return [*found, *joiner.feed(data[at:]), *joiner.close()]


STAMPS = st.sampled_from(["2026-11-24T02:00:00.000000001Z", "2026-11-24T02:00:01.123456789Z"])
PLAIN = st.builds(
    "{} {} F {}\n".format,
    STAMPS,
    st.sampled_from(["stdout", "stderr"]),
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])),
)
ODD = st.sampled_from([
    "2026-11-24T02:00:01.5Z stdout F short fraction\n",
    "2026-11-24T02:00:01.000000000Z stdout P part \n",
    "2026-11-24T02:00:01.000000000+01:00 stderr F a zone\n",
    "2026-13-24T02:00:01.000000000Z stdout F no such month\n",
    "9999-11-24T02:00:01.000000000Z stdout F beyond 64 bits\n",
    "2026-11-24T02:00:01.000000000Z stdout F\n",
    "nothing of the format\n",
    "\n",
    f"2026-11-24T02:00:01.000000000Z stdout F {'x' * 300}\n",
])  # fmt: skip


@settings(deadline=None)
@given(st.lists(PLAIN | PLAIN | PLAIN | ODD, max_size=30).map("".join).map(str.encode), st.lists(st.integers(0, 900), max_size=6))
def test_however_a_log_is_read_its_lines_are_the_same(data: bytes, sizes: list[int]) -> None:
    """Entries that are taken together give the lines, times and positions that they give one by one."""
    one_by_one = [len(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
    assert entries_of(data, sizes, 200) == entries_of(data, one_by_one, 200)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ERROR x", "[warn] y", "plain", "a level=debug b", '{"severity": "error"}', "lvl", "x" * 250 + " level=warn"]),
            st.booleans(),
        ),
        min_size=1,
    )
)
def test_levels_of_many_lines_are_those_of_each(lines: list[tuple[str, bool]]) -> None:
    """What one line says is nothing to the others."""
    messages = [text.encode() for text, _ in lines]
    stderr = [error for _, error in lines]
    alone = [level_of(message, stderr=error) for message, error in zip(messages, stderr, strict=True)]
    assert levels_of(messages, stderr, b"\n".join(messages)) == alone


async def test_others_run_while_few_lines_of_many_are_wanted(registry: Registry) -> None:
    """After each look into the spool, also while what was found makes no message yet: 80 MB held the whole relay up for 0.8 s."""
    known = registry.add(Facts("w-1", "task", origin=PUSHED))
    looks = 10
    for _ in range(looks):
        known.append([Fresh(SECOND, 0, b"wanted"), *(Fresh(SECOND, 0, b"x" * 1000) for _ in range(CHUNK // 1000))])
    reading = asyncio.create_task(both(known, Selection(follow=False, keywords=("wanted",))))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(await reading) == looks
    assert turns > looks
