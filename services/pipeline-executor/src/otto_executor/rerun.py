"""Running an ended pipeline again: what of it is kept, and what is asked for instead. Pure.

The new run is asked for as the old one was understood then, so settings that changed meanwhile change nothing about it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from otto_executor.definition import Definition
from otto_executor.errors import NotRepeatableError
from otto_executor.run_state import RunState
from otto_executor.stage import Phase, StageState, StageStatus

MARK = ".rerun-"
"""What stands between the old run's id and the random part of an id that is made."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """What to run again and how. `request` makes the new run's request of the old one's, as both are kept."""

    pipeline_id: str
    new_id: str
    failed_only: bool
    triggered_by: str
    traceparent: str
    parent: str
    request: Callable[[bytes], bytes]


def made_id(pipeline_id: str, random_part: str, most: int) -> str:
    """An id for a run that repeats this one: at most `most` bytes, and no longer for the tenth time than for the first."""
    tail = MARK + random_part
    stem = pipeline_id.rpartition(MARK)[0] or pipeline_id
    return stem.encode()[: most - len(tail.encode())].decode(errors="ignore") + tail


def kept_stages(definition: Definition, state: RunState) -> dict[str, StageState]:
    """How the stages stand whose results a rerun of what failed keeps: completed ones that follow from completed ones only.

    Raises NotRepeatableError when nothing is left to repeat.
    """
    if state.status is StageStatus.COMPLETED:
        raise NotRepeatableError(
            f"pipeline {definition.pipeline_id!r} completed, so no stage of it failed; to run all of it again leave failed_only out"
        )
    graph = definition.graph()
    completed = {stage_id for stage_id, stage in state.stages.items() if stage.status is StageStatus.COMPLETED}
    return {
        stage_id: replace(stage, phase=Phase.ENDED, kept_from=stage.kept_from or definition.pipeline_id)
        for stage_id, stage in state.stages.items()
        if stage_id in completed and graph.ancestors(stage_id) <= completed
    }


def left_files(definition: Definition, kept: dict[str, StageState]) -> bool:
    """Whether kept stages have worked in the run's workspace, so that the others may need what is there."""
    return any(stage.stage_id in kept and stage.workers and not stage.own_workspace for stage in definition.stages)


def repetition(definition: Definition, wanted: Rerun) -> Definition:
    """What is asked for when a run is repeated: the same under another id, in a trace and a workspace of its own."""
    return replace(
        definition,
        pipeline_id=wanted.new_id,
        triggered_by=wanted.triggered_by or definition.triggered_by,
        traceparent=wanted.traceparent,
        parent=wanted.parent,
        repeats=definition.pipeline_id,
        repeated=definition.traceparent,
        directory="",
    )
