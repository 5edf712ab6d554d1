"""How what is kept in an object is made small: texts without their numbers, names in short, then compressed. Pure.

An object of a cluster holds 1.5 MiB at most, and every save writes all of it again, so size is what counts here.
"""

import base64
import lzma
import re
import zlib
from collections.abc import Iterable, Sequence

_LARGE = 32_768
"""Bytes beyond which zlib's window misses repetitions that lzma finds."""
_XZ = b"\xfd7zXZ"
_NUMBER = re.compile(r"(?<!\d)(?:0|[1-9]\d{0,8})(?!\d)", re.ASCII)
_HOLE, _WHOLE = "\0", "\1"
"""Where a number was; what a text begins with that is kept whole, because it holds one of these itself."""


class DamagedError(ValueError):
    """What was packed can't be read."""


def packed(raw: bytes) -> str:
    """Compressed, as text."""
    small = lzma.compress(raw, preset=1) if len(raw) > _LARGE else zlib.compress(raw, 9)
    return base64.b64encode(small).decode()


def unpacked(text: str) -> bytes:
    """What `packed` was given. Raises DamagedError."""
    try:
        small = base64.b64decode(text, validate=True)
        return lzma.decompress(small) if small.startswith(_XZ) else zlib.decompress(small)
    except (ValueError, zlib.error, lzma.LZMAError) as error:
        raise DamagedError(str(error)) from error


def milliseconds(at: float) -> int:
    """Seconds since the epoch as the contract tells them: rounded to microseconds, cut to milliseconds."""
    return round(at * 1e6) // 1000


def template(text: str) -> tuple[str, list[int]]:
    """A text without its numbers, and those."""
    if _HOLE in text or text.startswith(_WHOLE):
        return _WHOLE + text, []
    return _NUMBER.sub(_HOLE, text), [int(number) for number in _NUMBER.findall(text)]


def holes(text: str) -> int:
    """How many numbers a template lacks."""
    return 0 if text.startswith(_WHOLE) else text.count(_HOLE)


def filled(text: str, numbers: Sequence[int]) -> str:
    """The text that `template` was given."""
    if text.startswith(_WHOLE):
        return text[1:]
    parts = text.split(_HOLE)
    return "".join(f"{part}{number}" for part, number in zip(parts, numbers, strict=False)) + parts[-1]


Names = list[str | int]
"""Names in short: `[prefix, n]` for prefix1 to prefixN, otherwise the names."""


def short_names(names: Sequence[str]) -> Names:
    """Names that are numbered from 1 as their beginning and their number."""
    if len(names) > 1 and names[0].endswith("1"):
        prefix = names[0][:-1]
        if all(name == f"{prefix}{number}" for number, name in enumerate(names, 1)):
            return [prefix, len(names)]
    return list(names)


def long_names(short: Iterable[str | int]) -> tuple[str, ...]:
    """The names that `short_names` was given."""
    found = list(short)
    if len(found) == 2 and isinstance(found[1], int):
        return tuple(f"{found[0]}{number}" for number in range(1, found[1] + 1))
    return tuple(map(str, found))
