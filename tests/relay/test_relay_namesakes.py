"""A worker whose name is another one's by now: its log, its readers, its pipeline, and what was written down of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from otto_relay.build_log import BuildLog, Part
from otto_relay.build_reader import BuildReader
from otto_relay.collector import PENDING, RUNNING, Collector, Observed
from otto_relay.encoder import Fresh
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.lanes import Limits
from otto_relay.notices import Sighting
from otto_relay.readers import task_entries
from otto_relay.registry import Registry
from otto_relay.retention import Retention
from otto_relay.selection import Selection
from otto_relay.sources.protocol import Ending, Line, LogSource, Split
from otto_relay.worker_log import FOLLOWED, PUSHED, Facts, WorkerLog, read_facts
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, WorkerIdentifier

from .conftest import until
from .test_relay_collecting import complete
from .test_relay_reading import everything, relay_knows


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def line(text: bytes = b"hello") -> Fresh:
    return Fresh(time.time_ns(), 0, text, b"1")


def nothing(_: object) -> None:
    pass


def full(*_: Any) -> None:
    raise SpoolWriteError("the disk is full")


class Lingering:
    """A LogSource whose logs come to their ends when a test says so."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.opened = 0

    async def available(self, worker_id: str, ended: Ending) -> bool:
        return True

    async def secrets(self, worker_id: str) -> Sequence[str]:
        return ()

    async def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncIterator[list[Line]]:
        self.opened += 1
        over = asyncio.Event()
        unsubscribe = ended.subscribe(over.set)
        await self.go.wait()
        if not ended.is_set():
            await over.wait()
        unsubscribe()
        yield [Line(1, False, b"line", b"1")]


def collecting(registry: Registry, source: LogSource, joined: Any = nothing) -> Collector:
    return Collector(registry, source, 65_536, 60.0, nothing, joined, nothing, nothing)


def shown(phase: int, uid: str, task: str = "task", pipeline: str = "") -> Observed:
    return Observed("w-1", task, pipeline, "a" if pipeline else "", 1, uid, phase, started=phase > 0, sighting=Sighting("running"))


async def test_a_worker_that_comes_and_goes_while_the_last_one_of_its_name_is_collected_ends(registry: Registry) -> None:
    """The scaler has said already that it is gone, and never says it again."""
    source = Lingering()
    collector = collecting(registry, source)
    async with asyncio.TaskGroup() as group:
        collector.start(group)
        collector.observe(shown(RUNNING, "one"))
        await until(lambda: source.opened == 1)
        collector.gone("w-1")
        collector.observe(shown(RUNNING, "two"))
        collector.gone("w-1")
        source.go.set()
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("collect ")]
        try:
            await until(lambda: registry.workers["w-1"].facts.uid == "two" and registry.workers["w-1"].ended)
        finally:
            for task in asyncio.all_tasks():
                if task in tasks or task.get_name().startswith("collect "):
                    task.cancel()


async def test_who_reads_a_task_whose_worker_turns_out_to_be_followed_goes_on(relay: Any) -> None:
    """A worker that sent a line itself before the scaler showed it: its task's reader gets the lines of its log, and the end."""
    await everything(relay.logs.StreamLogs(iter([LogEntry(worker_id="w-1", task_id="mine", message="early")])))
    call = relay.logs.StreamWorkerLogs(WorkerIdentifier(task_id="mine"))
    assert (await call.read()).message == "early"
    relay.log("w-1").write("real")
    relay.scaler.show("w-1", "succeeded", task_id="mine", uid="u")
    async with asyncio.timeout(10):
        assert (await call.read()).message == "real"
        assert await call.read() is grpc.aio.EOF


