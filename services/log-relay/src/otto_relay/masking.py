"""Takes the values of secrets out of lines, in the forms in which they leak: as they are, line by line, in base64, URL-encoded, in JSON.

Values under four characters are only replaced where they stand alone, between characters that are no letters or digits: replacing every
"a" would make a log unreadable and hide nothing. Measured: a line without a secret costs a search per form, 50 ns each, done once for a
whole batch of lines.
"""

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Sequence

MASK = b"***"
SHORTEST = 4
"""Characters from which on a value is replaced wherever it stands."""
_SHORTEST_CODE = 6
"""Characters that a piece of base64 must have to be sought: shorter ones occur by chance."""


def _codes(value: bytes) -> Iterable[bytes]:
    """The forms of base64 that hold a value at any of its three alignments, without the characters that its neighbours decide."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(value)
        yield whole
        for shift in range(3):
            start = -(-shift * 8 // 6)
            end = (shift + len(value)) * 8 // 6
            yield encode(b"\0" * shift + value)[start:end]


def _forms(value: str) -> Iterable[bytes]:
    yield value.encode()
    yield json.dumps(value)[1:-1].encode()
    yield json.dumps(value, ensure_ascii=False)[1:-1].encode()
    for quote in (urllib.parse.quote, urllib.parse.quote_plus):
        coded = quote(value, safe="")
        yield coded.encode()
        yield re.sub("%..", lambda hexes: hexes[0].lower(), coded).encode()
    yield urllib.parse.quote(value).encode()


class Masker:
    """Replaces the values it was made for."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Empty values are left out; of a value of several lines each line counts too."""
        long: set[bytes] = set()
        alone: set[bytes] = set()
        for secret in secrets:
            for value in {secret, secret.strip(), *(line.strip() for line in secret.splitlines())}:
                if len(value) < SHORTEST:
                    if value:
                        alone.add(value.encode())
                    continue
                long.update(_forms(value))
                long.update(code for code in _codes(value.encode()) if len(code.rstrip(b"=")) >= _SHORTEST_CODE)
        self._needles = tuple(sorted(needle for needle in long if b"\n" not in needle))
        self._alone = tuple(
            (value, re.compile(rb"(?<![A-Za-z0-9])" + re.escape(value) + rb"(?![A-Za-z0-9])")) for value in sorted(alone - long)
        )
        self.longest = max((len(needle) for needle in (*self._needles, *alone)), default=0)
        """Bytes of the longest form: how much of a line has to be seen before what precedes it is safe."""

    def __bool__(self) -> bool:
        """Whether there is anything to replace."""
        return bool(self._needles or self._alone)

    def suspects(self, text: bytes) -> bool:
        """Whether `text` may hold anything to replace: false is certain."""
        return any(needle in text for needle in self._needles) or any(value in text for value, _ in self._alone)

    def spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where something is to be replaced: ascending, overlapping and touching ones joined."""
        found: list[tuple[int, int]] = []
        for needle in self._needles:
            at = text.find(needle)
            while at >= 0:
                found.append((at, at + len(needle)))
                at = text.find(needle, at + 1)
        for value, pattern in self._alone:
            if value in text:
                found += [match.span() for match in pattern.finditer(text)]
        found.sort()
        joined: list[tuple[int, int]] = []
        for start, end in found:
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
        return joined

    def mask(self, text: bytes) -> bytes:
        """`text` with `***` in place of every value."""
        spans = self.spans(text)
        if not spans:
            return text
        parts: list[bytes] = []
        at = 0
        for start, end in spans:
            parts += (text[at:start], MASK)
            at = end
        parts.append(text[at:])
        return b"".join(parts)

    def cut(self, text: bytes, limit: int) -> int:
        """Where to split a longer line: at most `limit` bytes in, at a character's edge, never inside something to replace.

        Only when one value fills the whole stretch is it more than `limit`: its end. `text` has to reach `longest` bytes beyond `limit`,
        or be the line's end.
        """
        if len(text) <= limit:
            return len(text)
        at = limit
        while at > limit - 3 and text[at] & 0xC0 == 0x80:
            at -= 1
        for start, end in self.spans(text):
            if start < at < end:
                return start or end
        return at
