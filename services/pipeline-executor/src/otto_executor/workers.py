"""The scaler as the executor's `Workers`: orders become ScaleUp and ScaleDown, WatchWorkers becomes reports."""

from collections.abc import AsyncGenerator, Mapping, Sequence

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from otto_executor.errors import NoRoomError, WorkersUnavailableError
from otto_executor.orders import SYNCED, Created, Order, Refused, Synced, WorkerReport, task_id
from otto_executor.progress import shortened
from otto_executor.retry import INFRASTRUCTURE, Failure, FailureCause
from otto_executor.stage import WorkerStatus
from otto_executor.usage import Usage
from otto_runtime.tasks import Backoff
from ottoscaler.v1 import worker_pb2
from ottoscaler.v1.ottoscaler_service_pb2 import (
    Admission,
    DeleteWorkspaceRequest,
    Releaser,
    ReleaseWorkersRequest,
    ScaleRequest,
    ScaleResponse,
    WatchWorkersRequest,
    WorkerEvent,
    WorkerStatusRequest,
)
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub

CHECKOUT_COMMAND = ("git", "log", "-1", "--date=iso", "--format=checked out %H%n%an, %ad%n%s")
"""Runs in the checked-out repository, so the stage's log says what the others will see."""
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""Answers that asking again does not change."""
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
"""Answers that may be a broken connection (a killed peer shows as INTERNAL) or a fault of the scaler: asked again a few times."""
FAULT_TRIES = 5
_CAUSES = {number: FailureCause(name.removeprefix("FAILURE_CAUSE_")) for name, number in worker_pb2.FailureCause.items() if number}
_STATUSES = {str(status): status for status in WorkerStatus}


class ScalerWorkers:
    """Workers over a channel to the scaler."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Calls through `channel`, which gives unary calls their deadline."""
        self._scaler = OttoscalerServiceStub(channel)

    async def start(self, order: Order) -> Created | Refused:
        """See Workers."""
        request = scale_up(order)
        trace = (("traceparent", order.traceparent),) if order.traceparent else ()
        backoff = Backoff(0.1, 2.0)
        for tries_left in reversed(range(FAULT_TRIES)):
            try:
                return _outcome(await self._scaler.ScaleUp(request, metadata=trace), order.stage.workers)
            except grpc.aio.AioRpcError as error:
                words = shortened(error.details() or error.code().name)
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "INSUFFICIENT_RESOURCES" in words:
                    raise NoRoomError(words) from error
                if error.code() in REFUSALS or "larger than max" in words:
                    return Refused(Failure(FailureCause.REJECTED, f"the scaler refused it: {words}"))
                if error.code() not in FAULTS:
                    raise _unavailable(error) from error
                if not tries_left:
                    return Refused(Failure(FailureCause.INTERNAL, f"the scaler failed: {words}"))
            await backoff.wait()
        raise AssertionError("the last try returns")

    async def stop(self, pipeline_id: str, stage_id: str, reason: str) -> list[WorkerReport]:
        """See Workers."""
        task = task_id(pipeline_id, stage_id)
        try:
            told = await self._scaler.ScaleDown(ScaleRequest(task_id=task, worker_count=0, reason=reason))
            if told.status != ScaleResponse.SUCCESS:
                raise WorkersUnavailableError(shortened(told.message))
            answer = await self._scaler.GetWorkerStatus(WorkerStatusRequest(task_id=task))
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error
        return [report for worker in answer.workers if (report := worker_report(worker)) is not None]

    async def release(self, names: Sequence[str]) -> None:
        """See Workers."""
        try:
            await self._scaler.ReleaseWorkers(ReleaseWorkersRequest(worker_pod_names=names, releaser=Releaser.RELEASER_PIPELINE))
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error

    async def delete_workspace(self, workspace: str) -> None:
        """See Workers."""
        try:
            await self._scaler.DeleteWorkspace(DeleteWorkspaceRequest(workspace=workspace))
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error

    async def watch(self) -> AsyncGenerator[WorkerReport | Synced]:
        """See Workers."""
        call = self._scaler.WatchWorkers(WatchWorkersRequest())
        try:
            async for event in call:
                if event.type == WorkerEvent.TYPE_SYNCED:
                    yield SYNCED
                elif (report := worker_report(event.worker, deleted=event.type == WorkerEvent.TYPE_DELETED)) is not None:
                    yield report
        except grpc.aio.AioRpcError as error:
            raise _unavailable(error) from error
        finally:
            call.cancel()


def _unavailable(error: grpc.aio.AioRpcError) -> WorkersUnavailableError:
    return WorkersUnavailableError(shortened(f"{error.code().name}: {error.details()}"))


