"""A run as a state machine: what happens goes in with the time, what to do follows from the state. It has no clock and does nothing itself.

`wanted()` follows from the state alone, so a run that was loaded after a crash wants exactly what it wanted before.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from math import inf

from otto_executor import attempt, waits
from otto_executor.account import Account, ending
from otto_executor.approval import Approval, Decision, decided, in_words, who_may
from otto_executor.attempt import Verdict
from otto_executor.decisions import Action, Kind, Patience, Step, wanted
from otto_executor.definition import Definition
from otto_executor.errors import NotApprovableError, StageNotFoundError
from otto_executor.graph import skip_reason
from otto_executor.orders import Created, Order, Refused, WorkerReport
from otto_executor.progress import counted, seconds, shortened
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import Cancellation, RunState, fresh
from otto_executor.stage import Phase, StageState, StageStatus


class Run:
    """One run. Every input method takes `now` in seconds since the epoch; `take` gives what there is to store after it."""

    def __init__(self, definition: Definition, state: RunState, patience: Patience, draw: Callable[[], float]) -> None:
        """Goes on from `state`. `draw` gives random numbers from 0 to 1, for jitter."""
        self.definition = definition
        self.state = state
        self._graph = definition.graph()
        self._specs = {stage.stage_id: stage for stage in definition.stages}
        self._patience = patience
        self._draw = draw
        self._account = Account(definition, state)
        self._changed = False
        self._edge = False
        self._confirmed_in: dict[str, float] = {}
        self._noted: set[tuple[str, int]] = set()
        self._strays: set[str] = set()

    @classmethod
    def begun(
        cls,
        definition: Definition,
        now: float,
        patience: Patience,
        draw: Callable[[], float],
        kept: Mapping[str, StageState] | None = None,
    ) -> "Run":
        """A new run that has announced its stages and wants its first workers. `kept` are stages that ended in the run which it repeats."""
        run = cls(definition, fresh(definition, now, kept), patience, draw)
        run._account.begun(definition, now)
        run._advance(now)
        return run

    # What there is to store and to do

    def take(self) -> Step | None:
        """What the inputs since the last call have changed; None if nothing that has to be stored."""
        progress = self._account.take()
        if not (self._changed or progress):
            return None
        step = Step(progress, self._edge)
        self._changed = self._edge = False
        return step

    def wanted(self) -> set[Action]:
        """What is to be done now, once everything is stored. An action is wanted until an input tells its outcome."""
        return wanted(self.state.stages) | {Action(Kind.STOP, stage_id, 0) for stage_id in self._strays}

    def order(self, stage_id: str) -> Order:
        """The workers of the stage's current attempt."""
        return Order.of(self.definition, self._specs[stage_id], self.state.stages[stage_id].attempt)

    def stop_reason(self, stage_id: str) -> str:
        """Why the stage's workers are asked to stop."""
        cut, failure = self._cut(stage_id), self.state.stages[stage_id].failure
        return cut.words if cut is not None else failure.words if failure is not None else "the stage has ended"

    def wake_at(self, *, watching: bool) -> float | None:
        """When `tick` is to be called next; None if only other inputs can change anything."""
        times = [at for stage_id in self.state.stages if (at := self._due(stage_id, watching=watching)) is not None]
        return min(times, default=None)

    # What happens

    def tick(self, now: float, *, watching: bool) -> None:
        """Time has passed. Without `watching` the workers' ends may not have been heard of, so nothing is concluded from silence."""
        for stage_id in self._graph.order:
            due = self._due(stage_id, watching=watching)
            if due is None or now < due:
                continue
            state, spec = self.state.stages[stage_id], self._specs[stage_id]
            if state.phase is Phase.APPROVAL:
                words = shortened(f"nobody approved within {seconds(spec.approval_timeout)} (asked: {who_may(spec.approvers or ())})")
                self._end(stage_id, StageStatus.FAILED, words, now, Failure(FailureCause.TIMEOUT, words))
            elif state.phase is Phase.DELAY:
                self._begin(stage_id, now)
            elif state.phase is Phase.STOPPING:
                self._not_stopped(stage_id, now)
            elif state.phase is Phase.RUNNING:
                self._overdue(stage_id, now)
        self._advance(now)

    def resumed(self, now: float) -> None:
        """Another process has taken the run up."""
        waits.resumed(self.definition, self.state, self._patience, now)

    def clock_set(self, seconds: float) -> None:
        """The clock that `now` comes from was set forward by `seconds`, or back if negative."""
        waits.moved(self.state, seconds)
        self._changed = True

    def reported(self, reports: Collection[WorkerReport], now: float) -> None:
        """Workers were heard of."""
        touched: dict[str, None] = {}
        for report in reports:
            state = self.state.stages.get(report.stage_id)
            if state is None:
                continue
            if state.ended and not report.status.ended:
                self._strays.add(report.stage_id)
            if state.ended or report.attempt != state.attempt or not 1 <= report.index <= self._specs[report.stage_id].workers:
                continue
            if attempt.heard(state, report, now):
                touched[report.stage_id] = None
                self._changed |= report.status.ended
        for stage_id in touched:
            self._judge(stage_id, now)
        self._advance(now)

    def synced(self, present: Collection[tuple[str, int, int]], watch: int, now: float) -> None:
        """The watch with the number `watch` has reported all workers there are: (stage, attempt, index) of this run's.

        A worker that was confirmed before that watch was opened and is not among them is gone; so is one that was seen alive before this
        process took the run over.
        """
        here = defaultdict[tuple[str, int], set[int]](set)
        for stage, number, index in present:
            here[stage, number].add(index)
        for stage_id, state in self.state.stages.items():
            if state.phase not in {Phase.STARTING, Phase.RUNNING, Phase.STOPPING}:
                continue
            if self._confirmed_in.get(stage_id, 0) >= watch:
                continue
            expected = state.phase is Phase.RUNNING
            for index in list(attempt.vanished(self._specs[stage_id], state, here[stage_id, state.attempt], expected=expected)):
                attempt.removed(state, index, "disappeared without having ended")
                self._changed = True
            self._judge(stage_id, now)
        self._advance(now)

    def started(self, stage_id: str, number: int, outcome: Created | Refused, now: float, watch: int) -> None:
        """What became of a START. `watch` is the number of the watch that was open when the answer came."""
        state = self.state.stages[stage_id]
        if number != state.attempt or state.phase not in {Phase.STARTING, Phase.STOPPING}:
            return
        self._changed = True
        state.names = outcome.names
        self._confirmed_in[stage_id] = watch
        if state.phase is Phase.STOPPING:
            return
        if isinstance(outcome, Created):
            state.phase = Phase.RUNNING
            state.confirmed_at = now
            self._account.workers_exist(stage_id, outcome, now)
            self._judge(stage_id, now)
        elif outcome.names or outcome.failure.cause is FailureCause.INTERNAL:
            self._stop(stage_id, outcome.failure)
        else:
            state.failure = outcome.failure
            self._attempt_over(stage_id, now)
        self._advance(now)

    def delayed(self, stage_id: str, number: int, words: str, now: float) -> None:
        """A START is being repeated for the reason in `words`; told once per attempt."""
        state = self.state.stages[stage_id]
        if state.phase is Phase.STARTING and number == state.attempt and (stage_id, number) not in self._noted:
            self._noted.add((stage_id, number))
            self._account.waits(stage_id, words, now)

    def stopped(self, stage_id: str, number: int, reports: Collection[WorkerReport], now: float) -> None:
        """What became of a STOP: the workers were asked to end, and stood like this."""
        state = self.state.stages[stage_id]
        if number == 0:
            self._strays.discard(stage_id)
            return
        if number != state.attempt or state.phase is not Phase.STOPPING:
            return
        for report in reports:
            if report.attempt == state.attempt:
                attempt.heard(state, report, now)
        state.stop_confirmed = True
        state.wake_at = now + waits.grace(self._specs[stage_id], self._patience) + self._patience.margin
        self._changed = True
        self._judge(stage_id, now)
        self._advance(now)

    def approve(self, stage_id: str, decision: Decision, user: str, comment: str, now: float) -> Approval:
        """A person has decided. Raises StageNotFoundError, NotAnApproverError or NotApprovableError."""
        state = self.state.stages.get(stage_id)
        if state is None:
            raise StageNotFoundError(self.definition.pipeline_id, stage_id)
        if state.approval is None:
            raise NotApprovableError(f"stage {stage_id!r} needs no approval")
        approval = decided(state.approval, decision, user, comment, now)
        if approval is state.approval:
            return approval
        if state.ended:
            raise NotApprovableError(f"stage {stage_id!r} has ended: {state.message}")
        state.approval = approval
        self._changed = self._edge = True
        if decision is Decision.REJECT:
            words = shortened(in_words(approval))
            self._end(stage_id, StageStatus.FAILED, words, now, Failure(FailureCause.REJECTED, words))
        elif state.phase is Phase.APPROVAL:
            self._begin(stage_id, now)
        else:
            self._account.stage(
                stage_id, StageStatus.PENDING, f"{in_words(approval)}; waits for {', '.join(self._specs[stage_id].depends_on)}", now
            )
        self._advance(now)
        return approval

    def cancel(self, words: str, now: float) -> None:
        """The run is to stop. Nothing changes if it has ended or is being cancelled already."""
        if self.state.ended or (self.state.cancellation is not None and not self.state.cancellation.after_failure):
            return
        self._account.run(StageStatus.RUNNING, f"being cancelled: {words}", now)
        self._cancel(Cancellation(words, now), now)
        self._advance(now)

    # How it follows

    def _advance(self, now: float) -> None:
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
            self._end(stage_id, StageStatus.SKIPPED, words, now)
        elif state.approval is not None and state.approval.decision is None:
            state.phase = Phase.APPROVAL
            state.wake_at = now + spec.approval_timeout
            self._edge = True
            words = f"waits for approval by {who_may(state.approval.approvers)}, for {seconds(spec.approval_timeout)} at most"
            self._account.stage(stage_id, StageStatus.PENDING, words, now)
        else:
            self._begin(stage_id, now)

    def _begin(self, stage_id: str, now: float) -> None:
        """The next attempt, or the end of a stage that runs nothing."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        state.started_at = state.started_at or now
        state.wake_at = None
        if not spec.workers:
            self._end(stage_id, StageStatus.COMPLETED, in_words(state.approval) if state.approval else "nothing to run", now)
            return
        state.phase = Phase.STARTING
        state.attempt += 1
        state.attempt_started_at = now
        state.workers, state.names, state.confirmed_at, state.failure = {}, (), None, None
        state.stop_confirmed, state.stops = False, 0
        self._confirmed_in[stage_id] = inf
        self._changed = self._edge = True

    def _judge(self, stage_id: str, now: float) -> None:
        """Draws the conclusion from what is known of the attempt's workers."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        if state.phase not in {Phase.RUNNING, Phase.STOPPING}:
            return
        verdict = attempt.verdict(spec, state)
        if verdict is Verdict.SUCCEEDED:
            self._end(stage_id, StageStatus.COMPLETED, f"completed: {counted(spec.workers, 'worker')} succeeded", now)
        elif verdict is Verdict.OVER:
            self._attempt_over(stage_id, now)
        elif verdict is Verdict.FAILING:
            failure = attempt.failure(spec, state)
            assert failure is not None
            self._stop(stage_id, failure)
            self._account.going_on(stage_id, now, f"{failure.words}; the other workers are being stopped")
        else:
            self._account.going_on(stage_id, now)

    def _stop(self, stage_id: str, failure: Failure | None) -> None:
        state = self.state.stages[stage_id]
        state.phase = Phase.STOPPING
        state.failure = failure
        state.stop_confirmed, state.wake_at = False, None
        self._changed = self._edge = True

    def _not_stopped(self, stage_id: str, now: float) -> None:
        """Workers were asked to stop and have not ended in time: ask again, or go on without them, but never start others beside them."""
        state = self.state.stages[stage_id]
        state.stops += 1
        self._changed = True
        if state.stops < self._patience.stops:
            state.stop_confirmed, state.wake_at = False, None
            return
        words = f"workers did not end although they were asked {state.stops} times"
        before = f"{state.failure.words}; " if state.failure is not None else ""
        if before or self._cut(stage_id) is None:
            state.failure = Failure(FailureCause.INTERNAL, before + words)
        self._attempt_over(stage_id, now, final=True)

    def _overdue(self, stage_id: str, now: float) -> None:
        """Nothing was heard in time of a worker, or of its end."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        if state.confirmed_at is not None and len(state.workers) < spec.workers and now >= state.confirmed_at + self._patience.unseen:
            # It may run all the same, so the next attempt begins after a stop as after any other failure.
            unseen = counted(spec.workers - len(state.workers), "worker")
            self._stop(stage_id, Failure(FailureCause.DELETED, f"nothing was heard of {unseen} for {seconds(self._patience.unseen)}"))
            return
        words = f"ran longer than {seconds(spec.timeout)} and was not stopped by its time limit"
        self._stop(stage_id, Failure(FailureCause.TIMEOUT, words))

    def _attempt_over(self, stage_id: str, now: float, *, final: bool = False) -> None:
        """No worker of the attempt is left: cancelled, repeated, or failed. What had failed before fail-fast cut it off has failed."""
        spec, state = self._specs[stage_id], self.state.stages[stage_id]
        cut = self._cut(stage_id)
        if cut is not None and not (cut.after_failure and state.failure is not None):
            self._end(stage_id, StageStatus.CANCELLED, cut.words, now, cut.failure)
            return
        failure = state.failure or attempt.failure(spec, state) or Failure(FailureCause.CANCELLED, "its workers were stopped")
        retry = None if final or cut is not None else attempt.repetition(spec, state, failure, self._patience.infrastructure, self._draw)
        if retry is None:
            self._failed(stage_id, failure, now)
            return
        if state.status is StageStatus.RETRYING:
            self._account.asked_for_workers(stage_id, now)
        state.phase = Phase.DELAY
        state.wake_at = now + retry.delay
        state.failure = failure
        self._edge = True
        when = f"in {seconds(retry.delay)}" if retry.delay else "now"
        self._account.stage(
            stage_id, StageStatus.RETRYING, f"attempt {state.attempt} failed ({failure.words}); attempt {state.attempt + 1} {when}", now
        )

    def _failed(self, stage_id: str, failure: Failure, now: float) -> None:
        attempts = self.state.stages[stage_id].attempt
        words = failure.words + (f" (attempt {attempts})" if attempts > 1 else "")
        if self._specs[stage_id].ignore_errors:
            self._end(stage_id, StageStatus.COMPLETED, f"failed, which is ignored as asked: {words}", now, failure)
        else:
            self._end(stage_id, StageStatus.FAILED, f"failed: {words}", now, failure)

    def _end(self, stage_id: str, status: StageStatus, message: str, now: float, failure: Failure | None = None) -> None:
        state = self.state.stages[stage_id]
        state.phase, state.failure, state.ended_at, state.wake_at = Phase.ENDED, failure, now, None
        state.names = attempt.names(state)
        state.succeeded, state.failed = attempt.counts(state)
        self._edge = True
        self._account.stage(stage_id, status, message, now)
        state.workers = {}
        if status is StageStatus.FAILED:
            self.state.failed_stages.append(stage_id)
            if self.definition.fail_fast and self.state.cancellation is None:
                words = f"stage {stage_id} failed, and the pipeline is to fail fast"
                self._cancel(Cancellation(words, now, after_failure=True), now)

    def _cancel(self, cancellation: Cancellation, now: float) -> None:
        self.state.cancellation = cancellation
        self._changed = self._edge = True
        for stage_id in self._graph.order:
            state = self.state.stages[stage_id]
            if self._cut(stage_id) is None:
                continue
            if state.phase in {Phase.WAITING, Phase.APPROVAL, Phase.DELAY}:
                self._end(stage_id, StageStatus.CANCELLED, cancellation.words, now, cancellation.failure)
            elif state.phase in {Phase.STARTING, Phase.RUNNING}:
                self._stop(stage_id, attempt.failure(self._specs[stage_id], state) if cancellation.after_failure else None)

    def _finish(self, now: float) -> None:
        self.state.ended_at = now
        self._edge = True
        self.state.status, words, self.state.error = ending(self.state, now)
        self._account.run(self.state.status, words, now)

    def _cut(self, stage_id: str) -> Cancellation | None:
        """The cancellation that ends the stage, if one does."""
        cancellation = self.state.cancellation
        return None if cancellation is None or cancellation.spares(self._specs[stage_id]) else cancellation

    def _due(self, stage_id: str, *, watching: bool) -> float | None:
        return waits.due(self._specs[stage_id], self.state.stages[stage_id], self._patience, watching=watching)
