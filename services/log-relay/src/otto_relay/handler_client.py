"""The relay as a client of otto-handler (OttoHandlerLogService)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from otto_relay.answer import Answer
from otto_relay.handler import HandlerLostError, HandlerStumbledError, Receipt, Reply
from otto_relay.notices import Notice
from otto_relay.outbox import Outbox
from otto_relay.translate import forwarded, notification
from ottoscaler.v1.otto_handler_log_service_pb2 import LogForwardResponse, WorkerStatusAck

if TYPE_CHECKING:
    from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceAsyncStub

RELAY_ID = "otto-relay-id"
"""Call metadata: which relay sends, so that one that was given its own address notices."""
_ANSWERS = {LogForwardResponse.ACK: Answer.STORED, LogForwardResponse.DROP: Answer.NEVER}
_RECEIPTS = {WorkerStatusAck.RECEIVED: Receipt.TAKEN, WorkerStatusAck.IGNORED: Receipt.KNOWN}
_NEVER = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""What says that it will never take this very notice, or none at all."""
_STUMBLED = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
"""What says that something in it failed, as grpc-js does when a handler throws. Any other status is an outage."""


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _lost(error: grpc.aio.AioRpcError) -> HandlerLostError:
    kind = HandlerStumbledError if error.code() in _STUMBLED else HandlerLostError
    return kind(_words(error))


class _Lines:
    """An open ForwardWorkerLogs."""

    def __init__(self, call: Any, *, traced: bool) -> None:
        self._call = call
        self._traced = traced

    async def send(self, outbox: Outbox, entry: bytes, sequence: int, dropped: int) -> None:
        """See LineStream."""
        try:
            await self._call.write(forwarded(entry, outbox.facts, outbox.created_at, sequence, dropped, traced=self._traced))
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error
        except asyncio.InvalidStateError as error:
            raise HandlerLostError("it has ended the stream") from error

    async def receive(self, timeout: float) -> Reply:
        """See LineStream."""
        try:
            async with asyncio.timeout(timeout):
                answer = await self._call.read()
        except TimeoutError as error:
            raise HandlerLostError(f"no answer within {timeout:g} s") from error
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error
        if answer is grpc.aio.EOF:
            raise HandlerLostError("it has ended the stream")
        return Reply(_ANSWERS.get(answer.status, Answer.AGAIN), answer.message, max(answer.throttle_ms, 0) / 1000)


class OttoHandler:
    """otto-handler behind a channel."""

    def __init__(self, stub: "OttoHandlerLogServiceAsyncStub", relay_id: str, *, traced: bool = False) -> None:
        """The channel of `stub` gives notices their deadline. `traced`: it is told to which trace lines and notices belong."""
        self._stub = stub
        self._traced = traced
        self._metadata: tuple[tuple[str, str], ...] = ((RELAY_ID, relay_id),)

    @asynccontextmanager
    async def lines(self) -> AsyncIterator[_Lines]:
        """See Handler."""
        call = self._stub.ForwardWorkerLogs(metadata=self._metadata)
        try:
            yield _Lines(call, traced=self._traced)
        finally:
            call.cancel()

    async def notify(self, outbox: Outbox, notice: Notice) -> tuple[Receipt, str]:
        """See Handler."""
        metadata = self._metadata
        if self._traced and outbox.facts.traceparent:
            metadata += (("traceparent", outbox.facts.traceparent),)
        try:
            ack = await self._stub.NotifyWorkerStatus(notification(outbox.facts, notice), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() in _NEVER:
                return Receipt.REFUSED, _words(error)
            raise _lost(error) from error
        return _RECEIPTS.get(ack.status, Receipt.REFUSED), ack.message
