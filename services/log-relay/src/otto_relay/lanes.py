"""A reader's way through the lines of one worker: read from the spool, filtered, encoded, with what is missing counted."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

from otto_relay.blocks import Block
from otto_relay.errors import UnknownLogError
from otto_relay.records import Record
from otto_relay.spool import Cursor, Spool
from otto_relay.wire import REPLAYED, dropped_field, tagged
from otto_relay.worker_log import WorkerLog

CHUNK = 131072
"""Bytes per look into a spool: about 1,000 lines, some milliseconds of work."""
Filter = Callable[[Record], bool] | None
Part = tuple[int, bytes]
"""So many lines, encoded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How entries are gathered."""

    lines: int = 500
    bytes: int = 65536
    linger: float = 0.0
    """Seconds after a batch over which live lines are gathered for the next one."""


class Batch:
    """Entries until there are enough of them, or until live ones have been gathered for long enough."""

    __slots__ = ("_due", "_limits", "entries", "lines", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.entries: list[bytes] = []
        self.size = 0
        self.lines = 0
        self._due = 0.0

    @property
    def wait(self) -> float:
        """Seconds over which live entries are still to be gathered, because others were just given; not above 0: none."""
        return self._due - time.monotonic()

    def add(self, entry: bytes) -> None:
        """Adds one more, whether or not it is full."""
        self.entries.append(entry)
        self.size += len(entry)
        self.lines += 1

    def gather(self, entries: Iterable[bytes]) -> Iterator[list[bytes]]:
        """Adds entries, and gives what was gathered before each that does not fit. One too long for any batch gets its own."""
        return self.gather_parts(zip(repeat(1), entries, strict=False))

    def gather_parts(self, parts: Iterable[Part]) -> Iterator[list[bytes]]:
        """As `gather`, of parts that may hold several lines."""
        most_lines, most = self._limits.lines, self._limits.bytes
        held, size, lines = self.entries, self.size, self.lines
        for count, part in parts:
            length = len(part)
            if held and (size + length > most or lines + count > most_lines):
                self._given()
                yield held
                held, size, lines = [], 0, 0
            held.append(part)
            size += length
            lines += count
        self.entries, self.size, self.lines = held, size, lines

    def take(self) -> list[bytes]:
        """What was gathered; empty afterwards."""
        self._given()
        entries, self.entries, self.size, self.lines = self.entries, [], 0, 0
        return entries

    def _given(self) -> None:
        self._due = time.monotonic() + self._limits.linger


class Lane:
    """One worker's lines from a sequence on."""

    def __init__(self, known: WorkerLog, start: int, wanted: Filter, *, count_from: int | None, follow: bool = True) -> None:
        """Lines missing from sequence `count_from` on are counted; None: from the first one that is found.

        Without `follow` it gives nothing that is stored after it was made.
        """
        self.known = known
        self._follow = follow
        self.spool = known.spool
        self.snapshot = self.spool.last
        """What is stored now: up to here lines are replayed."""
        self._cursor = Cursor(self.spool, start)
        self._wanted = wanted
        self._expected = count_from
        self._dropped = 0
        self._latest = 0

    @property
    def caught_up(self) -> bool:
        """Whether everything that is stored has been read."""
        return self._cursor.caught_up

    @property
    def replaying(self) -> bool:
        """Whether there may still be lines that were stored before this lane began."""
        return not self._cursor.caught_up and self._cursor.next <= self.snapshot

    @property
    def done(self) -> bool:
        """Whether it will give nothing more, whatever follows."""
        return (self.caught_up and self.known.ended) or not (self._follow or self.replaying)

    def passed(self, limit: int | None) -> bool:
        """Whether it has read a line that was written after `limit` (nanoseconds), if it looks at lines at all: with a limit it does."""
        return limit is not None and self._latest > limit

    def read(self, count: int = CHUNK) -> list[tuple[int, bytes]]:
        """The next entries with their times; may be empty without being at the end.

        Raises UnknownLogError when the worker is not kept any more.
        """
        start, blocks = self._blocks(count)
        return [(record.time, entry) for block in blocks for record, entry in zip(*self._one_by_one(block.records(), start), strict=True)]

    def entries(self, count: int = CHUNK) -> list[bytes]:
        """As `read`, without the times."""
        start, blocks = self._blocks(count)
        found: list[bytes] = []
        for block in blocks:
            if self._plain(block):
                self._expected = block.last + 1
                found += block.entries(replayed=block.last <= self.snapshot)
            else:
                found += self._one_by_one(block.records(), start)[1]
        return found

    def parts(self, limits: Limits, count: int = CHUNK) -> list[Part]:
        """As `read`, as parts of a LogBatch that are no more than the limits allow: whole blocks wherever that can be."""
        start, blocks = self._blocks(count)
        found: list[Part] = []
        for block in blocks:
            if self._plain(block) and block.lines <= limits.lines and len(block.body) <= limits.bytes:
                self._expected = block.last + 1
                found.append((block.lines, block.body if block.last <= self.snapshot else block.live()))
            else:
                found += [(1, tagged(entry)) for entry in self._one_by_one(block.records(), start)[1]]
        return found

    def _blocks(self, count: int) -> tuple[int, list[Block]]:
        """The next blocks, and the sequence before which their lines are not wanted."""
        if self.known.removed:
            raise UnknownLogError(f"the lines of worker {self.known.worker_id!r} are not kept any more")
        start = self._cursor.next
        blocks = self._cursor.read_blocks(count)
        if blocks and self._expected is None:
            self._expected = max(blocks[0].first, start)
        return start, blocks

    def _plain(self, block: Block) -> bool:
        """Whether all of its lines are wanted, they go on with what came before, and they may be sent as they are stored."""
        return (
            self._wanted is None
            and block.first == self._expected
            and not (block.gaps or self._dropped)
            and (block.last <= self.snapshot or (self._follow and block.first > self.snapshot))
            and block.begins_with(self.known.fields)
        )

    def _one_by_one(self, records: list[Record], start: int) -> tuple[list[Record], list[bytes]]:
        """The wanted records from sequence `start` on and, encoded, their entries."""
        fields, wanted, snapshot, expected = self.known.fields, self._wanted, self.snapshot, self._expected
        assert expected is not None
        found: list[Record] = []
        entries: list[bytes] = []
        for record in records:
            sequence = record.sequence
            if sequence < start:
                continue
            if sequence > snapshot and not self._follow:
                break
            self._latest = max(self._latest, record.time)
            if sequence != expected or record.dropped:
                self._dropped += max(sequence - expected, 0) + record.dropped
            expected = sequence + 1
            if wanted is not None and not wanted(record):
                continue
            entry = fields + record.payload if sequence > snapshot else fields + record.payload + REPLAYED
            if self._dropped:
                entry += dropped_field(self._dropped)
                self._dropped = 0
            found.append(record)
            entries.append(entry)
        self._expected = expected
        return found, entries


async def tail_places(spool: Spool, count: int, wanted: Filter) -> list[tuple[int, int]]:
    """Times and sequences of the last `count` stored lines that match, in their order."""
    last = spool.last
    found: list[tuple[int, int]] = []
    for segment in reversed(list(spool.segments)):
        cursor = Cursor(spool, segment.first)
        end = last + 1
        later = [other.first for other in spool.segments if other.first > segment.first]
        if later:
            end = min(later[0], end)
        if wanted is None:
            # Every line counts, so the place is known up to lines that are damaged.
            cursor = Cursor(spool, max(segment.first, end - (count - len(found))))
        here: deque[tuple[int, int]] = deque(maxlen=count - len(found))
        while cursor.next < end and not cursor.caught_up:
            for record in cursor.read(CHUNK):
                if record.sequence < end and (wanted is None or wanted(record)):
                    here.append((record.time, record.sequence))
            await asyncio.sleep(0)
        found = [*here, *found]
        if len(found) >= count:
            break
    return found
