"""The level of a line: what it says of itself at its start, otherwise INFO for stdout and ERROR for stderr."""

import re
from collections.abc import Sequence

LEVELS = ("INFO", "ERROR", "DEBUG", "WARN")
"""As the wire contract names them; their index is what records keep."""
INFO, ERROR, DEBUG, WARN = range(4)

_INDEX = {
    b"info": INFO,
    b"notice": INFO,
    b"information": INFO,
    b"error": ERROR,
    b"err": ERROR,
    b"fatal": ERROR,
    b"critical": ERROR,
    b"crit": ERROR,
    b"panic": ERROR,
    b"severe": ERROR,
    b"debug": DEBUG,
    b"trace": DEBUG,
    b"warn": WARN,
    b"warning": WARN,
}
_WORDS = b"information|info|notice|error|err|fatal|critical|crit|panic|severe|debug|trace|warning|warn"
_TIME = rb"(?:\[?\d{2,4}[-/.:]\d\d[-/.:\d T,Z+]{0,30}\]?[ \t]{0,3})?"
_COLOUR = rb"(?:\x1b\[[\d;]{0,12}m)*"
_START = re.compile(
    rb"[ \t]{0,8}" + _COLOUR + _TIME + _COLOUR +
    # In brackets or before a colon in any case; as a bare word only in capitals: "Error handling is done" is no error.
    rb"(?:[\[(<](?i:(" + _WORDS + rb"))[\])>]"
    rb"|(?i:(" + _WORDS + rb"))(?:\x1b\[[\d;]{0,12}m)*(?::|[ \t]{0,4}[|\]] )"
    rb"|(" + _WORDS.upper() + rb")(?:\x1b\[[\d;]{0,12}m)*(?=[ \t\-!|\])]|$))"
)  # fmt: skip
_NAMED = re.compile(rb'(?:"(?:level|severity|lvl|levelname)"\s{0,2}:\s{0,2}"|\b(?:level|lvl|severity)="?)(?i:(' + _WORDS + rb"))\b")
_NAMES = (b"level", b"severity", b"lvl")
_LOOK = 256
"""How many bytes of a line are looked at; a level further in is not "at its start"."""


def level_of(message: bytes, *, stderr: bool) -> int:
    """The index into LEVELS of a line."""
    return levels_of((message,), (stderr,), message)[0]


def levels_of(messages: Sequence[bytes], stderr: Sequence[bool], text: bytes) -> list[int]:
    """The indices into LEVELS of many lines; `text` holds all of them."""
    start = _START.match
    found = [start(message, 0, _LOOK) for message in messages]
    if any(name in text for name in _NAMES):
        found = [
            _NAMED.search(message, 0, _LOOK) if start is None and any(name in message for name in _NAMES) else start
            for start, message in zip(found, messages, strict=True)
        ]
    if not any(found):
        return [ERROR if error else INFO for error in stderr]
    return [
        _INDEX[match[match.lastindex].lower()] if match is not None and match.lastindex else ERROR if error else INFO
        for match, error in zip(found, stderr, strict=True)
    ]
