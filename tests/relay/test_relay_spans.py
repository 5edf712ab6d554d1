"""What becomes of a worker's lines, as spans below the worker's: over real gRPC, restarts and a scaler that knows the worker no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otto_relay.files import Files
from otto_relay.outbox import Outbox
from otto_relay.spans import to_tell_again
from otto_relay.testing import FakeHandler, handling
from otto_relay.worker_log import Facts, WorkerLog
from otto_runtime import spans, telemetry
from otto_runtime.spans import MOST_AGAIN, Span
from ottoscaler.v1.log_pb2 import BuildIdentifier, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED, STAGE_RUNNING

from .conftest import until
from .test_relay_reading import everything

WORKER = spans.worker(spans.fresh(), "w")
RUN, STAGE = spans.run(WORKER, "p"), spans.stage(WORKER, "p", "s")


@pytest.fixture
def told() -> Iterator[list[Span]]:
    """What was told."""
    found: list[Span] = []
    with telemetry.told_by(lambda _, span: found.append(span), lambda _: True):
        yield found


def named(told: list[Span], name: str) -> list[Span]:
    return [span for span in told if span.name == name]


async def show(stand: Any, status: str, **fields: Any) -> None:
    stand.scaler.show("w", status, task_id="p/s", pipeline_id="p", stage_id="s", attempt=1, uid="u", traceparent=WORKER, **fields)


async def test_lines_are_collected_read_and_pushed_below_their_worker(stand: Any, told: list[Span]) -> None:
    """Below its stage or run where more than one worker's are read; a restart later, and with a scaler that has forgotten it, too."""
    handler = FakeHandler()
    stand.executor.add("p", "s")
    await stand.executor.say("p", "s", STAGE_RUNNING, workers=["w"])
    async with handling(handler) as address:
        async with stand.relay(handler_address=address):
            stand.log("w").write("one", "two")
            await show(stand, "running")
            await show(stand, "succeeded")
            await until(lambda: bool(named(told, "push logs")), 20)
            assert [line.message for line in await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w")), 20)] == [
                "one",
                "two",
            ]
        (collected,), (pushed,), (read,) = named(told, "collect logs"), named(told, "push logs"), named(told, "deliver logs")
        assert [span.parent for span in (collected, pushed, read)] == [WORKER] * 3
        assert (collected.attributes["ottoscaler.log.lines"], pushed.attributes["ottoscaler.log.lines"]) == (2, 2)
        assert (read.attributes["ottoscaler.log.lines"], read.attributes["rpc.method"]) == (2, "StreamWorkerLogs")
        assert [entry.metadata["traceparent"] for entry in handler.got] == [WORKER, WORKER]
        told.clear()
        stand.scaler.remove("w")
        await stand.executor.say("p", "s", STAGE_COMPLETED)
        await stand.executor.say("p", "", STAGE_COMPLETED)
        async with stand.relay(handler_address=address):
            await until(lambda: bool(named(told, "collect logs")), 20)
            await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(task_id="p/s")), 20)
            for which in (BuildIdentifier(pipeline_id="p"), BuildIdentifier(pipeline_id="p", stage_id="s")):
                await everything(stand.logs.StreamBuildLogs(which), 20)
            await everything(stand.logs.TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id="w"))), 20)
    assert [span.context for span in named(told, "collect logs")] == [collected.context]
    assert [span.parent for span in named(told, "deliver logs")] == [STAGE, RUN, STAGE, WORKER]


async def test_lines_that_are_pushed_bear_no_trace_where_nobody_is_told(stand: Any) -> None:
    """Though their worker has one."""
    handler = FakeHandler()
    async with handling(handler) as address, stand.relay(handler_address=address):
        stand.log("w").write("one")
        await show(stand, "running")
        await show(stand, "succeeded")
        await until(lambda: len(handler.taken) == 1, 20)
    assert "traceparent" not in handler.got[0].metadata


async def test_a_worker_that_has_no_trace_is_below_nothing(stand: Any, told: list[Span]) -> None:
    """What was sent as its trace may be anything."""
    handler = FakeHandler()
    async with handling(handler) as address, stand.relay(handler_address=address):
        stand.log("x").write("one")
        stand.scaler.show("x", "succeeded", traceparent="rubbish")
        await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="x")), 20)
        await until(lambda: len(handler.taken) == 1, 20)
    assert [span.parent for span in told if span.parent] == []
    assert "traceparent" not in handler.got[0].metadata


def test_only_what_was_complete_right_before_is_told_again(tmp_path: Path) -> None:
    """The rest had time enough to be sent; and never too many."""
    files = Files(4)

    def known(number: int, ended: float, traceparent: str = WORKER) -> WorkerLog:
        return WorkerLog(Facts(f"w-{number}", ended=ended, traceparent=traceparent), tmp_path, files, 1)

    kept = [known(0, 1.0), known(1, 100.0, ""), known(2, 95.0), known(3, 0.0), known(4, 100.0)]
    assert [span.attributes["cicd.worker.name"] for span in to_tell_again(kept)] == ["w-2", "w-4"]
    assert len(to_tell_again([known(number, 100.0) for number in range(MOST_AGAIN * 2)])) == MOST_AGAIN


def test_what_is_owed_of_a_worker_that_is_not_kept_knows_its_trace(tmp_path: Path) -> None:
    """It is written down; what an earlier version wrote has none."""
    files = Files(4)
    Outbox(Facts("w", traceparent=WORKER), tmp_path / "w", files).create()
    again = Outbox(Facts(""), tmp_path / "w", files)
    again.read()
    assert again.facts.traceparent == WORKER
    path = tmp_path / "w.json"
    path.write_text(path.read_text().replace(f'"traceparent": "{WORKER}", ', ""))
    again.read()
    assert again.facts.traceparent == ""
