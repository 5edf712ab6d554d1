"""Calling the services: one channel, errors in words, streams that go on after a break."""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio

from ottoctl.contact import PATIENCE_SECONDS, Contact
from ottoctl.words import in_words, never_sent, said_by_service
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogBatch, LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import WatchWorkersRequest, WorkerEvent
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, RerunPipelineRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import WorkerPodStatus

UNARY_SECONDS = 30.0
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 10.0, 5.0
"""A connection on which nothing came for 10 s is asked for a sign of life; without one for 5 s it counts as broken."""
CONNECT_SECONDS = 5.0
"""How long one attempt to connect may take."""
STOPPING_SECONDS = 0.3
"""After how long a stream that ended well is asked for more: a service that is stopping no longer answers then."""
SUBMISSION = "ottoctl.submission"
"""The key of a run's metadata that tells whether a run is what this ottoctl asked for, when the answer was lost."""
RERUN_MARK = ".rerun-"
SHORT_ID_BYTES = 64
FINAL = frozenset({StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED})
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
T = TypeVar("T")


def trace() -> tuple[tuple[str, str], ...]:
    """Call metadata that makes what is begun a part of the trace in which ottoctl was started; empty if there is none."""
    given = os.environ.get("TRACEPARENT", "")
    return (("traceparent", given),) if TRACEPARENT.fullmatch(given) else ()


class Client:
    """The three services at one address. Made by `connect`."""

    def __init__(self, channel: grpc.aio.Channel, contact: Contact) -> None:
        self.address = contact.address
        self.contact = contact
        self.pipelines = PipelineServiceStub(channel)
        self.workers = OttoscalerServiceStub(channel)
        self.logs = LogStreamingServiceStub(channel)
        self.trace = trace()

    async def call(self, work: Awaitable[T]) -> T:
        """Awaits a unary call; raises ServiceError."""
        try:
            return await work
        except grpc.aio.AioRpcError as error:
            raise in_words(error, self.address) from None

    async def run(self, request: PipelineRequest) -> AsyncGenerator[PipelineProgress]:
        """Starts a run and yields its progress to the final message, across breaks; never starts it twice. Raises ServiceError."""
        marked = PipelineRequest()
        marked.CopyFrom(request)
        marked.metadata[SUBMISSION] = secrets.token_hex(8)
        seen = tries = 0
        stored = False

        def attach() -> Any:
            nonlocal tries
            if stored:
                return self.pipelines.WatchPipeline(WatchPipelineRequest(pipeline_id=marked.pipeline_id, after_sequence=seen))
            tries += 1
            return self.pipelines.ExecutePipeline(marked, metadata=self.trace)

        async def settle(error: grpc.aio.AioRpcError) -> bool:
            """An earlier try may have been stored although its answer never came."""
            nonlocal stored
            if stored or tries < 2 or error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                return False
            found = await self.contact.ask(
                lambda: self.pipelines.GetPipeline(GetPipelineRequest(pipeline_id=marked.pipeline_id), timeout=UNARY_SECONDS)
            )
            stored = found.request.metadata.get(SUBMISSION) == marked.metadata[SUBMISSION]
            return stored

        async for message in self.contact.lasting(attach, final, settle=settle):
            seen, stored = max(seen, message.sequence), True
            yield message

    async def rerun(self, request: RerunPipelineRequest) -> str:
        """Runs an ended pipeline again, asked again after breaks, never twice; returns the new run's id. Raises ServiceError.

        Without an id the request gets one here: one that the service makes would be another one each time it is asked.
        """
        named = RerunPipelineRequest()
        named.CopyFrom(request)
        named.new_pipeline_id = request.new_pipeline_id or made_id(request.pipeline_id)
        tries = 0

        async def ask() -> None:
            nonlocal tries
            tries += 1
            try:
                await self.pipelines.RerunPipeline(named, timeout=UNARY_SECONDS, metadata=self.trace)
            except grpc.aio.AioRpcError as error:
                if tries == 1 and (never_sent(error) or said_by_service(error)):
                    raise in_words(error, self.address) from None
                if tries == 1 or error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                found = await self.pipelines.GetPipeline(GetPipelineRequest(pipeline_id=named.new_pipeline_id), timeout=UNARY_SECONDS)
                if found.summary.rerun_of != named.pipeline_id:
                    raise in_words(error, self.address) from None

        await self.contact.ask(ask)
        return named.new_pipeline_id

    async def watch(self, pipeline_id: str, after: int = 0) -> AsyncGenerator[PipelineProgress]:
        """Yields a run's progress after a sequence to its final message, across breaks. Raises ServiceError."""
        seen = after

        def attach() -> Any:
            return self.pipelines.WatchPipeline(WatchPipelineRequest(pipeline_id=pipeline_id, after_sequence=seen))

        async for message in self.contact.lasting(attach, final):
            seen = max(seen, message.sequence)
            yield message

    async def tail(self, target: BuildIdentifier | WorkerIdentifier) -> AsyncIterator[LogBatch]:
        """Yields the selected log lines in batches, across breaks, none lost and none twice. Raises ServiceError.

        `target` is changed while it goes on: its selection is what is still to come.
        """
        known = None if isinstance(target, BuildIdentifier) or target.worker_id else _Merged()

        def attach() -> Any:
            request = TailLogsRequest()
            (request.build if isinstance(target, BuildIdentifier) else request.worker).CopyFrom(target)  # type: ignore[arg-type]  # same kind as checked
            return self.logs.TailLogs(request)

        more = True
        while more:
            more = False
            batches: AsyncIterator[LogBatch] = self.contact.lasting(attach, _never, ends_with_ok=True)
            async for batch in batches:
                if known is not None:
                    known.keep_new(batch, target)
                for sequence in [*(entry.sequence for entry in batch.entries), *(entry.sequence for entry in batch.build_entries)]:
                    if known is None:
                        target.selection.after_sequence = max(target.selection.after_sequence, sequence)
                    more = not target.selection.no_follow
                target.selection.tail_lines = 0
                yield batch
            if more:
                # A service that stops ends its streams with OK as well: only one that has nothing more to say has said all.
                await asyncio.sleep(STOPPING_SECONDS)

    async def watch_workers(self, request: WatchWorkersRequest) -> AsyncIterator[WorkerEvent]:
        """Yields the matching workers, then every change, for ever, across breaks: after one only what has changed meanwhile."""
        known: dict[str, WorkerPodStatus] = {}
        snapshot: set[str] = set()

        def attach() -> Any:
            snapshot.clear()
            return self.workers.WatchWorkers(request)

        async def settle(error: grpc.aio.AioRpcError) -> bool:
            """One that is too slow is told to watch again."""
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        synced = False
        events: AsyncIterator[WorkerEvent] = self.contact.lasting(attach, _never, settle=settle)
        async for event in events:
            worker = event.worker
            if event.type == WorkerEvent.TYPE_SYNCED:
                for name in [name for name in known if name not in snapshot]:
                    yield WorkerEvent(type=WorkerEvent.TYPE_DELETED, worker=known.pop(name))
                if not synced:
                    synced = True
                    yield event
                continue
            snapshot.add(worker.pod_name)
            if event.type == WorkerEvent.TYPE_DELETED:
                known.pop(worker.pod_name, None)
            elif known.get(worker.pod_name) == worker:
                continue
            else:
                before = known.get(worker.pod_name)
                known[worker.pod_name] = worker
                if before is not None and before.uid == worker.uid:
                    event = WorkerEvent(type=WorkerEvent.TYPE_MODIFIED, worker=worker)  # noqa: PLW2901  news, seen from here
            yield event


