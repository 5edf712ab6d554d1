"""Takes the values of secrets out of lines, in the forms in which they leak: as they are, line by line, in base64, escaped for URL or JSON.

What is escaped is undone before it is searched, so it does not matter which characters an encoder escapes and how. Values under four
characters are only replaced where they stand alone, between characters that are no letters or digits: replacing every "a" would make a
log unreadable and hide nothing. Measured: a line without a secret costs a search per form, 50 ns each, done once for a whole batch of
lines; 850 KB of nothing but escapes cost 0.1 s, where other text of that length costs 1 ms, so what is long is masked beside the loop.
"""

import base64
import bisect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate

MASK = b"***"
SHORTEST = 4
"""Characters from which on a value is replaced wherever it stands."""
_SHORTEST_LINE = 8
"""Characters from which on a line of a value of several lines is a value itself."""
_LINE_END = re.compile("\r\n|\n|\r")
_SHORTEST_CODE = 6
"""Characters that a piece of base64 must have to be sought: shorter ones occur by chance."""
_PATIENCE = 16
"""Longest forms that are waited for in a line of nothing but values."""
_WIDTHS = (76, 64)
"""Characters after which tools break base64 into lines: coreutils and MIME, OpenSSL and PEM."""
_LONGEST_ESCAPE = 6
"""Bytes that an escape may make of one: \\u0041."""
PIECE = 65536
"""Bytes that are searched at once. Measured: that many of nothing but escapes take 10 ms, a megabyte 0.15 s."""
_LONGEST_PAIR = 12
"""Bytes of the longest escape: two that are one character, \\ud83d\\ude00."""
_PERCENT = re.compile(rb"(%[0-9A-Fa-f]{2})")
_BACKSLASH = re.compile(rb'(\\(?:u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|["\\/bfnrt]))')


