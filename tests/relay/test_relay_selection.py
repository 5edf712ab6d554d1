"""Every field of LogSelection, through each of the three ways to read, of a worker, a task and a pipeline, over real gRPC."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ottoscaler.v1.log_pb2 import BUILD_LOG_KIND_LINE, BuildIdentifier, LogEntry, LogSelection, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED, STAGE_RUNNING

from .test_relay_reading import everything, relay_knows, some

BASE = 1_763_949_600
"""The second from which a LogFile counts, a microsecond a line."""


def at(microseconds: float) -> Timestamp:
    return Timestamp(seconds=BASE, nanos=int(microseconds * 1000))


async def worker_stream(relay: Any, selection: LogSelection) -> list[LogEntry]:
    return await everything(relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1", selection=selection)))


async def worker_tail(relay: Any, selection: LogSelection) -> list[LogEntry]:
    request = TailLogsRequest(worker=WorkerIdentifier(worker_id="w-1", task_id="task", selection=selection))
    return [entry for batch in await everything(relay.logs.TailLogs(request)) for entry in batch.entries]


async def task_stream(relay: Any, selection: LogSelection) -> list[LogEntry]:
    return await everything(relay.logs.StreamWorkerLogs(WorkerIdentifier(task_id="task", selection=selection)))


async def build_stream(relay: Any, selection: LogSelection) -> list[LogEntry]:
    entries = await everything(relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p", selection=selection)))
    return [entry.entry for entry in entries if entry.kind == BUILD_LOG_KIND_LINE]


async def build_tail(relay: Any, selection: LogSelection) -> list[LogEntry]:
    request = TailLogsRequest(build=BuildIdentifier(pipeline_id="p", stage_id="lint", selection=selection))
    batches = await everything(relay.logs.TailLogs(request))
    return [entry.entry for batch in batches for entry in batch.build_entries if entry.kind == BUILD_LOG_KIND_LINE]


WAYS = {
    "StreamWorkerLogs": worker_stream,
    "TailLogs of a worker": worker_tail,
    "StreamWorkerLogs of a task": task_stream,
    "StreamBuildLogs": build_stream,
    "TailLogs of a build": build_tail,
}
LINES = [("one plain", False), ("WARN two", False), ("three", True), ("DEBUG four Plain", False), ("[error] five", False), ("여섯", True)]
"""Their texts and whether they went to stderr; line n is written n microseconds after BASE."""

CASES: list[tuple[str, LogSelection, list[int]]] = [
    ("all", LogSelection(), [1, 2, 3, 4, 5, 6]),
    ("no_follow", LogSelection(no_follow=True), [1, 2, 3, 4, 5, 6]),
    ("tail_lines", LogSelection(tail_lines=2), [5, 6]),
    ("tail_lines beyond all", LogSelection(tail_lines=100), [1, 2, 3, 4, 5, 6]),
    ("tail_lines of those that match", LogSelection(tail_lines=2, sources=["stdout"]), [4, 5]),
    ("since_time", LogSelection(since_time=at(4)), [4, 5, 6]),
    ("until_time", LogSelection(until_time=at(4)), [1, 2, 3]),
    ("since and until", LogSelection(since_time=at(2), until_time=at(5)), [2, 3, 4]),
    ("levels", LogSelection(levels=["WARN", "DEBUG"]), [2, 4]),
    ("levels in any case", LogSelection(levels=["error"]), [3, 5, 6]),
    ("sources", LogSelection(sources=["stderr"]), [3, 6]),
    ("keywords in any case", LogSelection(keywords=["PLAIN"]), [1, 4]),
    ("one of several keywords", LogSelection(keywords=["two", "여섯"]), [2, 6]),
    ("everything at once", LogSelection(levels=["ERROR"], sources=["stdout"], keywords=["five"], tail_lines=3, since_time=at(1)), [5]),
    ("nothing matches", LogSelection(keywords=["nobody says this"]), []),
]


async def prepared(relay: Any) -> None:
    """A pipeline that has ended, with one stage and one worker that said LINES."""
    relay.executor.add("p", "lint")
    log = relay.log("w-1")
    for text, stderr in LINES:
        log.write(text, stderr=stderr)
    relay.scaler.show("w-1", pipeline_id="p", stage_id="lint", attempt=1)
    await relay.executor.say("p", "lint", STAGE_RUNNING, 1, ["w-1"])
    relay.scaler.show("w-1", "succeeded", pipeline_id="p", stage_id="lint", attempt=1)
    await relay.executor.say("p", "lint", STAGE_COMPLETED, 1, ["w-1"])
    await relay.executor.say("p", "", STAGE_COMPLETED)
    await relay_knows(relay, "w-1", len(LINES))
    await everything(relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p")))


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
async def test_each_field_selects_the_same_lines_for_every_way_to_read(relay: Any, read: Callable[..., Any]) -> None:
    """What is asked for comes, in order and as replayed, and nothing else; then the stream ends with OK."""
    await prepared(relay)
    for name, selection, expected in CASES:
        got = await read(relay, selection)
        assert [entry.message for entry in got] == [LINES[number - 1][0] for number in expected], name
        assert [entry.sequence for entry in got] == expected, name
        assert all(entry.replayed for entry in got), name


@pytest.mark.parametrize("count", range(7))
async def test_a_reader_that_comes_back_gets_exactly_the_rest(relay: Any, count: int) -> None:
    """after_sequence is how a broken stream goes on: of a worker by its sequences, of a pipeline by the pipeline's."""
    await prepared(relay)
    rest = await everything(relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1", selection=LogSelection(after_sequence=count))))
    assert [entry.sequence for entry in rest] == list(range(count + 1, 7))
    build = BuildIdentifier(pipeline_id="p", selection=LogSelection(after_sequence=count))
    assert [entry.sequence for entry in await everything(relay.logs.StreamBuildLogs(build))] == list(range(count + 1, 9))


async def test_a_reader_that_breaks_off_and_comes_back_sees_each_line_once(relay: Any) -> None:
    """While lines come, a reader is cut off after every tenth and goes on with after_sequence: nothing is lost or doubled."""
    log = relay.log("w-1")
    relay.scaler.show("w-1")
    seen: list[int] = []
    for start in range(1, 101, 10):
        log.write(*(f"line {number}" for number in range(start, start + 10)))
        await relay_knows(relay, "w-1", min(start, 1))
        request = WorkerIdentifier(worker_id="w-1", selection=LogSelection(after_sequence=len(seen)))
        call = relay.logs.StreamWorkerLogs(request)
        seen += [entry.sequence for entry in await some(call, 7, 20)]
        call.cancel()
    relay.scaler.show("w-1", "succeeded")
    request = WorkerIdentifier(worker_id="w-1", selection=LogSelection(after_sequence=len(seen)))
    seen += [entry.sequence for entry in await everything(relay.logs.StreamWorkerLogs(request), 20)]
    assert seen == list(range(1, 101))


@pytest.mark.parametrize("batched", [False, True], ids=["StreamWorkerLogs", "TailLogs"])
async def test_a_follower_gets_only_what_it_selected(relay: Any, batched: bool) -> None:
    """Filters hold for lines that come later as well, with tail_lines for what was there before."""
    log = relay.log("w-1")
    log.write("WARN old 1", "old 2", "WARN old 3")
    relay.scaler.show("w-1")
    await relay_knows(relay, "w-1", 3)
    target = WorkerIdentifier(worker_id="w-1", selection=LogSelection(tail_lines=1, levels=["WARN"]))
    call = relay.logs.TailLogs(TailLogsRequest(worker=target)) if batched else relay.logs.StreamWorkerLogs(target)
    first = (await some(call, 1, 20))[0]
    log.write("new 4", "WARN new 5", "new 6")
    relay.scaler.show("w-1", "succeeded")
    rest = await everything(call, 20)
    got = [*first.entries, *(entry for batch in rest for entry in batch.entries)] if batched else [first, *rest]
    assert [(entry.message, entry.replayed) for entry in got] == [("WARN old 3", True), ("WARN new 5", False)]


async def test_a_stream_that_has_passed_its_until_time_ends(relay: Any) -> None:
    """Of a worker that runs on, a reader with an until_time in the past ends with OK without waiting for the worker."""
    log = relay.log("w-1")
    log.write("one", "two", "three")
    relay.scaler.show("w-1")
    await relay_knows(relay, "w-1", 3)
    got = await everything(relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1", selection=LogSelection(until_time=at(3)))), 20)
    assert [entry.message for entry in got] == ["one", "two"]


async def test_workers_of_a_task_come_in_the_order_of_time(relay: Any) -> None:
    """Stored lines of several workers are merged by their times; each worker's own order is kept; all of them have to end."""
    logs = [relay.log(f"w-{number}") for number in (1, 2, 3)]
    for index, log in enumerate(logs):
        log._time += index * 250
        log.write(*(f"{index} {number}" for number in range(50)))
        relay.scaler.show(f"w-{index + 1}")
    for number in (1, 2, 3):
        await relay_knows(relay, f"w-{number}", 50)
    call = relay.logs.StreamWorkerLogs(WorkerIdentifier(task_id="task"))
    got = await some(call, 150, 20)
    assert [entry.message for entry in got] == [f"{index} {number}" for number in range(50) for index in range(3)]
    for number in (1, 2):
        relay.scaler.show(f"w-{number}", "succeeded")
    logs[2].write("last")
    assert [entry.message for entry in await some(call, 1, 20)] == ["last"]
    relay.scaler.show("w-3", "succeeded")
    assert await everything(call, 20) == []


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        (LogSelection(tail_lines=-1), "selection.tail_lines"),
        (LogSelection(after_sequence=-1), "selection.after_sequence"),
        (LogSelection(after_sequence=99), "selection.after_sequence"),
        (LogSelection(levels=["INFO", "LOUD"]), "selection.levels[1]"),
        (LogSelection(sources=["stdin"]), "selection.sources[0]"),
        (LogSelection(keywords=["a", ""]), "selection.keywords[1]"),
        (LogSelection(since_time=Timestamp(seconds=5), until_time=Timestamp(seconds=5)), "selection.until_time"),
        (LogSelection(since_time=Timestamp(nanos=-1)), "selection.since_time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_field_is_named(relay: Any, selection: LogSelection, field: str) -> None:
    """INVALID_ARGUMENT names the field and says what is wrong with it, for workers and builds alike."""
    await prepared(relay)
    for call in (
        relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1", selection=selection)),
        relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p", selection=selection)),
        relay.logs.TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id="w-1", selection=selection))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await everything(call)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field in (raised.value.details() or "")


async def test_what_is_not_there_is_said_to_be_not_there(relay: Any) -> None:
    """NOT_FOUND for a worker, task, pipeline, stage that nobody knows, INVALID_ARGUMENT for a request without any."""
    await prepared(relay)
    calls = [
        (relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="nobody")), grpc.StatusCode.NOT_FOUND),
        (relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1", task_id="other")), grpc.StatusCode.NOT_FOUND),
        (relay.logs.StreamWorkerLogs(WorkerIdentifier(task_id="nobody")), grpc.StatusCode.NOT_FOUND),
        (relay.logs.StreamWorkerLogs(WorkerIdentifier()), grpc.StatusCode.INVALID_ARGUMENT),
        (relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="nobody")), grpc.StatusCode.NOT_FOUND),
        (relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p", stage_id="nobody")), grpc.StatusCode.NOT_FOUND),
        (relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p", worker_id="nobody")), grpc.StatusCode.NOT_FOUND),
        (relay.logs.StreamBuildLogs(BuildIdentifier()), grpc.StatusCode.INVALID_ARGUMENT),
        (relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p", attempt=-1)), grpc.StatusCode.INVALID_ARGUMENT),
        (relay.logs.TailLogs(TailLogsRequest()), grpc.StatusCode.INVALID_ARGUMENT),
    ]
    for call, code in calls:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await everything(call, 20)
        assert raised.value.code() is code
        assert raised.value.details()


async def test_a_part_of_a_build_has_its_own_marks_and_the_builds_sequences(relay: Any) -> None:
    """By stage, attempt and worker: the part's lines and marks, numbered as in the whole build."""
    relay.executor.add("p", "lint", "test")
    for worker, stage, attempt in (("a-1", "lint", 1), ("b-1", "test", 1), ("b-2", "test", 2)):
        log = relay.log(worker)
        log.write(f"{worker} says")
        fields = {"pipeline_id": "p", "stage_id": stage, "attempt": attempt}
        relay.scaler.show(worker, **fields)
        await relay.executor.say("p", stage, STAGE_RUNNING, attempt, [worker])
        await relay_knows(relay, worker, 1)
        relay.scaler.show(worker, "succeeded", **fields)
        await relay.executor.say("p", stage, STAGE_COMPLETED, attempt, [worker])
        await asyncio.sleep(0)
    await relay.executor.say("p", "", STAGE_COMPLETED)
    whole = await everything(relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p")), 20)
    assert [entry.sequence for entry in whole] == list(range(1, len(whole) + 1))
    for part in (
        BuildIdentifier(pipeline_id="p", stage_id="lint"),
        BuildIdentifier(pipeline_id="p", stage_id="test", attempt=2),
        BuildIdentifier(pipeline_id="p", attempt=1),
    ):
        got = await everything(relay.logs.StreamBuildLogs(part), 20)
        expected = [
            entry
            for entry in whole
            if entry.stage_id == (part.stage_id or entry.stage_id) and entry.attempt == (part.attempt or entry.attempt)
        ]
        assert got == expected
        assert got
    one = await everything(relay.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p", worker_id="b-2")), 20)
    assert [entry.entry.message for entry in one if entry.kind == BUILD_LOG_KIND_LINE] == ["b-2 says"]
