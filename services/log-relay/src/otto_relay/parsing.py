"""Finds blocks in a stretch of a segment, whatever has happened to it: tells a torn end from a damaged middle, and goes on behind damage.

Segments of an earlier version hold records of the first format, and blocks behind them. Pure.
"""

from typing import NamedTuple

from otto_relay import blocks, first_format
from otto_relay.blocks import Block

_SHARED = blocks.MAGIC[:1]
"""All formats begin with it."""
_HEADERS = ((blocks.MAGIC, blocks.HEADER_BYTES), (first_format.MAGIC, first_format.HEADER_BYTES))


class Parsed(NamedTuple):
    """What was found in a stretch of a segment."""

    blocks: list[Block]
    end: int
    """Where the next block begins, if the stretch goes on."""
    damaged: int
    """Bytes that were skipped because nothing valid is there."""


def size_at(data: bytes, at: int) -> int:
    """How long what begins at `at` says it is; 0 if nothing valid can begin there."""
    head = blocks.head_at(data, at)
    return head.size if head is not None else first_format.size_at(data, at)


def lines_at(data: bytes, at: int) -> int:
    """How many lines what begins at `at` says it has; 0 if nothing valid can begin there."""
    head = blocks.head_at(data, at)
    return head.lines if head is not None else int(first_format.size_at(data, at) > 0)


def parse(data: bytes, at: int = 0, *, final: bool, torn: bool = False) -> Parsed:
    """All valid blocks from `at` on.

    With `final` the data ends where the segment ends, so that an incomplete block is damage; without it, parsing stops there and `end`
    says where. Damage is skipped up to the next valid block; at the end of final data, `end` stays where the damage begins. Of a damaged
    block the lines that are whole are given, a block each; with `torn` not of those behind the last valid one, for they are written again.
    """
    found: list[Block] = []
    damaged = 0
    total = len(data)
    view = memoryview(data)
    whole = 0, at, 0
    while at < total:
        if (end := blocks.take(data, view, at, found)) > at:
            at = end
            whole = len(found), at, damaged
            continue
        head = blocks.head_at(data, at)
        size = head.size if head is not None else first_format.size_at(data, at)
        after = at + size
        if size and after <= total:
            if head is None and (block := first_format.block_at(data, view, at)) is not None:
                found.append(block)
                at = after
                whole = len(found), at, damaged
                continue
            if head is not None and (lines := blocks.rescued(data, at, head)) is not None:
                found += lines
                damaged += head.body - sum(len(line.body) for line in lines)
                at = after
                continue
        elif not final and (size or _may_begin(data, at)):
            break
        valid = _next_valid(data, view, at + 1)
        if valid < 0:
            # Without `final`, what follows may still be the beginning of something valid: the caller looks again with more data.
            damaged += total - at if final else 0
            break
        damaged += valid - at
        at = valid
    if torn:
        kept, at, damaged = whole
        return Parsed(found[:kept], at, damaged + total - at)
    return Parsed(found, at, damaged)


def _may_begin(data: bytes, at: int) -> bool:
    """Whether the last bytes may be the beginning of a header."""
    left = len(data) - at
    return any(left < size and data[at : at + 2] == magic[:left] for magic, size in _HEADERS)


def _next_valid(data: bytes, view: memoryview, at: int) -> int:
    """Where the next valid block begins, at `at` or later; -1 if nowhere."""
    while (at := data.find(_SHARED, at)) >= 0:
        head = blocks.head_at(data, at)
        if head is not None:
            if blocks.block_at(data, view, at) is not None:
                return at
        elif (size := first_format.size_at(data, at)) and at + size <= len(data) and first_format.block_at(data, view, at) is not None:
            return at
        at += 1
    return -1
