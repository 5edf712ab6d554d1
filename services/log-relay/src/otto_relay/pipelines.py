"""The relay as a client of the executor: what stages a run has and how they go."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from otto_relay.build_log import Stage
from otto_relay.errors import NotReadyError, UnknownLogError
from otto_relay.tracking import Progress
from otto_relay.translate import is_final, progress_of
from otto_runtime.tasks import Backoff
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, WatchPipelineRequest

if TYPE_CHECKING:
    from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceAsyncStub

log = logging.getLogger(__name__)


class ExecutorRuns:
    """Runs as PipelineService knows them."""

    def __init__(self, stub: "PipelineServiceAsyncStub") -> None:
        """The stub's channel has deadlines for unary calls."""
        self._stub = stub

    async def stages(self, pipeline_id: str) -> list[Stage]:
        """The stages of a run. Raises UnknownLogError or NotReadyError."""
        try:
            answer = await self._stub.GetPipeline(GetPipelineRequest(pipeline_id=pipeline_id))
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}:
                raise UnknownLogError(f"NOT_FOUND: no pipeline {pipeline_id!r}") from error
            raise NotReadyError("the pipeline-executor can't be asked about this pipeline now; try again") from error
        return [Stage(stage.stage_id, stage.name, stage.type) for stage in answer.stages]

    async def progress(self, pipeline_id: str) -> AsyncIterator[Progress]:
        """All that was and will be said of a run; a lost stream goes on after the last message. Raises UnknownLogError."""
        backoff = Backoff()
        last = 0
        failures = 0
        while True:
            reason = "the stream ended"
            try:
                async for message in self._stub.WatchPipeline(WatchPipelineRequest(pipeline_id=pipeline_id, after_sequence=last)):
                    last = max(last, message.sequence)
                    backoff.reset()
                    failures = 0
                    yield progress_of(message)
                    if is_final(message):
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}:
                    raise UnknownLogError(f"NOT_FOUND: no pipeline {pipeline_id!r}") from error
                reason = f"{error.code().name}: {error.details()}"
            failures += 1
            if failures == 2:
                log.warning("relay.executor.lost", extra={"pipeline": pipeline_id, "reason": reason})
            await asyncio.sleep(backoff.next_delay())
