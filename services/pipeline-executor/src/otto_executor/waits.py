"""How long a run waits: when something is due for a stage, and what a clock that jumps does to that. Pure functions over a run's state.

What is waited for is kept as times of day, because they have to outlive the process. Within one process they are moved along with the
clock, so that a wait lasts as long as it was meant to, whatever the clock is set to meanwhile. Across a restart nothing tells a clock that
was set from time that has passed: there no wait may become longer than it was meant to, and no running worker may be called late.
"""

from otto_executor import attempt
from otto_executor.decisions import Patience
from otto_executor.definition import Definition
from otto_executor.retry import delay_before
from otto_executor.run_state import RunState
from otto_executor.stage import Phase, StageSpec, StageState


def grace(spec: StageSpec, patience: Patience) -> float:
    """Seconds that the stage's workers may take to end once they are stopped."""
    return patience.grace if spec.grace is None else spec.grace


def due(spec: StageSpec, state: StageState, patience: Patience, *, watching: bool) -> float | None:
    """When something is due for the stage though nothing is heard; None if nothing is. See Run.tick for `watching`."""
    if state.phase is not Phase.RUNNING:
        return state.wake_at
    if not watching:
        return None
    return attempt.overdue_at(spec, state, grace(spec, patience) + patience.margin, patience.unseen)


def moved(run: RunState, seconds: float) -> None:
    """The clock was set forward by `seconds` (back if negative): what is waited for moves along."""
    run.clock_set_by += seconds
    for state in run.stages.values():
        if not state.ended:
            _move(state, seconds)


def resumed(definition: Definition, run: RunState, patience: Patience, now: float) -> None:
    """The run is taken up again by another process: what it waits for is no further away than it can be, and workers run from now on."""
    for spec in definition.stages:
        state = run.stages[spec.stage_id]
        if state.wake_at is not None:
            state.wake_at = min(state.wake_at, now + _longest(spec, state, patience))
        if state.confirmed_at is not None:
            state.confirmed_at = now
        for worker in state.workers.values():
            worker.running_since = None if worker.running_since is None else now


def _longest(spec: StageSpec, state: StageState, patience: Patience) -> float:
    """The most seconds that the wait of a stage lasts."""
    if state.phase is Phase.APPROVAL:
        return spec.approval_timeout
    if state.phase is Phase.STOPPING:
        return grace(spec, patience) + patience.margin
    budgets = ((spec.retry, state.retries), (patience.infrastructure, state.infrastructure_retries))
    return max(delay_before(policy, max(1, used), lambda: 0.0) for policy, used in budgets)


def _move(state: StageState, seconds: float) -> None:
    def moved(at: float | None) -> float | None:
        return None if at is None else at + seconds

    state.wake_at, state.confirmed_at, state.attempt_started_at = map(moved, (state.wake_at, state.confirmed_at, state.attempt_started_at))
    for worker in state.workers.values():
        worker.running_since = moved(worker.running_since)
