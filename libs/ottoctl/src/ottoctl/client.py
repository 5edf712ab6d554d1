"""Calling the services: one channel, errors in words, streams that go on after a break.

ServiceError         the service answered with an error; `exit_code` says which ottoctl ends with
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio

from ottoctl import exit_codes
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogBatch, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import StageStatus

UNARY_SECONDS = 30.0
GIVE_UP_SECONDS = 120.0
"""How long a stream is tried again without a single message before ottoctl gives up."""
STOPPING_SECONDS = 0.3
"""After how long a stream that ended well is asked for more: a service that is stopping no longer answers then."""
FINAL = frozenset({StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED})
T = TypeVar("T")


class ServiceError(Exception):
    """What the service said, with a hint where there is one."""

    def __init__(self, text: str, exit_code: int = exit_codes.SERVICE_ERROR) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def in_words(error: grpc.aio.AioRpcError, address: str) -> ServiceError:
    """A status as a person reads it."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceError(
            f"can't reach Ottoscaler at {address}. Is it running? `make serve` starts it; "
            f"--address or OTTO_ADDRESS names another one. ({details})",
            exit_codes.UNREACHABLE,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServiceError(f"Ottoscaler at {address} did not answer in time", exit_codes.UNREACHABLE)
    usage = code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}
    return ServiceError(f"{code.name}: {details}", exit_codes.USAGE if usage else exit_codes.SERVICE_ERROR)


def broken(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection broke, so that the same can be asked again.

    A backend that is killed behind a proxy shows as INTERNAL with RST_STREAM.
    """
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return True
    return error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN} and any(
        word in (error.details() or "") for word in ("RST_STREAM", "Stream removed", "GOAWAY")
    )


class Client:
    """The three services at one address. Made by `connect`."""

    def __init__(self, channel: grpc.aio.Channel, address: str, notice: Callable[[str], None]) -> None:
        self.address = address
        self.pipelines = PipelineServiceStub(channel)
        self.workers = OttoscalerServiceStub(channel)
        self.logs = LogStreamingServiceStub(channel)
        self._notice = notice

    async def call(self, work: Awaitable[T]) -> T:
        """Awaits a unary call; raises ServiceError."""
        try:
            return await work
        except grpc.aio.AioRpcError as error:
            raise in_words(error, self.address) from None

    async def run(self, request: PipelineRequest) -> AsyncIterator[PipelineProgress]:
        """Starts a run and yields its progress to the final message, across breaks. Raises ServiceError."""
        seen = 0
        try:
            async for message in self.pipelines.ExecutePipeline(request):
                seen = message.sequence
                yield message
                if final(message):
                    return
        except grpc.aio.AioRpcError as error:
            if not broken(error) or not seen:
                raise in_words(error, self.address) from None
        async for message in self.watch(request.pipeline_id, seen):
            yield message

    async def watch(self, pipeline_id: str, after: int = 0) -> AsyncIterator[PipelineProgress]:
        """Yields a run's progress after a sequence to its final message, across breaks. Raises ServiceError."""
        seen = after

        def attach() -> AsyncIterator[PipelineProgress]:
            return aiter(self.pipelines.WatchPipeline(WatchPipelineRequest(pipeline_id=pipeline_id, after_sequence=seen)))

        async for message in self._lasting(attach, final):
            seen = message.sequence
            yield message

    async def tail(self, target: BuildIdentifier | WorkerIdentifier) -> AsyncIterator[LogBatch]:
        """Yields the selected log lines in batches, across breaks where the selection counts one sequence. Raises ServiceError."""
        resumable = isinstance(target, BuildIdentifier) or bool(target.worker_id)

        def attach() -> AsyncIterator[LogBatch]:
            request = TailLogsRequest()
            (request.build if isinstance(target, BuildIdentifier) else request.worker).CopyFrom(target)  # type: ignore[arg-type]  # same kind as checked
            return aiter(self.logs.TailLogs(request))

        if not resumable:
            try:
                async for batch in attach():
                    yield batch
            except grpc.aio.AioRpcError as error:
                raise in_words(error, self.address) from None
            return
        more = True
        while more:
            more = False
            async for batch in self._lasting(attach, lambda _: False, ends_with_ok=True):
                for sequence in [*(entry.sequence for entry in batch.entries), *(entry.sequence for entry in batch.build_entries)]:
                    target.selection.after_sequence = max(target.selection.after_sequence, sequence)
                    more = not target.selection.no_follow
                target.selection.tail_lines = 0
                yield batch
            if more:
                # A service that stops ends its streams with OK as well: only one that has nothing more to say has said all.
                await asyncio.sleep(STOPPING_SECONDS)

    async def _lasting(
        self, attach: Callable[[], AsyncIterator[T]], is_last: Callable[[T], bool], *, ends_with_ok: bool = False
    ) -> AsyncIterator[T]:
        """Attaches again and again until the last message; says so when a connection breaks."""
        loop = asyncio.get_running_loop()
        last_heard, delay, told = loop.time(), 0.1, False
        while True:
            try:
                async for message in attach():
                    if told:
                        self._notice("connected again")
                        told = False
                    last_heard, delay = loop.time(), 0.1
                    yield message
                    if is_last(message):
                        return
                if ends_with_ok:
                    return
            except grpc.aio.AioRpcError as error:
                if not broken(error) or loop.time() - last_heard > GIVE_UP_SECONDS:
                    raise in_words(error, self.address) from None
                if not told:
                    self._notice(f"lost the connection to {self.address}; the pipeline goes on, trying again")
                    told = True
            await asyncio.sleep(random.uniform(delay / 2, delay))
            delay = min(delay * 2, 2.0)


def final(message: PipelineProgress) -> bool:
    """Whether nothing follows this message."""
    return not message.stage_id and message.status in FINAL


@asynccontextmanager
async def connect(address: str, notice: Callable[[str], None]) -> AsyncIterator[Client]:
    """A client of the services at `address` (host:port). Nothing is dialled before the first call. `notice` hears of breaks."""
    options = [
        ("grpc.max_receive_message_length", 8 * 1024 * 1024),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Client(channel, address, notice)
