"""One thing that can't be read, written or deleted costs nothing else."""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from otto_relay import worker_log
from otto_relay.collector import RUNNING, Collector, Observed
from otto_relay.encoder import Encoder, Fresh
from otto_relay.errors import SourceError, SpoolWriteError
from otto_relay.files import Files
from otto_relay.notices import Sighting
from otto_relay.registry import Registry
from otto_relay.retention import Retention
from otto_relay.sources.protocol import Ending, Line, Split
from otto_relay.spool import Cursor, Segment, Spool, open_spool
from otto_relay.worker_log import FOLLOWED, Facts, WorkerLog
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import LogResponse

from .test_relay_reading import everything

DAY = 86400.0


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def made_registry(tmp_path: Path, files: Files) -> Registry:
    registry = Registry(tmp_path / "spool", files, 4096)
    registry.load()
    return registry


def line(text: bytes = b"hello") -> Fresh:
    return Fresh(time.time_ns(), 0, text, b"1")


def ended(registry: Registry, name: str, pipeline: str = "") -> WorkerLog:
    """A worker that ended long ago, with a line."""
    known = registry.add(Facts(name, "task", pipeline, "a" if pipeline else "", 1 if pipeline else 0, FOLLOWED, f"uid-{name}"))
    known.append([line()])
    known.end()
    known.facts.ended = time.time() - 30 * DAY
    return known


