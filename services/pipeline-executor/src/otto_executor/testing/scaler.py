"""A scaler that serves a Fleet over gRPC, as far as the executor calls it."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio

from otto_executor.orders import Synced, WorkerReport
from otto_executor.stage import WorkerStatus
from otto_executor.testing.fleet import Fleet
from ottoscaler.v1 import ottoscaler_service_pb2 as pb
from ottoscaler.v1 import worker_pb2
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceServicer
from ottoscaler.v1.pipeline_pb2 import PipelineRequest

Context = grpc.aio.ServicerContext[object, object]


class ScalerDouble(OttoscalerServiceServicer):
    """OttoscalerService over a fleet. `failing` is answered to ScaleUp instead of workers, once per entry; `requests` are the ScaleUps."""

    def __init__(self, fleet: Fleet) -> None:
        """Serves `fleet`."""
        self.fleet = fleet
        self.requests: list[pb.ScaleRequest] = []
        self.failing: list[tuple[grpc.StatusCode, str]] = []
        self.crowded = 0
        """How many ScaleUps find room for all workers but the last."""

    async def ScaleUp(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:  # noqa: N802  the method's name
        """Creates what is not there yet."""
        if self.failing:
            await context.abort(*self.failing.pop(0))
        if self.crowded:
            self.crowded -= 1
            spec = request.worker
            names = self.fleet.create(spec.pipeline_id, spec.stage_id, spec.attempt, request.worker_count - 1)
            words = "INSUFFICIENT_RESOURCES: too many workers wait for room already, so 1 worker can't wait too; ask again later"
            return pb.ScaleResponse(status=pb.ScaleResponse.PARTIAL_SUCCESS, message=words, worker_pod_names=names, no_room_count=1)
        self.requests.append(request)
        spec, fleet = request.worker, self.fleet
        refused = fleet.refusals.get(spec.stage_id)
        if refused is not None:
            status = pb.ScaleResponse.PARTIAL_SUCCESS if refused.names else pb.ScaleResponse.FAILED
            names = fleet.create(spec.pipeline_id, spec.stage_id, spec.attempt, len(refused.names))
            cause = worker_pb2.FailureCause.Value(f"FAILURE_CAUSE_{refused.failure.cause}")
            refusals = [pb.WorkerRefusal(cause=cause, reason=refused.failure.words)]
            return pb.ScaleResponse(status=status, message=refused.failure.words, worker_pod_names=names, refusals=refusals)
        before = len(fleet.created)
        names = fleet.create(spec.pipeline_id, spec.stage_id, spec.attempt, request.worker_count)
        created = len(fleet.created) - before
        status = pb.ScaleResponse.SUCCESS if created else pb.ScaleResponse.ALREADY_PROCESSED
        waiting = fleet.waiting(spec.pipeline_id, spec.stage_id, spec.attempt)
        return pb.ScaleResponse(
            status=status, processed_count=created, worker_pod_names=names, waiting_count=waiting, room_limit=fleet.cap if waiting else 0
        )

    async def ScaleDown(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:  # noqa: N802, ARG002  the method's name and arguments
        """Stops all workers of a task."""
        pipeline_id, _, stage_id = request.task_id.partition("/")
        unescaped = [part.replace("%2F", "/").replace("%25", "%") for part in (pipeline_id, stage_id)]
        self.fleet.stop(unescaped[0], unescaped[1], request.reason)
        return pb.ScaleResponse(status=pb.ScaleResponse.SUCCESS)

    async def GetWorkerStatus(self, request: pb.WorkerStatusRequest, context: Context) -> pb.WorkerStatusResponse:  # noqa: N802, ARG002  the method's name and arguments
        """The workers of a task."""
        pipeline_id, _, stage_id = request.task_id.partition("/")
        keys = self.fleet.of_stage(pipeline_id, stage_id)
        return pb.WorkerStatusResponse(total_count=len(keys), workers=[status(self.fleet.workers[key]) for key in keys])

    async def WatchWorkers(self, request: pb.WatchWorkersRequest, context: Context) -> AsyncIterator[pb.WorkerEvent]:  # noqa: N802, ARG002  the method's name and arguments
        """A snapshot, SYNCED, then every change."""
        async for event in self.fleet.watch():
            if isinstance(event, Synced):
                yield pb.WorkerEvent(type=pb.WorkerEvent.TYPE_SYNCED)
            else:
                yield pb.WorkerEvent(type=pb.WorkerEvent.TYPE_MODIFIED, worker=status(event))

    async def ExecutePipeline(self, request: PipelineRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802  the executor never calls it
        """Not served."""
        raise NotImplementedError

    async def ReleaseWorkers(self, request: pb.ReleaseWorkersRequest, context: Context) -> pb.ReleaseWorkersResponse:  # noqa: N802, ARG002  the method's name and arguments
        """Notes those whose ends are stored."""
        if request.releaser == pb.RELEASER_PIPELINE:
            self.fleet.released += request.worker_pod_names
        return pb.ReleaseWorkersResponse(released_count=len(request.worker_pod_names))

    async def DeleteWorkspace(self, request: pb.DeleteWorkspaceRequest, context: Context) -> pb.DeleteWorkspaceResponse:  # noqa: N802, ARG002  the method's name and arguments
        """Notes it."""
        self.fleet.workspaces_deleted.append(request.workspace)
        return pb.DeleteWorkspaceResponse()


def status(report: WorkerReport) -> worker_pb2.WorkerPodStatus:
    """A worker as the scaler shows it."""
    message = worker_pb2.WorkerPodStatus(
        pod_name=report.name,
        status=str(report.status),
        error_message=report.words,
        attempt=report.attempt,
        stage_id=report.stage_id,
        pipeline_id=report.pipeline_id,
        index=report.index,
    )
    if report.status is not WorkerStatus.PENDING and report.exit_code is not None:
        message.exit_code = report.exit_code
    message.room_limit = report.room
    if (used := report.usage) is not None:
        message.usage.average_cpu_cores, message.usage.peak_cpu_cores = used.cpu_average / 1000, used.cpu_peak / 1000
        message.usage.average_memory_bytes, message.usage.peak_memory_bytes = used.memory_average, used.memory_peak
    if report.cause is not None:
        message.failure_cause = worker_pb2.FailureCause.Value(f"FAILURE_CAUSE_{report.cause}")
    return message
