"""What follows for the stages of a run from what has happened: turns, attempts, ends, and at last the end of the run."""

from collections.abc import Callable
from math import inf

from otto_executor import attempt, waits
from otto_executor.account import Account, ending
from otto_executor.approval import in_words, who_may
from otto_executor.attempt import Verdict
from otto_executor.decisions import Patience, Step
from otto_executor.definition import Definition
from otto_executor.graph import skip_reason
from otto_executor.progress import counted, seconds
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import Cancellation, RunState
from otto_executor.stage import Phase, StageStatus


class Course:
    """The course of one run. Every method takes a stage's id or `now` in seconds since the epoch, or both, and changes `state`."""

    def __init__(self, definition: Definition, state: RunState, patience: Patience, draw: Callable[[], float]) -> None:
        """Goes on from `state`. `draw` gives random numbers from 0 to 1, for jitter."""
        self.state = state
        self.account = Account(definition, state)
        self.changed = False
        """Whether `state` has to be stored."""
        self.edge = False
        """Whether that has to survive a power cut."""
        self.confirmed_in: dict[str, float] = {}
        """The number of the watch that was open when a stage's workers were confirmed; infinite until they are, 0 in another process."""
        self._definition = definition
        self._graph = definition.graph()
        self._specs = {stage.stage_id: stage for stage in definition.stages}
        self._patience = patience
        self._draw = draw

    def take(self) -> Step | None:
        """What has changed since the last call; None if nothing that has to be stored."""
        progress = self.account.take()
        if not (self.changed or progress):
            return None
        step = Step(progress, self.edge)
        self.changed = self.edge = False
        return step

    def undo(self, before: RunState) -> None:
        """Takes back what has happened since `state` was a copy of `before`. `take` was called after it."""
        self.state = before
        self.account = Account(self._definition, before)

    def advance(self, now: float) -> None:
        """Gives every stage its turn whose dependencies have ended, then ends the run if all stages have."""
        if self.state.ended:
            return
        states = self.state.stages
        for stage_id in self._graph.order:
            if states[stage_id].phase is Phase.WAITING and all(states[n].ended for n in self._graph.dependencies[stage_id]):
                self._turn(stage_id, now)
        if all(state.ended for state in states.values()):
            self._finish(now)

    def _turn(self, stage_id: str, now: float) -> None:
        spec, states = self._specs[stage_id], self.state.stages
        state = states[stage_id]
        if words := skip_reason(spec, {n: states[n].status for n in self._graph.ancestors(stage_id)}):
            self.end(stage_id, StageStatus.SKIPPED, words, now)
        elif state.approval is not None and state.approval.decision is None:
            state.phase = Phase.APPROVAL
            state.wake_at = now + spec.approval_timeout
            self.edge = True
            words = f"waits for approval by {who_may(state.approval.approvers)}, for {seconds(spec.approval_timeout)} at most"
            self.account.stage(stage_id, StageStatus.PENDING, words, now)
        else:
            self.begin(stage_id, now)

    def begin(self, stage_id: str, now: float) -> None:
        """The next attempt, or the end of a stage that runs nothing."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        state.started_at = state.started_at or now
        state.wake_at = None
        if not spec.workers:
            self.end(stage_id, StageStatus.COMPLETED, in_words(state.approval) if state.approval else "nothing to run", now)
            return
        state.phase = Phase.STARTING
        state.attempt += 1
        state.attempt_started_at = now
        state.workers, state.names, state.confirmed_at, state.failure, state.usage = {}, (), None, None, None
        state.stop_confirmed, state.stops = False, 0
        self.confirmed_in[stage_id] = inf
        self.changed = self.edge = True

    def judge(self, stage_id: str, now: float) -> None:
        """Draws the conclusion from what is known of the attempt's workers."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        if state.phase not in {Phase.RUNNING, Phase.STOPPING}:
            return
        verdict = attempt.verdict(spec, state)
        if verdict is Verdict.SUCCEEDED:
            self.end(stage_id, StageStatus.COMPLETED, f"completed: {counted(spec.workers, 'worker')} succeeded", now)
        elif verdict is Verdict.OVER:
            self.attempt_over(stage_id, now)
        elif verdict is Verdict.FAILING:
            failure = attempt.failure(spec, state)
            assert failure is not None
            self.stop(stage_id, failure)
            self.account.going_on(stage_id, now, f"{failure.words}; the other workers are being stopped")
        else:
            self.account.going_on(stage_id, now)

    def stop(self, stage_id: str, failure: Failure | None) -> None:
        """The attempt is over once its workers have ended, which they are asked to."""
        state = self.state.stages[stage_id]
        state.phase = Phase.STOPPING
        state.failure = failure
        state.stop_confirmed, state.wake_at = False, None
        self.changed = self.edge = True

    def not_stopped(self, stage_id: str, now: float) -> None:
        """Workers were asked to stop and have not ended in time: ask again, or go on without them, but never start others beside them."""
        state = self.state.stages[stage_id]
        state.stops += 1
        self.changed = True
        if state.stops < self._patience.stops:
            state.stop_confirmed, state.wake_at = False, None
            return
        words = f"workers did not end although they were asked {state.stops} times"
        before = f"{state.failure.words}; " if state.failure is not None else ""
        if before or self.cut(stage_id) is None:
            state.failure = Failure(FailureCause.INTERNAL, before + words)
        self.attempt_over(stage_id, now, final=True)

    def overdue(self, stage_id: str, now: float) -> None:
        """Nothing was heard in time of a worker, or of its end."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        if state.confirmed_at is not None and len(state.workers) < spec.workers and now >= state.confirmed_at + self._patience.unseen:
            # It may run all the same, so the next attempt begins after a stop as after any other failure.
            unseen = counted(spec.workers - len(state.workers), "worker")
            self.stop(stage_id, Failure(FailureCause.DELETED, f"nothing was heard of {unseen} for {seconds(self._patience.unseen)}"))
            return
        words = f"ran longer than {seconds(spec.timeout)} and was not stopped by its time limit"
        self.stop(stage_id, Failure(FailureCause.TIMEOUT, words))

    def attempt_over(self, stage_id: str, now: float, *, final: bool = False) -> None:
        """No worker of the attempt is left: cancelled, repeated, or failed. What had failed before fail-fast cut it off has failed."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        cut = self.cut(stage_id)
        if cut is not None and not (cut.after_failure and state.failure is not None):
            self.end(stage_id, StageStatus.CANCELLED, cut.words, now, cut.failure)
            return
        failure = state.failure or attempt.failure(spec, state) or Failure(FailureCause.CANCELLED, "its workers were stopped")
        retry = None if final or cut is not None else attempt.repetition(spec, state, failure, self._patience.infrastructure, self._draw)
        if retry is None:
            self._failed(stage_id, failure, now)
            return
        if state.status is StageStatus.RETRYING:
            self.account.asked_for_workers(stage_id, now)
        state.phase = Phase.DELAY
        state.wake_at = now + retry.delay
        state.failure = failure
        self.edge = True
        when = f"in {seconds(retry.delay)}" if retry.delay else "now"
        self.account.stage(
            stage_id, StageStatus.RETRYING, f"attempt {state.attempt} failed ({failure.words}); attempt {state.attempt + 1} {when}", now
        )

    def _failed(self, stage_id: str, failure: Failure, now: float) -> None:
        attempts = self.state.stages[stage_id].attempt
        words = failure.words + (f" (attempt {attempts})" if attempts > 1 else "")
        if self._specs[stage_id].ignore_errors:
            self.end(stage_id, StageStatus.COMPLETED, f"failed, which is ignored as asked: {words}", now, failure)
        else:
            self.end(stage_id, StageStatus.FAILED, f"failed: {words}", now, failure)

    def end(self, stage_id: str, status: StageStatus, message: str, now: float, failure: Failure | None = None) -> None:
        """The stage has ended; if it failed and the pipeline is to fail fast, the others are cancelled."""
        state = self.state.stages[stage_id]
        state.phase, state.failure, state.ended_at, state.wake_at = Phase.ENDED, failure, now, None
        state.names = attempt.names(state)
        state.succeeded, state.failed = attempt.counts(state)
        self.edge = True
        self.account.stage(stage_id, status, message, now)
        state.workers = {}
        if status is StageStatus.FAILED:
            self.state.failed_stages.append(stage_id)
            if self._definition.fail_fast and self.state.cancellation is None:
                words = f"stage {stage_id} failed, and the pipeline is to fail fast"
                self.cancel(Cancellation(words, now, after_failure=True), now)

    def cancel(self, cancellation: Cancellation, now: float) -> None:
        """Ends what the cancellation does not spare: at once what has no workers, the rest when its workers have ended."""
        self.state.cancellation = cancellation
        self.changed = self.edge = True
        for stage_id in self._graph.order:
            state = self.state.stages[stage_id]
            if self.cut(stage_id) is None:
                continue
            if state.phase in {Phase.WAITING, Phase.APPROVAL, Phase.DELAY}:
                self.end(stage_id, StageStatus.CANCELLED, cancellation.words, now, cancellation.failure)
            elif state.phase in {Phase.STARTING, Phase.RUNNING}:
                self.stop(stage_id, attempt.failure(self._specs[stage_id], state) if cancellation.after_failure else None)

    def _finish(self, now: float) -> None:
        self.state.ended_at = now
        self.edge = True
        self.state.status, words, self.state.error = ending(self.state, now)
        self.account.run(self.state.status, words, now)

    def cut(self, stage_id: str) -> Cancellation | None:
        """The cancellation that ends the stage, if one does."""
        cancellation = self.state.cancellation
        return None if cancellation is None or cancellation.spares(self._specs[stage_id]) else cancellation

    def due(self, stage_id: str, *, watching: bool) -> float | None:
        """When time alone changes something about the stage; None: never."""
        return waits.due(self._specs[stage_id], self.state.stages[stage_id], self._patience, watching=watching)