async def test_a_run_that_the_executor_forgets_ends_here_too(stand: Any) -> None:
    """Its lines stay readable, its readers come to an end, and the relay serves on."""
    stand.executor.add("p", "a")
    stand.executor.forgotten.add("p")
    stand.log("w-1").write("one")
    async with stand.relay():
        stand.scaler.show("w-1", "succeeded", pipeline_id="p", stage_id="a", attempt=1)
        entries = await everything(stand.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p")), 10)
        assert [e.entry.message for e in entries if e.entry.message] == ["one"]
        stand.log("w-2").write("two")
        stand.scaler.show("w-2", "succeeded")
        assert [e.message for e in await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-2")))] == ["two"]


async def test_a_spool_that_can_not_be_opened_is_tried_again(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free descriptor nothing is lost: when there is one, the lines are there, and nothing else noticed."""
    real = open_spool
    failures = iter([OSError(errno.EMFILE, os.strerror(errno.EMFILE))] * 4)

    def fails_at_first(*arguments: Any, **more: Any) -> Spool:
        error = next(failures, None)
        if error is not None:
            raise error
        return real(*arguments, **more)

    monkeypatch.setattr(worker_log, "open_spool", fails_at_first)
    stand.log("w-1").write("one")
    async with stand.relay():
        stand.scaler.show("w-1", "succeeded")
        entries: list[Any] = []
        for _ in range(100):
            try:
                entries = await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1")))
                break
            except Exception:
                continue
        assert [e.message for e in entries] == ["one"]


async def test_what_can_not_be_deleted_is_kept_and_tried_again(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """One such worker or pipeline does not keep others; it still counts, and goes when it can be deleted."""
    registry = made_registry(tmp_path, files)
    stuck, other = ended(registry, "stuck", "p"), ended(registry, "other")
    empty = registry.build("empty")
    empty.end()
    os.utime(tmp_path / "spool" / "pipelines" / os.path.basename(empty._directory) / "journal", (0, 0))  # noqa: PTH119 - its place is its own
    real = shutil.rmtree

    def refuses(path: Path) -> None:
        if path.name.startswith(("stuck", "empty")):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(path)

    monkeypatch.setattr(shutil, "rmtree", refuses)
    retention = Retention(registry, 7 * DAY, 1 << 40)
    await retention.enforce()
    assert stuck.worker_id in registry.workers
    assert not stuck.removed
    assert other.worker_id not in registry.workers
    assert "empty" in registry.builds
    monkeypatch.setattr(shutil, "rmtree", real)
    registry.builds["p"].end()
    await retention.enforce()
    assert not registry.workers
    assert set(registry.builds) == {"p"} or not registry.builds
    assert "empty" not in registry.builds


def test_a_full_disk_does_not_keep_the_relay_from_starting(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines without a place in their pipeline get it when the disk takes it again."""
    registry = made_registry(tmp_path, files)
    known = registry.add(Facts("w-1", "task", "p", "a", 1, FOLLOWED, "uid"))
    monkeypatch.setattr(type(registry.builds["p"]), "take_lines", lambda *_: (_ for _ in ()).throw(SpoolWriteError("full")))
    known.append([line()])
    monkeypatch.undo()
    again = Registry(tmp_path / "spool", files, 4096)
    monkeypatch.setattr(Files, "write", lambda *_: (_ for _ in ()).throw(SpoolWriteError("full")))
    again.load()
    assert again.workers["w-1"].spool.last == 1
    assert again.builds["p"].count == 0
    again.mend()
    assert again.builds["p"].count == 0
    monkeypatch.undo()
    again.mend()
    assert again.builds["p"].count == 2


def test_a_deleted_log_is_not_collected_again_while_the_scaler_shows_its_worker(tmp_path: Path, files: Files) -> None:
    """Neither by name alone nor for ever: a new worker of that name, or one the scaler forgot, is collected."""
    registry = made_registry(tmp_path, files)
    registry.remove(ended(registry, "w-1"))
    assert registry.was_removed("w-1", "uid-w-1")
    assert not registry.was_removed("w-1", "another uid")
    registry.forget_removed("w-1")
    assert not registry.was_removed("w-1", "uid-w-1")


def test_a_worker_that_is_looked_at_again_enters_no_line_of_an_ended_pipeline_twice(tmp_path: Path, files: Files) -> None:
    """Killed after the pipeline's end and before the worker's lines were durable, the next process finds them entered."""
    registry = made_registry(tmp_path, files)
    known = registry.add(Facts("w-1", "task", "p", "a", 1, FOLLOWED, "uid"))
    known.append([line(), line()])
    known.end()
    build = registry.builds["p"]
    build.finish("a", 1, 2)
    build.end()
    entered = build.entries(0, build.count)
    assert len(entered) == 4
    again = made_registry(tmp_path, files)
    known = again.workers["w-1"]
    known.check_again()
    known.end()
    again.builds["p"].start("a", 1)
    again.builds["p"].finish("a", 1, 2)
    assert again.builds["p"].entries(0, 100) == entered


async def test_a_removed_worker_stays_removed_over_a_new_watch(stand: Any) -> None:
    """Its lines are beyond the limit, so they were deleted; the scaler shows it again, and nothing comes back."""
    stand.log("w-1").write("x" * 1000)
    async with stand.relay(retention_seconds=0.01, retention_interval=0.05):
        stand.scaler.show("w-1", "succeeded", uid="u1")
        spool = stand.directory / "spool" / "workers"
        await gone(spool)
        stand.scaler.end_watches()
        stand.log("w-2").write("two")
        stand.scaler.show("w-2", "running", uid="u2")
        await appears(spool)
        assert [path.name[:3] for path in spool.iterdir()] == ["w-2"]


async def gone(directory: Path) -> None:
    from .conftest import until

    await until(lambda: any(directory.iterdir()), 10)
    await until(lambda: not any(directory.iterdir()), 10)


async def appears(directory: Path) -> None:
    from .conftest import until

    await until(lambda: any(directory.iterdir()), 10)


async def test_directories_without_a_worker_are_deleted_by_age(tmp_path: Path, files: Files) -> None:
    """What a power cut left without its facts is nobody's; young ones are left alone."""
    for name, age in (("old", 30 * DAY), ("young", 0.0)):
        path = tmp_path / "spool" / "workers" / name
        path.mkdir(parents=True)
        (path / "00000000000000000001.seg").write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    registry = made_registry(tmp_path, files)
    await Retention(registry, 7 * DAY, 1 << 40).enforce()
    assert [path.name for path in (tmp_path / "spool" / "workers").iterdir()] == ["young"]


def test_a_place_that_was_read_once_is_found_at_once(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that starts near the end of a spool that was opened again reads little once any other has been through it."""
    spool = Spool(tmp_path, files, 1 << 26)
    for sequence in range(1, 3001):
        spool.append(Encoder().blocks(sequence, b"", [Fresh(0, 0, b"x" * 1000)]), 1, b"")
    again = open_spool(tmp_path, files, 1 << 26, refill=True)
    through = Cursor(again, 1)
    while not through.caught_up:
        through.read(131072)
    read: list[int] = []
    real = Spool.read_segment

    def counted(self: Spool, segment: Segment, at: int, count: int) -> bytes:
        data = real(self, segment, at, count)
        read.append(len(data))
        return data

    monkeypatch.setattr(Spool, "read_segment", counted)
    late = Cursor(again, 2999)
    assert [record.sequence for record in late.read(131072)] == [2999, 3000]
    assert sum(read) <= 262144


async def test_a_time_beyond_64_bits_is_text_like_any_other(stand: Any) -> None:
    """A worker that writes records of its own into its log can't end the relay; its lines are still there, behind a word about them."""
    log = stand.log("w-1")
    log.write("before")
    with log.path.open("ab") as file:
        file.write(b"2300-01-01T00:00:00.000000000Z stdout F x\n9999-12-31T23:59:59Z stdout F y\n")
    log.write("after")
    async with stand.relay():
        stand.scaler.show("w-1", "succeeded")
        entries = await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1")))
        assert [e.message for e in entries] == [
            "before",
            "[ottoscaler] lines may be missing here: this log is damaged, and what follows is what stands in it",
            "2300-01-01T00:00:00.000000000Z stdout F x",
            "9999-12-31T23:59:59Z stdout F y",
            "after",
        ]


async def test_a_pushed_line_of_a_far_year_gets_its_answer(relay: Any) -> None:
    """Its time can't be kept, so it is that of its arrival; the lines after it are stored as well."""
    lines = [
        LogEntry(worker_id="w", message=text, timestamp=at) for text, at in (("one", ""), ("two", "2300-01-01T00:00:00Z"), ("three", ""))
    ]
    answers = await everything(relay.logs.StreamLogs(iter(lines)))
    assert [(a.status, a.sequence) for a in answers] == [(LogResponse.ACK, 1), (LogResponse.ACK, 2), (LogResponse.ACK, 3)]


async def test_lines_of_another_task_are_not_taken_under_a_workers_name(relay: Any) -> None:
    """The sender is told which task the worker belongs to."""
    lines = [LogEntry(worker_id="w", task_id=task, message="x") for task in ("t", "other", "t")]
    answers = await everything(relay.logs.StreamLogs(iter(lines)))
    assert [a.status for a in answers] == [LogResponse.ACK, LogResponse.DROP, LogResponse.ACK]
    assert answers[1].message == "task_id: worker 'w' belongs to task 't'"


async def test_a_pipe_in_place_of_a_log_blocks_nobody(stand: Any) -> None:
    """The worker's end is reached with a word about it, and others are read on."""
    (stand.workers_dir / "w-1").mkdir(parents=True)
    os.mkfifo(stand.workers_dir / "w-1" / "log")
    async with stand.relay(stage_wait=0.2):
        stand.scaler.show("w-1", "succeeded")
        stand.log("w-2").write("two")
        stand.scaler.show("w-2", "succeeded")
        assert [e.message for e in await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-2")))] == ["two"]
        (notice,) = await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1")), 10)
        assert "can't be read" in notice.message


async def test_the_scalers_word_wins_over_lines_sent_under_a_name_before(relay: Any) -> None:
    """A worker whose name somebody used before it was made belongs to the task that the scaler says."""
    await everything(relay.logs.StreamLogs(iter([LogEntry(worker_id="w-1", task_id="evil", message="forged")])))
    relay.log("w-1").write("real")
    relay.scaler.show("w-1", "succeeded", task_id="mine", uid="u")
    entries = await everything(relay.logs.StreamWorkerLogs(WorkerIdentifier(task_id="mine")))
    assert [(e.task_id, e.message) for e in entries] == [("mine", "forged"), ("mine", "real")]


async def test_an_unexpected_error_costs_one_worker_a_moment(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again where it stopped, and the relay serves on."""
    real = WorkerLog.append
    failures = iter([ValueError("a bug")] * 2)

    def fails_at_first(self: WorkerLog, lines: list[Fresh]) -> int:
        error = next(failures, None)
        if error is not None:
            raise error
        return real(self, lines)

    monkeypatch.setattr(WorkerLog, "append", fails_at_first)
    stand.log("w-1").write("one")
    async with stand.relay():
        stand.scaler.show("w-1", "succeeded")
        assert [e.message for e in await everything(stand.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1")))] == ["one"]


async def test_two_streams_that_bring_the_same_workers_lines_are_two(relay: Any) -> None:
    """The one that ends first does not end the other, which then brings those of another worker and ends with OK."""
    first, second = relay.logs.StreamLogs(), relay.logs.StreamLogs()
    for stream in (first, second):
        await stream.write(LogEntry(worker_id="w", message="x"))
        assert (await stream.read()).status == LogResponse.ACK
    await second.done_writing()
    assert await second.code() is grpc.StatusCode.OK
    await first.write(LogEntry(worker_id="v", message="x"))
    assert (await first.read()).status == LogResponse.ACK
    await first.done_writing()
    assert await first.code() is grpc.StatusCode.OK


class Unreadable:
    """A LogSource whose logs can't be read; says how often that was tried."""

    def __init__(self) -> None:
        self.tries = 0

    async def available(self, worker_id: str, ended: Ending) -> bool:
        self.tries += 1
        raise SourceError("the node does not answer")

    async def secrets(self, worker_id: str) -> Sequence[str]:
        raise AssertionError(worker_id)

    def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncIterator[list[Line]]:
        raise AssertionError(worker_id)


async def test_many_that_can_not_be_read_are_not_asked_for_all_the_time(tmp_path: Path, files: Files) -> None:
    """However many they are, some twenty of them are tried again each second, not each of them as often as a single one would be."""
    source = Unreadable()

    def nothing(_: object) -> None:
        pass

    collector = Collector(made_registry(tmp_path, files), source, 65_536, 60.0, nothing, nothing, nothing, nothing)
    async with asyncio.TaskGroup() as group:
        collector.start(group)
        for number in range(400):
            seen = Observed(f"w-{number}", "task", "", "", 0, f"uid-{number}", RUNNING, started=True, sighting=Sighting("running"))
            collector.observe(seen)
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("collect ")]
        while source.tries < 420:
            await asyncio.sleep(0.01)
        before, begun = source.tries, time.monotonic()
        await asyncio.sleep(1.0)
        rate = (source.tries - before) / (time.monotonic() - begun)
        for task in tasks:
            task.cancel()
    assert rate < 60
