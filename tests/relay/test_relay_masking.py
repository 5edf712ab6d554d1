"""Values of secrets are taken out of lines in every documented form, however the lines arrive."""

import base64
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otto_relay import masking
from otto_relay.collector import fresh
from otto_relay.masking import MASK, Masker
from otto_relay.sources.cri import Joiner
from otto_relay.sources.protocol import Line

FORMS: dict[str, Callable[[str], str]] = {
    "json": lambda value: json.dumps(value)[1:-1],
    "json, other scripts as they are": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "json, slashes and angles escaped": lambda value: (
        json.dumps(value)[1:-1].replace("/", "\\/").replace("<", "\\u003c").replace("&", "\\u0026")
    ),
    "url, everything": lambda value: urllib.parse.quote(value, safe=""),
    "url, Python's quote": urllib.parse.quote,
    "url, encodeURIComponent": lambda value: urllib.parse.quote(value, safe="!'()*"),
    "url, encodeURI": lambda value: urllib.parse.quote(value, safe=";,/?:@&=+$-_.!~*'()#"),
    "url, a form's": urllib.parse.quote_plus,
    "url, lower case": lambda value: re.sub("%..", lambda found: found[0].lower(), urllib.parse.quote(value, safe="")),
}
values = st.text(min_size=5, max_size=60).filter(lambda value: len(value.strip()) >= 4)
around = st.text(alphabet="xyz 0189", max_size=12)


@given(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=4, max_size=60).filter(lambda v: v.strip()),
    around,
    around,
)
def test_a_value_goes_wherever_it_stands(value: str, before: str, after: str) -> None:
    """A value of four characters or more is replaced, inside words too, and what is around it stays."""
    if len(value.strip()) < 4:
        return
    masked = Masker([value]).mask(f"{before}{value}{after}".encode()).decode()
    assert value not in masked
    assert MASK.decode() in masked
    assert masked.startswith(before[:1] if before[:1] not in value else "")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(value=values, before=around, after=around)
