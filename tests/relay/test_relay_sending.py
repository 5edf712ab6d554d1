"""Workers that send their lines themselves: RegisterWorker, StreamLogs, ForwardWorkerLogs and NotifyWorkerStatus, over real gRPC."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
import pytest

from ottoscaler.v1.log_pb2 import LogEntry, LogSelection, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import LogResponse, RegistrationResponse, WorkerRegistration
from ottoscaler.v1.otto_handler_log_service_pb2 import (
    LogForwardResponse,
    WorkerLogEntry,
    WorkerStatusAck,
    WorkerStatusNotification,
)

from .conftest import until
from .test_relay_reading import everything, some

ACK, RETRY, DROP = LogResponse.ACK, LogResponse.RETRY, LogResponse.DROP


async def send(entries: Sequence[LogEntry]) -> AsyncIterator[LogEntry]:
    for entry in entries:
        yield entry


def entries(count: int, worker_id: str = "p-1") -> list[LogEntry]:
    return [
        LogEntry(worker_id=worker_id, task_id="t", timestamp="2026-11-24T02:00:00.123Z", level="WARN", source="stderr", message=f"line {n}")
        for n in range(1, count + 1)
    ]


async def kept(relay: Any, worker_id: str) -> list[LogEntry]:
    request = WorkerIdentifier(worker_id=worker_id, selection=LogSelection(no_follow=True))
    return await everything(relay.logs.StreamWorkerLogs(request), 20)


async def test_every_line_gets_its_answer_the_last_ones_too(relay: Any) -> None:
    """A sender that closes its side at once still gets one answer a line, in order, and all lines can be read."""
    answers = await everything(relay.logs.StreamLogs(send(entries(500))), 30)
    assert [answer.status for answer in answers] == [ACK] * 500
    assert [answer.sequence for answer in answers] == list(range(1, 501))
    got = await kept(relay, "p-1")
    assert [entry.message for entry in got] == [f"line {n}" for n in range(1, 501)]
    assert (got[0].timestamp, got[0].level, got[0].source, got[0].task_id) == ("2026-11-24T02:00:00.123Z", "WARN", "stderr", "t")


async def test_lines_of_many_workers_on_one_stream(relay: Any) -> None:
    """Sequences count per worker, and each worker's lines are its own."""
    mixed = [entry for pair in zip(entries(50, "p-1"), entries(50, "p-2"), strict=True) for entry in pair]
    answers = await everything(relay.logs.StreamLogs(send(mixed)), 20)
    assert [answer.sequence for answer in answers] == [n for n in range(1, 51) for _ in range(2)]
    assert len(await kept(relay, "p-1")) == len(await kept(relay, "p-2")) == 50


