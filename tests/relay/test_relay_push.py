"""Lines and notices pushed to otto-handler, over real gRPC, to one that is slow, picky, hanging, dead or restarted."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from otto_relay.positions import unpack
from otto_relay.testing import FakeHandler, handling
from otto_runtime.settings import SettingsError, load
from ottoscaler.v1.log_pb2 import LogEntry
from ottoscaler.v1.otto_handler_log_service_pb2 import LogForwardResponse, WorkerLogEntry, WorkerStatusAck, WorkerStatusNotification
from ottoscaler.v1.worker_pb2 import FailureCause

from .conftest import Stand
from .conftest import until as within

ACK, RETRY, DROP = LogForwardResponse.ACK, LogForwardResponse.RETRY, LogForwardResponse.DROP


def say(status: "LogForwardResponse.Status.ValueType", throttle_ms: int = 0) -> LogForwardResponse:
    return LogForwardResponse(status=status, throttle_ms=throttle_ms, message="as the test says")


def metric(name: str) -> float:
    """What `/metrics` shows now."""
    value = REGISTRY.get_sample_value(f"otto_relay_handler_{name}")
    assert value is not None
    return value


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition; generous, because the machine may be busy."""
    await within(condition, seconds)


class Push:
    """A relay that pushes, and the otto-handler it pushes to."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.handler = FakeHandler()
        self.address = ""

    @asynccontextmanager
    async def relay(self, **settings: Any) -> AsyncIterator[None]:
        chosen: dict[str, Any] = {"handler_address": self.address, "handler_longest_wait": 0.2, "handler_timeout": 5.0, **settings}
        async with self.stand.relay(**chosen):
            yield

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """otto-handler runs while this is entered, always on the same port."""
        async with handling(self.handler, self.address or "127.0.0.1:0") as self.address:
            yield


@pytest.fixture
def push(stand: Stand) -> Push:
    return Push(stand)


def numbered(count: int, name: str = "line") -> list[str]:
    return [f"{name} {number}" for number in range(1, count + 1)]


async def test_lines_are_pushed_in_order_with_all_that_is_known_of_them(push: Push) -> None:
    """Each line arrives once, with its worker, task, stage and sequence; lines that come later follow at once."""
    async with push.up(), push.relay():
        log = push.stand.log("w-1")
        log.write(*numbered(300))
        push.stand.executor.add("p", "lint")
        push.stand.scaler.show("w-1", pipeline_id="p", stage_id="lint", attempt=2, created_at="2026-11-24T01:59:59.000Z")
        await until(lambda: len(push.handler.taken) == 300)
        log.write("ERROR late", stderr=True)
        await until(lambda: len(push.handler.taken) == 301)
        last = push.handler.taken[-1]
        assert push.handler.messages("w-1") == [*numbered(300), "ERROR late"]
        assert push.handler.sequences("w-1") == list(range(1, 302))
        assert (last.task_id, last.level, last.source) == ("task", "ERROR", "stderr")
        assert (last.pod_metadata.pod_name, last.pod_metadata.created_at) == ("w-1", "2026-11-24T01:59:59.000Z")
        assert dict(last.metadata) == {"otto.sequence": "301", "otto.pipeline_id": "p", "otto.stage_id": "lint", "otto.attempt": "2"}
        await until(lambda: metric("backlog_lines") == 0)
        assert metric("pushed_total") == 301


async def test_a_receiver_that_retries_consistently_gets_every_line_once_in_order(push: Push) -> None:
    """RETRY for a line and those behind it brings them again from that line on: what is acknowledged is in order, without repeats."""
    asked: Counter[str] = Counter()
    expected: Counter[str] = Counter()

    def answer(entry: WorkerLogEntry) -> LogForwardResponse:
        sequence, key = int(entry.metadata["otto.sequence"]), f"{entry.worker_id}/{entry.metadata['otto.sequence']}"
        asked[key] += 1
        if sequence != expected[entry.worker_id] + 1 or (sequence % 20 == 0 and asked[key] < 3):
            return say(RETRY)
        expected[entry.worker_id] = sequence
        return say(ACK)

    push.handler.answer = answer
    async with push.up(), push.relay():
        for name in ("w-1", "w-2"):
            push.stand.log(name).write(*numbered(100, name))
            push.stand.scaler.show(name, "succeeded")
        await until(lambda: len(push.handler.taken) == 200)
        assert push.handler.messages("w-1") == numbered(100, "w-1")
        assert push.handler.messages("w-2") == numbered(100, "w-2")
        assert metric("retried_total") == len(push.handler.got) - 200 >= 20


async def test_one_retry_among_many_repeats_only_that_line(push: Push) -> None:
    """A line that was asked for again comes again, and no line that was acknowledged does."""
    asked: list[int] = []

    def answer(entry: WorkerLogEntry) -> LogForwardResponse:
        sequence = int(entry.metadata["otto.sequence"])
        asked.append(sequence)
        return say(RETRY if sequence == 200 and asked.count(200) < 3 else ACK)

    push.handler.answer = answer
    async with push.up(), push.relay():
        push.stand.log("w-1").write(*numbered(500))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(push.handler.taken) == 500)
        assert sorted(asked) == sorted([*range(1, 501), 200, 200])
        assert sorted(push.handler.sequences("w-1")) == list(range(1, 501))


async def test_a_window_of_one_keeps_the_order_whatever_the_answers(push: Push) -> None:
    """With OTTO_RELAY_HANDLER_WINDOW=1 a line that is asked for again comes before any line behind it."""
    asked: Counter[str] = Counter()

    def answer(entry: WorkerLogEntry) -> LogForwardResponse:
        asked[entry.message] += 1
        return say(RETRY if len(entry.message) % 2 and asked[entry.message] < 2 else ACK)

    push.handler.answer = answer
    async with push.up(), push.relay(handler_window=1):
        push.stand.log("w-1").write(*numbered(30))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(push.handler.taken) == 30)
        assert push.handler.messages("w-1") == numbered(30)


async def test_dropped_lines_are_given_up_and_counted(push: Push) -> None:
    """DROP: the line does not come again, the others do, the count is a metric."""
    push.handler.answer = lambda entry: say(DROP if entry.message.endswith("7") else ACK)
    async with push.up(), push.relay():
        push.stand.log("w-1").write(*numbered(100))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(push.handler.got) == 100 and metric("backlog_lines") == 0)
        assert push.handler.messages("w-1") == [line for line in numbered(100) if not line.endswith("7")]
        assert metric("dropped_total") == 10


async def test_a_throttle_pauses_the_push_before_the_next_line(push: Push) -> None:
    """After an answer with throttle_ms nothing is sent for that long, from the first line on."""
    times: list[float] = []

    def answer(_entry: WorkerLogEntry) -> LogForwardResponse:
        times.append(asyncio.get_running_loop().time())
        return say(ACK, 60)

    push.handler.answer = answer
    async with push.up(), push.relay():
        push.stand.log("w-1").write(*numbered(6))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(times) == 6)
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.059


async def test_an_outage_is_caught_up(push: Push) -> None:
    """Killed and away for a while, otto-handler gets what came meanwhile, also of workers that came and ended; nothing taken repeats."""
    async with push.up():
        pass
    scaler = push.stand.scaler
    async with push.relay():
        log = push.stand.log("w-1")
        log.write(*numbered(50))
        scaler.show("w-1")
        async with push.up():
            await until(lambda: len(push.handler.taken) == 50)
        await until(lambda: metric("unanswered_lines") == 0)
        log.write(*numbered(100)[50:])
        scaler.show("w-1", "succeeded")
        push.stand.log("w-2").write(*numbered(40))
        scaler.show("w-2", "failed", failure_cause=FailureCause.FAILURE_CAUSE_EXIT_CODE, error_message="exit code 3", exit_code=3)
        await until(lambda: metric("backlog_lines") == 90)
        async with push.up():
            await until(lambda: len(push.handler.taken) == 140)
            await until(lambda: len(push.handler.told("w-2")) == 3 and len(push.handler.told("w-1")) == 3)
    assert push.handler.sequences("w-1") == list(range(1, 101))
    assert push.handler.messages("w-2") == numbered(40)
    assert push.handler.told("w-1") == ["CREATED", "RUNNING", "COMPLETED"]
    assert push.handler.told("w-2") == ["CREATED", "RUNNING", "FAILED"]
    failed = next(one for one in push.handler.notices if one.status == WorkerStatusNotification.FAILED)
    assert failed.reason == "EXIT_CODE: exit code 3"
    assert dict(failed.metadata) == {"otto.exit_code": "3", "otto.failure_cause": "EXIT_CODE", "otto.notice_sequence": "3"}


async def test_what_was_sent_and_not_answered_is_sent_again(push: Push) -> None:
    """A stream that hangs is given up after the deadline; the lines without an answer, and only those, come again on a new one."""
    push.handler.answer = lambda entry: None if push.handler.streams == 1 and entry.metadata["otto.sequence"] == "41" else say(ACK)
    async with push.up(), push.relay(handler_timeout=0.5):
        push.stand.log("w-1").write(*numbered(80))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(push.handler.taken) == 80)
        assert push.handler.streams >= 2
        assert push.handler.sequences("w-1") == list(range(1, 81))
        assert {entry.metadata["otto.sequence"] for entry in push.handler.got[:40]} == {str(number) for number in range(1, 41)}
        assert all(int(entry.metadata["otto.sequence"]) > 40 for entry in push.handler.got[40:])


async def test_a_relay_that_is_started_again_goes_on_where_the_answers_ended(push: Push) -> None:
    """Stopped in the middle and started again, the relay repeats nothing that was acknowledged, and the holes of RETRY are filled."""
    refused = {"10", "30"}

    def answer(entry: WorkerLogEntry) -> LogForwardResponse | None:
        sequence = entry.metadata["otto.sequence"]
        if sequence in refused:
            return say(RETRY)
        return say(ACK) if len(push.handler.taken) < 60 or not refused else None

    push.handler.answer = answer
    push.stand.log("w-1").write(*numbered(200))
    push.stand.scaler.show("w-1")
    async with push.up():
        async with push.relay(handler_window=100):
            await until(lambda: "10" in {entry.metadata["otto.sequence"] for entry in push.handler.got} and metric("pushed_total") >= 5)
            acknowledged = metric("pushed_total")
        (path,) = (push.stand.directory / "spool" / "handler").glob("*.at")
        position = unpack(path.read_bytes())
        assert position is not None
        assert position.answered - len(position.again) >= acknowledged
        refused.clear()
        before = len(push.handler.taken)
        async with push.relay(handler_window=100):
            await until(lambda: metric("backlog_lines") == 0)
    assert push.handler.sequences("w-1")[before:] == [*position.again, *range(position.answered + 1, 201)]
    assert set(push.handler.sequences("w-1")) == set(range(1, 201))


async def test_a_slow_receiver_slows_down_nobody_else(push: Push) -> None:
    """While otto-handler takes its time, the collector stores everything, and at most the window is on its way."""
    push.handler.slowness = 0.05
    async with push.up(), push.relay(handler_window=16):
        push.stand.log("w-1").write(*numbered(20_000))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: push.stand.scaler.released == ["w-1"])
        assert len(push.handler.taken) < 1000
        assert metric("unanswered_lines") <= 16
        assert metric("backlog_lines") > 19_000


async def test_workers_take_turns(push: Push) -> None:
    """A worker with a long backlog does not keep the line of another waiting until it is through."""
    async with push.up(), push.relay():
        push.stand.log("w-1").write(*numbered(1_500))
        push.stand.scaler.show("w-1")
        await until(lambda: len(push.handler.taken) > 10)
        push.stand.log("w-2").write("here")
        push.stand.scaler.show("w-2")
        await until(lambda: "w-2" in {entry.worker_id for entry in push.handler.taken})
        assert len(push.handler.messages("w-1")) < 1_500
        await until(lambda: len(push.handler.taken) == 1_501)


async def test_a_line_that_is_never_taken_blocks_its_own_worker_only(push: Push) -> None:
    """Endless RETRY for one worker's line: the lines of others arrive, and that line stays owed."""
    push.handler.answer = lambda entry: say(RETRY if entry.worker_id == "w-1" else ACK)
    async with push.up(), push.relay():
        push.stand.log("w-1").write("never")
        push.stand.scaler.show("w-1")
        await until(lambda: metric("retried_total") >= 2)
        push.stand.log("w-2").write(*numbered(50))
        push.stand.scaler.show("w-2")
        await until(lambda: len(push.handler.taken) == 50)
        await until(lambda: metric("backlog_lines") == 1)  # the answer to the last line may be on its way


