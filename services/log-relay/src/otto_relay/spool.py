"""A worker's lines on disk: append-only segments of blocks, each file named by the sequence it begins with.

What is written reaches the operating system before anyone is told of it, so a kill of the process loses nothing. Opening cuts a torn end,
so that its lines are collected again under the same sequences; damage in the middle is left as it is and shows as missing sequences.
"""

import bisect
import logging
from dataclasses import dataclass, field
from pathlib import Path

from otto_relay.blocks import MAX_BODY_BYTES, Block
from otto_relay.files import Files
from otto_relay.parsing import lines_at, parse, size_at
from otto_relay.records import Record

log = logging.getLogger(__name__)

SUFFIX = ".seg"
_INDEX_BYTES = 65536
"""Between two remembered offsets of a segment."""


@dataclass(slots=True, eq=False)
class Segment:
    """One file."""

    path: Path
    first: int
    """The sequence it begins with."""
    size: int
    """Bytes that are valid; there may be more behind after a failed write."""
    offsets: list[tuple[int, int]] = field(default_factory=list)
    """Some sequences and where their blocks begin: shortcuts, as far as they are known."""
    damaged: bool = False
    """Bytes that are no blocks were found in it, and told of."""

    def offset_before(self, sequence: int) -> int:
        """Where to start looking for a sequence."""
        at = bisect.bisect_right(self.offsets, (sequence, 1 << 62)) - 1
        return self.offsets[at][1] if at >= 0 else 0

    def remember(self, sequence: int, offset: int) -> None:
        """A block begins here; kept if it is far enough behind the last that is known."""
        if not self.offsets or offset - self.offsets[-1][1] >= _INDEX_BYTES:
            self.offsets.append((sequence, offset))


@dataclass(frozen=True, slots=True)
class Repair:
    """What opening a spool found wrong."""

    cut: int = 0
    """Bytes cut from the end."""
    damaged: int = 0
    """Bytes in the last segment that are no valid blocks."""


class Spool:
    """The segments of one worker. One writer, any number of Cursors."""

    def __init__(self, directory: Path, files: Files, segment_bytes: int) -> None:
        """An empty spool; `open_spool` reads what is there."""
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self.segments: list[Segment] = []
        self.last = 0
        """The last sequence that was given out; 0: none yet."""
        self.position: bytes = b""
        """The source's position after the last line; empty: none."""
        self.repair = Repair()

    @property
    def first(self) -> int:
        """The first sequence that is kept; one more than `last` when none is."""
        return self.segments[0].first if self.segments else self.last + 1

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self.segments)

    def append(self, data: bytes, lines: int, position: bytes) -> None:
        """Stores blocks of so many lines, whose sequences follow on `last`. Raises SpoolWriteError; then none of them is stored."""
        segment = self.segments[-1] if self.segments else None
        if segment is None or (segment.size and segment.size + len(data) > self._segment_bytes):
            segment = self._new_segment()
        self._files.write(segment.path, data, segment.size)
        if not self.segments or self.segments[-1] is not segment:
            self.segments.append(segment)
        segment.remember(self.last + 1, segment.size)
        segment.size += len(data)
        self.last += lines
        self.position = position

    def _new_segment(self) -> Segment:
        first = self.last + 1
        return Segment(self._directory / f"{first:020d}{SUFFIX}", first, 0)

    def drop_first(self) -> int:
        """Deletes the oldest segment, unless it is the only one; returns the bytes that were freed. Raises OSError."""
        if len(self.segments) < 2:
            return 0
        segment = self.segments[0]
        self._files.delete(segment.path)
        self.segments.remove(segment)
        return segment.size

    def sync(self) -> None:
        """Makes all of it durable; blocks for milliseconds."""
        for segment in list(self.segments):
            self._files.sync(segment.path)

    def close(self) -> None:
        """Gives back the descriptors."""
        for segment in self.segments:
            self._files.forget(segment.path)

    def delete(self) -> None:
        """Removes every segment. Raises OSError; then some may be left."""
        for segment in list(self.segments):
            self._files.delete(segment.path)
            self.segments.remove(segment)

    def read_segment(self, segment: Segment, at: int, count: int) -> bytes:
        """Valid bytes of a segment; raises FileNotFoundError when it was deleted."""
        return self._files.read(segment.path, at, min(count, segment.size - at))


def open_spool(directory: Path, files: Files, segment_bytes: int, *, refill: bool, last: int | None = None) -> Spool:
    """The spool in `directory`, which has to exist.

    With `refill` sequences go on right behind the last valid block, because the source gives the same lines again. Without it the
    sequences of what was cut are never used again. With `last` nothing is read nor repaired: it is the last sequence of a spool that was
    closed in order.
    """
    spool = Spool(directory, files, segment_bytes)
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    spool.segments = [Segment(path, int(path.stem), path.stat().st_size) for path in paths if path.stem.isdigit()]
    if last is not None:
        spool.last = last
        return spool
    if not spool.segments:
        return spool
    tail = spool.segments[-1]
    data = tail.path.read_bytes()
    parsed = parse(data, final=True, torn=True)
    cut = len(data) - parsed.end
    spool.repair = Repair(cut, parsed.damaged - cut)
    spool.last = parsed.blocks[-1].last if parsed.blocks else tail.first - 1
    spool.position = parsed.blocks[-1].position if parsed.blocks else _last_position(spool.segments[:-1])
    tail.size = parsed.end
    if cut:
        with tail.path.open("r+b") as file:
            file.truncate(parsed.end)
        if not refill:
            spool.last += _lines_in(data[parsed.end :])
            # The name of the segment that comes next says what is not used any more.
            if spool.last >= tail.first and not tail.size:
                spool.segments.pop()
                tail.path.unlink()
            spool.segments.append(spool._new_segment())
            spool.segments[-1].path.touch(0o600)
    return spool