async def test_what_can_never_be_stored_is_dropped_with_the_reason(stand: Any) -> None:
    """No worker_id, a line that is too long, a worker whose log is followed: DROP says why, and the stream goes on."""
    async with stand.relay(max_line_bytes=2000):
        stand.log("w-1").write("followed")
        stand.scaler.show("w-1")
        async with asyncio.timeout(20):
            await anext(aiter(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1"))))
        wrong = [
            LogEntry(message="whose?"),
            LogEntry(worker_id="x" * 1001, message="long name"),
            LogEntry(worker_id="p-1", task_id="t", message="y" * 2001),
            LogEntry(worker_id="p-1", task_id="t", message="z", metadata={"much": "m" * 70_000}),
            LogEntry(worker_id="w-1", message="mine too"),
        ]
        answers = await everything(stand.logs.StreamLogs(send([*wrong, *entries(1)])), 20)
        assert [answer.status for answer in answers] == [DROP] * 5 + [ACK]
        for answer, word in zip(answers, ["worker_id", "worker_id", "message", "metadata", "w-1"], strict=False):
            assert word in answer.message
        assert [entry.message for entry in await kept(stand, "w-1")] == ["followed"]


async def test_a_full_disk_is_retry_and_what_is_sent_again_is_stored_once(relay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk takes nothing the answer is RETRY; sent again when it does, each line is there once, in order."""
    real, full = os.pwrite, False

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    call = relay.logs.StreamLogs()
    wanted = entries(6)
    statuses: list[int] = []
    async with asyncio.timeout(30):
        for number, entry in enumerate(wanted, start=1):
            full = number == 4
            for _ in range(3):
                await call.write(entry)
                answer = await call.read()
                statuses.append(answer.status)
                if answer.status == ACK:
                    break
                assert answer.message
                full = statuses.count(RETRY) < 2
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert statuses == [ACK, ACK, ACK, RETRY, RETRY, ACK, ACK, ACK]
    got = await kept(relay, "p-1")
    assert [(entry.sequence, entry.message) for entry in got] == [(n, f"line {n}") for n in range(1, 7)]


async def test_a_sender_that_leaves_loses_nothing_that_was_acknowledged(stand: Any) -> None:
    """Cut off in the middle, what had its ACK is there, also after a restart of the relay."""
    async with stand.relay():
        call = stand.logs.StreamLogs()
        async with asyncio.timeout(30):
            for entry in entries(20):
                await call.write(entry)
                assert (await call.read()).status == ACK
        call.cancel()
    async with stand.relay():
        assert [entry.message for entry in await kept(stand, "p-1")] == [f"line {n}" for n in range(1, 21)]
        answers = await everything(stand.logs.StreamLogs(send(entries(1))), 20)
        assert [answer.sequence for answer in answers] == [21]


async def test_registration_says_who_is_known_and_what_is_allowed(stand: Any) -> None:
    """SUCCESS with limits, ALREADY_REGISTERED with the same session, INVALID_REQUEST without a name, SERVER_FULL beyond the limit."""
    async with stand.relay(max_pushed_workers=2, push_window=7, max_line_bytes=2048):
        register = stand.logs.RegisterWorker
        first = await register(WorkerRegistration(worker_id="p-1", task_id="t"))
        again = await register(WorkerRegistration(worker_id="p-1", task_id="t"))
        assert (first.status, again.status) == (RegistrationResponse.SUCCESS, RegistrationResponse.ALREADY_REGISTERED)
        assert first.session_id == again.session_id != ""
        assert (first.config.buffer_size, first.config.max_message_size, first.config.rate_limit) == (7, 2048, 0)
        nameless = await register(WorkerRegistration(task_id="t"))
        assert (nameless.status, "worker_id" in nameless.message) == (RegistrationResponse.INVALID_REQUEST, True)
        assert (await register(WorkerRegistration(worker_id="p-2"))).status == RegistrationResponse.SUCCESS
        full = await register(WorkerRegistration(worker_id="p-3"))
        assert full.status == RegistrationResponse.SERVER_FULL
        await stand.handler.NotifyWorkerStatus(WorkerStatusNotification(worker_id="p-2", status=WorkerStatusNotification.COMPLETED))
        assert (await register(WorkerRegistration(worker_id="p-3"))).status == RegistrationResponse.SUCCESS


async def test_a_forward_stream_that_is_never_written_to_stays_open_and_ends_with_ok(stand: Any) -> None:
    """otto-handler's habit: the call stays open, disturbs nobody, and ends with OK when the relay stops."""
    async with stand.relay():
        calls = [stand.handler.ForwardWorkerLogs() for _ in range(5)]
        readings = [asyncio.ensure_future(call.read()) for call in calls]
        await asyncio.sleep(0.3)
        assert not any(reading.done() for reading in readings)
        answers = await everything(stand.logs.StreamLogs(send(entries(3))), 20)
        assert len(answers) == 3
        stand.halt.set()
        async with asyncio.timeout(20):
            assert [await reading for reading in readings] == [grpc.aio.EOF] * 5
            assert [await call.code() for call in calls] == [grpc.StatusCode.OK] * 5


async def test_forwarded_lines_are_answered_as_streamed_ones(relay: Any) -> None:
    """ForwardWorkerLogs: one LogForwardResponse a line, in order, also when the sender has closed its side."""

    async def lines() -> AsyncIterator[WorkerLogEntry]:
        for number in range(1, 101):
            yield WorkerLogEntry(worker_id="p-1" if number != 50 else "", message=f"line {number}", metadata={"a": "b"})

    answers = await everything(relay.handler.ForwardWorkerLogs(lines()), 20)
    assert [answer.status for answer in answers] == [LogForwardResponse.DROP if n == 50 else LogForwardResponse.ACK for n in range(1, 101)]
    got = await kept(relay, "p-1")
    assert [entry.message for entry in got] == [f"line {number}" for number in range(1, 101) if number != 50]
    assert dict(got[0].metadata) == {"a": "b"}


async def test_a_notice_ends_a_worker_and_its_readers(relay: Any) -> None:
    """RECEIVED for news, IGNORED for what is known or is the scaler's to tell, ERROR for what can't be; the end ends readers with OK."""
    kinds = WorkerStatusNotification
    await everything(relay.logs.StreamLogs(send(entries(2))), 20)
    call = relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="p-1"))
    assert len(await some(call, 2, 20)) == 2

    async def notify(worker_id: str, status: "WorkerStatusNotification.StatusType.ValueType") -> int:
        return int((await relay.handler.NotifyWorkerStatus(kinds(worker_id=worker_id, task_id="t", status=status))).status)

    received, ignored, error = WorkerStatusAck.RECEIVED, WorkerStatusAck.IGNORED, WorkerStatusAck.ERROR
    assert await notify("p-1", kinds.RUNNING) == received
    assert await notify("p-1", kinds.RUNNING) == ignored
    assert await notify("p-1", kinds.FAILED) == received
    assert await notify("p-1", kinds.FAILED) == ignored
    assert await notify("p-1", kinds.RUNNING) == ignored
    assert await notify("", kinds.CREATED) == error
    assert await notify("p-9", kinds.CREATED) == received
    assert await everything(call, 20) == []
    relay.log("w-1").write("x")
    relay.scaler.show("w-1")
    await until(
        lambda: (relay.directory / "spool" / "workers").is_dir() and len(list((relay.directory / "spool" / "workers").iterdir())) == 3
    )
    assert await notify("w-1", kinds.COMPLETED) == ignored


async def test_a_notice_that_otto_handler_would_not_take_is_refused(stand: Any) -> None:
    """A text that is longer than a line may be is named; it would be sent again for ever, and the worker's later notices behind it."""
    async with stand.relay(max_line_bytes=2000):
        said = WorkerStatusNotification(worker_id="p-1", task_id="t", status=WorkerStatusNotification.FAILED, reason="가" * 667)
        answer = await stand.handler.NotifyWorkerStatus(said)
        assert (answer.status, answer.message) == (WorkerStatusAck.ERROR, "reason: 2001 bytes are more than the 2000 that it may have")
        said.reason = "가" * 666
        assert (await stand.handler.NotifyWorkerStatus(said)).status == WorkerStatusAck.RECEIVED


async def test_a_worker_that_stops_sending_ends(stand: Any) -> None:
    """Without a stream for the configured time it counts as ended; sending again opens it again, and sequences go on."""
    async with stand.relay(push_idle=0.1):
        await everything(stand.logs.StreamLogs(send(entries(2))), 20)
        rest = await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="p-1")), 20)
        assert [entry.sequence for entry in rest] == [1, 2]
        answers = await everything(stand.logs.StreamLogs(send(entries(1))), 20)
        assert [answer.sequence for answer in answers] == [3]
