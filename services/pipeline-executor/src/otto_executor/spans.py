"""An ended run as spans, one for itself and one for each stage that had its turn. Pure: what is stored of a run is all that it takes.

They are told when the run ends and not as its stages do: what a killed process has told nobody knows, that a run has ended is stored.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from otto_executor.approval import in_words
from otto_executor.definition import Definition
from otto_executor.errors import RunUnreadableError, StoreUnavailableError
from otto_executor.retry import INFRASTRUCTURE, Failure, FailureCause
from otto_executor.run_state import RunState
from otto_executor.stage import StageSpec, StageState, StageStatus, StageType
from otto_executor.stores import RunStore
from otto_runtime import spans
from otto_runtime.spans import Span
from otto_runtime.tasks import Backoff
from otto_runtime.times import nanoseconds

log = logging.getLogger(__name__)
AGAIN_TIMEOUT = 30.0
_RESULTS = {
    StageStatus.COMPLETED: spans.SUCCESS,
    StageStatus.FAILED: spans.FAILURE,
    StageStatus.CANCELLED: spans.CANCELLATION,
    StageStatus.SKIPPED: spans.SKIP,
}
_TYPES = {StageType.BUILD: "build", StageType.TEST: "test", StageType.DEPLOY: "deploy"}
_NOT_THE_WORKS = INFRASTRUCTURE | {FailureCause.IMAGE_PULL, FailureCause.UNSCHEDULABLE, FailureCause.QUOTA}
"""Causes that say nothing about the work itself."""


def run_spans(definition: Definition, state: RunState) -> Iterator[Span]:
    """The run, then its stages in their order. Nothing of a run that has not ended, or that belongs to no trace."""
    if state.ended_at is None or not definition.traceparent:
        return
    failed = state.stages[state.failed_stages[0]].failure if state.failed_stages else None
    told = {
        spans.RUN_ID: definition.pipeline_id,
        spans.PIPELINE_ACTION: "RUN",
        spans.PIPELINE_RESULT: _result(state.status, failed),
        **spans.given(triggered_by=definition.triggered_by, stages=len(definition.stages), repeats=definition.repeats),
    }
    named = {spans.PIPELINE_NAME: definition.name} if definition.name else {}
    source = {spans.REPOSITORY: spans.public(definition.repository)} if definition.repository else {}
    if definition.commit_sha:
        source[spans.REVISION] = definition.commit_sha
    error = state.error if state.status is StageStatus.FAILED else None
    if error is not None:
        told[spans.ERROR_TYPE] = failed.cause.value if failed is not None else spans.FAILURE
    yield Span(
        context=definition.traceparent,
        parent=definition.parent,
        name=f"RUN {definition.name}" if definition.name else "RUN",
        start=nanoseconds(state.created_at),
        end=nanoseconds(state.ended_at),
        attributes={**told, **named, **source},
        links=(definition.repeated,) if definition.repeated else (),
        error=None if error is None else spans.shortened(error),
        serves=True,
    )
    for spec in definition.stages:
        stage = state.stages[spec.stage_id]
        if not stage.kept_from:
            yield _stage(definition, spec, stage, state)


def _stage(definition: Definition, spec: StageSpec, stage: StageState, state: RunState) -> Span:
    end = stage.ended_at or state.ended_at or state.created_at
    start = stage.started_at or end
    if stage.approval is not None:  # its wait for a person is a part of it
        ends = [at for name in spec.depends_on if (at := state.stages[name].ended_at) is not None]
        start = min(start, max(ends, default=state.created_at))
    told = {
        spans.TASK_NAME: spec.name or spec.stage_id,
        spans.TASK_RUN_ID: spec.stage_id,
        spans.TASK_RESULT: _result(stage.status, stage.failure),
        spans.RUN_ID: definition.pipeline_id,
        **spans.given(attempts=stage.attempt, workers=spec.workers, message=spans.shortened(stage.message)),
        **({spans.TASK_TYPE: _TYPES[spec.type]} if spec.type in _TYPES else {}),
        **({spans.OWN + "approval": spans.shortened(in_words(stage.approval))} if stage.approval and stage.approval.decision else {}),
    }
    failure = stage.failure if stage.status is StageStatus.FAILED else None
    if stage.failure is not None:
        told[spans.ERROR_TYPE if failure else spans.OWN + "ignored"] = stage.failure.cause.value
    return Span(
        context=spans.stage(definition.traceparent, definition.pipeline_id, spec.stage_id),
        parent=definition.traceparent,
        name=spec.name or spec.stage_id,
        start=nanoseconds(start),
        end=nanoseconds(end),
        attributes=told,
        error=None if failure is None else spans.shortened(failure.words),
    )


def _result(status: StageStatus, failure: Failure | None) -> str:
    if status is StageStatus.FAILED and failure is not None:
        if failure.cause is FailureCause.TIMEOUT:
            return spans.TIMEOUT
        if failure.cause in _NOT_THE_WORKS:
            return spans.ERROR
    return _RESULTS.get(status, spans.ERROR)


async def told_again(store: RunStore, tell: Callable[[Definition, RunState], None]) -> None:
    """Tells runs once more that ended right before the last process did; their spans have the same ids again. Never fails."""
    backoff = Backoff(0.2, 5.0)
    with suppress(TimeoutError):
        async with asyncio.timeout(AGAIN_TIMEOUT):
            while True:
                try:
                    for workspace in spans.to_tell_again(await store.workspaces(), lambda one: one.ended_at):
                        with suppress(RunUnreadableError):
                            if (record := await store.load(workspace.pipeline_id)) is not None:
                                tell(record.definition, record.state)
                    return
                except StoreUnavailableError as error:
                    log.warning("executor.spans.not_told_again", extra={"reason": error.reason})
                await backoff.wait()
