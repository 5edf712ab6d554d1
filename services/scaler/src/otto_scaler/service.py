"""OttoscalerService: from messages to the fleet and back. The comments of the RPCs stand in the proto."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from otto_options.metadata import cancels_on_disconnect
from otto_runtime.calls import stopping
from otto_runtime.telemetry import current_traceparent
from otto_runtime.times import rfc3339
from otto_scaler.backends import WorkerBackend
from otto_scaler.errors import InvalidRequestError, NoRoomError
from otto_scaler.fleet import Fleet
from otto_scaler.keeping import Need
from otto_scaler.outcomes import Creation, Stops
from otto_scaler.pipelines import Pipelines
from otto_scaler.translate.request import Bounds, check_scale_down, check_workspace, workers_wanted
from otto_scaler.translate.status import StatusBook, refusals
from otto_scaler.worker import State, Worker
from ottoscaler.v1.ottoscaler_service_pb2 import (
    Admission,
    DeleteWorkspaceRequest,
    DeleteWorkspaceResponse,
    Releaser,
    ReleaseWorkersRequest,
    ReleaseWorkersResponse,
    ScaleRequest,
    ScaleResponse,
    WatchWorkersRequest,
    WorkerEvent,
    WorkerStatusRequest,
    WorkerStatusResponse,
)
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceServicer as Base
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest

MAX_RELEASED = 10_000
SHOWN_REFUSALS = 10
SHOWN_CHARACTERS = 40
"""Of a filter that is none."""
_RELEASED = {Releaser.RELEASER_UNSPECIFIED: Need.LINES, Releaser.RELEASER_LOGS: Need.LINES, Releaser.RELEASER_PIPELINE: Need.END}


class OttoscalerServicer(Base):
    """Answers the calls; keeps nothing but messages already written."""

    def __init__(self, fleet: Fleet, backend: WorkerBackend, pipelines: Pipelines, bounds: Bounds, listed_workers: int) -> None:
        self._fleet = fleet
        self._backend = backend
        self._pipelines = pipelines
        self._bounds = bounds
        self._listed = listed_workers
        self._book = StatusBook(fleet.cap)

    async def ScaleUp(self, request: ScaleRequest, context: Any) -> ScaleResponse:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Creates workers."""
        started = rfc3339(time.time_ns())
        wanted = workers_wanted(request, self._bounds, self._backend.unsupported, current_traceparent())
        queue = request.admission == Admission.ADMISSION_QUEUE
        creation = await self._fleet.scale_up(wanted.specs, queue=queue)
        if creation.no_room and not creation.existing and not creation.created and not creation.refused:
            raise NoRoomError(self._no_room_words(len(creation.no_room), queue=queue))
        status, words = self._outcome(creation, queue=queue)
        if wanted.warnings:
            words += f"; checked but not acted on: {', '.join(wanted.warnings)}"
        there = {worker.name for worker in creation.existing} | set(creation.created)
        waiting = self._fleet.waiting(there)
        if waiting:
            words += f"; {waiting} of them {'waits' if waiting == 1 else 'wait'} for room (cap {self._fleet.cap})"
        return ScaleResponse(
            status=status,
            message=words,
            processed_count=len(creation.created),
            worker_pod_names=[spec.identity.name for spec in wanted.specs if spec.identity.name in there],
            started_at=started,
            completed_at=rfc3339(time.time_ns()),
            waiting_count=waiting,
            no_room_count=len(creation.no_room),
            room_limit=self._fleet.cap,
            refusals=refusals(creation.refused),
        )

    async def ScaleDown(self, request: ScaleRequest, context: Any) -> ScaleResponse:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Stops workers of a task."""
        started = rfc3339(time.time_ns())
        check_scale_down(request)
        reason = (
            "scaled down"
            + (f" by {request.triggered_by}" if request.triggered_by else "")
            + (f": {request.reason}" if request.reason else "")
        )
        stops = await self._fleet.scale_down(request.task_id, request.worker_count, reason)
        status, words = _stopped(stops)
        return ScaleResponse(
            status=status,
            message=words,
            processed_count=len(stops.stopping),
            worker_pod_names=[worker.name for worker in stops.stopping],
            started_at=started,
            completed_at=rfc3339(time.time_ns()),
        )

    async def GetWorkerStatus(self, request: WorkerStatusRequest, context: Any) -> WorkerStatusResponse:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Shows workers, from memory."""
        state = None
        if request.status_filter:
            try:
                state = State(request.status_filter)
            except ValueError:
                asked = request.status_filter
                shown = asked if len(asked) <= SHOWN_CHARACTERS else asked[:SHOWN_CHARACTERS] + "…"
                words = f"{shown!r} is none of {', '.join(s.value for s in State)}"
                raise InvalidRequestError([("status_filter", words)]) from None
        selection = await self._fleet.select(request.task_id, request.worker_pod_name, state, self._listed)
        turned_away = self._fleet.turned_away(request.task_id, request.worker_pod_name) if state in {None, State.PENDING} else 0
        return self._book.response(selection, self._fleet.places() if selection.waiting else {}, turned_away)

    async def WatchWorkers(self, request: WatchWorkersRequest, context: Any) -> AsyncIterator[WorkerEvent]:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Shows workers and every change."""
        await self._fleet.known()
        with self._fleet.watch(_selector(request)) as watch:
            async for change in watch:
                yield self._book.event(change)

    async def ReleaseWorkers(self, request: ReleaseWorkersRequest, context: Any) -> ReleaseWorkersResponse:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Notes whose lines are stored."""
        if len(request.worker_pod_names) > MAX_RELEASED:
            raise InvalidRequestError([("worker_pod_names", f"{len(request.worker_pod_names)} are more than {MAX_RELEASED}")])
        what = _RELEASED.get(request.releaser)
        if what is None:
            raise InvalidRequestError([("releaser", f"{request.releaser} is none that is known")])
        return ReleaseWorkersResponse(released_count=await self._fleet.release(request.worker_pod_names, what))

    async def DeleteWorkspace(self, request: DeleteWorkspaceRequest, context: Any) -> DeleteWorkspaceResponse:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Deletes a workspace when nobody uses it."""
        check_workspace(request.workspace)
        await self._fleet.delete_workspace(request.workspace)
        return DeleteWorkspaceResponse()

    async def ExecutePipeline(self, request: PipelineRequest, context: Any) -> AsyncIterator[PipelineProgress]:  # noqa: N802, ARG002 - the contract gives names and arguments
        """Hands a pipeline on to the executor, and its progress back."""
        try:
            async with aclosing(self._pipelines.execute(request)) as progress:
                async for message in progress:
                    yield message
        except asyncio.CancelledError:
            # Not when it is our own stop that ends the stream: then the caller is still there, and attaches again.
            # grpc.aio's context.cancelled() is False in both cases.
            if cancels_on_disconnect(request.metadata) and not stopping():
                self._pipelines.caller_left(request.pipeline_id)
            raise

    def _outcome(self, creation: Creation, *, queue: bool) -> tuple[ScaleResponse.Status.ValueType, str]:
        parts = []
        if creation.created:
            parts.append(f"created {_workers(len(creation.created))}")
        if creation.existing:
            parts.append(f"{_workers(len(creation.existing))} existed before" + _ended_words(creation.existing))
        if creation.no_room:
            parts.append(self._no_room_words(len(creation.no_room), queue=queue))
        if creation.refused:
            shown = "; ".join(f"{refusal.name}: {refusal.why}" for refusal in creation.refused[:SHOWN_REFUSALS])
            more = len(creation.refused) - SHOWN_REFUSALS
            parts.append(f"{len(creation.refused)} refused: {shown}" + (f"; and {more} more" if more > 0 else ""))
        words = "; ".join(parts)
        if creation.refused or creation.no_room:
            done = creation.created or creation.existing
            return (ScaleResponse.PARTIAL_SUCCESS if done else ScaleResponse.FAILED), words
        if not creation.created:
            return ScaleResponse.ALREADY_PROCESSED, words
        return ScaleResponse.SUCCESS, words

    def _no_room_words(self, count: int, *, queue: bool) -> str:
        if queue:
            return f"INSUFFICIENT_RESOURCES: too many workers wait for room already, so {_workers(count)} can't wait too; ask again later"
        return (
            f"INSUFFICIENT_RESOURCES: no room for {_workers(count)} under the cap of {self._fleet.cap} concurrent workers; "
            "ask again later, or with admission QUEUE"
        )


def _selector(request: WatchWorkersRequest) -> Any:
    task, pipeline, name = request.task_id, request.pipeline_id, request.worker_pod_name

    def selects(worker: Worker) -> bool:
        identity = worker.identity
        return task in {"", identity.task_id} and pipeline in {"", identity.pipeline_id} and name in {"", identity.name}

    return selects


def _stopped(stops: Stops) -> tuple[ScaleResponse.Status.ValueType, str]:
    words = f"stopping {_workers(len(stops.stopping))}" if stops.stopping else ""
    if not stops.failed:
        return ScaleResponse.SUCCESS, words or "nothing to stop"
    shown = ", ".join(worker.name for worker in stops.failed[:SHOWN_REFUSALS])
    failed = f"{_workers(len(stops.failed))} could not be told to stop, the service's log says why; repeat the call: {shown}"
    return (ScaleResponse.PARTIAL_SUCCESS if words else ScaleResponse.FAILED), "; ".join(filter(None, [words, failed]))


def _ended_words(workers: Sequence[Worker]) -> str:
    ended = sum(worker.finished for worker in workers)
    return f" ({ended} of them ended; a task_id names its workers for as long as they are kept)" if ended else ""


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
