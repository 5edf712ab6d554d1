"""What fails half-way, or is deleted or damaged in the middle of something: nothing is lost for it, doubled, or kept for ever."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest

from otto_relay import collector as collector_module
from otto_relay import worker_log
from otto_relay.answer import Answer
from otto_relay.build_log import LINE, BuildLog
from otto_relay.collector import FINISHED, Collector, Observed
from otto_relay.encoder import Fresh
from otto_relay.errors import SourceError, SpoolWriteError
from otto_relay.files import Files
from otto_relay.notices import Sighting
from otto_relay.push import Notification, Pushed, Pushes
from otto_relay.registry import Registry, directory_name
from otto_relay.retention import Retention
from otto_relay.sources.protocol import Ending, Line, Split
from otto_relay.spool import Spool, open_spool
from otto_relay.worker_log import FOLLOWED, Facts, WorkerLog
from ottoscaler.v1.log_pb2 import BuildIdentifier
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED

from .conftest import until
from .pushing import Rig
from .test_relay_reading import everything


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def made_registry(tmp_path: Path, files: Files) -> Registry:
    registry = Registry(tmp_path, files, 4096)
    registry.load()
    return registry


def line(text: bytes = b"hello") -> Fresh:
    return Fresh(time.time_ns(), 0, text, b"1")


def nothing(_: object) -> None:
    pass


FINISHED_ONE = Observed("w-1", "task", "", "", 0, "uid", FINISHED, started=True, sighting=Sighting("succeeded"))


class OneLine:
    """A LogSource with a line."""

    async def available(self, worker_id: str, ended: Ending) -> bool:
        return True

    async def secrets(self, worker_id: str) -> Sequence[str]:
        return ()

    async def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncIterator[list[Line]]:
        yield [Line(1, False, b"line", b"1")]


async def test_a_log_that_comes_piece_by_piece_is_read_to_its_end(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try brings some of it and breaks off: that takes longer than a log that can't be read is tried, and loses nothing."""
    now = 0.0

    class Pieces(OneLine):
        async def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncIterator[list[Line]]:
            nonlocal now
            number = int(position or b"0") + 1
            now += 40
            yield [Line(number, False, b"line", b"%d" % number)]
            if number < 6:
                raise SourceError("broken off")

    monkeypatch.setattr(collector_module, "time", SimpleNamespace(monotonic=lambda: now, time=time.time, time_ns=time.time_ns))
    collector = Collector(registry, Pieces(), 65_536, 60.0, nothing, nothing, nothing, nothing)
    async with asyncio.TaskGroup() as group:
        collector.start(group)
        collector.observe(FINISHED_ONE)
    assert registry.workers["w-1"].spool.last == 6
    assert not collector.taken.incomplete


