"""Why attempts fail, and whether and when they are repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class FailureCause(StrEnum):
    """Why a worker, an attempt or a stage failed; the names are the contract's."""

    EXIT_CODE = "EXIT_CODE"
    OOM_KILLED = "OOM_KILLED"
    TIMEOUT = "TIMEOUT"
    EVICTED = "EVICTED"
    NODE_LOST = "NODE_LOST"
    DELETED = "DELETED"
    IMAGE_PULL = "IMAGE_PULL"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    QUOTA = "QUOTA"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


INFRASTRUCTURE = frozenset({FailureCause.EVICTED, FailureCause.NODE_LOST, FailureCause.DELETED, FailureCause.INTERNAL})
"""Causes that are nobody's fault in the pipeline; they have a budget of their own."""
NEVER_BY_DEFAULT = frozenset({FailureCause.CANCELLED, FailureCause.REJECTED})
"""Causes that are retried only when `retryable_failures` names them: repeating can't change the outcome."""
DEFAULT_MAX_DELAY = 300.0
"""Seconds; what RetryPolicy.max_delay_seconds = 0 means."""
_ALIASES = {"OOM": "OOM_KILLED", "EXIT": "EXIT_CODE", "CANCELED": "CANCELLED"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: typed, in words for people, and the exit code where there was one."""

    cause: FailureCause
    words: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a failed attempt is repeated. `on` holds causes' names and `exit:N`; empty: the default set."""

    retries: int = 0
    delay: float = 0.0
    on: tuple[str, ...] = ()
    multiplier: float = 1.0
    max_delay: float = DEFAULT_MAX_DELAY
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt is repeated after `delay` seconds, on the infrastructure budget or on the user's."""

    delay: float
    infrastructure: bool


def condition(word: str) -> str:
    """The canonical form of a word of `retryable_failures`: a cause's name, or `exit:N`. Raises ValueError in words for the client."""
    text = word.strip().upper().replace("-", "_").replace(" ", "_").removeprefix("FAILURE_CAUSE_")
    name, colon, code = text.partition(":")
    if colon and name in {"EXIT", "EXIT_CODE"}:
        if code.isascii() and code.isdecimal() and len(code) <= 3 and int(code) <= 255:
            return f"exit:{int(code)}"
        raise ValueError(f"{word!r}: an exit code is a number from 0 to 255")
    name = _ALIASES.get(text, text)
    if name not in FailureCause.__members__:
        known = ", ".join(c.lower() for c in FailureCause)
        raise ValueError(f"{word!r} is no failure that can be retried; known are {known} and exit:N")
    return name


def _matches(policy: RetryPolicy, failure: Failure) -> bool:
    if not policy.on:
        return failure.cause not in NEVER_BY_DEFAULT
    return failure.cause in policy.on or (failure.exit_code is not None and f"exit:{failure.exit_code}" in policy.on)


def delay_before(policy: RetryPolicy, retry: int, draw: Callable[[], float]) -> float:
    """Seconds before the `retry`-th repetition (from 1): exponential, capped, then a `jitter` share of it drawn at random.

    `draw` gives a number from 0 to 1. The drawn share shortens the delay, so the cap holds.
    """
    try:
        delay = min(policy.delay * policy.multiplier ** (retry - 1), policy.max_delay)
    except OverflowError:
        delay = policy.max_delay
    return delay * (1.0 - policy.jitter * draw())


def decide(
    policy: RetryPolicy,
    failure: Failure,
    *,
    used: int,
    infrastructure_used: int,
    infrastructure: RetryPolicy,
    draw: Callable[[], float],
) -> Retry | None:
    """Whether a failed attempt is repeated; None when it is final.

    `used` and `infrastructure_used` count repetitions so far on either budget. Infrastructure causes use their own budget first, and the
    user's after it where the policy matches them.
    """
    if failure.cause in INFRASTRUCTURE and infrastructure_used < infrastructure.retries:
        return Retry(delay_before(infrastructure, infrastructure_used + 1, draw), infrastructure=True)
    if used < policy.retries and _matches(policy, failure):
        return Retry(delay_before(policy, used + 1, draw), infrastructure=False)
    return None
