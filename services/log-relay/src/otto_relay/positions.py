"""How far a worker's lines have been answered for by otto-handler, as a few bytes that are written in place after every answer.

Lines are sent and answered in the order of their sequences, so a number says nearly all: everything up to it has its answer. Beside it
stand the lines whose answer was "send it again". Pure.
"""

import struct
import zlib
from collections.abc import Iterable

_HEADER = struct.Struct("<IQI")
_NUMBER = struct.Struct("<Q")


class Position:
    """Which lines need not be sent any more."""

    __slots__ = ("again", "answered")

    def __init__(self, answered: int = 0, again: Iterable[int] = ()) -> None:
        self.answered = answered
        """The highest sequence that has an answer."""
        self.again = list(again)
        """Sequences up to it that are to be sent again, ascending."""

    def settle(self, sequence: int) -> None:
        """The line is done with: stored there, or given up."""
        if sequence > self.answered:
            self.answered = sequence
        elif sequence in self.again:
            self.again.remove(sequence)

    def repeat(self, sequence: int) -> None:
        """The line is to be sent again."""
        if sequence > self.answered:
            self.answered = sequence
            self.again.append(sequence)

    def owed(self, last: int) -> int:
        """How many lines up to sequence `last` are still to be sent."""
        return max(last - self.answered, 0) + len(self.again)

    def pack(self) -> bytes:
        """As it is written."""
        body = b"".join(map(_NUMBER.pack, self.again))
        return _HEADER.pack(zlib.crc32(body, zlib.crc32(_NUMBER.pack(self.answered))), self.answered, len(self.again)) + body


def unpack(data: bytes) -> Position | None:
    """What `pack` wrote, with anything behind it; None if it is damaged."""
    if len(data) < _HEADER.size:
        return None
    checksum, answered, count = _HEADER.unpack_from(data)
    body = data[_HEADER.size : _HEADER.size + count * _NUMBER.size]
    if len(body) != count * _NUMBER.size or zlib.crc32(body, zlib.crc32(_NUMBER.pack(answered))) != checksum:
        return None
    return Position(answered, (number for (number,) in _NUMBER.iter_unpack(body)))