async def test_who_reads_a_task_whose_worker_turns_out_to_be_another_tasks_comes_to_an_end(relay: Any) -> None:
    """Nothing of that worker will ever be said to be this task's."""
    await everything(relay.logs.StreamLogs(iter([LogEntry(worker_id="w-1", task_id="other", message="early")])))
    call = relay.logs.StreamWorkerLogs(WorkerIdentifier(task_id="other"))
    assert (await call.read()).message == "early"
    relay.scaler.show("w-1", "running", task_id="mine", uid="u")
    async with asyncio.timeout(10):
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("fails", ["join", "save"])
def test_a_full_disk_does_not_lose_that_a_worker_is_followed(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """It sent lines itself before; shown again when the disk takes it, it is its task's and its pipeline's, on disk too."""
    registry = Registry(tmp_path, files, 4096)
    registry.load()
    known = registry.add(Facts("w-1", "other", origin=PUSHED))
    known.append([line()])
    joined: list[WorkerLog] = []
    collector = collecting(registry, Lingering(), joined.append)
    seen = shown(PENDING, "uid", "mine", "p")
    monkeypatch.setattr(BuildLog if fails == "join" else WorkerLog, fails, full)
    with pytest.raises(SpoolWriteError):
        collector.observe(seen)
    monkeypatch.undo()
    collector.observe(seen)
    assert registry.tasks["mine"].workers == [known]
    assert known.order is registry.builds["p"]
    assert joined == [known]
    facts = read_facts(known._directory)
    assert facts is not None
    assert (facts.uid, facts.task_id, facts.origin) == ("uid", "mine", FOLLOWED)


def test_a_full_disk_does_not_make_lines_of_a_new_worker_come_twice(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is another one is written down before any line of it; after a kill reading goes on behind them."""
    registry = Registry(tmp_path, files, 4096)
    registry.load()
    known = registry.add(Facts("w-1", "task", uid="one"))
    known.append([line()])
    known.end()
    collector = collecting(registry, Lingering())
    monkeypatch.setattr(WorkerLog, "save", full)
    with pytest.raises(SpoolWriteError):
        collector.observe(shown(PENDING, "two"))
    monkeypatch.undo()
    collector.observe(shown(PENDING, "two"))
    known.append([line(b"new")])
    again = Registry(tmp_path, files, 4096)
    again.load()
    assert again.workers["w-1"].facts.uid == "two"
    assert again.workers["w-1"].position == b"1"


@pytest.mark.parametrize("how", ["task", "pipeline"])
async def test_a_reader_sees_the_lines_of_a_new_worker_of_a_log_that_was_closed(registry: Registry, how: str) -> None:
    """A worker that ended a while ago is closed; then its name comes again, while the reader waits for others."""
    known = registry.add(Facts("w-1", "task", "p", "a", 1, uid="one"))
    other = registry.add(Facts("w-2", "task", "p", "a", 1, uid="other"))
    known.append([line(b"first")])
    build = registry.builds["p"]
    reader = (
        task_entries(registry.tasks["task"], Selection(), Limits(), 0.0)
        if how == "task"
        else BuildReader(registry, build, Part(), Selection()).entries(Limits(), 60.0)
    )
    got: list[bytes] = []

    async def read() -> None:
        async for batch in reader:
            got.extend(batch)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(read())
        await until(lambda: any(b"first" in entry for entry in got))
        known.end()
        known.facts.ended -= 1000
        await Retention(registry, 7 * 86400, 1 << 40).enforce()
        known.reopen("two")
        known.append([line(b"second")])
        known.end()
        other.end()
        build.end()
        await asyncio.wait_for(task, 10)
    assert any(b"second" in entry for entry in got)


async def test_a_pipeline_that_has_ended_goes_on_with_a_new_worker_of_a_known_name(stand: Any) -> None:
    """As it does with one of a new name: who reads it gets the lines of that one too, and then the end."""
    log = stand.log("w-1")
    log.write("one")
    run = {"pipeline_id": "p", "stage_id": "a", "attempt": 1}
    async with stand.relay():
        stand.scaler.show("w-1", "succeeded", uid="one", **run)
        await complete(stand, "w-1")
        await everything(stand.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p")), 10)
        await until(lambda: stand.scaler.released == ["w-1"], 20)
        log.path.unlink()
        fresh = stand.log("w-1")
        fresh.write("two")
        stand.scaler.show("w-1", "running", uid="two", **run)
        await relay_knows(stand, "w-1", 2)
        call = stand.logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p"))
        got: list[str] = []
        async with asyncio.timeout(20):
            while (entry := await call.read()) is not grpc.aio.EOF:
                got += [entry.entry.message] if entry.entry.message else []
                if got == ["one", "two"]:
                    fresh.write("three")
                    stand.scaler.show("w-1", "succeeded", uid="two", **run)
    assert got == ["one", "two", "three"]