class _Merged:
    """What came of each of a task's workers: their sequences count per worker, so that a new stream replays what is known."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._began = False

    def keep_new(self, batch: LogBatch, target: WorkerIdentifier | BuildIdentifier) -> None:
        """Leaves in a batch what has not come before, and has the next stream begin where the first one did."""
        fresh: list[LogEntry] = [entry for entry in batch.entries if entry.sequence > self._last.get(entry.worker_id, 0)]
        for entry in fresh:
            self._last[entry.worker_id] = entry.sequence
        if batch.entries and not self._began:
            self._began = True
            if target.selection.tail_lines:
                target.selection.since_time.FromJsonString(batch.entries[0].timestamp)
        if len(fresh) < len(batch.entries):
            del batch.entries[:]
            batch.entries.extend(fresh)


def _never(_: object) -> bool:
    return False


def made_id(pipeline_id: str) -> str:
    """An id for a run that repeats this one; where that is long already no longer, as limits may leave room for no more."""
    tail = RERUN_MARK + secrets.token_hex(4)
    stem = pipeline_id.rpartition(RERUN_MARK)[0] or pipeline_id
    most = max(SHORT_ID_BYTES, len(pipeline_id.encode()))
    return stem.encode()[: most - len(tail)].decode(errors="ignore") + tail


def final(message: PipelineProgress) -> bool:
    """Whether nothing follows this message."""
    return not message.stage_id and message.status in FINAL


@asynccontextmanager
async def connect(address: str, tell: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> AsyncIterator[Client]:
    """A client of the services at `address` (host:port). Nothing is dialled before the first call. `tell` hears of breaks."""
    options = [
        ("grpc.max_receive_message_length", 8 * 1024 * 1024),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        # Without this gRPC's core waits a minute for the answer to a ping, whatever the keepalive timeout says.
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Client(channel, Contact(address, tell, patience))
