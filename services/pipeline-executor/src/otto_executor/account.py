"""A run's account of itself: turns its state into numbered messages."""

from otto_executor import attempt
from otto_executor.approval import in_words
from otto_executor.definition import Definition
from otto_executor.progress import Progress, counted, seconds, share, shortened
from otto_executor.run_state import RunState
from otto_executor.stage import StageSpec, StageStatus


class Account:
    """Collects what a run says; each message takes the next sequence of the state."""

    def __init__(self, definition: Definition, state: RunState) -> None:
        """Speaks of `state`, and notes in each stage's state what was said of it last."""
        self._specs = {stage.stage_id: stage for stage in definition.stages}
        self._state = state
        self._collected: list[Progress] = []

    def take(self) -> tuple[Progress, ...]:
        """What was said since the last call."""
        collected, self._collected = tuple(self._collected), []
        return collected

    def stage(self, stage_id: str, status: StageStatus, words: str, now: float) -> None:
        """Says how a stage stands; from now on that is its status."""
        spec, state = self._specs[stage_id], self._state.stages[stage_id]
        succeeded, failed = attempt.counts(state)
        state.status, state.message = status, shortened(words)
        state.percentage = 100 if status is StageStatus.COMPLETED else share(succeeded + failed, spec.workers)
        began = now if state.attempt_started_at is None else state.attempt_started_at
        failure = state.failure
        self._state.sequence += 1
        self._collected.append(
            Progress(
                sequence=self._state.sequence,
                stage_id=stage_id,
                status=status,
                message=state.message,
                at=now,
                percentage=state.percentage,
                overall=self._state.percentage,
                attempt=state.attempt,
                type=spec.type,
                workers=attempt.names(state),
                started_at=state.started_at,
                ended_at=state.ended_at,
                error=failure.words if failure is not None else "",
                cause=failure.cause if failure is not None else None,
                exit_code=failure.exit_code if failure is not None else None,
                duration=round(max(0.0, now - began)),
                succeeded=succeeded,
                failed=failed,
                total=spec.workers,
            )
        )

    def asked_for_workers(self, stage_id: str, now: float) -> None:
        """Says that a stage's workers were asked for."""
        spec, state = self._specs[stage_id], self._state.stages[stage_id]
        words = f"{counted(spec.workers, 'worker')} asked for" + (f", attempt {state.attempt}" if state.attempt > 1 else "")
        if state.attempt == 1 and state.approval is not None:
            words = f"{in_words(state.approval)}; {words}"
        self.stage(stage_id, StageStatus.RUNNING, words, now)

    def run(self, status: StageStatus, words: str, now: float) -> None:
        """Says how the run stands."""
        state = self._state
        failure = state.stages[state.failed_stages[0]].failure if state.failed_stages else None
        if failure is None and status is StageStatus.CANCELLED and state.cancellation is not None:
            failure = state.cancellation.failure
        state.sequence += 1
        self._collected.append(
            Progress(
                sequence=state.sequence,
                stage_id="",
                status=status,
                message=shortened(words),
                at=now,
                percentage=state.percentage,
                overall=state.percentage,
                started_at=state.created_at,
                ended_at=state.ended_at,
                error=state.error,
                cause=failure.cause if failure is not None else None,
                exit_code=failure.exit_code if failure is not None else None,
                duration=round(max(0.0, now - state.created_at)),
                succeeded=sum(stage.succeeded for stage in state.stages.values()),
                failed=sum(stage.failed for stage in state.stages.values()),
                total=sum(spec.workers for spec in self._specs.values()),
            )
        )


def announcement(spec: StageSpec) -> str:
    """What a stage that has not had its turn does."""
    return f"waits for {', '.join(spec.depends_on)}" if spec.depends_on else "starts now"


def ending(state: RunState, now: float) -> tuple[StageStatus, str, str]:
    """How a run has ended whose stages all have: its status, what is to be said, and why it did not complete ("" if it did).

    A stage that failed makes it FAILED, also when the rest was cancelled.
    """
    took = seconds(now - state.created_at)
    if state.failed_stages:
        shown = [f"{stage_id}: {failure.words}" for stage_id in state.failed_stages[:5] if (failure := state.stages[stage_id].failure)]
        more = len(state.failed_stages) - len(shown)
        error = shortened("; ".join(shown) + (f"; and {more} more" if more else ""))
        return StageStatus.FAILED, f"failed after {took}: {error}", error
    if state.cancellation is not None:
        return StageStatus.CANCELLED, f"cancelled after {took}: {state.cancellation.words}", state.cancellation.words
    skipped = sum(stage.status is StageStatus.SKIPPED for stage in state.stages.values())
    words = f"completed: {counted(len(state.stages), 'stage')} in {took}" + (f", {skipped} of them skipped" if skipped else "")
    return StageStatus.COMPLETED, words, ""
