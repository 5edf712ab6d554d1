"""A run as a state machine: what happens goes in with the time, what to do follows from the state. It has no clock and does nothing itself.

`wanted()` follows from the state alone, so a run that was loaded after a crash wants exactly what it wanted before.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from otto_executor import attempt, waits
from otto_executor.approval import Approval, Decision, decided, in_words, who_may
from otto_executor.course import Course
from otto_executor.decisions import Action, Kind, Patience, Step, wanted
from otto_executor.definition import Definition
from otto_executor.errors import NotApprovableError, StageNotFoundError
from otto_executor.orders import Created, Order, Refused, WorkerReport
from otto_executor.progress import seconds, shortened
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import Cancellation, RunState, fresh
from otto_executor.stage import Phase, StageState, StageStatus


class Run:
    """One run. Every input method takes `now` in seconds since the epoch; `take` gives what there is to store after it."""

    def __init__(self, definition: Definition, state: RunState, patience: Patience, draw: Callable[[], float]) -> None:
        """Goes on from `state`. `draw` gives random numbers from 0 to 1, for jitter."""
        self.definition = definition
        self._order = definition.graph().order
        self._specs = {stage.stage_id: stage for stage in definition.stages}
        self._patience = patience
        self._course = Course(definition, state, patience, draw)
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
        run._course.account.begun(definition, now)
        run._course.advance(now)
        return run

    # What there is to store and to do

    @property
    def state(self) -> RunState:
        """How it stands."""
        return self._course.state

    def take(self) -> Step | None:
        """What the inputs since the last call have changed; None if nothing that has to be stored."""
        return self._course.take()

    @property
    def unsaved(self) -> bool:
        """Whether there is something that has to be stored."""
        return self._course.changed or self._course.account.speaks

    @property
    def urgent(self) -> bool:
        """Whether that includes a start, an end or a decision."""
        return self._course.edge

    def undo(self, before: RunState) -> None:
        """Takes back what has happened since `state` was a copy of `before`: it could not be stored. `take` was called after it."""
        self._course.undo(before)

    def wanted(self) -> set[Action]:
        """What is to be done now, once everything is stored. An action is wanted until an input tells its outcome."""
        return wanted(self.state.stages) | {Action(Kind.STOP, stage_id, 0) for stage_id in self._strays}

    def order(self, stage_id: str) -> Order:
        """The workers of the stage's current attempt."""
        order = Order.of(self.definition, self._specs[stage_id], self.state.stages[stage_id].attempt)
        others = (state for other, state in self.state.stages.items() if other != stage_id and not self._specs[other].own_workspace)
        return replace(order, expected=bool(order.workspace) and any(state.kept_from or state.names for state in others))

    def stop_reason(self, stage_id: str) -> str:
        """Why the stage's workers are asked to stop."""
        cut, failure = self._course.cut(stage_id), self.state.stages[stage_id].failure
        return cut.words if cut is not None else failure.words if failure is not None else "the stage has ended"

    def wake_at(self, *, watching: bool) -> float | None:
        """When `tick` is to be called next; None if only other inputs can change anything."""
        times = [at for stage_id in self.state.stages if (at := self._course.due(stage_id, watching=watching)) is not None]
        return min(times, default=None)

    # What happens

    def tick(self, now: float, *, watching: bool) -> None:
        """Time has passed. Without `watching` the workers' ends may not have been heard of, so nothing is concluded from silence."""
        for stage_id in self._order:
            due = self._course.due(stage_id, watching=watching)
            if due is None or now < due:
                continue
            state, spec = self.state.stages[stage_id], self._specs[stage_id]
            if state.phase is Phase.APPROVAL:
                words = shortened(f"nobody approved within {seconds(spec.approval_timeout)} (asked: {who_may(spec.approvers or ())})")
                self._course.end(stage_id, StageStatus.FAILED, words, now, Failure(FailureCause.TIMEOUT, words))
            elif state.phase is Phase.DELAY:
                self._course.begin(stage_id, now)
            elif state.phase is Phase.STOPPING:
                self._course.not_stopped(stage_id, now)
            elif state.phase is Phase.RUNNING:
                self._course.overdue(stage_id, now)
        self._course.advance(now)

    def resumed(self, now: float) -> None:
        """Another process has taken the run up."""
        waits.resumed(self.definition, self.state, self._patience, now)

    def clock_set(self, seconds: float) -> None:
        """The clock that `now` comes from was set forward by `seconds`, or back if negative."""
        waits.moved(self.state, seconds)
        self._course.changed = True

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
                self._course.changed |= report.status.ended
        for stage_id in touched:
            self._course.judge(stage_id, now)
        self._course.advance(now)

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
            if self._course.confirmed_in.get(stage_id, 0) >= watch:
                continue
            expected = state.phase is Phase.RUNNING
            for index in list(attempt.vanished(self._specs[stage_id], state, here[stage_id, state.attempt], expected=expected)):
                attempt.removed(state, index, "disappeared without having ended")
                self._course.changed = True
            self._course.judge(stage_id, now)
        self._course.advance(now)

    def started(self, stage_id: str, number: int, outcome: Created | Refused, now: float, watch: int) -> None:
        """What became of a START. `watch` is the number of the watch that was open when the answer came."""
        state = self.state.stages[stage_id]
        if number != state.attempt or state.phase not in {Phase.STARTING, Phase.STOPPING}:
            return
        self._course.changed = True
        state.names = outcome.names
        self._course.confirmed_in[stage_id] = watch
        if state.phase is Phase.STOPPING:
            return
        if isinstance(outcome, Created):
            state.phase = Phase.RUNNING
            state.confirmed_at = now
            self._course.account.workers_exist(stage_id, outcome, now)
            self._course.judge(stage_id, now)
        elif outcome.names or outcome.failure.cause is FailureCause.INTERNAL:
            self._course.stop(stage_id, outcome.failure)
        else:
            state.failure = outcome.failure
            self._course.attempt_over(stage_id, now)
        self._course.advance(now)

    def delayed(self, stage_id: str, number: int, words: str, now: float) -> None:
        """A START is being repeated for the reason in `words`; told once per attempt."""
        state = self.state.stages[stage_id]
        if state.phase is Phase.STARTING and number == state.attempt and (stage_id, number) not in self._noted:
            self._noted.add((stage_id, number))
            self._course.account.waits(stage_id, words, now)

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
        self._course.changed = True
        self._course.judge(stage_id, now)
        self._course.advance(now)

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
        self._course.changed = self._course.edge = True
        if decision is Decision.REJECT:
            words = shortened(in_words(approval))
            self._course.end(stage_id, StageStatus.FAILED, words, now, Failure(FailureCause.REJECTED, words))
        elif state.phase is Phase.APPROVAL:
            self._course.begin(stage_id, now)
        else:
            self._course.account.stage(
                stage_id, StageStatus.PENDING, f"{in_words(approval)}; waits for {', '.join(self._specs[stage_id].depends_on)}", now
            )
        self._course.advance(now)
        return approval

    def cancel(self, words: str, now: float) -> None:
        """The run is to stop. Nothing changes if it has ended or is being cancelled already."""
        if self.state.ended or (self.state.cancellation is not None and not self.state.cancellation.after_failure):
            return
        self._course.account.run(StageStatus.RUNNING, f"being cancelled: {words}", now)
        self._course.cancel(Cancellation(words, now), now)
        self._course.advance(now)
