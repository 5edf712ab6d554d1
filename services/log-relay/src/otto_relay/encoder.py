"""Makes blocks of a worker's lines. Loops over lines run in C: some of the work of the whole relay is done here, once for each line."""

import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

from otto_relay.blocks import BLOCK_BYTES, BLOCK_LINES, Columns, pack
from otto_relay.wire import REPLAYED, Stamps, line_fields, message_tags, sequence_fields, tagged

_MILLISECOND = 1_000_000


class Fresh(NamedTuple):
    """A line to be stored."""

    time: int
    """Nanoseconds since 1970, UTC."""
    flags: int
    """As in `records.Record`."""
    message: bytes
    """UTF-8."""
    position: bytes = b""
    dropped: int = 0
    metadata: bytes = b""
    """Encoded by `wire.metadata_fields`."""


class _Beginnings(dict[tuple[int, int], bytes]):
    """What entries begin with, by millisecond and flags: of most lines that come together it is the same."""

    def __init__(self, fields: bytes, stamps: Stamps) -> None:
        super().__init__()
        self._fields = fields
        self._stamps = stamps

    def __missing__(self, key: tuple[int, int]) -> bytes:
        at, flags = key
        made = self[key] = self._fields + line_fields(self._stamps.field(at * _MILLISECOND), flags)
        return made


class Encoder:
    """Of one worker."""

    def __init__(self) -> None:
        self._stamps = Stamps()

    def blocks(self, first: int, fields: bytes, lines: Sequence[Fresh]) -> bytes:
        """Blocks of lines from sequence `first` on, one behind the other; `fields` is what all LogEntries of the worker begin with."""
        times, flags, messages, positions, dropped, metadata = zip(*lines, strict=True)
        begin = _Beginnings(fields, self._stamps).__getitem__
        moments = [at // _MILLISECOND for at in times]
        same = len(set(moments)) == len(set(flags)) == 1
        lengths = list(map(len, messages))
        parts: list[Iterable[bytes]] = [
            repeat(begin((moments[0], flags[0]))) if same else map(begin, zip(moments, flags, strict=True)),
            sequence_fields(first, len(lines)),
            message_tags(lengths),
            messages,
        ]
        if any(metadata):
            parts.insert(1, metadata)
        entries = list(map(tagged, map(b"".join, zip(*parts, repeat(REPLAYED), strict=False))))
        sizes = list(map(len, entries))
        columns = Columns(times, sizes, lengths, dropped, list(map(zlib.crc32, entries)), flags)
        made: list[bytes] = []
        for start, end in _cut(sizes):
            part = Columns(*(column[start:end] for column in columns))
            made.append(pack(first + start, len(fields), positions[end - 1], part, b"".join(entries[start:end])))
        return made[0] if len(made) == 1 else b"".join(made)


def _cut(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Which lines make a block each."""
    found: list[tuple[int, int]] = []
    start = before = 0
    for end, size in enumerate(accumulate(sizes)):
        if end > start and (size - before > BLOCK_BYTES or end - start == BLOCK_LINES):
            found.append((start, end))
            start, before = end, size - sizes[end]
    found.append((start, len(sizes)))
    return found
