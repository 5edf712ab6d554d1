"""The first format of spool segments, a record a line; what an earlier version stored in it is read and never written again.

A record is a header of fixed size, the source's position after the line, and the payload; it is valid when its magic number, its sizes
and its CRC-32 agree. Pure.
"""

import struct
import zlib

from otto_relay.blocks import MAX_BODY_BYTES, Block, of_one
from otto_relay.records import Record

MAGIC = b"\xf5\x1c"
_HEADER = struct.Struct("<2sBBIIIIQq")
HEADER_BYTES = _HEADER.size


def size_at(data: bytes, at: int) -> int:
    """How long the record at `at` says it is, header included; 0 if that can't be a record."""
    if len(data) - at < HEADER_BYTES:
        return 0
    magic, _, position_length, _, size, message_length, _, _, _ = _HEADER.unpack_from(data, at)
    if magic != MAGIC or size > MAX_BODY_BYTES or position_length + message_length > size:
        return 0
    return HEADER_BYTES + int(size)


def block_at(data: bytes, view: memoryview, at: int) -> Block | None:
    """The record at `at`, which ends in `data`, as a block; None if its checksum is wrong."""
    _, flags, position_length, checksum, size, message_length, dropped, sequence, time = _HEADER.unpack_from(data, at)
    start = at + HEADER_BYTES
    if zlib.crc32(view[at + 8 : start + size], flags << 8 | position_length) != checksum:
        return None
    place = start + position_length
    return of_one(Record(sequence, time, flags, dropped, message_length, data[place : start + size]), data[start:place])