async def test_a_pipeline_that_could_not_be_written_down_is_followed_when_it_can(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked is told to try again; who does gets it to its end."""
    stand.executor.add("p", "a")
    await stand.executor.say("p", "", STAGE_COMPLETED)
    failures = [SpoolWriteError("the disk is full")]
    real = BuildLog.describe

    def describe(build: BuildLog, stages: Any) -> None:
        if failures:
            raise failures.pop()
        real(build, stages)

    monkeypatch.setattr(BuildLog, "describe", describe)
    async with stand.relay():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await everything(stand.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p")), 10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await everything(stand.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p")), 10)


def test_a_pipeline_that_a_worker_joins_has_not_ended_whatever_the_disk_takes_of_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of its lines in the journal is written, the second is not: when it joins again, the pipeline goes on."""
    build = registry.build("p")
    build.join("w-1", "a", 1)
    build.end()
    real = Files.write
    left = 1

    def write(files: Files, path: Path, data: bytes, at: int) -> None:
        nonlocal left
        if not left:
            raise SpoolWriteError("the disk is full")
        left -= 1
        real(files, path, data, at)

    monkeypatch.setattr(Files, "write", write)
    with pytest.raises(SpoolWriteError):
        build.join("w-2", "a", 1)
    monkeypatch.undo()
    build.join("w-2", "a", 1)
    assert build.has_member("w-2")
    assert not build.ended


def test_an_order_that_can_not_be_read_for_a_moment_has_no_line_twice(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that joins its ended pipeline then is to be shown again; the lines of the others stay entered once."""
    registry = made_registry(tmp_path, files)
    known = registry.add(Facts("w-1", "task", "p", "a", 1, FOLLOWED, "uid"))
    known.append([line(), line()])
    known.end()
    registry.builds["p"].end()
    again = made_registry(tmp_path, files)
    build = again.builds["p"]
    entered = build.entries(0, 100)
    real = Files.read

    def read(files: Files, path: Path, at: int, count: int) -> bytes:
        if path.name == "order":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(files, path, at, count)

    monkeypatch.setattr(Files, "read", read)
    other = Facts("w-2", "task", "p", "a", 1, FOLLOWED, "other")
    with pytest.raises(SpoolWriteError):
        again.add(other)
    monkeypatch.undo()
    again.add(other)
    again.workers["w-1"].place()
    assert build.entries(0, 100) == entered


def test_a_pipeline_whose_names_are_lost_is_made_anew(tmp_path: Path, files: Files) -> None:
    """A power cut emptied its journal: nothing of its old order is taken for entries of the new one."""
    registry = made_registry(tmp_path, files)
    known = registry.add(Facts("w-1", "task", "p", "a", 1, FOLLOWED, "uid"))
    other = registry.add(Facts("w-2", "task", "p", "a", 1, FOLLOWED, "other"))
    for one in (known, other, known):
        one.append([line()])
    other.end()
    registry.remove(other)
    journal = registry.builds["p"]._directory / "journal"
    files.forget(journal)
    journal.write_bytes(b"")
    for _ in range(2):
        again = made_registry(tmp_path, files)
        entered = again.builds["p"].entries(0, 100)
        assert [value for kind, _, _, value in entered if kind == LINE] == [1, 2]


@pytest.mark.parametrize("step", ["sync", "_write"])
async def test_a_worker_that_is_deleted_while_its_lines_are_made_durable_is_gone(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Nothing of it is written once the disk is done with them, or has come to its facts: it would come back, without a line."""
    registry = made_registry(tmp_path, files)
    go, waiting = threading.Event(), threading.Event()
    real = getattr(WorkerLog, step)

    def held(known: WorkerLog) -> None:
        if threading.current_thread() is not threading.main_thread():
            waiting.set()
            assert go.wait(30)
        real(known)

    monkeypatch.setattr(WorkerLog, step, held)
    collector = Collector(registry, OneLine(), 65_536, 60.0, nothing, nothing, nothing, nothing)
    async with asyncio.TaskGroup() as group:
        collector.start(group)
        collector.observe(FINISHED_ONE)
        await until(waiting.is_set)
        registry.remove(registry.workers["w-1"])
        go.set()
    assert not made_registry(tmp_path, files).workers


async def test_a_spool_that_can_not_be_opened_does_not_keep_others_from_making_room(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old lines of a worker that runs go all the same, and retention goes on."""
    registry = made_registry(tmp_path, files)
    broken = registry.add(Facts("w-1", "task", uid="one"))
    broken.append([line()])
    broken.end()
    broken.release_files()
    other = registry.add(Facts("w-2", "task", uid="two"))
    for _ in range(20):
        other.append([line(b"x" * 3000)])

    def opened(directory: Path, *arguments: Any, **more: Any) -> Spool:
        if directory == broken._directory:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_spool(directory, *arguments, **more)

    monkeypatch.setattr(worker_log, "open_spool", opened)
    await Retention(registry, 7 * 86400, 20_000).enforce()
    assert other.spool.first > 1


@pytest.mark.parametrize("told", ["event", "snapshot"])
def test_a_deleted_log_is_remembered_only_while_the_scaler_shows_its_worker(registry: Registry, told: str) -> None:
    """Else every worker there ever was would be: nearly all are gone there long before their lines are deleted here."""
    collector = Collector(registry, OneLine(), 65_536, 60.0, nothing, nothing, nothing, nothing)
    for number in range(4):
        known = registry.add(Facts(f"w-{number}", "task", uid="uid"))
        known.end()
        known.facts.durable = True
        if number == 0:
            registry.remove(known)
    if told == "event":
        collector.gone("w-1")
        collector.gone("w-0")
    else:
        collector.synced({"w-2", "w-3"})
    for name in ("w-1", "w-2"):
        registry.remove(registry.workers[name])
    assert [registry.was_removed(f"w-{number}", "uid") for number in range(4)] == [False, False, True, False]


def test_an_end_that_can_not_be_written_down_is_told_once(tmp_path: Path, files: Files) -> None:
    """Its sender is told to send it again, and does; another end that it says instead is told too."""
    rig = Rig(tmp_path, files)
    pushes = Pushes(rig.registry, 10, 1000, 1000, 60.0)
    pushes.tell(rig.outgoing.told)
    for name, then, told in (("a", "COMPLETED", ["COMPLETED"]), ("b", "FAILED", ["COMPLETED", "FAILED"])):
        pushes.register(name, "task")
        (facts,) = (tmp_path / "spool" / "workers" / directory_name(name)).glob("*.json")
        in_the_way = facts.with_suffix(".new")
        in_the_way.mkdir()
        refused = pushes.notify(name, "task", Notification("COMPLETED", over=True, timestamp="", reason=""))
        assert (refused.answer, refused.message) == (Answer.NEVER, "the disk takes no more lines now; send it again")
        in_the_way.rmdir()
        assert pushes.notify(name, "task", Notification(then, over=True, timestamp="", reason="")).answer is Answer.STORED
        assert [notice.kind for notice in rig.outboxes.by_worker[name].notices] == told


def test_a_stream_remembers_only_workers_that_have_not_ended(registry: Registry) -> None:
    """One that is open for weeks brings the lines of any number; one of those that sends again is open again."""
    pushes = Pushes(registry, 10, 65_536, 65_536, 60.0)
    session = pushes.open()
    sent = Pushed("w-1", "task", "", "", "", "hello", {})
    assert pushes.store(session, sent).answer is Answer.STORED
    pushes.notify("w-1", "task", Notification("COMPLETED", over=True, timestamp="", reason=""))
    pushes.end_idle()
    assert not session.workers
    assert pushes.store(session, sent).sequence == 2
    assert not registry.workers["w-1"].ended
