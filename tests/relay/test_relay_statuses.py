"""What each status that otto-handler ends a call with means for what was sent: never again, again, or again because it is away."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from otto_relay.testing import FakeHandler
from ottoscaler.v1.otto_handler_log_service_pb2 import WorkerLogEntry, WorkerStatusAck, WorkerStatusNotification

from .test_relay_push import Push, metric, push, until  # noqa: F401  the fixture

NEVER = ["INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"]
STUMBLED = ["INTERNAL", "UNKNOWN", "DATA_LOSS"]
AWAY = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "ABORTED", "UNAUTHENTICATED", "PERMISSION_DENIED"]


class Failing(FakeHandler):
    """An otto-handler that ends its first calls of a method with a status."""

    def __init__(self, code: str, method: str) -> None:
        super().__init__()
        self._code = grpc.StatusCode[code]
        self._left = {method: 6}  # one more than a channel tries by itself after UNAVAILABLE

    async def fail(self, method: str, context: Any) -> None:
        if self._left.get(method):
            self._left[method] -= 1
            await context.abort(self._code, "as the test says")

    async def NotifyWorkerStatus(self, request: WorkerStatusNotification, context: Any) -> WorkerStatusAck:  # noqa: N802 - the contract's name
        await self.fail("NotifyWorkerStatus", context)
        return await super().NotifyWorkerStatus(request, context)

    async def ForwardWorkerLogs(self, request_iterator: AsyncIterator[WorkerLogEntry], context: Any) -> None:  # type: ignore[override]  # noqa: N802  as in FakeHandler
        async def failing() -> AsyncIterator[WorkerLogEntry]:
            async for entry in request_iterator:
                await self.fail("ForwardWorkerLogs", context)
                yield entry

        await super().ForwardWorkerLogs(failing(), context)


@pytest.mark.parametrize("code", [*NEVER, *STUMBLED, *AWAY])
async def test_a_notice_that_ends_with_a_status(push: Push, caplog: pytest.LogCaptureFixture, code: str) -> None:  # noqa: F811  the fixture
    """It is refused for good, or comes again until it is taken; only what tells of otto-handler itself is called an outage."""
    push.handler = Failing(code, "NotifyWorkerStatus")
    async with push.up(), push.relay():
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(push.handler.notices) + metric("notices_refused_total") == 3)
        assert push.handler.told("w-1") == ([] if code in NEVER else ["CREATED", "RUNNING", "COMPLETED"])
    assert ("relay.handler.lost" in caplog.messages) == (code in AWAY)
    assert ("relay.handler.notice_stumbled" in caplog.messages) == (code in STUMBLED)


@pytest.mark.parametrize("code", [*NEVER, *STUMBLED, *AWAY])
async def test_a_stream_of_lines_that_ends_with_a_status(push: Push, caplog: pytest.LogCaptureFixture, code: str) -> None:  # noqa: F811  the fixture
    """No line is ever given up for it: only DROP does that. All come again, once and in order."""
    push.handler = Failing(code, "ForwardWorkerLogs")
    push.stand.log("w-1").write("one", "two", "three")
    async with push.up(), push.relay():
        push.stand.scaler.show("w-1", "running")
        await until(lambda: len(push.handler.taken) == 3)
        assert push.handler.messages("w-1") == ["one", "two", "three"]
        assert metric("dropped_total") == 0
    assert "relay.handler.stumbled" not in caplog.messages or code in STUMBLED
