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

_PLAIN = struct.Struct("<QQ")
_PENDING = struct.Struct("<QqQqQQ")
_UNTIMED = 8
"""Bytes fewer than these that positions had which earlier versions stored: they end before the time."""
_STREAMS = frozenset((b"stdout", b"stderr"))
_ENTRY = re.compile(rb"(.{19})\.(\d{9})Z (stdout|stderr) F (.*)\n")
_ENTRY_BYTES = 41
"""Of such an entry, without its text."""
_MANY = 4
"""From so many entries on it is worth while to take them together."""
_DAMAGED = "lines may be missing here: this log is damaged, and what follows is what stands in it"
_TORN = "the next line may have been longer: this log ends within it"
_CUT = "lines may be missing here: this log was cut short before all of it was read"
REACH = 17 * 1024
"""Bytes in which the line of a file that ends or begins at a position can be told by its time."""
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
    notice: str = ""
    """What has to be said before it."""
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
        self._after = -1
        """Records up to this time were had before the file was cut short, and do not count again."""
        self._notice = ""
        """What has to be said before the next line."""
        self._sound = True
        """The last line of the file was a record."""
        self.resume = 0
        """Before this offset only parts of the pending lines count."""
        if len(position) in {_PLAIN.size - _UNTIMED, _PENDING.size - _UNTIMED}:
            position += bytes(_UNTIMED)
        if len(position) == _PENDING.size:
            self.resume, *places, self._last_time = _PENDING.unpack(position)
            for stream in (0, 1):
                start, used = places[stream * 2 : stream * 2 + 2]
                if start >= 0:
                    self._pending[stream] = _Pending(start, used, used)
        elif position:
            self.resume, self._last_time = _PLAIN.unpack(position)
        self.offset = min([self.resume, *(pending.start for pending in self._pending if pending)])
        """File offset of the next byte that `feed` wants."""
        self._at = self.offset

    @property
    def lost(self) -> bool:
        """Whether the file was cut and no line has come since then with which that could be told."""
        return bool(self._notice)

    def fits(self, before: bytes, behind: bytes) -> bool:
        """Whether the position is one in this file; not when the file was cut and has grown beyond it since.

        `before` are REACH bytes of it before the position, or all there are; `behind` as many behind it. The line before it, or the
        part that begins there, has the time that the position knows.
        """
        if not before or not behind or not self._last_time:
            return True
        stamps = before[:-1].rpartition(b"\n")[2].partition(b" ")[0], behind.partition(b" ")[0]
        times = [self._times.nanoseconds(stamp) for stamp in stamps]
        return before.endswith(b"\n") and (times[0] is None or self._last_time in times)

    def cut(self) -> list[Line]:
        """The file has become shorter: it is read anew, and what was had of it is known by its times, as each record has one of its own.

        Gives what was waiting for its end.
        """
        found: list[Line] = []
        self._flush(found)
        self._rest = b""
        self.offset = self._at = self.resume = 0
        self._after = self._last_time
        self._notice = _CUT
        return found

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
        # Behind a cut that nothing new has followed stands the beginning of something that was had.
        if self._rest and not self._notice:
            rest, self._rest = self._rest, b""
            self._notice = _TORN
            self._take(rest, len(rest), found)
        self._flush(found)
        return found

    def _flush(self, found: list[Line]) -> None:
        """What waits for its end has none."""
        for stream in (0, 1):
            pending = self._pending[stream]
            if pending is not None and (pending.time or pending.text):
                self._emit(stream, pending, self._at, self._at, found, ended=True)
            self._pending[stream] = None

    def _complete(self, data: bytes) -> list[Line]:
        plainly = self._at >= self.resume and self._sound and not self._notice and self._pending == [None, None]
        if plainly and (plain := self._plain(data)):
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
        if max(times) >> 63 or min(times) <= self._after:
            return []
        positions = map(_PLAIN.pack, accumulate(sizes[1:], initial=self._at + sizes[0]), times)
        self._at += len(data)
        self._last_time = times[-1]
        errors = [stream == b"stderr" for stream in streams] if b"stderr" in streams else repeat(False)
        # What Line(...) does, without the call of its own in between.
        return list(map(partial(tuple.__new__, Line), zip(times, errors, texts, positions, repeat(""), repeat(""), strict=False)))

    def _take(self, raw: bytes, size: int, found: list[Line]) -> None:
        """One line of the file, which takes `size` bytes."""
        start = self._at
        self._at += size
        parsed = self._parsed(raw)
        if parsed is None:
            time = self._times.nanoseconds(raw.partition(b" ")[0])
            if start >= self.resume and (time is None or time > self._after):
                self._damage(raw, start, time or self._last_time, found)
            return
        stream, time, complete, text = parsed
        self._sound = True
        pending = self._pending[stream]
        if time <= self._after or (start < self.resume and (pending is None or start < pending.start or complete)):
            return
        self._last_time = time
        if pending is None:
            pending = self._pending[stream] = _Pending(start)
        if self._notice:
            pending.notice, self._notice = self._notice, ""
        if not pending.time:
            pending.time = time
        pending.add(text)
        if start >= self.resume:
            self._emit(stream, pending, start, self._at, found, ended=complete)

    def _parsed(self, raw: bytes) -> tuple[int, int, bool, bytes] | None:
        """Stream, time, whether the line ends here, text; None if it is no record."""
        fields = raw.split(b" ", 3)
        if len(fields) >= 3 and fields[1] in _STREAMS:
            time = self._times.nanoseconds(fields[0])
            tag = fields[2].partition(b":")[0]
            if time is not None and tag in {b"F", b"P"}:
                return int(fields[1] == b"stderr"), time, tag == b"F", fields[3] if len(fields) == 4 else b""
        return None

    def _damage(self, raw: bytes, start: int, time: int, found: list[Line]) -> None:
        """Not in the format: output as it stands, so that nothing is lost, and told once for all that stands together.

        It may have been the end of any line that waits for one.
        """
        before = self._pending[0]
        used = before.used if before is not None and before.start == start else 0
        end, self._at = self._at, start
        self._flush(found)
        self._at = end
        self._last_time = time
        damaged = self._pending[0] = _Pending(start, used, used, time)
        damaged.notice = self._notice or (_DAMAGED if self._sound and not used else "")
        self._sound, self._notice = False, ""
        damaged.add(raw)
        self._emit(0, damaged, start, end, found, ended=True)

    def _emit(self, stream: int, pending: _Pending, start: int, end: int, found: list[Line], *, ended: bool) -> None:
        """Makes entries of what has come of a line; `start` and `end` are those of the part that came last."""
        while True:
            size = len(pending.text)
            if not ended and size <= self._longest:
                return
            count = size if ended and size <= self._longest else self._split(bytes(pending.text), ended)
            if count == size and ended:
                self._pending[stream] = None
                found.append(Line(pending.time, stream == 1, bytes(pending.text), self._position(end), notice=pending.notice))
                return
            if not count:
                return
            text = bytes(pending.text[:count])
            del pending.text[:count]
            pending.used += count
            found.append(Line(pending.time, stream == 1, text, self._position(start), notice=pending.notice))
            pending.notice = ""

    def _position(self, offset: int) -> bytes:
        out, err = self._pending
        if out is None and err is None:
            return _PLAIN.pack(offset, self._last_time)
        places = [value for pending in (out, err) for value in ((pending.start, pending.used) if pending else (-1, 0))]
        return _PENDING.pack(offset, *places, self._last_time)
