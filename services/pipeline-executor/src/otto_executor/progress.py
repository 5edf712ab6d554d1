"""What a run says while it goes on: numbered messages, and how far it has come."""

from dataclasses import dataclass

from otto_executor.retry import FailureCause
from otto_executor.stage import StageStatus, StageType
from otto_executor.usage import Usage
from otto_runtime import times

MAX_WORDS = 2000
"""Characters of a text that comes from elsewhere; keeps messages far below the clients' 4 MiB."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened. An empty `stage_id` is about the run; times are seconds since the epoch."""

    sequence: int
    stage_id: str
    status: StageStatus
    message: str
    at: float
    percentage: int = 0
    overall: int = 0
    attempt: int = 0
    type: StageType = StageType.UNSPECIFIED
    workers: tuple[str, ...] = ()
    started_at: float | None = None
    ended_at: float | None = None
    error: str = ""
    cause: FailureCause | None = None
    exit_code: int | None = None
    duration: int = 0
    succeeded: int = 0
    failed: int = 0
    total: int = 0
    kept_from: str = ""
    usage: Usage | None = None

    @property
    def final(self) -> bool:
        """Whether it is the run's last one."""
        return not self.stage_id and self.status in {StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED}


def share(part: int, whole: int) -> int:
    """`part` of `whole` in percent, rounded down, so that 100 means all; an empty whole is 0."""
    return part * 100 // whole if whole else 0


def counted(number: int, noun: str) -> str:
    """`1 worker`, `3 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seconds(duration: float) -> str:
    """A duration for people: `0.5 s`, `90 s`, `2 h 5 min`."""
    if duration < 600:
        return f"{duration:.3g} s" if duration < 100 else f"{duration:.0f} s"
    minutes = round(duration / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def shortened(text: str, most: int = MAX_WORDS) -> str:
    """The text cut to so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def rfc3339(at: float | None) -> str:
    """Seconds since the epoch as the contract writes times; "" for None."""
    return times.rfc3339(times.nanoseconds(at))