def _codes(value: bytes) -> Iterable[bytes]:
    """The forms of base64 that hold a value at any of its three alignments, without the characters that its neighbours decide.

    And of a long value the lines that tools make of it, alone or with the line end that `echo` adds.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(value)
        yield whole
        for shift in range(3):
            start = -(-shift * 8 // 6)
            end = (shift + len(value)) * 8 // 6
            yield encode(b"\0" * shift + value)[start:end]
        for width in _WIDTHS:
            if len(whole) > width:
                for code in (whole, encode(value + b"\n")):
                    yield from (code[at : at + width] for at in range(0, len(code), width))


class _Backslashes(dict[bytes, bytes]):
    """What escapes of JSON stand for."""

    def __missing__(self, escape: bytes) -> bytes:
        code = int(escape[2:6], 16)
        if len(escape) > _LONGEST_ESCAPE:
            code = 0x10000 + (code - 0xD800 << 10) + int(escape[8:], 16) - 0xDC00
        return chr(code).encode("utf-8", "replace")


_OF_BACKSLASH = _Backslashes(
    {b'\\"': b'"', b"\\\\": b"\\", b"\\/": b"/", b"\\b": b"\b", b"\\f": b"\f", b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t"}
)
_DIGITS = "0123456789abcdefABCDEF"
_OF_PERCENT = {f"%{high}{low}".encode(): bytes((int(high + low, 16),)) for high in _DIGITS for low in _DIGITS}


class _Undone:
    """A text without its escapes, and where in the text each place of it was."""

    def __init__(self, text: bytes, escapes: re.Pattern[bytes], meanings: dict[bytes, bytes]) -> None:
        self._parts = escapes.split(text)
        """Of the text; every second one is an escape."""
        self._undone = self._parts.copy()
        self._undone[1::2] = map(meanings.__getitem__, self._parts[1::2])
        self.text = b"".join(self._undone)

    @cached_property
    def _here(self) -> list[int]:
        return list(accumulate(map(len, self._undone), initial=0))

    @cached_property
    def _there(self) -> list[int]:
        return list(accumulate(map(len, self._parts), initial=0))

    def place(self, here: int) -> int:
        """Where in the text with its escapes a place in the one without them is."""
        index = bisect.bisect_right(self._here, here) - 1
        return self._there[index] + here - self._here[index]


def _undone(text: bytes) -> Iterable[_Undone]:
    """The text without the escapes of URLs, and without those of JSON, where it has any."""
    if b"%" in text and _PERCENT.search(text):
        yield _Undone(text, _PERCENT, _OF_PERCENT)
    if b"\\" in text and _BACKSLASH.search(text):
        yield _Undone(text, _BACKSLASH, _OF_BACKSLASH)


def _backslashes_before(text: bytes, place: int) -> int:
    return place - len(text[:place].rstrip(b"\\"))


class Masker:
    """Replaces the values it was made for."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Values of nothing but white space are left out; of a value of several lines each line counts too that tells something.

        That is one of at least _SHORTEST_LINE characters, a letter or digit among them: the braces of a key in JSON are in every log.
        """
        long: set[bytes] = set()
        alone: set[bytes] = set()
        for secret in secrets:
            lines = [line.strip() for line in _LINE_END.split(secret)]
            telling = [line for line in lines if len(line) >= _SHORTEST_LINE and any(map(str.isalnum, line))]
            for value in {secret, secret.strip(), *telling}:
                if not value.strip():
                    continue
                if len(value) < SHORTEST:
                    alone.add(value.encode())
                    continue
                # Forms of web pages write a space as a plus.
                long.update((value.encode(), value.replace(" ", "+").encode()))
                long.update(code for code in _codes(value.encode()) if len(code.rstrip(b"=")) >= _SHORTEST_CODE)
        self._needles = tuple(sorted(long))
        self._alone = tuple(
            (value, re.compile(rb"(?<![A-Za-z0-9])" + re.escape(value) + rb"(?![A-Za-z0-9])")) for value in sorted(alone - long)
        )
        self.longest = max((len(needle) for needle in (*self._needles, *alone)), default=0) * _LONGEST_ESCAPE
        """Bytes of the longest form: how much of a line has to be seen before what precedes it is safe."""

    def __bool__(self) -> bool:
        """Whether there is anything to replace."""
        return bool(self._needles or self._alone)

    def _suspects(self, text: bytes) -> bool:
        return any(needle in text for needle in self._needles) or any(value in text for value, _ in self._alone)

    def suspects(self, text: bytes) -> bool:
        """Whether `text` may hold anything to replace: false is certain."""
        return self._suspects(text) or any(self._suspects(undone.text) for undone in _undone(text))

    def _found(self, text: bytes) -> Iterable[tuple[int, int]]:
        for needle in self._needles:
            at = text.find(needle)
            while at >= 0:
                yield at, at + len(needle)
                at = text.find(needle, at + 1)
        for value, pattern in self._alone:
            if value in text:
                yield from (match.span() for match in pattern.finditer(text))

    def _matches(self, text: bytes) -> list[tuple[int, int]]:
        """Every place of every form of a value, ascending; they may touch and overlap."""
        found = list(self._found(text))
        for undone in _undone(text):
            found += [(undone.place(start), undone.place(end)) for start, end in self._found(undone.text)]
        found.sort()
        return found

    def spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where something is to be replaced: ascending, overlapping and touching ones joined."""
        joined: list[tuple[int, int]] = []
        for start, end in self._matches(text):
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
        return joined

    def mask(self, text: bytes) -> bytes:
        """`text` with `***` in place of every value.

        A long one is taken in pieces, between which other threads have their turn; values under four characters stand alone at their edges.
        """
        pieces: list[bytes] = []
        while len(text) > PIECE:
            end = self.cut(text, PIECE, complete=True)
            pieces.append(self._masked(text[:end]))
            text = text[end:]
        return b"".join([*pieces, self._masked(text)]) if pieces else self._masked(text)

    def _masked(self, text: bytes) -> bytes:
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

    def split(self, limit: int) -> Callable[[bytes, bool], int]:
        """Says of a line where its next entry of at most `limit` bytes ends (see Split).

        What has no end yet waits for as much as may show a value that begins before the place.
        """

        def split(text: bytes, complete: bool) -> int:
            if not complete and len(text) < limit + self.longest:
                return 0
            return self.cut(text, limit, complete=complete)

        return split

    def cut(self, text: bytes, limit: int, *, complete: bool) -> int:
        """Where to split a longer line: at most `limit` bytes in, at a character's edge, never inside something to replace.

        Only when values fill the whole stretch is it more than `limit`. 0: more of the line has to be seen first, which happens only
        without `complete`. `text` has to reach `longest` bytes beyond `limit`, or be the line's end.
        """
        if len(text) <= limit:
            return len(text)
        at = limit
        while at > limit - 3 and text[at] & 0xC0 == 0x80:
            at -= 1
        # An odd number of backslashes on one side would turn the meaning of those on the other.
        at -= _backslashes_before(text, at) % 2
        start, end = self._span_over(text, at)
        if start < at < end:
            # Beyond `certain` a value may begin whose end has not been seen, also within the last one that was found.
            certain = len(text) if complete else len(text) - self.longest
            return start or (end if end <= certain else self._between(text, at, certain))
        return at

    def _span_over(self, text: bytes, place: int) -> tuple[int, int]:
        """What is to be replaced around a place, as `spans` has it; nothing: `place` twice.

        Looks no further than it must: undoing all escapes of a line just to split it would hold up everybody else.
        """
        edge = self.longest + 2 * _LONGEST_PAIR
        """At the edges of a stretch an escape may be cut in two, or a value: what is found there is not certain."""
        reach = 2 * edge if len(text) > PIECE else len(text)
        while True:
            low = max(0, place - reach)
            low -= _backslashes_before(text, low) % 2
            high = min(len(text), place + reach)
            for start, end in self.spans(text[low:high]):
                if start + low < place < end + low:
                    break
            else:
                return place, place
            certain = (not low or start > edge) and (high == len(text) or end + low < high - edge)
            if certain:
                return start + low, end + low
            reach *= 4

    def _between(self, text: bytes, limit: int, certain: int) -> int:
        """The last place up to `certain` between two values that touch; 0 if there is none yet.

        Where values overlap for ever (a line of nothing but "aaaa") there is none: after a while `limit` has to do, and both sides are
        replaced but for less than a value at their edges.
        """
        place = reached = 0
        for start, end in self._matches(text):
            if start > certain:
                break
            if start >= reached:
                place = start
            reached = max(reached, end)
        if place or len(text) <= limit + _PATIENCE * self.longest:
            return place
        return limit
