"""Doubles of what the relay stands between, a scaler, an executor and an otto-handler, which do what a test tells them. For tests only."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from otto_runtime.times import rfc3339
from ottoscaler.v1 import pipeline_pb2, pipeline_service_pb2, stage_pb2
from ottoscaler.v1.otto_handler_log_service_pb2 import LogForwardResponse, WorkerLogEntry, WorkerStatusAck, WorkerStatusNotification
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import (
    OttoHandlerLogServiceServicer,
    add_OttoHandlerLogServiceServicer_to_server,
)
from ottoscaler.v1.ottoscaler_service_pb2 import (
    ReleaseWorkersRequest,
    ReleaseWorkersResponse,
    WatchWorkersRequest,
    WorkerEvent,
    WorkerStatusRequest,
    WorkerStatusResponse,
)
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceServicer, add_OttoscalerServiceServicer_to_server
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceServicer, add_PipelineServiceServicer_to_server
from ottoscaler.v1.worker_pb2 import WorkerPodStatus


class LogFile:
    """A worker's log as the process backend writes it."""

    def __init__(self, directory: Path, worker_id: str) -> None:
        self.path = directory / worker_id / "log"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._time = 1_763_949_600_000_000_000

    def write(self, *texts: str | bytes, stderr: bool = False, part: bool = False) -> None:
        """Appends lines, each a microsecond after the last."""
        stream = b"stderr" if stderr else b"stdout"
        data = []
        for text in texts:
            self._time += 1000
            encoded = text.encode() if isinstance(text, str) else text
            data.append(b"%b %b %b %b\n" % (self.stamp(self._time).encode(), stream, b"P" if part else b"F", encoded))
        with self.path.open("ab") as file:
            file.write(b"".join(data))

    @staticmethod
    def stamp(nanoseconds: int) -> str:
        """RFC 3339 with nanoseconds."""
        return rfc3339(nanoseconds)[:20] + f"{nanoseconds % 1_000_000_000:09d}Z"


