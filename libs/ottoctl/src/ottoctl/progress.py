"""What is known of a run while it is watched: the state of each stage, from the messages that came."""

from __future__ import annotations  # ValueType exists in the generated stubs only

import time
from dataclasses import dataclass, field

from ottoctl.terminal import harmless
from ottoscaler.v1.pipeline_pb2 import PipelineProgress
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import FailureCause

ENDED = frozenset({StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED, StageStatus.STAGE_SKIPPED})

INFRASTRUCTURE = frozenset(
    {
        FailureCause.FAILURE_CAUSE_EVICTED,
        FailureCause.FAILURE_CAUSE_NODE_LOST,
        FailureCause.FAILURE_CAUSE_DELETED,
        FailureCause.FAILURE_CAUSE_INTERNAL,
    }
)
"""Causes that have a budget of retries of their own."""


def status_word(status: StageStatus.ValueType) -> str:
    """RUNNING for STAGE_RUNNING."""
    return StageStatus.Name(status).removeprefix("STAGE_")


def cause_word(cause: FailureCause.ValueType) -> str:
    """EXIT_CODE for FAILURE_CAUSE_EXIT_CODE; empty for none."""
    return FailureCause.Name(cause).removeprefix("FAILURE_CAUSE_") if cause else ""


@dataclass(slots=True)
class Stage:
    """A stage as it was last heard of."""

    stage_id: str
    name: str
    worker_count: int = 1
    status: StageStatus.ValueType = StageStatus.STAGE_PENDING
    attempt: int = 0
    percentage: int = 0
    workers: list[str] = field(default_factory=list)
    workers_done: int = 0
    approval: bool = False
    """Whether it needs one."""
    waits_since: float = 0.0
    """When its turn came to be approved; 0: it has not."""
    started: float = 0.0
    ended: float = 0.0
    message: str = ""
    error: str = ""
    cause: FailureCause.ValueType = FailureCause.FAILURE_CAUSE_UNSPECIFIED
    last_line: str = ""
    retries: int = 0
    """How many retries its policy allows."""
    retried: int = 0
    """How many of them were used; those after a fault of the infrastructure do not count."""

    @property
    def ignored(self) -> bool:
        """Whether it failed, and that counts as completed."""
        return self.status == StageStatus.STAGE_COMPLETED and bool(self.cause)

    def seconds(self) -> float:
        """How long it runs or ran; of an approval without work of its own, or before that, how long it waits or waited. 0 before either."""
        worked = self.attempt > 0 or not self.waits_since
        since = self.started if worked else self.waits_since
        return max(0.0, (self.ended or time.time()) - since) if since else 0.0


@dataclass(slots=True)
class Run:
    """A run as it was last heard of."""

    pipeline_id: str
    stages: dict[str, Stage] = field(default_factory=dict)
    percentage: int = 0
    final: StageStatus.ValueType | None = None
    error: str = ""
    started: float = field(default_factory=time.time)
    ended: float = 0.0
    sequence: int = 0
    """Of the last message."""

    def know(self, answer: GetPipelineResponse) -> None:
        """Takes the stages' names and numbers, in their order."""
        asked = {stage.stage_id: stage for stage in answer.request.stages}
        for stage in answer.stages:
            known = self.stages.setdefault(stage.stage_id, Stage(stage.stage_id, harmless(stage.name or stage.stage_id)))
            known.name, known.worker_count = harmless(stage.name or stage.stage_id), max(1, stage.worker_count)
            known.approval = stage.HasField("approval")
            if stage.stage_id in asked:
                known.retries = asked[stage.stage_id].retry_policy.max_attempts

    def hear(self, message: PipelineProgress) -> None:
        """Takes in one message."""
        self.sequence = max(self.sequence, message.sequence)
        self.percentage = max(self.percentage, message.overall_percentage)
        if not message.stage_id:
            if message.status in ENDED:
                self.final, self.error = message.status, harmless(message.error_message or message.message)
                self.ended = seconds_of(message.completed_at) or time.time()
            self.started = seconds_of(message.started_at) or self.started
            return
        stage = self.stages.setdefault(message.stage_id, Stage(message.stage_id, harmless(message.stage_id)))
        stage.status, stage.attempt, stage.percentage = message.status, message.attempt, message.progress_percentage
        stage.workers = list(message.worker_pod_names) or stage.workers
        stage.workers_done = message.metrics.successful_workers + message.metrics.failed_workers
        stage.worker_count = max(stage.worker_count, message.metrics.total_workers)
        stage.started = seconds_of(message.started_at)
        if stage.approval and message.status == StageStatus.STAGE_PENDING and not stage.attempt:
            stage.waits_since = seconds_of(message.timestamp)
        stage.ended = seconds_of(message.completed_at) if message.status in ENDED else 0.0
        stage.message, stage.error, stage.cause = harmless(message.message), harmless(message.error_message), message.failure_cause
        if message.status == StageStatus.STAGE_RETRYING and message.failure_cause not in INFRASTRUCTURE:
            stage.retried += 1


def said(message: PipelineProgress, stage: Stage | None) -> str:
    """What a message says of its stage, in the words that tell most."""
    if message.status == StageStatus.STAGE_RETRYING:
        # Its error is only what failed; the message also says which attempt is next, and when.
        words = harmless(message.message or message.error_message)
        counted = stage is not None and 0 < stage.retried <= stage.retries and message.failure_cause not in INFRASTRUCTURE
        return f"{words} (retry {stage.retried} of {stage.retries})" if stage is not None and counted else words
    if message.status == StageStatus.STAGE_COMPLETED:
        # One that has an error failed, and that is ignored; only the message says so.
        return harmless(message.message or message.error_message)
    return harmless(message.error_message or message.message)


def seconds_of(text: str) -> float:
    """The Unix time of an RFC 3339 text; 0 for none."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def duration(seconds: float) -> str:
    """3.2s, 1m05s, 2h03m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
