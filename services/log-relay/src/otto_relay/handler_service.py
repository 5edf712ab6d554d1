"""OttoHandlerLogService, for clients that dial one address for everything: otto-handler opens ForwardWorkerLogs and may send nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from otto_relay.answer import Answer
from otto_relay.handler_client import RELAY_ID
from otto_relay.push import Notification, Pushes, Verdict
from otto_relay.service import RETRY_PAUSE
from otto_relay.translate import pushed
from ottoscaler.v1.otto_handler_log_service_pb2 import (
    DESCRIPTOR,
    LogForwardResponse,
    WorkerLogEntry,
    WorkerStatusAck,
    WorkerStatusNotification,
)
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceServicer

SERVICE = DESCRIPTOR.services_by_name["OttoHandlerLogService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
_THROTTLE_MS = 1000
_ANSWERS = {Answer.STORED: LogForwardResponse.ACK, Answer.AGAIN: LogForwardResponse.RETRY, Answer.NEVER: LogForwardResponse.DROP}
_ACKS = {Answer.STORED: WorkerStatusAck.RECEIVED, Answer.AGAIN: WorkerStatusAck.IGNORED, Answer.NEVER: WorkerStatusAck.ERROR}
_OWN = Verdict(Answer.NEVER, "this very relay has sent it: OTTO_RELAY_HANDLER_ADDRESS names the relay itself")
_OVER = {WorkerStatusNotification.COMPLETED, WorkerStatusNotification.FAILED, WorkerStatusNotification.TERMINATED}


class HandlerLogs(OttoHandlerLogServiceServicer):
    """The servicer."""

    def __init__(self, pushes: Pushes, relay_id: str) -> None:
        self._pushes = pushes
        self._relay_id = relay_id

    def _is_own(self, context: Context) -> bool:
        return (RELAY_ID, self._relay_id) in (context.invocation_metadata() or ())

    async def ForwardWorkerLogs(self, request_iterator: AsyncIterator[WorkerLogEntry], context: Context) -> None:  # type: ignore[override]  # noqa: N802  stubs know no async writer; the contract's name
        """Stores line by line; each gets its answer, in order; an idle stream stays open."""
        session = self._pushes.open()
        own = self._is_own(context)
        try:
            async for entry in request_iterator:
                verdict = _OWN if own else self._pushes.store(session, pushed(entry))
                again = verdict.answer is Answer.AGAIN
                if again:
                    await asyncio.sleep(RETRY_PAUSE)
                await context.write(
                    LogForwardResponse(
                        status=_ANSWERS[verdict.answer],
                        message=verdict.message,
                        sequence=verdict.sequence,
                        throttle_ms=_THROTTLE_MS if again else 0,
                    )
                )
        finally:
            self._pushes.close(session)

    async def NotifyWorkerStatus(self, request: WorkerStatusNotification, context: Context) -> WorkerStatusAck:  # noqa: N802 - the method's name in the contract
        """Notes what happened to a worker that sends its lines itself."""
        if self._is_own(context):
            return WorkerStatusAck(status=WorkerStatusAck.ERROR, message=_OWN.message)
        if request.status not in WorkerStatusNotification.StatusType.values():
            return WorkerStatusAck(status=WorkerStatusAck.ERROR, message=f"status: {request.status} is not known")
        name = WorkerStatusNotification.StatusType.Name(request.status)
        said = Notification(name, request.status in _OVER, request.timestamp, request.reason)
        verdict = self._pushes.notify(request.worker_id, request.task_id, said)
        return WorkerStatusAck(status=_ACKS[verdict.answer], message=verdict.message)