class FakeScaler(OttoscalerServiceServicer):
    """Shows the workers that a test puts there."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerPodStatus] = {}
        self.released: list[str] = []
        self._watchers: set[asyncio.Queue[WorkerEvent | None]] = set()

    def show(self, worker_id: str, status: str = "running", **fields: Any) -> None:
        """A worker is there, or has changed."""
        known = worker_id in self.workers
        fields.setdefault("task_id", "task")
        if status != "pending":
            fields.setdefault("started_at", "2026-11-24T02:00:00.000Z")
        worker = WorkerPodStatus(pod_name=worker_id, status=status, **fields)
        self.workers[worker_id] = worker
        kind = WorkerEvent.TYPE_MODIFIED if known else WorkerEvent.TYPE_ADDED
        self._tell(WorkerEvent(type=kind, worker=worker))

    def remove(self, worker_id: str) -> None:
        """A worker is gone."""
        self._tell(WorkerEvent(type=WorkerEvent.TYPE_DELETED, worker=self.workers.pop(worker_id)))

    def end_watches(self) -> None:
        """Ends all watches with OK, as a stop does."""
        self._tell(None)

    def _tell(self, event: WorkerEvent | None) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(event)

    async def WatchWorkers(self, _request: WatchWorkersRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802  stubs know no async writer; the contract's name
        """See the contract."""
        queue: asyncio.Queue[WorkerEvent | None] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            for worker in list(self.workers.values()):
                await context.write(WorkerEvent(type=WorkerEvent.TYPE_ADDED, worker=worker))
            await context.write(WorkerEvent(type=WorkerEvent.TYPE_SYNCED))
            while (event := await queue.get()) is not None:
                await context.write(event)
        finally:
            self._watchers.discard(queue)

    async def GetWorkerStatus(self, request: WorkerStatusRequest, _context: Any) -> WorkerStatusResponse:  # noqa: N802 - the contract's name
        """See the contract."""
        found = [
            worker
            for worker in self.workers.values()
            if request.worker_pod_name in {"", worker.pod_name} and request.task_id in {"", worker.task_id}
        ]
        return WorkerStatusResponse(total_count=len(found), workers=found)

    async def ReleaseWorkers(self, request: ReleaseWorkersRequest, _context: Any) -> ReleaseWorkersResponse:  # noqa: N802 - the method's name in the contract
        """See the contract."""
        self.released += request.worker_pod_names
        return ReleaseWorkersResponse(released_count=len(request.worker_pod_names))


class FakeExecutor(PipelineServiceServicer):
    """Tells of runs what a test says."""

    def __init__(self) -> None:
        self.stages: dict[str, list[pipeline_pb2.StageRun]] = {}
        self.said: dict[str, list[pipeline_pb2.PipelineProgress]] = {}
        self.forgotten: set[str] = set()
        """Runs that can be described but not watched any more: forgotten between the two calls."""
        self._changed = asyncio.Condition()

    def add(self, pipeline_id: str, *stage_ids: str) -> None:
        """There is such a run."""
        self.said[pipeline_id] = []
        self.stages[pipeline_id] = [
            pipeline_pb2.StageRun(stage_id=stage, name=stage.title(), type=stage_pb2.STAGE_TYPE_TEST) for stage in stage_ids
        ]

    async def say(self, pipeline_id: str, stage_id: str, status: int, attempt: int = 1, workers: Sequence[str] = ()) -> None:
        """The run goes on."""
        said = self.said[pipeline_id]
        said.append(
            pipeline_pb2.PipelineProgress(
                pipeline_id=pipeline_id,
                stage_id=stage_id,
                status=stage_pb2.StageStatus.ValueType(status),
                attempt=attempt if stage_id else 0,
                worker_pod_names=workers,
                sequence=len(said) + 1,
            )
        )
        async with self._changed:
            self._changed.notify_all()

    async def GetPipeline(self, request: Any, context: Any) -> pipeline_service_pb2.GetPipelineResponse:  # noqa: N802 - the method's name in the contract
        """See the contract."""
        if request.pipeline_id not in self.said:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        return pipeline_service_pb2.GetPipelineResponse(stages=self.stages[request.pipeline_id])

    async def WatchPipeline(self, request: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802  stubs know no async writer; the contract's name
        """See the contract."""
        if request.pipeline_id not in self.said or request.pipeline_id in self.forgotten:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        said = self.said[request.pipeline_id]
        at = request.after_sequence
        while True:
            while at < len(said):
                await context.write(said[at])
                at += 1
                if not said[at - 1].stage_id and said[at - 1].status in {
                    stage_pb2.STAGE_COMPLETED,
                    stage_pb2.STAGE_FAILED,
                    stage_pb2.STAGE_CANCELLED,
                }:
                    return
            async with self._changed:
                while at >= len(said):
                    await self._changed.wait()


@asynccontextmanager
async def peers(scaler: FakeScaler, executor: FakeExecutor, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Both on one port of this machine; gives the address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_OttoscalerServiceServicer_to_server(scaler, server)
    add_PipelineServiceServicer_to_server(executor, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


class FakeHandler(OttoHandlerLogServiceServicer):
    """otto-handler: answers as a test tells it, and remembers everything that reached it, over any number of restarts."""

    def __init__(self) -> None:
        self.got: list[WorkerLogEntry] = []
        """Every line that arrived."""
        self.taken: list[WorkerLogEntry] = []
        """Those that were acknowledged."""
        self.notices: list[WorkerStatusNotification] = []
        self.streams = 0
        self.answer: Callable[[WorkerLogEntry], LogForwardResponse | None] = lambda _: LogForwardResponse()
        """What to say of a line; None: nothing, ever."""
        self.acknowledge: Callable[[WorkerStatusNotification], WorkerStatusAck | None] = lambda _: WorkerStatusAck()
        """What to say of a notice; None: nothing, ever."""
        self.slowness = 0.0
        """Seconds that each line takes."""

    def messages(self, worker_id: str) -> list[str]:
        """The acknowledged lines of a worker as they came."""
        return [entry.message for entry in self.taken if entry.worker_id == worker_id]

    def sequences(self, worker_id: str) -> list[int]:
        """The sequences of the acknowledged lines of a worker as they came."""
        return [int(entry.metadata["otto.sequence"]) for entry in self.taken if entry.worker_id == worker_id]

    def told(self, worker_id: str) -> list[str]:
        """The kinds of a worker's notices as they came."""
        kinds = WorkerStatusNotification.StatusType
        return [kinds.Name(notice.status) for notice in self.notices if notice.worker_id == worker_id]

    async def ForwardWorkerLogs(self, request_iterator: AsyncIterator[WorkerLogEntry], context: Any) -> None:  # type: ignore[override]  # noqa: N802  stubs know no async writer; the contract's name
        """See the contract."""
        self.streams += 1
        async for entry in request_iterator:
            self.got.append(entry)
            if self.slowness:
                await asyncio.sleep(self.slowness)
            answer = self.answer(entry)
            if answer is None:
                await asyncio.Event().wait()
                return
            if answer.status == LogForwardResponse.ACK:
                self.taken.append(entry)
            await context.write(answer)

    async def NotifyWorkerStatus(self, request: WorkerStatusNotification, _context: Any) -> WorkerStatusAck:  # noqa: N802 - the method's name in the contract
        """See the contract."""
        self.notices.append(request)
        ack = self.acknowledge(request)
        if ack is None:
            await asyncio.Event().wait()
            raise AssertionError
        return ack


@asynccontextmanager
async def handling(handler: FakeHandler, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """otto-handler on a port of this machine; gives the address. Leaving it is how it dies: open streams end with an error."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_OttoHandlerLogServiceServicer_to_server(handler, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
