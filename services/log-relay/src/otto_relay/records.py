"""The records that spool segments are made of: a header of fixed size, the source's position after the line, and the payload.

A record is valid when its magic number, its sizes and its CRC-32 agree, so a reader can tell a torn end from a damaged middle and can
find the next valid record behind damage. Pure: bytes in, records out.
"""

import struct
import zlib
from typing import NamedTuple

MAGIC = b"\xf5\x1c"
_HEADER = struct.Struct("<2sBBIIIIQq")
HEADER_BYTES = _HEADER.size
MAX_BODY_BYTES = 8 * 1024 * 1024
"""Above this a length can only be damage: the longest line is below 4 MiB."""

STDERR = 0x01
"""Flag: the line came from stderr."""
LEVEL_SHIFT = 1
LEVEL_MASK = 0x06
"""Flags: two bits, the index into `levels.LEVELS`."""


class Record(NamedTuple):
    """One stored line."""

    sequence: int
    """Per worker, from 1."""
    time: int
    """When it was written; nanoseconds since 1970, UTC."""
    flags: int
    """STDERR and the level."""
    dropped: int
    """How many lines right before it could never be had."""
    message_length: int
    """The message is that many bytes at the end of the payload."""
    payload: bytes
    """What readers get, but for what is the same in all lines of the worker."""


class Parsed(NamedTuple):
    """What was found in a stretch of a segment."""

    records: list[Record]
    end: int
    """Where the next record begins, if the stretch goes on."""
    damaged: int
    """Bytes that were skipped because no valid record begins there."""


def pack(sequence: int, time: int, flags: int, dropped: int, position: bytes, payload: bytes, message_length: int) -> bytes:
    """A record; `position` is at most 255 bytes."""
    size = len(position) + len(payload)
    header = _HEADER.pack(MAGIC, flags, len(position), 0, size, message_length, dropped, sequence, time)
    body = b"".join((header[8:], position, payload))
    checksum = zlib.crc32(body, flags << 8 | len(position))
    return b"".join((header[:4], checksum.to_bytes(4, "little"), body))


def _valid(data: bytes, at: int, size: int, checksum: int, flags: int, position_length: int) -> bool:
    view = memoryview(data)[at + 8 : at + HEADER_BYTES + size]
    return zlib.crc32(view, flags << 8 | position_length) == checksum


def size_at(data: bytes, at: int) -> int:
    """How long the record at `at` says it is, header included; 0 if that can't be a record."""
    if len(data) - at < HEADER_BYTES:
        return 0
    magic, _, position_length, _, size, message_length, _, _, _ = _HEADER.unpack_from(data, at)
    if magic != MAGIC or size > MAX_BODY_BYTES or position_length + message_length > size:
        return 0
    return HEADER_BYTES + int(size)


def parse(data: bytes, at: int = 0, *, final: bool) -> Parsed:
    """All valid records from `at` on.

    With `final` the data ends where the segment ends, so that an incomplete record is damage; without it, parsing stops there and `end`
    says where. Damage is skipped up to the next valid record; at the end of final data, `end` stays where the damage begins.
    """
    records: list[Record] = []
    damaged = 0
    total = len(data)
    unpack = _HEADER.unpack_from
    crc32 = zlib.crc32
    view = memoryview(data)
    new = tuple.__new__  # what Record(...) does, without the call of its own in between
    while at < total:
        if total - at >= HEADER_BYTES:
            magic, flags, position_length, checksum, size, message_length, dropped, sequence, time = unpack(data, at)
            plausible = magic == MAGIC and size <= MAX_BODY_BYTES and position_length + message_length <= size
            after = at + HEADER_BYTES + size
            if plausible and after <= total:
                if crc32(view[at + 8 : after], flags << 8 | position_length) == checksum:
                    payload = data[at + HEADER_BYTES + position_length : after]
                    records.append(new(Record, (sequence, time, flags, dropped, message_length, payload)))
                    at = after
                    continue
            elif plausible and not final:
                break
        elif not final and data[at : at + 2] == MAGIC[: total - at]:
            break
        found = _next_valid(data, at + 1)
        if found < 0:
            if not final:
                # What follows may still be the beginning of something valid: the caller looks again with more data.
                return Parsed(records, at, damaged)
            return Parsed(records, at, damaged + total - at)
        damaged += found - at
        at = found
    return Parsed(records, at, damaged)


def _next_valid(data: bytes, at: int) -> int:
    """Where the next valid record begins, at `at` or later; -1 if nowhere."""
    while (at := data.find(MAGIC, at)) >= 0:
        size = size_at(data, at)
        if size and at + size <= len(data):
            _, flags, position_length, checksum, body, _, _, _, _ = _HEADER.unpack_from(data, at)
            if _valid(data, at, body, checksum, flags, position_length):
                return at
        at += 1
    return -1


def last_position(data: bytes, end: int) -> tuple[int, bytes] | None:
    """Sequence and position of the last valid record before `end`, or None if there is none."""
    at = 0
    found: tuple[int, bytes] | None = None
    while at < end:
        size = size_at(data, at)
        if size and at + size <= end:
            _, flags, position_length, checksum, body, _, _, sequence, _ = _HEADER.unpack_from(data, at)
            if _valid(data, at, body, checksum, flags, position_length):
                start = at + HEADER_BYTES
                found = sequence, data[start : start + position_length]
                at += size
                continue
        at = _next_valid(data, at + 1)
        if at < 0:
            break
    return found
