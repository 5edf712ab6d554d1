"""How lines lie in spool segments: blocks of some lines each, whose body is what a reader of batches gets.

A block is a header of fixed size, an index, the source's position after its last line, and the body: LogEntries as a LogBatch has them,
marked as replayed. So stored lines are sent on as they lie there, and only who wants some of them looks into the index. One checksum
says that a block is whole; where it is not, the checksum of its head (all but the body) and those of its lines tell which lines are.
Pure: bytes in, blocks out.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, count
from typing import NamedTuple

from otto_relay.records import Record
from otto_relay.wire import REPLAYED, tagged

MAGIC = b"\xf5\x1d"
"""The second byte is the number of the format; 0x1c was a record a line (see `first_format`)."""
BLOCK_BYTES = 8192
"""Of a body, unless one line has more: what damage to a block's head costs."""
BLOCK_LINES = 32
MAX_BODY_BYTES = 8 * 1024 * 1024
"""Above this a length can only be damage: the longest line is below 4 MiB."""

_HEADER = struct.Struct("<2sBBIIHIIQ")
HEADER_BYTES = _HEADER.size
_SUMMED_FROM = 8
"""The checksum of all covers what comes behind it; what comes before it is its start value."""
_LINE_BYTES = 25
_GAPS = 0x01
"""Flag of a block: lines are missing before some of its lines."""
_MARK_BYTES = len(REPLAYED)
_record = partial(tuple.__new__, Record)
"""What Record(...) does, without the call of its own in between; of a tuple."""


@lru_cache(maxsize=BLOCK_LINES)
def _index(lines: int) -> struct.Struct:
    """Columns: times, sizes in the body, lengths of messages, lines missing before, checksums, flags."""
    return struct.Struct(f"<{lines}q{lines}I{lines}I{lines}I{lines}I{lines}B")


class Columns(NamedTuple):
    """An index, a column of it per field."""

    times: Sequence[int]
    sizes: Sequence[int]
    """Bytes in the body, with the tag and the length that a LogBatch has before each entry."""
    lengths: Sequence[int]
    """Bytes of the messages."""
    dropped: Sequence[int]
    sums: Sequence[int]
    flags: Sequence[int]


def _tag_bytes(size: int) -> int:
    """How many bytes of an entry in a body are its tag and its length."""
    return 2 if size < 130 else 3 if size < 16387 else 4 if size < 2097156 else 5


class Block(NamedTuple):
    """Lines of consecutive sequences."""

    first: int
    """The sequence of its first line."""
    lines: int
    prefix: int
    """Bytes with which each entry begins that are the same in all: the worker and its task."""
    gaps: bool
    """Lines are missing before some of its lines."""
    position: bytes
    """The source's, after its last line."""
    table: bytes
    """Its index, packed."""
    body: bytes

    @property
    def last(self) -> int:
        """The sequence of its last line."""
        return self.first + self.lines - 1

    def columns(self) -> Columns:
        """Its index."""
        lines = self.lines
        values = _index(lines).unpack(self.table)
        return Columns(*(values[at : at + lines] for at in range(0, 6 * lines, lines)))

    def records(self) -> list[Record]:
        """Its lines, one by one."""
        times, sizes, lengths, dropped, _, flags = self.columns()
        body, prefix = self.body, self.prefix
        payloads = [
            body[end - size + _tag_bytes(size) + prefix : end - _MARK_BYTES] for size, end in zip(sizes, accumulate(sizes), strict=True)
        ]
        return list(map(_record, zip(count(self.first), times, flags, dropped, lengths, payloads, strict=False)))

    def entries(self, *, replayed: bool) -> list[bytes]:
        """Its LogEntries, one by one."""
        body = self.body
        less = 0 if replayed else _MARK_BYTES
        sizes = self.columns().sizes
        return [body[end - size + _tag_bytes(size) : end - less] for size, end in zip(sizes, accumulate(sizes), strict=True)]

    def live(self) -> bytes:
        """Its body as those get it who saw the lines come: none is marked as replayed."""
        body = bytearray(self.body)
        for end in accumulate(self.columns().sizes):
            body[end - 1] = 0
        return bytes(body)

    def begins_with(self, fields: bytes) -> bool:
        """Whether each entry begins with these fields and nothing else that is the same in all."""
        size = int.from_bytes(self.table[self.lines * 8 : self.lines * 8 + 4], "little")
        return self.prefix == len(fields) and self.body.startswith(fields, _tag_bytes(size))


