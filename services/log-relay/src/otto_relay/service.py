"""LogStreamingService: lines in (StreamLogs, RegisterWorker) and lines out (StreamWorkerLogs, StreamBuildLogs, TailLogs).

What goes out is bytes already (see `wire`), so the methods that give out lines are registered without a serializer.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from otto_relay.answer import Answer
from otto_relay.build_reader import BuildReader
from otto_relay.errors import InvalidRequestError, NotReadyError, UnknownLogError
from otto_relay.lanes import Limits
from otto_relay.push import Pushes
from otto_relay.readers import task_batches, task_entries, worker_batches, worker_entries
from otto_relay.registry import Registry, Task
from otto_relay.settings import Settings
from otto_relay.spans import above, delivered
from otto_relay.tracking import Tracker
from otto_relay.translate import BuildTarget, WorkerTarget, build_target, pushed, worker_target
from otto_relay.wire import build_batch
from otto_relay.worker_log import Facts, WorkerLog
from otto_runtime.telemetry import current_traceparent, link_to, tell, telling
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import (
    DESCRIPTOR,
    LoggingConfig,
    LogResponse,
    RegistrationResponse,
    TailLogsRequest,
    WorkerRegistration,
)

Batch = TypeVar("Batch", bytes, list[bytes])
SERVICE = DESCRIPTOR.services_by_name["LogStreamingService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
RETRY_PAUSE = 0.2
"""Seconds that a RETRY takes, so that a sender that repeats at once does no harm."""
_ANSWERS = {Answer.STORED: LogResponse.ACK, Answer.AGAIN: LogResponse.RETRY, Answer.NEVER: LogResponse.DROP}


class Fleet(Protocol):
    """What the scaler says of workers that are not known here."""

    async def has(self, worker_id: str, task_id: str) -> bool:
        """Whether there is such a worker, or any of such a task. Raises NotReadyError."""
        ...


class LogStreaming:
    """The servicer."""

    def __init__(self, settings: Settings, registry: Registry, tracker: Tracker, pushes: Pushes, fleet: Fleet) -> None:
        self._fleet = fleet
        self._settings = settings
        self._registry = registry
        self._tracker = tracker
        self._pushes = pushes
        self._single = Limits(settings.batch_lines, settings.batch_bytes)
        self._batched = Limits(settings.batch_lines, settings.batch_bytes, settings.batch_linger)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the methods to a server."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "StreamLogs": grpc.stream_stream_rpc_method_handler(self.StreamLogs, LogEntry.FromString, LogResponse.SerializeToString),
            "RegisterWorker": grpc.unary_unary_rpc_method_handler(
                self.RegisterWorker, WorkerRegistration.FromString, RegistrationResponse.SerializeToString
            ),
            "StreamWorkerLogs": grpc.unary_stream_rpc_method_handler(self.StreamWorkerLogs, WorkerIdentifier.FromString, None),
            "StreamBuildLogs": grpc.unary_stream_rpc_method_handler(self.StreamBuildLogs, BuildIdentifier.FromString, None),
            "TailLogs": grpc.unary_stream_rpc_method_handler(self.TailLogs, TailLogsRequest.FromString, None),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def StreamLogs(self, requests: AsyncIterator[LogEntry], context: Context) -> None:  # noqa: N802 - the method's name in the contract
        """Stores line by line; each gets its answer, in order."""
        session = self._pushes.open()
        try:
            async for entry in requests:
                verdict = self._pushes.store(session, pushed(entry))
                if verdict.answer is Answer.AGAIN:
                    await asyncio.sleep(RETRY_PAUSE)
                await context.write(LogResponse(status=_ANSWERS[verdict.answer], message=verdict.message, sequence=verdict.sequence))
        finally:
            self._pushes.close(session)

    async def RegisterWorker(self, request: WorkerRegistration, _: Context) -> RegistrationResponse:  # noqa: N802 - the method's name in the contract
        """Makes a worker known that will send lines."""
        known, before, verdict = self._pushes.register(request.worker_id, request.task_id)
        if known is None:
            full = verdict.answer is Answer.AGAIN
            status = RegistrationResponse.SERVER_FULL if full else RegistrationResponse.INVALID_REQUEST
            return RegistrationResponse(status=status, message=verdict.message)
        return RegistrationResponse(
            status=RegistrationResponse.ALREADY_REGISTERED if before else RegistrationResponse.SUCCESS,
            message="registered before" if before else "registered",
            session_id=self._pushes.session_id(known),
            config=LoggingConfig(
                rate_limit=0,
                buffer_size=self._settings.push_window,
                max_message_size=self._settings.max_line_bytes,
                include_metadata=True,
            ),
        )

    async def StreamWorkerLogs(self, request: WorkerIdentifier, _: Context) -> AsyncIterator[bytes]:  # noqa: N802 - the method's name in the contract
        """One line a message."""
        target = worker_target(request, self._settings.max_tail_lines)
        async with aclosing(await self._worker_entries(target, self._single, "StreamWorkerLogs")) as batches:
            async for batch in batches:
                for entry in batch:
                    yield entry

    async def StreamBuildLogs(self, request: BuildIdentifier, _: Context) -> AsyncIterator[bytes]:  # noqa: N802 - the method's name in the contract
        """One entry a message."""
        target = build_target(request, self._settings.max_tail_lines)
        async with aclosing(await self._build_entries(target, self._single, "StreamBuildLogs")) as batches:
            async for batch in batches:
                for entry in batch:
                    yield entry

    async def TailLogs(self, request: TailLogsRequest, _: Context) -> AsyncIterator[bytes]:  # noqa: N802 - the method's name in the contract
        """Many entries a message."""
        which = request.WhichOneof("target")
        if which == "worker":
            target = worker_target(request.worker, self._settings.max_tail_lines, "worker.")
            async with aclosing(await self._worker_batches(target)) as batches:
                async for encoded in batches:
                    yield encoded
        elif which == "build":
            chosen = build_target(request.build, self._settings.max_tail_lines, "build.")
            async with aclosing(await self._build_entries(chosen, self._batched, "TailLogs")) as batches:
                async for batch in batches:
                    yield build_batch(batch)
        else:
            raise InvalidRequestError("target: give worker or build")

    async def _worker_entries(self, target: WorkerTarget, limits: Limits, method: str) -> Any:
        known = await self._found(target)
        if isinstance(known, WorkerLog):
            return delivering(worker_entries(known, target.selection, limits), method, lambda: above([known]))
        return delivering(task_entries(known, target.selection, limits, self._settings.merge_linger), method, lambda: _above_all(known))

    async def _worker_batches(self, target: WorkerTarget) -> Any:
        known = await self._found(target)
        if isinstance(known, WorkerLog):
            return delivering(worker_batches(known, target.selection, self._batched), "TailLogs", lambda: above([known]))
        batches = task_batches(known, target.selection, self._batched, self._settings.merge_linger)
        return delivering(batches, "TailLogs", lambda: _above_all(known))

    async def _found(self, target: WorkerTarget) -> WorkerLog | Task:
        """The worker, or the task if none is named."""
        await self._appears(target.worker_id, target.task_id)
        if target.worker_id:
            known = self._registry.workers.get(target.worker_id)
            if known is None or (target.task_id and known.facts.task_id != target.task_id):
                of_task = f" of task {target.task_id!r}" if target.task_id else ""
                raise UnknownLogError(f"NOT_FOUND: no worker {target.worker_id!r}{of_task}, or its lines are not kept any more")
            if target.selection.after_sequence > known.spool.last:
                raise InvalidRequestError(f"selection.after_sequence: the last sequence of this worker is {known.spool.last}")
            return known
        task = self._registry.tasks.get(target.task_id)
        if task is None:
            raise UnknownLogError(f"NOT_FOUND: no worker of task {target.task_id!r}, or their lines are not kept any more")
        return task

    async def _appears(self, worker_id: str, task_id: str) -> None:
        """A worker that was just made is known to the scaler some milliseconds before it is known here: waits for it."""
        registry = self._registry

        def here() -> bool:
            return worker_id in registry.workers if worker_id else task_id in registry.tasks

        if here() or not await self._fleet.has(worker_id, task_id):
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.peer_timeout
        while not here():
            left = deadline - loop.time()
            if left <= 0:
                raise NotReadyError("the scaler has this worker, but has not shown it yet; try again")
            await registry.bell.wait(left)

    async def _build_entries(self, target: BuildTarget, limits: Limits, method: str) -> Any:
        build = await self._tracker.find(target.pipeline_id, self._settings.peer_timeout)
        part = target.part
        if part.stage_id and not build.has_stage(part.stage_id):
            if not (build.described or build.ended):
                raise NotReadyError("the pipeline-executor can't be asked about this pipeline now; try again")
            raise UnknownLogError(f"NOT_FOUND: pipeline {target.pipeline_id!r} has no stage {part.stage_id!r}")
        if part.worker_id and not build.has_member(part.worker_id):
            await self._appears(part.worker_id, "")
        if part.worker_id and not build.has_member(part.worker_id):
            raise UnknownLogError(f"NOT_FOUND: pipeline {target.pipeline_id!r} has no worker {part.worker_id!r}")
        if target.selection.after_sequence > build.count:
            raise InvalidRequestError(f"selection.after_sequence: the last sequence of this pipeline is {build.count}")
        entries = BuildReader(self._registry, build, part, target.selection).entries(limits, self._settings.heartbeat)
        return delivering(entries, method, lambda: above(self._registry.workers_of(build), target.pipeline_id, part.stage_id))


def _above_all(task: Task) -> str:
    facts = task.workers[0].facts if task.workers else Facts("")
    return above(task.workers, facts.pipeline_id, facts.stage_id)


def delivering(batches: AsyncGenerator[Batch], method: str, above_it: Callable[[], str]) -> AsyncGenerator[Batch]:
    """The batches as they are; where somebody is told of what happens, of their delivery too, as a part of what is read.

    That is asked for at the end: when a run has just begun, none of its workers is known.
    """
    return _told(batches, method, above_it) if telling() else batches


async def _told(batches: AsyncGenerator[Batch], method: str, above_it: Callable[[], str]) -> AsyncGenerator[Batch]:
    began, call, amount, unit = time.time_ns(), current_traceparent(), 0, "log_bytes"
    try:
        async with aclosing(batches):
            async for batch in batches:
                unit = "log_lines" if isinstance(batch, list) else unit
                amount += len(batch)
                yield batch
    finally:
        parent = above_it()
        link_to(parent)
        tell("otto_relay", delivered(parent, call, began, time.time_ns(), method, {unit: amount}))
