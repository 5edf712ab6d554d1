"""The level of a line: what it says of itself at its start, otherwise INFO for stdout and ERROR for stderr."""

import re

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
_LOOK = 256
"""How many bytes of a line are looked at; a level further in is not "at its start"."""


def level_of(message: bytes, *, stderr: bool) -> int:
    """The index into LEVELS of a line."""
    head = message[:_LOOK]
    found = _START.match(head)
    if found is None and (b"level" in head or b"severity" in head or b"lvl" in head):
        found = _NAMED.search(head)
    if found is not None and found.lastindex:
        return _INDEX[found[found.lastindex].lower()]
    return ERROR if stderr else INFO
