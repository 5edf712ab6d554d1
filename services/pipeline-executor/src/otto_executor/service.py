"""PipelineService: what clients send and get. Decides nothing."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from functools import partial

import grpc.aio

from otto_executor import translate
from otto_executor.conductor import Conductor
from otto_executor.errors import InvalidRequestError
from otto_executor.progress import shortened
from otto_executor.rerun import Rerun, made_id
from otto_executor.settings import Settings
from otto_executor.stage import StageStatus
from otto_executor.stores import Key
from otto_executor.translate_request import as_understood, read
from otto_executor.validation import MAX_PIPELINE_ID_BYTES, MAX_STAGE_ID_BYTES, id_problem, in_words, told
from otto_options.metadata import cancels_on_disconnect
from otto_runtime import spans
from otto_runtime.calls import stopping
from otto_runtime.telemetry import callers_traceparent, current_traceparent, link_to, new_traceparent
from ottoscaler.v1 import pipeline_service_pb2 as pb
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceServicer

log = logging.getLogger(__name__)
DEFAULT_PAGE = 50
MAX_PAGE_BYTES = 2 * 1024 * 1024
"""A page ends early when it is this large, so that the answer stays below the clients' 4 MiB."""
MAX_TEXT_BYTES = 4096
"""Of a reason, a user or a comment."""
Context = grpc.aio.ServicerContext[object, object]


