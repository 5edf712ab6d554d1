"""What a run decides: actions that are wanted for its stages, and the steps that have to be stored before them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from otto_executor.progress import Progress
from otto_executor.retry import RetryPolicy
from otto_executor.stage import Phase, StageState


@dataclass(frozen=True, slots=True)
class Patience:
    """How much trouble a run puts up with; times in seconds."""

    infrastructure: RetryPolicy = field(default_factory=lambda: RetryPolicy(retries=2, delay=2.0, multiplier=2.0))
    """The budget for causes that are not the pipeline's fault, per stage."""
    grace: float = 10.0
    """What workers may take to end where the stage does not say."""
    margin: float = 30.0
    """What the scaler may take beyond a timeout or a grace."""
    unseen: float = 60.0
    """How long after its creation nothing may be heard of a worker."""
    stops: int = 5
    """How often workers are asked to stop before the attempt is ended without them."""


class Kind(StrEnum):
    """What can be done for a stage."""

    START = "START"
    STOP = "STOP"


@dataclass(frozen=True, slots=True)
class Action:
    """Something to be done for a stage; equal actions are the same one. A STOP of attempt 0 is for workers that should not be there."""

    kind: Kind
    stage_id: str
    attempt: int
    round: int = 0


def wanted(stages: Mapping[str, StageState]) -> set[Action]:
    """What is to be done for the stages as they stand."""
    actions = set()
    for stage_id, state in stages.items():
        if state.phase is Phase.STARTING:
            actions.add(Action(Kind.START, stage_id, state.attempt))
        elif state.phase is Phase.STOPPING and not state.stop_confirmed:
            actions.add(Action(Kind.STOP, stage_id, state.attempt, state.stops))
    return actions


@dataclass(frozen=True, slots=True)
class Step:
    """What has to be stored before anything else is done. `edge`: a start, an end or a decision, which has to survive a power cut."""

    progress: tuple[Progress, ...]
    edge: bool