@example(value="p@ss!word/with spaces & quotes\"'", before="", after="")
@example(value="two\nlines of it", before="", after="")
@example(value="비밀번호 🔑\\", before="x", after="y")
def test_an_escaped_value_goes(form: Callable[[str], str], value: str, before: str, after: str) -> None:
    """However an encoder escapes a value, lines breaks in it too, its form does not stay."""
    escaped = form(value)
    masked = Masker([value]).mask(f"{before}{escaped}{after}".encode())
    assert escaped.encode() not in masked
    assert MASK in masked


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode], ids=["standard", "urlsafe"])
@given(value=values, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_base64_of_a_value_goes_at_every_alignment(encode: Callable[[bytes], bytes], value: str, before: bytes, after: bytes) -> None:
    """Encoded together with anything before and behind it, no character of base64 that the value alone decides stays."""
    coded = value.encode()
    whole = encode(before + coded + after)
    start, end = -(-len(before) * 8 // 6), (len(before) + len(coded)) * 8 // 6
    masked = Masker([value]).mask(b"Authorization: Basic " + whole)
    assert whole[start:end] not in masked
    assert masked.startswith(b"Authorization: Basic ")


@pytest.mark.parametrize("width", [64, 76])
@pytest.mark.parametrize("end", ["", "\n"], ids=["bare", "echo"])
def test_base64_in_lines_goes(width: int, end: str) -> None:
    """What `base64` and `openssl base64` make of a long value, line by line, goes too."""
    value = "".join(f"{number:x}!" for number in range(200))
    coded = base64.b64encode((value + end).encode())
    masker = Masker([value])
    for at in range(0, len(coded), width):
        assert masker.mask(coded[at : at + width]) == MASK


def test_each_line_of_a_value_goes() -> None:
    """A key of several lines is replaced when it is printed line by line, indented or with carriage returns."""
    key = "-----BEGIN KEY-----\nabcdefgh12345678\nqrstuvwx87654321\n-----END KEY-----"
    masker = Masker([key])
    for line in key.splitlines():
        for text in (line, f"    {line}", f"{line}\r", f"> {line} <"):
            assert line.encode() not in masker.mask(text.encode())


def test_short_values_go_only_where_they_stand_alone() -> None:
    """A value of less than four characters is replaced between other characters than letters and digits, and words stay readable."""
    masker = Masker(["ab", ""])
    assert masker.mask(b"ab, cab ab-ab table password=ab") == b"***, cab ***-*** table password=***"
    assert not Masker(["", "\n"])


@settings(max_examples=200, deadline=None)
@example(
    values=["0\x1f\x1f\x1b", "0000"],
    form=lambda value: json.dumps(value)[1:-1],
    between=["", "", "", "", ""],
    sizes=[1],
    chunk=1,
    limit=8,
)
@given(
    values=st.lists(
        st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=4, max_size=30), min_size=1, max_size=3
    ),
    form=st.sampled_from([lambda value: value, *FORMS.values(), lambda value: base64.b64encode(value.encode()).decode()]),
    between=st.lists(st.text(alphabet="xyz \\%한😀", max_size=40), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    chunk=st.integers(1, 200),
    limit=st.integers(8, 80),
)
def test_splitting_a_line_anywhere_hides_nothing_less(
    values: list[str], form: Callable[[str], str], between: list[str], sizes: list[int], chunk: int, limit: int
) -> None:
    """Written in parts, read in chunks, split into entries of any length: the same is masked as in the whole line.

    No entry begins or ends within a character.
    """
    values = [value for value in values if len(value.strip()) >= 4] or ["four"]
    text = "".join(part + form(values[index % len(values)]) for index, part in enumerate(between)).replace("\n", "").encode()
    masker = Masker(values)
    parts: list[bytes] = []
    at = index = 0
    while at < len(text):
        size = sizes[index % len(sizes)]
        parts.append(text[at : at + size])
        at, index = at + size, index + 1
    stamp = b"2026-11-24T01:02:03.000000004Z stdout "
    data = b"".join(stamp + (b"F " if number == len(parts) else b"P ") + part + b"\n" for number, part in enumerate(parts, start=1))
    joiner = Joiner(b"", masker.split(limit), limit)
    lines = []
    for start in range(0, len(data), chunk):
        # The reader is given whole stretches of the file from its own offset on, as the file source does.
        lines += joiner.feed(data[joiner.offset : start + chunk])
    lines += joiner.feed(data[joiner.offset :]) if joiner.offset < len(data) else []
    lines += joiner.close()
    assert b"".join(line.text for line in lines) == text
    assert "".join(line.text.decode() for line in lines) == text.decode()
    # Values that touch are one mask in the whole line, and may be several in its parts.
    once = re.compile(rb"(\*\*\*)+")
    assert once.sub(MASK, b"".join(masker.mask(line.text) for line in lines)) == once.sub(MASK, masker.mask(text))
    for value in values:
        assert value.encode() not in b"".join(masker.mask(line.text) for line in lines)


def test_lines_without_a_secret_are_left_alone() -> None:
    """Percent signs, backslashes, base64 of something else and all bytes there are come back as they went in."""
    masker = Masker(["correct horse", "battery staple 9"])
    for text in (
        b"50% of %41 \\u0041 \\\\ C:\\new",
        base64.b64encode(b"something else entirely"),
        bytes(range(256)),
        b"%",
        b"\\",
        b"\\u12",
    ):
        assert not masker.suspects(text)
        assert masker.mask(text) == text


def test_a_split_never_changes_what_is_an_escape() -> None:
    """A cut among backslashes leaves the escapes behind it as they were."""
    masker = Masker(["Abcdefgh"])
    text = b"x" * 9 + b"\\\\" + b"\\u0041bcdefgh" + b"y" * 100
    pieces = []
    rest = text
    while rest:
        count = masker.cut(rest, 10, complete=True)
        pieces.append(masker.mask(rest[:count]))
        rest = rest[count:]
    assert b"".join(pieces) == masker.mask(text) == b"x" * 9 + b"\\\\***" + b"y" * 100


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.booleans())
def test_escapes_mean_what_json_says(text: str, as_they_are: bool) -> None:
    """All escapes that an encoder of JSON makes are undone as a decoder does it, and places are found again."""
    escaped = json.dumps(text, ensure_ascii=not as_they_are)[1:-1].encode()
    undone = masking._Undone(escaped, masking._BACKSLASH, masking._OF_BACKSLASH)
    assert undone.text == text.encode()
    assert undone.place(len(undone.text)) == len(escaped)
    for odd in (b"\\ud800", b"\\udfffx", b"\\/", b"\\b\\f"):
        meant = json.loads(b'"' + odd + b'"').encode("utf-8", "replace")
        assert masking._Undone(odd, masking._BACKSLASH, masking._OF_BACKSLASH).text == meant


def test_a_long_lines_escapes_are_undone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that comes alone is searched once, whether or not it holds a value: undoing is what costs."""
    count = 0
    real = masking._Undone

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return real(*arguments)

    monkeypatch.setattr(masking, "_Undone", counted)
    for text, expected in ((b"\\n" * 1000, b"\\n" * 1000), (b"\\n" * 1000 + b"a secr\\u0065t", b"\\n" * 1000 + MASK)):
        count = 0
        assert [line.message for line in fresh([Line(0, False, text, b"")], Masker(["a secret"]))] == [expected]
        assert count == 1


def tangled(secrets: list[str]) -> st.SearchStrategy[bytes]:
    """Values, escapes, halves of escapes and other text, each any number of times."""
    escapes = ["%", "%2", "%2F", "\\", "\\\\", "\\/", "\\u002F", "\\ud83d", "\\ude00", "\\u"]
    piece = st.sampled_from([*secrets, *escapes, "a", "b", "c", "xyz 0189" * 9])
    repeated = st.builds(lambda text, count: text * count, piece, st.integers(1, 40))
    return st.lists(repeated, min_size=1, max_size=25).map(lambda texts: "".join(texts).encode())


@given(st.data(), st.lists(st.sampled_from(["abc/", "ab/ab/", "xx\\y", "안녕"]), min_size=1, max_size=3))
def test_where_a_line_is_split_is_found_from_near_by(data: st.DataObject, secrets: list[str]) -> None:
    """Seen is only what lies around the place, and yet it is split as if all of it had been seen, between and in any escapes."""
    pieces = st.sampled_from(
        [*secrets, "%", "%2", "%2F", "\\", "\\\\", "\\/", "\\u002F", "\\ud83d", "\\ude00", "\\u", "a", "b", "c", "xyz 0189" * 9]
    )
    repeated = data.draw(st.lists(st.tuples(pieces, st.integers(1, 40)), min_size=1, max_size=25))
    text = "".join(piece * count for piece, count in repeated).encode()
    place = data.draw(st.integers(1, len(text)))
    masker = Masker(secrets)
    expected = next(((start, end) for start, end in masker.spans(text) if start < place < end), (place, place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "PIECE", 64)
        assert masker._span_over(text, place) == expected


@given(st.data(), st.lists(st.sampled_from(["abc/", "ab/ab/", "xx\\y", "안녕하세요"]), min_size=1, max_size=3))
def test_a_long_text_is_masked_as_a_short_one(data: st.DataObject, secrets: list[str]) -> None:
    """Taken in pieces it is what it would be as a whole."""
    text = data.draw(tangled(secrets))
    masker = Masker(secrets)
    whole = masker._masked(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "PIECE", 64)
        assert masker.mask(text) == whole
        assert not any(secret.encode() in masker.mask(text) for secret in secrets)


@pytest.mark.parametrize("escape", [b"%41", b"\\n", b"\\u0041"], ids=["url", "json", "unicode"])
def test_splitting_a_line_undoes_no_more_of_it_than_it_must(monkeypatch: pytest.MonkeyPatch, escape: bytes) -> None:
    """Of a megabyte of nothing but escapes a few hundred bytes are looked at, wherever the other values are."""
    seen = 0
    real = masking._Undone

    def counted(text: bytes, *arguments: Any) -> Any:
        nonlocal seen
        seen += len(text)
        return real(text, *arguments)

    monkeypatch.setattr(masking, "_Undone", counted)
    masker = Masker(["a secret"])
    text = b"a secret" + escape * (1_000_000 // len(escape)) + b"a secret" * 100
    assert masker.cut(text, 900_000, complete=True) in range(900_000 - 12, 900_001)
    assert 0 < seen < 20 * masker.longest


@pytest.mark.parametrize("value", ["aaaa", "abab", "0000"])
def test_a_line_of_nothing_but_values_is_split_before_it_fills_memory(value: str) -> None:
    """However long it gets, and though values overlap everywhere in it: no more than a bounded stretch is waited for."""
    masker = Masker([value])
    pending = b""
    kept = longest = 0
    for _ in range(5000):
        pending += value[:2].encode()
        longest = max(longest, len(pending))
        while len(pending) >= 64 + masker.longest and (count := masker.cut(pending, 64, complete=False)):
            part, pending = pending[:count], pending[count:]
            kept += len(masker.mask(part).replace(MASK, b""))
    assert longest <= 64 + 17 * masker.longest
    assert kept <= 5000 * 2 // 64 * 3


def test_the_braces_of_a_key_are_in_every_log() -> None:
    """Of a value of several lines only those are values themselves that tell something."""
    masker = Masker(['{\n  "private_key": "MIIEvQIBADANBg",\n  "a": 1\n}\n'])
    assert masker.mask(b'{ "ok": true }, "a": 1') == b'{ "ok": true }, "a": 1'
    assert masker.mask(b'the key has "private_key": "MIIEvQIBADANBg",') == b"the key has ***"
