"""A run's account of itself: turns its state into numbered messages."""

from dataclasses import replace

from otto_executor import attempt
from otto_executor.approval import in_words
from otto_executor.definition import Definition
from otto_executor.orders import Created
from otto_executor.progress import Progress, counted, seconds, share, shortened
from otto_executor.run_state import RunState
from otto_executor.stage import CHECKOUT, StageSpec, StageState, StageStatus, WorkerStatus
from otto_executor.usage import together


class Account:
    """Collects what a run says; each message takes the next sequence of the state when it is taken."""

    def __init__(self, definition: Definition, state: RunState) -> None:
        """Speaks of `state`, and notes in each stage's state what was said of it last."""
        self._specs = {stage.stage_id: stage for stage in definition.stages}
        self._state = state
        self._collected: list[Progress] = []
        self._passing: dict[str, Progress] = {}
        """What was collected last of how far stages have come: nobody needs it once there is more to say of that."""

    def take(self) -> tuple[Progress, ...]:
        """What was said since the last call."""
        first = self._state.sequence + 1
        taken = tuple(replace(progress, sequence=number) for number, progress in enumerate(self._collected, first))
        self._state.sequence += len(taken)
        self._collected, self._passing = [], {}
        return taken

    @property
    def speaks(self) -> bool:
        """Whether anything was said since it was taken last."""
        return bool(self._collected)

    def begun(self, definition: Definition, now: float) -> None:
        """Says that a run was accepted, what it keeps of another one, and what its stages wait for.

        Not what those wait for that need an approval: existing clients drop a second PENDING message, and the one that matters says that it
        is such a stage's turn.
        """
        self.run(StageStatus.RUNNING, _acceptance(definition, self._state), now)
        for spec in definition.stages:
            if kept_from := self._state.stages[spec.stage_id].kept_from:
                self.stage(spec.stage_id, StageStatus.COMPLETED, f"kept from {kept_from}", now)
            elif spec.approvers is None:
                self.stage(spec.stage_id, StageStatus.PENDING, _announcement(spec), now)

    def stage(self, stage_id: str, status: StageStatus, words: str, now: float) -> None:
        """Says how a stage stands; from now on that is its status."""
        spec, state = self._specs[stage_id], self._state.stages[stage_id]
        succeeded, failed = (state.succeeded, state.failed) if state.ended else attempt.counts(state)
        state.status, state.message = status, shortened(words)
        state.percentage = 100 if status is StageStatus.COMPLETED else share(succeeded + failed, spec.workers)
        began = now if state.attempt_started_at is None else state.attempt_started_at
        until = now if state.ended_at is None else state.ended_at
        failure = state.failure
        self._passing.pop(stage_id, None)
        self._collected.append(
            Progress(
                sequence=0,
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
                duration=round(max(0.0, until - began)),
                succeeded=succeeded,
                failed=failed,
                total=spec.workers,
                kept_from=state.kept_from,
                usage=state.usage,
            )
        )

    def asked_for_workers(self, stage_id: str, now: float, waiting: str = "") -> None:
        """Says that a stage's workers were asked for, and how many of them wait for room."""
        spec, state = self._specs[stage_id], self._state.stages[stage_id]
        words = f"{counted(spec.workers, 'worker')} asked for" + (f", attempt {state.attempt}" if state.attempt > 1 else "")
        if state.attempt == 1 and state.approval is not None:
            words = f"{in_words(state.approval)}; {words}"
        self.stage(stage_id, StageStatus.RUNNING, words + (f"; {waiting}" if waiting else ""), now)

    def workers_exist(self, stage_id: str, created: Created, now: float) -> None:
        """Says that a stage's workers were created, and that it waits if none of them has room to run."""
        spec = self._specs[stage_id]
        waiting = attempt.in_words(spec, waiting=created.waiting, room=created.room)
        if created.waiting == spec.workers:
            self.waits(stage_id, waiting, now)
        else:
            self.asked_for_workers(stage_id, now, waiting)

    def going_on(self, stage_id: str, now: float, words: str = "") -> None:
        """Says how far a stage has come, if existing clients can tell: they drop a message with the same status and percentage.

        A stage that waits for room runs as soon as one of its workers does.
        """
        spec, state = self._specs[stage_id], self._state.stages[stage_id]
        ended = attempt.ended(state)
        words = words or self._how_far(spec, state)
        if state.status is StageStatus.PENDING:
            if any(worker.status is not WorkerStatus.PENDING for worker in state.workers.values()):
                self.stage(stage_id, StageStatus.RUNNING, words, now)
        elif share(ended, spec.workers) != state.percentage:
            if (passed := self._passing.get(stage_id)) is not None:
                self._collected.remove(passed)
            self.stage(stage_id, StageStatus.RUNNING, words, now)
            self._passing[stage_id] = self._collected[-1]
        else:
            state.message = shortened(words)

    def _how_far(self, spec: StageSpec, state: StageState) -> str:
        workers = state.workers.values()
        running = sum(worker.status is WorkerStatus.RUNNING for worker in workers)
        waiting = sum(worker.room > 0 for worker in workers)
        room = max((worker.room for worker in workers), default=0)
        words = attempt.in_words(spec, ended=attempt.ended(state), running=running, waiting=waiting, room=room)
        return words or f"{counted(spec.workers, 'worker')} asked for"

    def waits(self, stage_id: str, words: str, now: float) -> None:
        """Says that a stage can't go on by itself: it is PENDING.

        One that is PENDING already is RUNNING in between, as its workers were asked for: existing clients would drop the message otherwise.
        """
        if self._state.stages[stage_id].status is StageStatus.PENDING:
            self.asked_for_workers(stage_id, now)
        self.stage(stage_id, StageStatus.PENDING, words, now)

    def run(self, status: StageStatus, words: str, now: float) -> None:
        """Says how the run stands."""
        state = self._state
        failure = state.stages[state.failed_stages[0]].failure if state.failed_stages else None
        if failure is None and status is StageStatus.CANCELLED and state.cancellation is not None:
            failure = state.cancellation.failure
        self._collected.append(
            Progress(
                sequence=0,
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
                duration=round(state.took(now)),
                succeeded=sum(stage.succeeded for stage in state.stages.values()),
                failed=sum(stage.failed for stage in state.stages.values()),
                total=sum(spec.workers for spec in self._specs.values()),
                usage=together(stage.usage for stage in state.stages.values()),
            )
        )


def _acceptance(definition: Definition, state: RunState) -> str:
    """What a run says first."""
    words = f"accepted: {counted(len(definition.stages), 'stage')}"
    if definition.repeats:
        kept = sum(bool(stage.kept_from) for stage in state.stages.values())
        words += f", repeats {definition.repeats}" + (f" and keeps {counted(kept, 'result')} of it" if kept else "")
    return "; ".join([words, *definition.warnings])


def _announcement(spec: StageSpec) -> str:
    """What a stage that has not had its turn does."""
    # The checkout has no name of the user's: it is called as its row is.
    names = ["Checkout" if need == CHECKOUT else need for need in spec.depends_on]
    return f"waits for {', '.join(names)}" if names else "starts now"


def ending(state: RunState, now: float) -> tuple[StageStatus, str, str]:
    """How a run has ended whose stages all have: its status, what is to be said, and why it did not complete ("" if it did).

    A stage that failed makes it FAILED, also when the rest was cancelled.
    """
    took = seconds(state.took(now))
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
