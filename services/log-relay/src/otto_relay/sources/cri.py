"""The CRI log format: `<RFC 3339 time> stdout|stderr F|P <bytes>` per line, P being a part of a line that goes on in the stream's next one.

Pure: bytes of a file in, whole lines out, each with the position from which reading can go on without losing or doubling anything, also
in the middle of a line that is split into several entries, and while the two streams' parts are interleaved.
"""

import calendar
import re
import struct
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, repeat
from operator import add

from otto_relay.sources.protocol import Line, Split

_PLAIN = struct.Struct("<Q")
_PENDING = struct.Struct("<QqQqQ")
_STREAMS = frozenset((b"stdout", b"stderr"))
_ENTRY = re.compile(rb"(.{19})\.(\d{9})Z (stdout|stderr) F (.*)\n")
_ENTRY_BYTES = 41
"""Of such an entry, without its text."""
_MANY = 4
"""From so many entries on it is worth while to take them together."""
_LONGEST_RAW = 4 * 1024 * 1024
"""Bytes without a line end after which a file is taken apart all the same; container runtimes write at most 16 KiB a line."""


@dataclass(slots=True)
class _Pending:
    """A line of one stream whose end has not come."""

    start: int
    """File offset of its first part."""
    used: int = 0
    """Bytes of it that have become entries."""
    skip: int = 0
    """Bytes of it, still to be read again, that had become entries before."""
    time: int = 0
    text: bytearray = field(default_factory=bytearray)

    def add(self, part: bytes) -> None:
        if self.skip:
            dropped = min(self.skip, len(part))
            self.skip -= dropped
            part = part[dropped:]
        self.text += part


class Times:
    """Parses time stamps; lines mostly come within the same second, which is parsed once."""

    def __init__(self) -> None:
        self._text = b""
        self._seconds = 0

    def nanoseconds(self, stamp: bytes) -> int | None:
        """Nanoseconds since 1970 of an RFC 3339 time; None if it is none, or none that 64 bits hold (until April 2262)."""
        found = self._parsed(stamp)
        return found if found is not None and 0 <= found < 1 << 63 else None

    def _parsed(self, stamp: bytes) -> int | None:
        try:
            if stamp[:19] != self._text:
                year, month, day = int(stamp[0:4]), int(stamp[5:7]), int(stamp[8:10])
                hour, minute, second = int(stamp[11:13]), int(stamp[14:16]), int(stamp[17:19])
                if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
                    return None
                if (stamp[4:5], stamp[7:8], stamp[13:14], stamp[16:17]) != (b"-", b"-", b":", b":") or stamp[10:11] not in b"Tt":
                    return None
                self._seconds = calendar.timegm((year, month, day, hour, minute, second))
                self._text = stamp[:19]
            rest = stamp[19:]
            if rest[-1:] in b"Zz" and rest:
                zone, fraction = 0, rest[:-1]
            else:
                sign = {b"+": 1, b"-": -1}[rest[-6:-5]]
                if rest[-3:-2] != b":":
                    return None
                zone = sign * (int(rest[-5:-3]) * 3600 + int(rest[-2:]) * 60)
                fraction = rest[:-6]
            if not fraction:
                return (self._seconds - zone) * 1_000_000_000
            if fraction[:1] != b"." or not fraction[1:].isdigit():
                return None
            return (self._seconds - zone) * 1_000_000_000 + int(fraction[1:10].ljust(9, b"0"))
        except (ValueError, KeyError, IndexError):
            return None