async def test_lines_that_retention_deleted_are_a_counted_gap(push: Push) -> None:
    """Lines deleted before they could be pushed: a line in their place says how many, and so does a metric."""
    async with push.up():
        pass
    settings = {"segment_bytes": 4096, "retention_bytes": 100_000, "retention_interval": 0.05}
    async with push.relay(**settings):
        log = push.stand.log("w-1")
        for start in range(0, 3_000, 100):
            log.write(*numbered(3_000)[start : start + 100])
            push.stand.scaler.show("w-1")
            await until(lambda: metric("backlog_lines") == start + 100)  # noqa: B023 - awaited in this round
        segments = push.stand.directory / "spool" / "workers"
        await until(lambda: sum(path.stat().st_size for path in segments.glob("*/*.seg")) <= 100_000)
        async with push.up():
            await until(lambda: metric("backlog_lines") == 0)
        gap = push.handler.taken[0]
        missing = int(gap.metadata["otto.missing"])
        assert gap.message == f"[ottoscaler] {missing} lines are missing here: they were deleted before they could be sent"
        assert (gap.level, gap.source, gap.metadata["otto.sequence"]) == ("WARN", "stderr", str(missing))
        assert push.handler.messages("w-1")[1:] == numbered(3_000)[missing:]
        assert metric("missing_total") == missing > 1000