class PipelineService(PipelineServiceServicer):
    """See pipeline_service.proto, whose comments are the contract."""

    def __init__(self, conductor: Conductor, settings: Settings) -> None:
        """Serves what `conductor` knows, with the limits of `settings`."""
        self._conductor = conductor
        self._settings = settings

    async def ExecutePipeline(self, request: PipelineRequest, context: Context) -> AsyncIterator[PipelineProgress]:  # noqa: N802, ARG002  the stub gives names and arguments
        """Begins a run, or attaches to one if there are no stages."""
        pipeline_id = request.pipeline_id
        if request.stages:
            understood = read(request, self._settings, current_traceparent() or new_traceparent(), callers_traceparent())
            if understood.problems:
                raise InvalidRequestError(in_words(understood.problems))
            link_to(understood.definition.traceparent)
            await self._conductor.begin(understood.definition, as_understood(request).SerializeToString())
        else:
            _check_id("pipeline_id", pipeline_id, MAX_PIPELINE_ID_BYTES)
        try:
            async for progress, replayed in self._conductor.follow(pipeline_id, replayed=not request.stages):
                yield translate.progress_message(pipeline_id, progress, replayed=replayed)
        except (asyncio.CancelledError, GeneratorExit):
            if cancels_on_disconnect(request.metadata) and not stopping():
                self._conductor.cancel_later(pipeline_id, "the caller left, and otto.on_disconnect is cancel")
            raise

    async def WatchPipeline(self, request: pb.WatchPipelineRequest, context: Context) -> AsyncIterator[PipelineProgress]:  # noqa: N802, ARG002  the stub gives names and arguments
        """A run's progress after a sequence."""
        _check_id("pipeline_id", request.pipeline_id, MAX_PIPELINE_ID_BYTES)
        if request.after_sequence < 0:
            raise InvalidRequestError(f"after_sequence: {request.after_sequence} is negative")
        follow = self._conductor.follow(request.pipeline_id, request.after_sequence, to_the_end=not request.no_follow)
        async for progress, replayed in follow:
            yield translate.progress_message(request.pipeline_id, progress, replayed=replayed)

    async def GetPipeline(self, request: pb.GetPipelineRequest, context: Context) -> pb.GetPipelineResponse:  # noqa: N802, ARG002  the stub gives names and arguments
        """A run with all its stages."""
        _check_id("pipeline_id", request.pipeline_id, MAX_PIPELINE_ID_BYTES)
        record = await self._conductor.load(request.pipeline_id)
        return translate.run_message(record, self._conductor.held_up(request.pipeline_id))

    async def ListPipelines(self, request: pb.ListPipelinesRequest, context: Context) -> pb.ListPipelinesResponse:  # noqa: N802, ARG002  the stub gives names and arguments
        """A page of runs, newest first."""
        most = self._settings.max_page_size
        if not 0 <= request.page_size <= most:
            raise InvalidRequestError(f"page_size: {request.page_size} is not between 0 and {most}")
        selected = translate.statuses(request.states)
        after = translate.page_key(request.page_token, selected)
        size = request.page_size or min(DEFAULT_PAGE, most)
        found = await self._conductor.page(selected, after, size + 1)
        answer = pb.ListPipelinesResponse()
        taken = 0
        for number, short in enumerate(found[:size]):
            message = translate.summary_message(short)
            taken += message.ByteSize()
            if number and taken > MAX_PAGE_BYTES:
                break
            answer.pipelines.append(message)
        if len(answer.pipelines) < len(found):
            last = found[len(answer.pipelines) - 1]
            answer.next_page_token = translate.page_token(Key(last.created_at, last.pipeline_id), selected)
        return answer

    async def CancelPipeline(self, request: pb.CancelPipelineRequest, context: Context) -> pb.CancelPipelineResponse:  # noqa: N802, ARG002  the stub gives names and arguments
        """Stops a run."""
        _check_id("pipeline_id", request.pipeline_id, MAX_PIPELINE_ID_BYTES)
        _check_text("reason", request.reason)
        _check_text("cancelled_by", request.cancelled_by)
        words = "cancelled" + (f" by {request.cancelled_by}" if request.cancelled_by else "")
        words = shortened(words + (f": {request.reason}" if request.reason else ""))
        found = await self._conductor.cancel(request.pipeline_id, words)
        if found.status is StageStatus.RUNNING:
            message = "its workers are being stopped"
        elif found.status is StageStatus.CANCELLED:
            message = f"has ended: {found.error}"
        else:
            message = f"has ended before: {found.status.lower()}" + (f": {found.error}" if found.error else "")
        return pb.CancelPipelineResponse(state=translate.state(found.status), message=message)

    async def ApproveStage(self, request: pb.ApproveStageRequest, context: Context) -> pb.ApproveStageResponse:  # noqa: N802, ARG002  the stub gives names and arguments
        """Decides about a stage."""
        _check_id("pipeline_id", request.pipeline_id, MAX_PIPELINE_ID_BYTES)
        _check_id("stage_id", request.stage_id, MAX_STAGE_ID_BYTES)
        _check_id("user", request.user, MAX_TEXT_BYTES)
        _check_text("comment", request.comment)
        decision = translate.decision(request.decision)
        approval = await self._conductor.approve(request.pipeline_id, request.stage_id, decision, request.user, request.comment)
        return pb.ApproveStageResponse(approval=translate.approval_message(approval))

    async def ValidatePipeline(self, request: pb.ValidatePipelineRequest, context: Context) -> pb.ValidatePipelineResponse:  # noqa: N802, ARG002  the stub gives names and arguments
        """What ExecutePipeline would say."""
        understood = read(request.pipeline, self._settings, "")
        return pb.ValidatePipelineResponse(
            problems=[translate.problem_message(problem) for problem in told(understood.problems)], warnings=understood.definition.warnings
        )

    async def RerunPipeline(self, request: pb.RerunPipelineRequest, context: Context) -> pb.RerunPipelineResponse:  # noqa: N802, ARG002  the stub gives names and arguments
        """Begins a run that repeats an ended one."""
        old_id = request.pipeline_id
        _check_id("pipeline_id", old_id, MAX_PIPELINE_ID_BYTES)
        if request.new_pipeline_id:
            _check_id("new_pipeline_id", request.new_pipeline_id, MAX_PIPELINE_ID_BYTES)
        _check_text("triggered_by", request.triggered_by)
        new_id = request.new_pipeline_id or made_id(old_id, secrets.token_hex(4), MAX_PIPELINE_ID_BYTES)
        traceparent = spans.run(current_traceparent() or new_traceparent(), new_id)
        remade = partial(translate.rerun_request, new_id=new_id, triggered_by=request.triggered_by)
        await self._conductor.rerun(
            Rerun(old_id, new_id, request.failed_only, request.triggered_by, traceparent, callers_traceparent(), remade)
        )
        return pb.RerunPipelineResponse(pipeline_id=new_id)


def _check_id(field: str, text: str, most: int) -> None:
    if problem := id_problem(text, most):
        raise InvalidRequestError(f"{field}: {problem}")


def _check_text(field: str, text: str) -> None:
    if (size := len(text.encode())) > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{field}: has {size} bytes; {MAX_TEXT_BYTES} are the most")
