"""Runs, progress and list positions as messages, and back. Pure."""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from otto_executor import attempt
from otto_executor.approval import Approval, Decision
from otto_executor.errors import InvalidRequestError
from otto_executor.progress import Progress, rfc3339, shortened
from otto_executor.retry import FailureCause
from otto_executor.stage import StageSpec, StageState, StageStatus, StageType
from otto_executor.stores import Key, StoredRun, Summary, summary
from otto_executor.usage import Usage
from otto_executor.validation import Problem
from ottoscaler.v1 import pipeline_pb2, stage_pb2, worker_pb2
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse, PipelineProblem

ANSWER_BYTES = 3_670_016
"""3.5 MiB: no answer is larger, so that it stays below the 4 MiB that clients take."""
_CUTS = (500, 100, 20)
"""Characters. The request, what of it is said of each stage again, and the workers' names fit in any case: settings bound them."""
_STATUSES = {status: stage_pb2.StageStatus.Value(f"STAGE_{status}") for status in StageStatus}
_STATES = {
    status: pipeline_pb2.PipelineState.Value(f"PIPELINE_STATE_{status}")
    for status in (StageStatus.RUNNING, StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED)
}
_TYPES = {kind: stage_pb2.StageType.Value(f"STAGE_TYPE_{kind}") for kind in StageType}
_CAUSES = {cause: worker_pb2.FailureCause.Value(f"FAILURE_CAUSE_{cause}") for cause in FailureCause}
_DECISIONS = {decision: pipeline_pb2.ApprovalDecision.Value(f"APPROVAL_DECISION_{decision}") for decision in Decision}


def timestamp(at: float | None) -> Timestamp | None:
    """Seconds since the epoch as a message; None for None."""
    if at is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(round(at * 1e6))
    return message


def progress_message(pipeline_id: str, progress: Progress, *, replayed: bool) -> pipeline_pb2.PipelineProgress:
    """What a run said, for a caller to whom it is `replayed` or new."""
    return pipeline_pb2.PipelineProgress(
        pipeline_id=pipeline_id,
        stage_id=progress.stage_id,
        status=_STATUSES[progress.status],
        message=progress.message,
        worker_pod_names=progress.workers,
        progress_percentage=progress.percentage,
        timestamp=rfc3339(progress.at),
        started_at=rfc3339(progress.started_at),
        completed_at=rfc3339(progress.ended_at),
        error_message=progress.error,
        metrics=pipeline_pb2.StageMetrics(
            duration_seconds=progress.duration,
            successful_workers=progress.succeeded,
            failed_workers=progress.failed,
            total_workers=progress.total,
            **_figures(progress.usage),
        ),
        sequence=progress.sequence,
        attempt=progress.attempt,
        overall_percentage=progress.overall,
        stage_type=_TYPES[progress.type],
        exit_code=progress.exit_code,
        replayed=replayed,
        failure_cause=_cause(progress.cause),
        kept_from=progress.kept_from,
    )


def _figures(usage: Usage | None) -> dict[str, Any]:
    """The fields of StageMetrics about what workers used: cores, and megabytes."""
    if usage is None:
        return {}
    return {
        "avg_cpu_usage": usage.cpu_average / 1000,
        "avg_memory_mb": usage.memory_average / 1e6,
        "peak_cpu_usage": usage.cpu_peak / 1000,
        "peak_memory_mb": usage.memory_peak / 1e6,
        "measured_workers": usage.workers,
    }


def rerun_request(request: bytes, new_id: str, triggered_by: str) -> bytes:
    """What a client would have sent to get the run that repeats another one's request."""
    message = pipeline_pb2.PipelineRequest.FromString(request)
    message.pipeline_id = new_id
    message.triggered_by = triggered_by or message.triggered_by
    return message.SerializeToString()


def _cause(cause: FailureCause | None) -> worker_pb2.FailureCause.ValueType:
    return worker_pb2.FAILURE_CAUSE_UNSPECIFIED if cause is None else _CAUSES[cause]


def summary_message(short: Summary) -> pipeline_pb2.PipelineSummary:
    """A run in short."""
    return pipeline_pb2.PipelineSummary(
        pipeline_id=short.pipeline_id,
        name=short.name,
        state=state(short.status),
        percentage=short.percentage,
        stage_count=short.stages,
        awaiting_approval=short.awaiting_approval,
        created_at=timestamp(short.created_at),
        ended_at=timestamp(short.ended_at),
        error_message=short.error,
        triggered_by=short.triggered_by,
        repository=short.repository,
        commit_sha=short.commit_sha,
        rerun_of=short.repeats,
    )