async def test_a_worker_that_retention_deleted_whole_is_still_told_of(push: Push) -> None:
    """All lines of an ended worker deleted while otto-handler was away: it gets count and notices, also after a restart of the relay."""
    async with push.up():
        pass
    async with push.relay(retention_seconds=0.2, retention_interval=0.05):
        push.stand.log("w-1").write(*numbered(30))
        push.stand.scaler.show("w-1", "succeeded", uid="one")
        await until(lambda: push.stand.scaler.released == ["w-1"])
        spool = push.stand.directory / "spool" / "workers"
        await until(lambda: not list(spool.iterdir()))
    push.stand.scaler.remove("w-1")
    async with push.relay(), push.up():
        await until(lambda: len(push.handler.taken) == 1 and len(push.handler.notices) == 3)
        assert push.handler.taken[0].metadata["otto.missing"] == "30"
        assert push.handler.told("w-1") == ["CREATED", "RUNNING", "COMPLETED"]
        await until(lambda: not list((push.stand.directory / "spool" / "handler").iterdir()))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (["pending"], ["CREATED"]),
        (["pending", "running"], ["CREATED", "RUNNING"]),
        (["pending", "running", "succeeded"], ["CREATED", "RUNNING", "COMPLETED"]),
        (["running", "failed"], ["CREATED", "RUNNING", "FAILED"]),
        (["running", "cancelled"], ["CREATED", "RUNNING", "TERMINATED"]),
        (["running", "removed"], ["CREATED", "RUNNING", "TERMINATED"]),
        (["succeeded"], ["CREATED", "RUNNING", "COMPLETED"]),
    ],
    ids="-".join,
)
async def test_the_five_kinds_of_notices(push: Push, shown: list[str], expected: list[str]) -> None:
    """Whatever the scaler shows, otto-handler hears of each step once and in order, with the scaler's times."""
    async with push.up(), push.relay():
        push.stand.log("w-1").write("x")
        for status in shown:
            if status == "removed":
                await until(lambda: len(push.handler.notices) == 2)
                push.stand.scaler.remove("w-1")
                continue
            fields = {"created_at": "2026-11-24T01:00:00.000Z", "uid": "u"}
            if status == "cancelled":
                push.stand.scaler.show("w-1", "failed", failure_cause=FailureCause.FAILURE_CAUSE_CANCELLED, **fields)
            else:
                push.stand.scaler.show("w-1", status, **fields)
        await until(lambda: len(push.handler.notices) >= len(expected))
        await asyncio.sleep(0.05)
        assert push.handler.told("w-1") == expected
        assert [notice.metadata["otto.notice_sequence"] for notice in push.handler.notices] == [str(n + 1) for n in range(len(expected))]
        assert push.handler.notices[0].timestamp == "2026-11-24T01:00:00.000Z"
        if len(expected) > 1:
            assert push.handler.notices[1].timestamp == "2026-11-24T02:00:00.000Z"


