"""What the forwarder and the notifier need of otto-handler, and what is counted about it."""

import enum
import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from otto_relay.answer import Answer
from otto_relay.errors import RelayError
from otto_relay.notices import Notice
from otto_relay.outbox import Outbox

log = logging.getLogger(__name__)

_FIRST_DELAY = 0.05


class HandlerLostError(RelayError):
    """otto-handler can't be reached, or does not answer; what it has not answered is sent again."""


class HandlerStumbledError(HandlerLostError):
    """otto-handler is there, but something in it failed, most likely at what it was sent just now; that is sent again all the same."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Its answer to a line."""

    answer: Answer
    message: str = ""
    throttle: float = 0.0
    """Seconds to pause before the next line."""


class Receipt(enum.Enum):
    """What otto-handler says of a notice."""

    TAKEN = "taken"
    KNOWN = "known"
    REFUSED = "refused"


class LineStream(Protocol):
    """An open ForwardWorkerLogs. Both raise HandlerLostError when it has ended, HandlerStumbledError if because something in it failed."""

    async def send(self, outbox: Outbox, entry: bytes, sequence: int, dropped: int) -> None:
        """Sends an encoded LogEntry of the outbox's worker; waits while the other side takes none. `dropped` lines before it were lost."""
        ...

    async def receive(self, timeout: float) -> Reply:
        """The next answer; HandlerLostError also when none comes within `timeout` seconds."""
        ...


class Handler(Protocol):
    """otto-handler."""

    def lines(self) -> AbstractAsyncContextManager[LineStream]:
        """A new stream; what is open at the end is cancelled."""
        ...

    async def notify(self, outbox: Outbox, notice: Notice) -> tuple[Receipt, str]:
        """What it says of a notice, and its words. Raises HandlerLostError, HandlerStumbledError if something in it failed."""
        ...


@dataclass(slots=True)
class Tally:
    """What was counted since the process began."""

    pushed: int = 0
    dropped: int = 0
    retried: int = 0
    missing: int = 0
    notices_taken: int = 0
    notices_refused: int = 0
    unanswered: int = 0
    """Lines that are on their way now."""


class Waits:
    """Longer and longer seconds between attempts that fail, drawn between half of the bound and all of it."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._bound = _FIRST_DELAY

    def reset(self) -> None:
        """It worked."""
        self._bound = _FIRST_DELAY

    def after(self, times: int) -> float:
        """Seconds to wait after so many failures in a row."""
        bound = min(_FIRST_DELAY * 2.0 ** min(times - 1, 30), self._longest)
        return random.uniform(bound / 2, bound)

    def next(self) -> float:
        """Seconds to wait now."""
        delay = random.uniform(self._bound / 2, self._bound)
        self._bound = min(self._bound * 2, self._longest)
        return delay


class Reach:
    """Says once that otto-handler is away, and once that it is back."""

    def __init__(self, address: str, backlog: Callable[[], int]) -> None:
        self._address = address
        self._backlog = backlog
        self._failures = 0

    def failed(self, reason: str) -> None:
        """An attempt came to nothing."""
        self._failures += 1
        if self._failures == 1:
            log.warning("relay.handler.lost", extra={"address": self._address, "reason": reason, "lines": self._backlog()})

    def worked(self) -> None:
        """It has answered."""
        if self._failures:
            log.info("relay.handler.attached", extra={"address": self._address, "lines": self._backlog()})
            self._failures = 0


def is_milestone(count: int) -> bool:
    """1, 2, 4, 8 …: what happens a million times is said twenty times."""
    return count & (count - 1) == 0