def _last_position(segments: list[Segment]) -> bytes:
    """The position after the last valid block."""
    for segment in reversed(segments):
        blocks = parse(segment.path.read_bytes(), final=True, torn=True).blocks
        if blocks:
            return blocks[-1].position
    return b""


def _lines_in(data: bytes) -> int:
    """How many lines a cut end may have held: at least one."""
    count = at = 0
    while lines := lines_at(data, at):
        count += lines
        at += size_at(data, at)
    return max(count, 1)


class Cursor:
    """A reader's place in a spool: forward only, holding no descriptor and no bytes between two reads."""

    def __init__(self, spool: Spool, sequence: int) -> None:
        """Starts at `sequence`, or behind it if it is not kept."""
        self._spool = spool
        self.next = max(sequence, 1)
        """The first sequence that the next read may give."""
        self._segment: Segment | None = None
        self._at = 0

    @property
    def caught_up(self) -> bool:
        """Whether everything that is stored now has been read."""
        segments = self._spool.segments
        if not segments:
            return True
        return self.next > self._spool.last or (self._segment is segments[-1] and self._at >= self._segment.size)

    def skip_to(self, sequence: int) -> None:
        """What comes before `sequence` is not wanted; a later place is looked up instead of read up to when that is shorter."""
        if sequence > self.next:
            self.next = sequence
            segment = self._segment
            if segment is not None and segment.offset_before(sequence) <= self._at and not self._is_behind(segment, sequence):
                return
            self._segment = None

    def _is_behind(self, segment: Segment, sequence: int) -> bool:
        return any(other.first > segment.first and other.first <= sequence for other in self._spool.segments)

    def read(self, count: int) -> list[Record]:
        """As `read_blocks`, line by line."""
        first = self.next
        blocks = self.read_blocks(count)
        records = [record for block in blocks for record in block.records()]
        if records and records[0].sequence < first:
            return [record for record in records if record.sequence >= first]
        return records

    def read_blocks(self, count: int) -> list[Block]:
        """The next blocks from about `count` bytes. May be empty without being at the end: read again unless `caught_up`.

        The first one may begin before `next`. Sequences that were deleted or damaged are missing in what it gives.
        """
        segments = self._spool.segments
        if not segments or self.next > self._spool.last:
            return []
        segment = self._segment
        if segment is None or segment not in segments or self._at >= segment.size:
            segment = self._seek(segments)
            if segment is None:
                return []
        at = self._at
        try:
            data, whole = self._bytes(segment, count)
            parsed = parse(data, final=whole)
            if parsed.end == 0 and not whole:
                data, whole = self._bytes(segment, size_at(data, 0) or MAX_BODY_BYTES)
                parsed = parse(data, final=whole)
                if parsed.end == 0 and not parsed.blocks:
                    data, whole = self._bytes(segment, segment.size)
                    parsed = parse(data, final=True)
        except FileNotFoundError:
            # Deleted, by us or by somebody else: the next read starts with what is kept.
            if segment in segments:
                segments.remove(segment)
            self._segment = None
            return []
        self._at = segment.size if whole and (parsed.end == 0 or parsed.damaged) else self._at + parsed.end
        if parsed.damaged and not segment.damaged:
            segment.damaged = True
            log.warning("relay.spool.damaged", extra={"path": str(segment.path), "damaged_bytes": parsed.damaged})
        blocks = parsed.blocks
        if not blocks:
            return []
        if not parsed.damaged:
            segment.remember(blocks[0].first, at)
        if blocks[0].last < self.next:
            first = self.next
            blocks = [block for block in blocks if block.last >= first]
        if blocks:
            self.next = blocks[-1].last + 1
        return blocks

    def _bytes(self, segment: Segment, count: int) -> tuple[bytes, bool]:
        """The next bytes of a segment, and whether nothing follows: because it ends there, or because somebody has cut the file short."""
        data = self._spool.read_segment(segment, self._at, count)
        return data, self._at + len(data) >= segment.size or len(data) < count

    def _seek(self, segments: list[Segment]) -> Segment | None:
        """The segment that holds `next`, or the first behind it that has anything."""
        if self._segment is not None and self._segment in segments and self._at >= self._segment.size:
            later = [segment for segment in segments if segment.first > self._segment.first]
            if not later:
                return None
            self._segment, self._at = later[0], 0
            return self._segment
        index = bisect.bisect_right(segments, self.next, key=lambda segment: segment.first) - 1
        segment = segments[max(index, 0)]
        self._segment, self._at = segment, segment.offset_before(self.next)
        return segment
