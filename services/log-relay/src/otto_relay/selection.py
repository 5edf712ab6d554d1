"""Which lines a reader wants, as a pure filter over records."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from otto_relay.levels import LEVELS
from otto_relay.records import LEVEL_MASK, LEVEL_SHIFT, STDERR, Record

SOURCES = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Selection:
    """A LogSelection in our words. The default selects everything that is kept and what follows."""

    follow: bool = True
    tail_lines: int = 0
    """0: all."""
    since: int | None = None
    """Nanoseconds since 1970; None: no limit."""
    until: int | None = None
    """Nanoseconds since 1970, exclusive; None: no limit."""
    after_sequence: int = 0
    levels: frozenset[str] = frozenset()
    """Empty: all."""
    sources: frozenset[str] = frozenset()
    """Empty: both."""
    keywords: tuple[str, ...] = ()
    """Empty: all lines."""

    def line_filter(self) -> Callable[[Record], bool] | None:
        """Says of a record whether it is wanted; None when every record is, so that nobody needs to ask."""
        checks: list[Callable[[Record], bool]] = []
        if self.levels or self.sources:
            wanted = frozenset(
                index << LEVEL_SHIFT | bit
                for index, level in enumerate(LEVELS)
                for bit, source in enumerate(SOURCES)
                if (not self.levels or level in self.levels) and (not self.sources or source in self.sources)
            )
            mask = LEVEL_MASK | STDERR
            checks.append(lambda record: record.flags & mask in wanted)
        if self.since is not None:
            since = self.since
            checks.append(lambda record: record.time >= since)
        if self.until is not None:
            until = self.until
            checks.append(lambda record: record.time < until)
        if self.keywords:
            checks.append(_keyword_filter(self.keywords))
        if not checks:
            return None
        if len(checks) == 1:
            return checks[0]
        return lambda record: all(check(record) for check in checks)


def message_of(record: Record) -> bytes:
    """The line itself, UTF-8."""
    return record.payload[len(record.payload) - record.message_length :]


def _keyword_filter(keywords: tuple[str, ...]) -> Callable[[Record], bool]:
    """Lines that hold one of the words, in any case. ASCII words are sought in bytes; others need the text's own idea of case."""
    if all(word.isascii() for word in keywords):
        needles = tuple(word.lower().encode() for word in keywords)

        def in_bytes(record: Record) -> bool:
            message = message_of(record).lower()
            return any(needle in message for needle in needles)

        return in_bytes
    pattern = re.compile("|".join(re.escape(word.casefold()) for word in keywords))
    return lambda record: pattern.search(message_of(record).decode("utf-8", "replace").casefold()) is not None
