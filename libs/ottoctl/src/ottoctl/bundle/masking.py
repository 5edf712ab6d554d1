"""Secrets in texts, found by their form, or because they were masked somewhere else; also encoded in base64 or as in URLs."""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

MASK = "***"
_WORDS = r"password|passwd|passphrase|pwd|secret|token|credential|api[_-]?key|private[_-]?key|access[_-]?key|headers"
SENSITIVE = re.compile(rf"{_WORDS}|authorization|cookie|(?<![a-z])(auth|pass|key)(?![a-z])", re.IGNORECASE)
"""Names of fields and variables whose values are nobody's business."""
HARMLESS = frozenset({"secretName", "automountServiceAccountToken", "storageKey", "key"})
"""Names that look so and are not: they name a thing."""
LEAST_NAMED, LEAST = 4, 8
"""Characters from which on a value is looked for everywhere: one of a sensitive name, and any other one."""
MOST = 4096
_VALUE = r"""\\"(?:(?!\\").)*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"',;&}\])]+"""
_SPEECH = r"(?:is|was|are|and|or|to|in|of|for|with|not|has|must|can|may|needs?|option|flag)"
"""What stands behind `--token` in a sentence about it."""
_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)",
        r"""(?<![\w.+-])[\w.+-]{1,64}:(?P<secret>[^\s:@/"']{3,200})(?P<after>@)(?=[A-Za-z0-9])""",
        r"""(?P<kept>(?:authorization|cookie)["'\\]{0,2}\s*[:=]\s*["'\\]{0,2})(?P<secret>[^"'\\\r\n]+)""",
        r"(?P<kept>\b(?:bearer|basic)\s+)(?P<secret>[A-Za-z0-9._~+/=-]{6,})",
        rf"""(?P<kept>(?:{_WORDS})[\w.-]{{0,40}}["'\\]{{0,2}}\s*[:=]\s*)(?P<secret>{_VALUE})""",
        rf"""(?P<kept>(?<![\w-])--?(?:[\w-]{{0,40}}(?:{_WORDS})|(?:[\w-]{{0,40}}-)?(?:auth|key|pass(?:in|out)?)(?![a-z]))"""
        rf"""(?![\w-]*-(?:file|path|dir)\b)[\w-]{{0,40}}["'\\]{{0,2}},?[ \t]+)(?P<secret>(?!-|{_SPEECH}(?:\s|$))(?:{_VALUE}))""",
        r"""(?P<kept>(?<![\w-])(?:-u|--(?:proxy-)?user)["'\\]{0,2},?[ \t]+["'\\]{0,2}[a-z_][^\s:"']{0,100}:)(?P<secret>[^\s"'\\]+)""",
        r"""(?P<kept>\b(?:password|passwd|passphrase|pwd|token|api[_-]?key)[ \t]+(?:is|was)[ \t]+["'\\]{0,2})"""
        r"""(?P<secret>(?=\S{0,200}[a-z])(?=\S{0,200}[\d!@#$%^&*+=~])[^\s"'\\]{5,200}[^\s"'\\.,;:!?)])""",
        r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
        r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|sk-[\w-]{20,})",
    )
)
"""What is a secret by its form; of some a part is kept."""
_WORD = re.compile(r"[A-Za-z]+|[a-z]+(?:[-_ ][a-z]+)*")
"""What stands behind `token:` in a sentence: masked there, not looked for elsewhere."""
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{8,}={0,2}")
_RUN = re.compile(r"""[^\s"'<>\\]+""")
"""What may be a URL, or a part of one. Patterns that search for the end of something take time that grows with the square of a text."""


