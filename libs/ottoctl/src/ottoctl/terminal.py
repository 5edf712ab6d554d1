"""Text from elsewhere, made harmless for a terminal: log lines and names may hold anything."""

import re
import shlex
import unicodedata

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: cursor movement, colours, modes
    r"|\x1b[\]PX^_].*?(?:\x1b\\|\x07|$)"  # OSC, DCS, SOS, PM, APC with their terminator
    r"|\x1b[ -/]*[0-~]"  # other two-character sequences
)


def harmless(text: str) -> str:
    """The text without escape sequences and control characters; tabs become spaces, what a carriage return overwrote is dropped."""
    text = _ESCAPES.sub("", text.rstrip("\r\n"))
    if "\r" in text:
        text = text.rsplit("\r", 1)[-1]
    return "".join(" " if c == "\t" else c for c in text if c == "\t" or unicodedata.category(c) not in {"Cc", "Cf"} or c == "\u200d")


def coloured(text: str) -> str:
    """As `harmless`, but colours (SGR sequences) stay and are reset at the end."""
    parts = _SGR.split(text)
    codes = _SGR.findall(text)
    if not codes:
        return harmless(text)
    kept = "".join(harmless(part) + code for part, code in zip(parts, [*codes, ""], strict=True))
    return kept + "\x1b[0m"


def quoted(text: str) -> str:
    """The text as a shell takes it."""
    return shlex.quote(harmless(text))