async def test_lines_follow_notices_that_were_told_before_any_line(push: Push) -> None:
    """A worker that says nothing until otto-handler has heard that it runs is not forgotten in between, nor when nothing of it is owed."""
    async with push.up(), push.relay():
        push.stand.scaler.show("w-1")
        await until(lambda: push.handler.told("w-1") == ["CREATED", "RUNNING"])
        await until(lambda: metric("backlog_notices") == 0)
        log = push.stand.log("w-1")
        for number in (1, 2):
            log.write(f"line {number}")
            await until(lambda: len(push.handler.taken) == number)  # noqa: B023 - awaited in this round
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: push.handler.told("w-1") == ["CREATED", "RUNNING", "COMPLETED"])
        assert push.handler.messages("w-1") == numbered(2)


async def test_notices_survive_restarts_and_refusals(push: Push) -> None:
    """A notice without an answer comes again after the relay's restart; ERROR is counted and not repeated; what was taken never repeats."""
    push.handler.acknowledge = lambda notice: None if notice.status == WorkerStatusNotification.RUNNING else WorkerStatusAck()
    async with push.up():
        async with push.relay():
            push.stand.log("w-1").write("x")
            push.stand.scaler.show("w-1", "succeeded")
            await until(lambda: push.handler.told("w-1") == ["CREATED", "RUNNING"])
        push.handler.acknowledge = lambda notice: WorkerStatusAck(
            status=WorkerStatusAck.ERROR if notice.status == WorkerStatusNotification.COMPLETED else WorkerStatusAck.IGNORED
        )
        async with push.relay():
            await until(lambda: metric("notices_refused_total") == 1)
            assert metric("backlog_notices") == 0
        async with push.relay():
            push.stand.log("w-2").write("x")
            push.stand.scaler.show("w-2")
            await until(lambda: push.handler.told("w-2") == ["CREATED", "RUNNING"])
    assert push.handler.told("w-1") == ["CREATED", "RUNNING", "RUNNING", "COMPLETED"]


