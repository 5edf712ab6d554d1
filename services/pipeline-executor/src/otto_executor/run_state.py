"""How a run stands: all that has to survive a crash, besides its definition."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from otto_executor.approval import Approval
from otto_executor.definition import Definition
from otto_executor.retry import Failure, FailureCause
from otto_executor.stage import Phase, RunCondition, StageSpec, StageState, StageStatus


@dataclass(frozen=True, slots=True)
class Cancellation:
    """That the run is being cancelled. With `after_failure` it is fail-fast's doing, and the run has failed: clean-up and notices go on."""

    words: str
    at: float
    after_failure: bool = False

    @property
    def failure(self) -> Failure:
        """What it is for the stages that it ends."""
        return Failure(FailureCause.CANCELLED, self.words)

    def spares(self, spec: StageSpec) -> bool:
        """Whether the stage goes on all the same: after a failure those do that are there for it."""
        return self.after_failure and spec.run_if is not RunCondition.ON_SUCCESS


@dataclass(slots=True)
class RunState:
    """How a run stands. `status` is RUNNING, COMPLETED, FAILED or CANCELLED; times are seconds since the epoch."""

    created_at: float
    stages: dict[str, StageState]
    status: StageStatus = StageStatus.RUNNING
    ended_at: float | None = None
    sequence: int = 0
    cancellation: Cancellation | None = None
    failed_stages: list[str] = field(default_factory=list)
    """In the order in which they failed."""
    error: str = ""
    clock_set_by: float = 0.0
    """Seconds by which the machine's clock was set while the run went on; they have not passed."""

    def copy(self) -> "RunState":
        """One that shares nothing that can change."""
        stages = {
            stage_id: replace(stage, workers={index: replace(worker) for index, worker in stage.workers.items()})
            for stage_id, stage in self.stages.items()
        }
        return replace(self, stages=stages, failed_stages=list(self.failed_stages))

    def took(self, now: float) -> float:
        """Seconds that the run has gone on."""
        return max(0.0, now - self.created_at - self.clock_set_by)

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.ended_at is not None

    @property
    def percentage(self) -> int:
        """The share of stages that have ended, 0 to 100."""
        return sum(stage.ended for stage in self.stages.values()) * 100 // len(self.stages)

    def awaiting_approval(self) -> tuple[str, ...]:
        """The stages whose turn has come and that wait for a person."""
        return tuple(stage_id for stage_id, stage in self.stages.items() if stage.phase is Phase.APPROVAL)


def fresh(definition: Definition, now: float, kept: Mapping[str, StageState] | None = None) -> RunState:
    """The state of a run that has just been asked for; stages in `kept` have ended in the run that it repeats."""
    kept = kept or {}
    return RunState(created_at=now, stages={stage.stage_id: kept.get(stage.stage_id) or _unbegun(stage) for stage in definition.stages})


def _unbegun(spec: StageSpec) -> StageState:
    return StageState(approval=None if spec.approvers is None else Approval(spec.approvers))
