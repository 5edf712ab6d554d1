"""Text from elsewhere does not control the user's terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoctl.terminal import coloured, harmless


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain 한글 ✔", "plain 한글 ✔"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1b[2Jb\x1b[1;1Hc", "abc"),
        ("10%\r50%\r100%", "100%"),
        ("a\tb\x00\x07\x08c", "a bc"),
        ("line\r\n", "line"),
        ("\u202eevil", "evil"),
        ("\x9b31mx", "31mx"),
    ],
)
def test_harmless(text: str, left: str) -> None:
    """Escape sequences, control characters and direction marks are gone; the words stay."""
    assert harmless(text) == left


def test_colours_may_stay_but_end_with_the_line() -> None:
    """On a terminal colours are kept, everything else is not, and the next line is not coloured."""
    assert coloured("\x1b[31mred\x1b[2Jstill") == "\x1b[31mredstill\x1b[0m"
    assert coloured("none") == "none"


@given(st.text())
def test_nothing_that_moves_a_cursor_is_left(text: str) -> None:
    """Whatever comes in, no control character goes out."""
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in harmless(text))
    assert "\x1b" not in coloured(text).replace("\x1b[0m", "").replace("\x1b[", "") or "m" in text
