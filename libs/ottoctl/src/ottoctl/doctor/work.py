"""What is stuck: pipelines that wait for somebody or something, workers that wait or can't start."""

import shlex
from typing import Any

import grpc.aio

from ottoctl.doctor.case import Case, Finding, ok, warn
from ottoctl.failures import Facts, remedy
from ottoctl.progress import cause_word
from ottoctl.terminal import harmless
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineState
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, ListPipelinesRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import WorkerPodStatus

CALL_SECONDS = 5.0
_STANDS_STILL = ("can't be reached", "can't do it now")
"""What the executor says of a stage whose next step has not worked."""
PIPELINES = 50
"""How many running ones are looked at, the newest."""
SHOWN = 5


async def pipelines(case: Case) -> list[Finding]:
    """No running pipeline stands still, or waits for a decision."""
    stub: Any = PipelineServiceStub(case.channel)
    running = ListPipelinesRequest(page_size=PIPELINES, states=[PipelineState.PIPELINE_STATE_RUNNING])
    try:
        listed = (await stub.ListPipelines(running, timeout=CALL_SECONDS)).pipelines
        found: list[Finding] = []
        for summary in listed:
            run = await stub.GetPipeline(GetPipelineRequest(pipeline_id=summary.pipeline_id), timeout=CALL_SECONDS)
            name = harmless(summary.pipeline_id)
            if run.held_up:
                found.append(warn(f"{name} stands still: {harmless(run.held_up)}", "do what it says; the pipeline-executor's log has more"))
            for stage in run.stages:
                if stage.stage_id in summary.awaiting_approval:
                    found.append(_undecided(name, stage))
                elif stage.status in {StageStatus.STAGE_PENDING, StageStatus.STAGE_RUNNING} and stands_still(stage.message):
                    found.append(
                        warn(
                            f"{name}: {harmless(stage.stage_id)} {harmless(stage.message)}",
                            "see to the scaler; the stage goes on by itself",
                        )
                    )
    except grpc.aio.AioRpcError as error:
        return [warn(f"pipelines can't be asked for: {error.code().name}", "look into the pipeline-executor's log")]
    return found or [ok(f"{len(listed)} pipelines run, none stands still or waits for a decision")]


def stands_still(message: str) -> bool:
    """Whether a stage that has not ended says that its next step does not work."""
    return any(words in message for words in _STANDS_STILL)


def _undecided(name: str, stage: Any) -> Finding:
    who = ", ".join(harmless(approver) for approver in stage.approval.approvers) or "anybody"
    command = f"ottoctl pipeline approve {shlex.quote(name)} {shlex.quote(harmless(stage.stage_id))} --as NAME"
    return warn(f"{name}: {harmless(stage.stage_id)} waits for an approval by {who}", f"{command}, or reject")


async def workers(case: Case) -> list[Finding]:
    """No worker waits, and none failed before it ran."""
    stub: Any = OttoscalerServiceStub(case.channel)
    try:
        pending = await stub.GetWorkerStatus(WorkerStatusRequest(status_filter="pending"), timeout=CALL_SECONDS)
        failed = await stub.GetWorkerStatus(WorkerStatusRequest(status_filter="failed"), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        return [warn(f"workers can't be asked for: {error.code().name}", "look into the scaler's log")]
    found: list[Finding] = []
    reasons: dict[str, list[WorkerPodStatus]] = {}
    for worker in pending.workers:
        reasons.setdefault(worker.pending_reason or "it was asked for just now", []).append(worker)
    for reason, waiting in reasons.items():
        names = ", ".join(worker.pod_name for worker in waiting[:SHOWN]) + (" …" if len(waiting) > SHOWN else "")
        found.append(
            warn(
                f"{len(waiting)} workers wait: {harmless(reason)} ({names})",
                "they start by themselves when that is over; ottoctl status shows all",
            )
        )
    unstarted = [worker for worker in failed.workers if not worker.started_at and cause_word(worker.failure_cause) != "CANCELLED"]
    for worker in unstarted[:SHOWN]:
        cause = cause_word(worker.failure_cause)
        advice = remedy(cause, Facts()).removeprefix("→ ")
        found.append(
            warn(f"{worker.pod_name} could not start ({cause}): {harmless(worker.error_message)}", advice or "look into the scaler's log")
        )
    return found or [ok("no worker waits, and none failed before it ran")]
