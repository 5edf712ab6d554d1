"""Client of the executor: hands ExecutePipeline on, and hides from its caller that the executor restarts."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio

from otto_options.metadata import ON_DISCONNECT, cancels_on_disconnect
from otto_runtime.calls import stopping
from otto_runtime.tasks import Backoff
from otto_runtime.telemetry import handed_on
from otto_scaler.errors import ExecutorCallError
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest, GetPipelineRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import StageStatus

log = logging.getLogger(__name__)

CANCEL_ATTEMPTS = 6
STEADY_SECONDS = 5.0
"""A stream that was open this long shows that the executor was there, even if nothing was said on it."""
_FINAL = frozenset({StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED})


class Pipelines:
    """Calls to PipelineService, which the executor owns."""

    def __init__(self, channel: grpc.aio.Channel, patience: float) -> None:
        """`patience`: seconds without any contact after which a caller is told UNAVAILABLE."""
        self._stub: Any = PipelineServiceStub(channel)
        self._patience = patience
        # Bounded by the number of callers, each of whom leaves once.
        self._left: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        """Cancels the pipelines of callers that left, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                pipeline_id = await self._left.get()
                group.create_task(self._cancel(pipeline_id), name=f"cancel {pipeline_id}")

    def caller_left(self, pipeline_id: str) -> None:
        """The caller of a pipeline that is to be cancelled with it is gone."""
        self._left.put_nowait(pipeline_id)

    async def execute(self, request: PipelineRequest) -> AsyncGenerator[PipelineProgress, None]:
        """What PipelineService.ExecutePipeline says, to its final message, across restarts of the executor.

        The executor is not told of otto.on_disconnect: our own stop would look to it like a caller that leaves. Whoever iterates tells
        `caller_left`. Raises ExecutorCallError: as the executor put it, or UNAVAILABLE when it could not be reached for too long.
        """
        if cancels_on_disconnect(request.metadata):
            plain = PipelineRequest()
            plain.CopyFrom(request)
            del plain.metadata[ON_DISCONNECT]
            request = plain
        contact = _Contact(self._patience)
        last = 0
        known = unclear = False
        while True:
            stream = self._stream(request, last, known=known)
            contact.begins()
            try:
                async for message in stream:
                    contact.worked()
                    last, known = max(last, message.sequence), True
                    yield message
                    if not message.stage_id and message.status in _FINAL:
                        return
                why = "it is stopping"
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.ALREADY_EXISTS and unclear and await self._is_ours(request):
                    known = True
                    continue
                if not _is_loss(error):
                    raise ExecutorCallError(error.code().name, error.details() or "") from error
                why = error.details() or error.code().name
            finally:
                stream.cancel()
            if stopping() and not known:
                raise ExecutorCallError("UNAVAILABLE", f"the scaler is stopping, and can't hand the pipeline on ({why}); repeat the call")
            unclear = True
            log.debug("scaler.executor.lost", extra={"pipeline": request.pipeline_id, "why": why})
            await contact.again(why)

    def _stream(self, request: PipelineRequest, last: int, *, known: bool) -> Any:
        """The call that goes on where the last one ended: `known` says that the executor has the run."""
        if not known:
            return self._stub.ExecutePipeline(request, metadata=handed_on())
        after = WatchPipelineRequest(pipeline_id=request.pipeline_id, after_sequence=last)
        return self._stub.WatchPipeline(after, metadata=handed_on())

    async def _is_ours(self, request: PipelineRequest) -> bool:
        """Whether the run of that id is what an earlier try of ours brought about, whose answer was lost, and not an older run of that
        id.
        """
        try:
            found = await self._stub.GetPipeline(GetPipelineRequest(pipeline_id=request.pipeline_id))
        except grpc.aio.AioRpcError:
            return False
        return _essence(found.request) == _essence(request)

    async def _cancel(self, pipeline_id: str) -> None:
        """NOT_FOUND may mean that the run is being stored right now, so it is asked again."""
        request = CancelPipelineRequest(pipeline_id=pipeline_id, reason="its caller left, and otto.on_disconnect is cancel")
        backoff = Backoff(initial=0.1, maximum=2.0)
        for _ in range(CANCEL_ATTEMPTS):
            try:
                await self._stub.CancelPipeline(request)
            except grpc.aio.AioRpcError as error:
                log.debug("scaler.pipeline.cancel_failed", extra={"pipeline": pipeline_id, "why": error.code().name})
                if error.code() not in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    return
                await backoff.wait()
            else:
                log.info("scaler.pipeline.caller_left", extra={"pipeline": pipeline_id})
                return


class _Contact:
    """How long there has been no sign of the executor, and the pauses between attempts."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._backoff = Backoff(initial=0.05, maximum=2.0)
        self._lost_at: float | None = None
        self._began = 0.0

    def begins(self) -> None:
        self._began = time.monotonic()

    def worked(self) -> None:
        self._lost_at = None
        self._backoff.reset()

    async def again(self, why: str) -> None:
        """Pauses before the next attempt. Raises ExecutorCallError (UNAVAILABLE) when it has been too long."""
        now = time.monotonic()
        if now - self._began > STEADY_SECONDS:
            self.worked()
        self._lost_at = self._lost_at or now
        if now - self._lost_at > self._patience:
            text = f"the pipeline-executor has not been reached for {self._patience:g} s ({why}); attach again, or repeat the call"
            raise ExecutorCallError("UNAVAILABLE", text)
        await self._backoff.wait()


def _is_loss(error: grpc.aio.AioRpcError) -> bool:
    """Whether the executor (or the way to it) went away, and not the call was refused.

    CANCELLED: not by us, nobody would read it then: its server ended the call while stopping. A `kill -9` behind a proxy comes as
    INTERNAL "RST_STREAM".
    """
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return True
    details = error.details() or ""
    return error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN} and ("RST_STREAM" in details or "Stream removed" in details)


def _essence(request: PipelineRequest) -> tuple[object, ...]:
    return (request.repository, request.commit_sha, request.triggered_by, sorted((s.stage_id, *s.command, *s.args) for s in request.stages))