async def test_lines_and_words_of_workers_that_send_them_are_passed_on(push: Push) -> None:
    """What came through StreamLogs and NotifyWorkerStatus reaches otto-handler as what was followed does."""
    async with push.up(), push.relay():

        async def lines() -> AsyncIterator[LogEntry]:
            for text in numbered(20):
                yield LogEntry(worker_id="p-1", task_id="t", message=text, metadata={"own": "kept"})

        async with asyncio.timeout(30):
            answers = [answer.status async for answer in push.stand.logs.StreamLogs(lines())]
        assert answers == [0] * 20
        for status in (WorkerStatusNotification.RUNNING, WorkerStatusNotification.FAILED):
            await push.stand.handler.NotifyWorkerStatus(WorkerStatusNotification(worker_id="p-1", status=status, reason="said so"))
        await until(lambda: len(push.handler.taken) == 20 and len(push.handler.notices) == 2)
        assert push.handler.messages("p-1") == numbered(20)
        assert push.handler.taken[0].metadata["own"] == "kept"
        assert push.handler.told("p-1") == ["RUNNING", "FAILED"]
        assert push.handler.notices[1].reason == "said so"


async def test_a_relay_that_was_given_its_own_address_does_not_feed_itself(push: Push) -> None:
    """Lines that come back to the relay that sent them are refused, so nothing goes round for ever."""
    port_of = push.stand
    async with port_of.relay() as _:
        address = port_of.address
    async with push.stand.relay(listen=address, handler_address=address, handler_longest_wait=0.1):

        async def lines() -> AsyncIterator[LogEntry]:
            yield LogEntry(worker_id="p-1", message="once")

        async with asyncio.timeout(30):
            assert [answer.status async for answer in push.stand.logs.StreamLogs(lines())] == [0]
        await until(lambda: metric("dropped_total") == 1)
        for status in (WorkerStatusNotification.CREATED, WorkerStatusNotification.RUNNING):
            said = WorkerStatusNotification(worker_id="p-1", status=status)
            assert (await push.stand.handler.NotifyWorkerStatus(said)).status == WorkerStatusAck.RECEIVED
        await until(lambda: metric("notices_refused_total") == 2)
        await asyncio.sleep(0.1)
        assert metric("backlog_lines") == metric("backlog_notices") == metric("notices_total") == 0


