"""A stored line as everybody in here sees it, however it lies on disk."""

from typing import NamedTuple

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