def pack(first: int, prefix: int, position: bytes, columns: Columns, body: bytes) -> bytes:
    """A block; `position` is at most 255 bytes, the lines at most BLOCK_LINES."""
    lines = len(columns.times)
    flags = _GAPS if any(columns.dropped) else 0
    index = _index(lines).pack(*columns.times, *columns.sizes, *columns.lengths, *columns.dropped, *columns.sums, *columns.flags)
    fields = (lines, prefix, len(body), first)
    start = _HEADER.pack(MAGIC, flags, len(position), 0, 0, *fields)
    head = zlib.crc32(b"".join((start[12:], index, position)), flags << 8 | len(position))
    rest = b"".join((head.to_bytes(4, "little"), start[12:], index, position, body))
    return b"".join((start[:4], zlib.crc32(rest, flags << 8 | len(position)).to_bytes(4, "little"), rest))


class Head(NamedTuple):
    """A header that may be one."""

    flags: int
    position: int
    sum: int
    head_sum: int
    lines: int
    prefix: int
    body: int
    first: int

    @property
    def start(self) -> int:
        """Of its checksums."""
        return self.flags << 8 | self.position

    @property
    def body_at(self) -> int:
        """Where the body begins, counted from the header."""
        return HEADER_BYTES + self.lines * _LINE_BYTES + self.position

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.body_at + self.body


def head_at(data: bytes, at: int) -> Head | None:
    """The header at `at`, if what is there can be one."""
    if len(data) - at < HEADER_BYTES:
        return None
    magic, *fields = _HEADER.unpack_from(data, at)
    head = Head(*fields)
    if magic != MAGIC or not 0 < head.lines <= BLOCK_LINES or head.body > MAX_BODY_BYTES:
        return None
    return head


def block_at(data: bytes, view: memoryview, at: int) -> Block | None:
    """The block at `at`; None if there is no whole valid one."""
    found: list[Block] = []
    take(data, view, at, found, 1)
    return found[0] if found else None


def take(data: bytes, view: memoryview, at: int, found: list[Block], most: int = 1 << 30) -> int:
    """Adds the blocks from `at` on to `found` until there is no whole valid one, at most so many; returns where they end."""
    unpack, crc32, new = _HEADER.unpack_from, zlib.crc32, tuple.__new__
    last = len(data) - HEADER_BYTES
    while at <= last and most:
        magic, flags, position, checksum, _, lines, prefix, size, first = unpack(data, at)
        if magic != MAGIC or not 0 < lines <= BLOCK_LINES or size > MAX_BODY_BYTES:
            break
        table = at + HEADER_BYTES
        place = table + lines * _LINE_BYTES
        body = place + position
        end = body + size
        if end > len(data) or crc32(view[at + _SUMMED_FROM : end], flags << 8 | position) != checksum:
            break
        # What Block(...) does, without the call of its own in between.
        found.append(new(Block, (first, lines, prefix, flags & _GAPS != 0, data[place:body], data[table:place], data[body:end])))
        at = end
        most -= 1
    return at


def rescued(data: bytes, at: int, head: Head) -> list[Block] | None:
    """What is whole of a damaged block, a block each; None if its head is damaged too."""
    body = at + head.body_at
    if zlib.crc32(data[at + 12 : body], head.start) != head.head_sum:
        return None
    index = data[at + HEADER_BYTES : at + HEADER_BYTES + head.lines * _LINE_BYTES]
    block = Block(head.first, head.lines, head.prefix, head.flags & _GAPS != 0, b"", index, data[body : body + head.body])
    return list(_whole_lines(block))


def _whole_lines(block: Block) -> Iterator[Block]:
    at = 0
    for number, fields in enumerate(zip(*block.columns(), strict=True)):
        _, size, _, dropped, checksum, _ = fields
        entry = block.body[at : at + size]
        at += size
        if zlib.crc32(entry) == checksum:
            yield Block(block.first + number, 1, block.prefix, dropped > 0, b"", _index(1).pack(*fields), entry)


def of_one(record: Record, position: bytes) -> Block:
    """A line that lies on disk in another format, as a block whose entry names no worker."""
    entry = record.payload + REPLAYED
    body = tagged(entry)
    index = _index(1).pack(record.time, len(body), record.message_length, record.dropped, zlib.crc32(body), record.flags)
    return Block(record.sequence, 1, 0, record.dropped > 0, position, index, body)