def scale_up(order: Order) -> ScaleRequest:
    """The request for the workers of an attempt."""
    stage = order.stage
    request = ScaleRequest(
        task_id=task_id(order.pipeline_id, stage.stage_id),
        worker_count=stage.workers,
        triggered_by=shortened(order.triggered_by),  # a note for people, of which the scaler takes 128 KiB
        reason=f"pipeline {order.pipeline_id}, stage {stage.stage_id}, attempt {order.attempt}",
        admission=Admission.ADMISSION_QUEUE,
        worker=worker_pb2.WorkerSpec(
            image=stage.image,
            command=CHECKOUT_COMMAND if order.checkout else stage.command,
            args=stage.args,
            env=stage.env,
            secret_env=[worker_pb2.SecretEnv(name=s.name, secret=s.secret, key=s.key) for s in stage.secrets],
            timeout=_duration(stage.timeout),
            workspace=order.workspace,
            # Stages of a repository work in its checkout. Others may leave each other files, but only who asks for it depends on that.
            workspace_optional=bool(order.workspace) and not order.repository and not stage.shared_workspace,
            workspace_expected=order.expected,
            workspace_unshared=bool(order.workspace) and order.unshared,
            working_directory=stage.working_directory,
            pipeline_id=order.pipeline_id,
            stage_id=stage.stage_id,
            attempt=order.attempt,
            traceparent=order.traceparent,
            extra_containers=[
                worker_pb2.ExtraContainer(
                    name=c.name, image=c.image, command=c.command, args=c.args, env=c.env, resources=_resources(c.cpu, c.memory)
                )
                for c in stage.extra_containers
            ],
        ),
    )
    if stage.cpu or stage.memory:
        request.worker.resources.CopyFrom(worker_pb2.Resources(cpu=stage.cpu, memory=stage.memory))
    if order.owner is not None:
        owner = order.owner
        request.worker.owner.CopyFrom(
            worker_pb2.OwnerReference(
                api_version=owner.api_version, kind=owner.kind, name=owner.name, uid=owner.uid, namespace=owner.namespace
            )
        )
    if order.claim is not None and order.workspace:
        claim = order.claim
        request.worker.claim.CopyFrom(
            worker_pb2.WorkspaceClaim(storage_class=claim.storage_class, size=claim.size, access_mode=claim.access_mode)
        )
    if stage.grace is not None:
        request.worker.stop_grace_period.CopyFrom(_duration(stage.grace))
    if order.checkout:
        request.repository, request.commit_sha = order.repository, order.commit_sha
    else:
        told: Mapping[str, str] = {"OTTO_REPOSITORY": order.repository, "OTTO_COMMIT_SHA": order.commit_sha}
        request.worker.env.update({name: value for name, value in told.items() if value})
    return request


def worker_report(worker: worker_pb2.WorkerPodStatus, *, deleted: bool = False) -> WorkerReport | None:
    """What is said of a stage's worker; None for one of a plain ScaleUp. `deleted`: it is gone, as what it had ended or else as removed."""
    if not worker.pipeline_id or not worker.stage_id:
        return None
    status = _STATUSES.get(worker.status, WorkerStatus.PENDING)
    cause = _CAUSES.get(worker.failure_cause)
    words = worker.error_message
    if deleted and not status.ended:
        status, cause, words = WorkerStatus.FAILED, cause or FailureCause.DELETED, words or "was removed without having ended"
    return WorkerReport(
        pipeline_id=worker.pipeline_id,
        stage_id=worker.stage_id,
        attempt=worker.attempt or 1,
        index=worker.index,
        name=worker.pod_name,
        status=status,
        exit_code=worker.exit_code if worker.HasField("exit_code") else None,
        cause=cause,
        words=shortened(words),
        room=worker.room_limit if status is WorkerStatus.PENDING else 0,
        usage=_usage(worker.usage) if worker.HasField("usage") else None,
    )


def _usage(used: worker_pb2.WorkerUsage) -> Usage:
    average, peak = round(used.average_cpu_cores * 1000), round(used.peak_cpu_cores * 1000)
    return Usage(1, average, peak, used.average_memory_bytes, used.peak_memory_bytes)


def _outcome(answer: ScaleResponse, workers: int) -> Created | Refused:
    """What became of a request for `workers` workers. Raises NoRoomError if room is all that is missing."""
    names = tuple(answer.worker_pod_names)
    if answer.status in {ScaleResponse.SUCCESS, ScaleResponse.ALREADY_PROCESSED}:
        return Created(names, answer.waiting_count, answer.room_limit)
    if answer.no_room_count and len(names) + answer.no_room_count >= workers:
        raise NoRoomError(shortened(answer.message))
    # What is refused for good is why the attempt fails; it is nobody's fault only if that holds for every refusal.
    causes = sorted({_CAUSES.get(refusal.cause, FailureCause.REJECTED) for refusal in answer.refusals}, key=INFRASTRUCTURE.__contains__)
    cause = causes[0] if causes else FailureCause.REJECTED
    return Refused(Failure(cause, shortened(answer.message or "the scaler could not create the workers")), names)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _resources(cpu: str, memory: str) -> worker_pb2.Resources | None:
    return worker_pb2.Resources(cpu=cpu, memory=memory) if cpu or memory else None