class Joiner:
    """Follows one file from a position on."""

    def __init__(self, position: bytes, split: Split, longest_unsplit: int) -> None:
        """`split` is asked about every line longer than `longest_unsplit` bytes."""
        self._split = split
        self._longest = longest_unsplit
        self._times = Times()
        self._pending: list[_Pending | None] = [None, None]
        self._rest = b""
        self._last_time = 0
        self._resume = 0
        """Before this offset only parts of the pending lines count."""
        if len(position) == _PENDING.size:
            self._resume, *places = _PENDING.unpack(position)
            for stream in (0, 1):
                start, used = places[stream * 2 : stream * 2 + 2]
                if start >= 0:
                    self._pending[stream] = _Pending(start, used, used)
        elif position:
            (self._resume,) = _PLAIN.unpack(position)
        self.offset = min([self._resume, *(pending.start for pending in self._pending if pending)])
        """File offset of the next byte that `feed` wants."""
        self._at = self.offset

    @property
    def stored_to(self) -> int:
        """The file can't be shorter than this."""
        return self._resume

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are complete with the next bytes of the file."""
        self.offset += len(data)
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > _LONGEST_RAW:
            self._rest = b""
            found: list[Line] = []
            self._take(data, len(data), found)
            return found
        self._rest = data[end:]
        return self._complete(data[:end]) if end else []

    def close(self) -> list[Line]:
        """What is left when the file has ended: an unterminated line is a line."""
        found: list[Line] = []
        if self._rest:
            rest, self._rest = self._rest, b""
            fields = rest.split(b" ", 3)
            if len(fields) == 4 or self._times.nanoseconds(fields[0]) is None:
                self._take(rest, len(rest), found)
        for stream in (0, 1):
            pending = self._pending[stream]
            if pending is not None:
                self._emit(stream, pending, self._at, self._at, found, ended=True)
        return found

    def _complete(self, data: bytes) -> list[Line]:
        if self._at >= self._resume and self._pending == [None, None] and (plain := self._plain(data)):
            return plain
        found: list[Line] = []
        for raw in data[:-1].split(b"\n"):
            self._take(raw, len(raw) + 1, found)
        return found

    def _plain(self, data: bytes) -> list[Line]:
        """The lines, if all of them are whole ones as our own supervisor writes them, none to be split; else nothing.

        Nearly all are. Loops over lines run in C here.
        """
        entries = _ENTRY.findall(data)
        if len(entries) < _MANY:
            return []
        seconds, fractions, streams, texts = zip(*entries, strict=True)
        sizes = [len(text) + _ENTRY_BYTES for text in texts]
        if sum(sizes) != len(data) or max(sizes) - 1 > self._longest:
            return []
        starts: dict[bytes, int] = {}
        for second in set(seconds):
            if (start := self._times.nanoseconds(second + b"Z")) is None:
                return []
            starts[second] = start
        times = list(map(add, map(starts.__getitem__, seconds), map(int, fractions)))
        if max(times) >> 63:
            return []
        positions = map(_PLAIN.pack, accumulate(sizes[1:], initial=self._at + sizes[0]))
        self._at += len(data)
        self._last_time = times[-1]
        errors = [stream == b"stderr" for stream in streams] if b"stderr" in streams else repeat(False)
        # What Line(...) does, without the call of its own in between.
        return list(map(partial(tuple.__new__, Line), zip(times, errors, texts, positions, repeat(""), repeat(False), strict=False)))

    def _take(self, raw: bytes, size: int, found: list[Line]) -> None:
        """One line of the file, which takes `size` bytes."""
        start = self._at
        self._at += size
        stream, time, complete, text = self._parsed(raw)
        pending = self._pending[stream]
        if start < self._resume and (pending is None or start < pending.start or complete):
            return
        self._last_time = time
        if pending is None:
            pending = self._pending[stream] = _Pending(start)
        if not pending.time:
            pending.time = time
        pending.add(text)
        if start >= self._resume:
            self._emit(stream, pending, start, self._at, found, ended=complete)

    def _parsed(self, raw: bytes) -> tuple[int, int, bool, bytes]:
        """Stream, time, whether the line ends here, text. What is not in the format is output as it stands: nothing is lost."""
        fields = raw.split(b" ", 3)
        if len(fields) >= 3 and fields[1] in _STREAMS:
            time = self._times.nanoseconds(fields[0])
            tag = fields[2].partition(b":")[0]
            if time is not None and tag in {b"F", b"P"}:
                return int(fields[1] == b"stderr"), time, tag == b"F", fields[3] if len(fields) == 4 else b""
        return 0, self._last_time, True, raw

    def _emit(self, stream: int, pending: _Pending, start: int, end: int, found: list[Line], *, ended: bool) -> None:
        """Makes entries of what has come of a line; `start` and `end` are those of the part that came last."""
        while True:
            size = len(pending.text)
            if not ended and size <= self._longest:
                return
            count = size if ended and size <= self._longest else self._split(bytes(pending.text), ended)
            if count == size and ended:
                self._pending[stream] = None
                found.append(Line(pending.time, stream == 1, bytes(pending.text), self._position(end)))
                return
            if not count:
                return
            text = bytes(pending.text[:count])
            del pending.text[:count]
            pending.used += count
            found.append(Line(pending.time, stream == 1, text, self._position(start)))

    def _position(self, offset: int) -> bytes:
        out, err = self._pending
        if out is None and err is None:
            return _PLAIN.pack(offset)
        places = [value for pending in (out, err) for value in ((pending.start, pending.used) if pending else (-1, 0))]
        return _PENDING.pack(offset, *places)