class LinesOnly(FakeHandler):
    """An otto-handler that knows nothing of notices."""

    async def NotifyWorkerStatus(self, _request: WorkerStatusNotification, context: Any) -> WorkerStatusAck:  # noqa: N802 - the contract's name
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        raise AssertionError


async def test_an_otto_handler_without_notices_gets_the_lines(push: Push) -> None:
    """UNIMPLEMENTED refuses a notice: it is counted, nothing piles up, and the lines go on."""
    push.handler = LinesOnly()
    async with push.up(), push.relay():
        push.stand.log("w-1").write(*numbered(10))
        push.stand.scaler.show("w-1", "succeeded")
        await until(lambda: len(push.handler.taken) == 10 and metric("notices_refused_total") == 3)
        assert metric("backlog_notices") == 0


async def test_workers_that_ended_before_pushing_was_on_are_left_alone(push: Push) -> None:
    """Turning the push on sends the lines of workers that run, from their first, and not the whole history."""
    async with push.stand.relay():
        push.stand.log("old").write("old")
        push.stand.scaler.show("old", "succeeded")
        push.stand.log("runs").write("first")
        push.stand.scaler.show("runs")
        await until(lambda: push.stand.scaler.released == ["old"])
    async with push.up(), push.relay():
        await until(lambda: push.handler.messages("runs") == ["first"])
        await until(lambda: push.handler.told("runs") == ["CREATED", "RUNNING"])
        assert push.handler.told("old") == push.handler.messages("old") == []


def test_a_wrong_address_is_named(tmp_path: Path) -> None:
    """An address that is none stops the process with the name of its variable."""
    from otto_relay.settings import Settings

    with pytest.raises(SettingsError, match="OTTO_RELAY_HANDLER_ADDRESS"):
        load(Settings, "OTTO_RELAY", {"OTTO_RELAY_HANDLER_ADDRESS": "not an address"})
