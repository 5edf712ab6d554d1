"""Lines as the log API of Kubernetes gives them: `<RFC 3339 time> <bytes>` each, joined however long they are.

The API can be asked for what is not older than a whole second, so a new connection begins with lines that were had before. Which those are
is known from a `Place`: lines come in the order of the file, hence up to the newest one that was had, and as many behind it as were had,
everything is old. Counting behind the newest makes that exact also where two streams' stamps are interleaved, are equal, or where the
node's clock was set back (by less than MARGIN; beyond it by what `earliest` says). Pure: bytes in, entries out.
"""

from dataclasses import dataclass
from typing import NamedTuple

from otto_relay.sources.cri import Times
from otto_relay.sources.protocol import Split
from otto_relay.wire import varint

MARGIN = 2
"""Seconds before the newest line from which on lines are asked for again: how far stamps of one file may be out of order."""
_SECOND = 1_000_000_000
_LONGEST_STAMP = 40
"""Bytes; RFC 3339 with nanoseconds and a zone has 35."""
_MOST_WORDS = 200
_NEWEST, _SAME, _AFTER, _EARLIEST, _USED = 1, 2, 4, 8, 16
_COUNTS = (_SAME, _AFTER, _EARLIEST, _USED)


@dataclass(slots=True)
class Place:
    """How far a container's output, or one stream of it, was read."""

    newest: int = -1
    """The latest stamp that was seen; nanoseconds since 1970, -1: none yet."""
    same: int = 0
    """Lines that had it."""
    after: int = 0
    """Lines behind the last one of these, which have earlier stamps."""
    earliest: int = 0
    """By how many seconds the earliest stamp of these lies before the newest."""
    used: int = 0
    """Bytes of the line behind them that have become entries."""

    def take(self, time: int) -> None:
        """One more line was read to its end."""
        self.used = 0
        if time > self.newest:
            self.newest, self.same, self.after, self.earliest = time, 1, 0, 0
        elif time == self.newest:
            self.same += 1
            self.after = self.earliest = 0
        else:
            self.after += 1
            self.earliest = max(self.earliest, -((time - self.newest) // _SECOND))

    @property
    def since(self) -> int | None:
        """The second, counted from 1970, from which on lines have to be asked for; None: all of them."""
        if self.newest < 0:
            return None
        return max(0, self.newest // _SECOND - self.earliest - MARGIN)

    def encoded(self) -> bytes:
        """These numbers: 9 bytes for most lines, each count that is not its usual one some bytes more."""
        if self.newest < 0 and not self.used:
            return b"\0"
        fields = 0
        packed = b""
        if self.newest >= 0:
            fields |= _NEWEST
            packed = self.newest.to_bytes(8, "little")
        for field, value in zip(_COUNTS, (self.same - 1, self.after, self.earliest, self.used), strict=True):
            if value > 0:
                fields |= field
                packed += varint(value)
        return bytes((fields,)) + packed

    @classmethod
    def decoded(cls, data: bytes, at: int) -> "tuple[Place, int]":
        """The place that is encoded at `at`, and where its bytes end. Raises IndexError when they are cut off."""
        fields = data[at]
        at += 1
        place = cls()
        if fields & _NEWEST:
            place.newest = int.from_bytes(data[at : at + 8], "little")
            place.same = 1
            at += 8
        for field in _COUNTS:
            if not fields & field:
                continue
            value, at = number(data, at)
            if field == _SAME:
                place.same += value
            elif field == _AFTER:
                place.after = value
            elif field == _EARLIEST:
                place.earliest = value
            else:
                place.used = value
        return place, at


def number(data: bytes, at: int) -> tuple[int, int]:
    """What `wire.varint` made, and where its bytes end. Raises IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


class Entry(NamedTuple):
    """A line, or a part of one that is too long."""

    time: int
    text: bytes
    place: bytes
    """Where the output goes on behind it, encoded."""
    missing: bool = False
    """The line that was read before it is not in the log any more: what stood between them, if anything, can't be had."""


class Answer:
    """What one request for a log brings; `place` is moved along."""

    def __init__(self, place: Place, split: Split, longest_unsplit: int) -> None:
        """`split` is asked about every line longer than `longest_unsplit` bytes."""
        self.place = place
        self._split = split
        self._longest = longest_unsplit
        self._times = Times()
        self._newest = place.newest
        self._sought = place.same
        """Lines with the newest stamp that have still to come again."""
        self._behind = place.after
        """Lines behind those that have still to come again."""
        self._used = place.used
        self._missing = False
        self._rest = b""
        """The beginning of a line, as long as it may hold no whole stamp."""
        self._open = False
        """Whether a line has begun whose end has not come."""
        self._skip: int | None = 0
        """Bytes of it that were had; None: all."""
        self._time = 0
        self._text = bytearray()
        self._unstamped_first = place.since is not None
        """Whether what comes first may be the end of a line that began before the second that was asked for: it has no stamp."""
        self.words = bytearray()
        """What else has no stamp, at its beginning: words of the kubelet, which says so in the answer when it can't read the log."""

    @property
    def lost(self) -> bool:
        """Whether the last line that was had has not come again: if the answer has ended, it is not in the log any more."""
        return self._sought > 0

    def feed(self, data: bytes) -> list[Entry]:
        """The entries that are complete with the next bytes."""
        found: list[Entry] = []
        if self._rest:
            data, self._rest = self._rest + data, b""
        at = 0
        while True:
            end = data.find(b"\n", at)
            if end < 0:
                break
            self._add(data[at:end], found, ended=True)
            at = end + 1
        if at < len(data):
            rest = data[at:]
            if not self._open and len(rest) < _LONGEST_STAMP and b" " not in rest:
                self._rest = rest
            else:
                self._add(rest, found, ended=False)
        return found

    def close(self) -> list[Entry]:
        """What is left once the container has ended: a line without an end is a line."""
        found: list[Entry] = []
        if self._open:
            self._add(b"", found, ended=True)
        self._say(self._rest)
        self._rest = b""
        return found

    def _add(self, data: bytes, found: list[Entry], *, ended: bool) -> None:
        """More of a line, a new one or the open one; with `ended` to its end."""
        if not self._open:
            stamp, _, data = data.partition(b" ")
            time = self._times.nanoseconds(stamp)
            if time is None:
                self._say(stamp + b" " + data if data else stamp)
                # Its rest is no line either.
                self._open, self._skip = not ended, None
                return
            self._unstamped_first = False
            skip = self._begun(time)
            if ended and skip == 0 and len(data) <= self._longest:
                self._whole(time, data, found)
                return
            self._open, self._skip, self._time = True, skip, time
        if self._skip is not None:
            if self._skip:
                dropped = min(self._skip, len(data))
                self._skip -= dropped
                data = data[dropped:]
            self._text += data
            self._emit(found, ended=ended)
        if ended:
            self._open = False
            self._text.clear()

    def _say(self, data: bytes) -> None:
        if not self._unstamped_first:
            self.words += data[: _MOST_WORDS - len(self.words)]
        self._unstamped_first = False

    def _begun(self, time: int) -> int | None:
        """A line begins: how many bytes of it were had, None for all of it."""
        if self._sought:
            if time < self._newest:
                return None
            if time == self._newest:
                self._sought -= 1
                return None
            # Nothing newer stands before the newest that was had, so that one is gone, and what of the next one was had as well.
            self._missing = True
            self._sought = self._behind = self._used = self.place.used = 0
            return 0
        if self._behind:
            if time < self._newest:
                self._behind -= 1
                return None
            self._behind = 0
        skip, self._used = self._used, 0
        return skip

    def _whole(self, time: int, text: bytes, found: list[Entry]) -> None:
        self.place.take(time)
        found.append(Entry(time, text, self.place.encoded(), self._missing))
        self._missing = False

    def _emit(self, found: list[Entry], *, ended: bool) -> None:
        """Makes entries of what has come of the open line."""
        while True:
            size = len(self._text)
            if not ended and size <= self._longest:
                return
            count = size if ended and size <= self._longest else self._split(bytes(self._text), ended)
            if count == size and ended:
                self._whole(self._time, bytes(self._text), found)
                return
            if not count:
                return
            text = bytes(self._text[:count])
            del self._text[:count]
            self.place.used += count
            found.append(Entry(self._time, text, self.place.encoded(), self._missing))
            self._missing = False