class Masker:
    """Knows what was masked, and masks it wherever else it stands."""

    def __init__(self) -> None:
        self.count = 0
        self._spared: set[str] = set()
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, value: str, name: str = "") -> str:
        """This is, or may be, a secret: from now on it is masked everywhere. Returns what stands in its place."""
        least = LEAST_NAMED if SENSITIVE.search(name) else LEAST
        for part in {value.strip(), *(line.strip() for line in value.splitlines())}:
            if least <= len(part) <= MOST and part not in self._spared:
                self._known |= set(_forms(part))
                self._pattern = None
        self.count += bool(value)
        return MASK if value else ""

    def spare(self, names: Iterable[str]) -> None:
        """These may stand anywhere, whatever else has the same value: otherwise nothing could be read any more."""
        self._spared |= set(names)

    def learn_from(self, text: str) -> None:
        """The secrets that a text shows by their form are masked wherever else they stand."""
        for form in _FORMS:
            for found in form.finditer(text):
                secret = (found.groupdict().get("secret") or "").strip("\"'\\ ")
                if not _WORD.fullmatch(secret) and MASK not in secret:
                    self.learn(secret)
        for run in _RUN.finditer(text):
            if "://" in run[0]:
                user, _, password = _userinfo(run[0])[1].partition(":")
                self.learn(password or user, "password")

    def text(self, text: str) -> str:
        """The text without secrets."""
        text = _RUN.sub(self._run, text)
        for form in _FORMS:
            text, times = form.subn(_shortened, text)
            self.count += times
        return _BASE64.sub(self._base64, self._known_masked(text))

    def data(self, value: Any, name: str = "") -> Any:
        """The same for whatever JSON knows; fields of sensitive names are masked whole."""
        if isinstance(value, dict):
            return {self.text(str(key)): self.data(below, str(key)) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(below, name) for below in value]
        if not isinstance(value, str):
            return value
        return self.learn(value, name) if is_sensitive(name) else self.text(value)

    def _known_masked(self, text: str) -> str:
        if not self._known:
            return text
        if self._pattern is None:
            self._pattern = re.compile("|".join(map(re.escape, sorted(self._known, key=len, reverse=True))))
        masked, times = self._pattern.subn(MASK, text)
        self.count += times
        return masked

    def _run(self, found: re.Match[str]) -> str:
        run = found[0]
        if "%" in run and self._is_secret(unquote_plus(run)):
            self.count += 1
            return MASK
        before, user, after = _userinfo(run) if "://" in run else (run, "", "")
        self.count += bool(user)
        return f"{before}{MASK}{after}" if user else run

    def _base64(self, found: re.Match[str]) -> str:
        if not self._is_secret(_from_base64(found[0])):
            return found[0]
        self.count += 1
        return MASK

    def _is_secret(self, plain: str) -> bool:
        """Whether there is something to be masked in what was encoded."""
        if self._known_masked(plain) != plain or any(form.search(plain) for form in _FORMS):
            return True
        return any(_userinfo(run)[1] for run in _RUN.findall(plain) if "://" in run)


def _userinfo(run: str) -> tuple[str, str, str]:
    """A URL: what stands before its user and password, these ("" if there are none), and what stands behind them. Passwords with an @ in
    them, or a slash, are nothing rare.
    """
    scheme, _, rest = run.partition("://")
    user, at, after = rest.rpartition("@")
    return f"{scheme}://", user, at + after


def _shortened(found: re.Match[str]) -> str:
    parts = found.groupdict()
    return f"{parts.get('kept') or ''}{MASK}{parts.get('after') or ''}"


def is_sensitive(name: str) -> bool:
    """Whether a value of that name is masked whatever it is."""
    return name not in HARMLESS and SENSITIVE.search(name) is not None


def _forms(value: str) -> Iterable[str]:
    plain = value.encode("utf-8", "surrogatepass")
    encoded = (base64.b64encode(plain).decode(), base64.urlsafe_b64encode(plain).decode())
    return {value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], *(form.rstrip("=") for form in encoded)}


def _from_base64(text: str) -> str:
    """What a text says that may be base64; "" if it is none, or nothing to read."""
    padded = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