def state(status: StageStatus) -> pipeline_pb2.PipelineState.ValueType:
    """A run's status as its state."""
    return _STATES[status]


def run_message(record: StoredRun, held_up: str = "") -> GetPipelineResponse:
    """A run with all its stages, and why nothing more of it can be stored now. Where it would become too large, what was said of each stage
    is cut further.
    """
    answer = GetPipelineResponse(
        summary=summary_message(summary(record.definition, record.state)),
        stages=[_stage_message(spec, record.state.stages[spec.stage_id]) for spec in record.definition.stages],
        request=pipeline_pb2.PipelineRequest.FromString(record.request),
        last_sequence=record.state.sequence,
        warnings=record.definition.warnings,
        held_up=held_up,
    )
    for most in _CUTS:
        if answer.ByteSize() <= ANSWER_BYTES:
            break
        for stage in answer.stages:
            stage.message, stage.error_message = shortened(stage.message, most), shortened(stage.error_message, most)
            if stage.HasField("approval"):
                stage.approval.comment = shortened(stage.approval.comment, most)
                stage.approval.decided_by = shortened(stage.approval.decided_by, most)
    return answer


def _stage_message(spec: StageSpec, stage: StageState) -> pipeline_pb2.StageRun:
    failure = stage.failure
    return pipeline_pb2.StageRun(
        stage_id=spec.stage_id,
        name=spec.name or spec.stage_id,
        type=_TYPES[spec.type],
        status=_STATUSES[stage.status],
        message=stage.message,
        depends_on=spec.depends_on,
        attempt=stage.attempt,
        worker_pod_names=attempt.names(stage),
        percentage=stage.percentage,
        started_at=timestamp(stage.started_at),
        ended_at=timestamp(stage.ended_at),
        error_message=failure.words if failure is not None else "",
        failure_cause=_cause(failure.cause if failure is not None else None),
        exit_code=failure.exit_code if failure is not None else None,
        approval=approval_message(stage.approval) if stage.approval is not None else None,
        worker_count=spec.workers,
        kept_from=stage.kept_from,
    )


def approval_message(approval: Approval) -> pipeline_pb2.Approval:
    """Who may decide, and what was decided."""
    return pipeline_pb2.Approval(
        approvers=approval.approvers,
        decision=_DECISIONS[approval.decision] if approval.decision is not None else pipeline_pb2.APPROVAL_DECISION_UNSPECIFIED,
        decided_by=approval.decided_by,
        comment=approval.comment,
        decided_at=timestamp(approval.decided_at),
    )


def decision(number: int) -> Decision:
    """Yes or no. Raises InvalidRequestError for anything else."""
    for known, value in _DECISIONS.items():
        if value == number:
            return known
    raise InvalidRequestError("decision: has to be APPROVAL_DECISION_APPROVE or APPROVAL_DECISION_REJECT")


def statuses(numbers: Sequence[int]) -> tuple[StageStatus, ...]:
    """A filter's states; PIPELINE_STATE_UNSPECIFIED among them means any. Raises InvalidRequestError for a number that means nothing."""
    found = []
    for place, number in enumerate(numbers):
        if number == pipeline_pb2.PIPELINE_STATE_UNSPECIFIED:
            return ()
        status = next((status for status, value in _STATES.items() if value == number), None)
        if status is None:
            raise InvalidRequestError(f"states[{place}]: {number} is no pipeline state")
        found.append(status)
    return tuple(sorted(set(found)))


def problem_message(problem: Problem) -> PipelineProblem:
    """One thing wrong with a request."""
    return PipelineProblem(field=problem.field, stage_id=problem.stage_id, description=problem.description)


def page_token(key: Key, selected: Sequence[StageStatus]) -> str:
    """Where the next page of the same selection begins."""
    body = json.dumps([repr(key.created_at), key.pipeline_id, list(selected)], ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_checksum(body) + body).decode()


def page_key(token: str, selected: Sequence[StageStatus]) -> Key | None:
    """What `page_token` was given; None for "". Raises InvalidRequestError for any other text, and for a token of another selection."""
    if not token:
        return None
    wrong = InvalidRequestError("page_token: was not given out by ListPipelines")
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        checksum, body = raw[:8], raw[8:]
        if checksum != _checksum(body):
            raise wrong
        match json.loads(body):
            case [str(created_at), str(pipeline_id), given]:
                key = Key(float(created_at), pipeline_id.encode().decode())
            case _:
                raise wrong
    except (ValueError, RecursionError):  # whoever knows how a token is made may send any
        raise wrong from None
    if given != list(selected):
        raise InvalidRequestError("page_token: belongs to other states; page through one selection at a time")
    return key


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8, person=b"otto-page").digest()
