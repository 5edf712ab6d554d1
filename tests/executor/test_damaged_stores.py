"""Files of runs that are damaged: nothing is destroyed, what was done is told, and what is sound goes on."""

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from otto_executor.errors import RunUnreadableError, StoreUnavailableError, StoreUnusableError
from otto_executor.retry import RetryPolicy
from otto_executor.stage import StageSpec, StageStatus
from otto_executor.stores import StoredRun
from otto_executor.stores.sqlite import open_store
from otto_executor.stores.sqlite_file import SCHEMA_VERSION
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import MemoryStore
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest, GetPipelineRequest, ListPipelinesRequest, WatchPipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage
from ottoscaler.v1.stage_pb2 import StageStatus as StageStatusMessage

from .conftest import Bench
from .test_conductor import pipeline, process, run, to_the_end, until
from .test_stores import message, record


async def left_behind(directory: Path, runs: int = 50) -> Path:
    """A file as a killed process leaves it: some runs in the file, one more in its write-ahead log only."""
    (directory / "before").mkdir()
    store = await open_store(directory / "before" / "runs.sqlite")
    for number in range(runs):
        await store.create(record(f"p{number}"), [message(1)])
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await store.create(record("last"), [message(1)])
    (directory / "after").mkdir()
    for file in ("runs.sqlite", "runs.sqlite-wal"):
        shutil.copy(directory / "before" / file, directory / "after" / file)
    await store.close()
    return directory / "after" / "runs.sqlite"


def content(directory: Path) -> set[bytes]:
    """What the files of a directory hold, whatever their names are; without empty ones."""
    return {file.read_bytes() for file in directory.iterdir()} - {b""}


def overwritten(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    middle = slice(4096 * 2, len(raw) * 3 // 4)
    raw[middle] = os.urandom(middle.stop - middle.start)
    path.write_bytes(raw)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 1000)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [overwritten, truncated, emptied], ids=lambda damage: damage.__name__)
async def test_a_damaged_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]) -> None:
    """Every byte of it is kept, with its write-ahead log, under a name that is told; there is a new memory that works."""
    path = await left_behind(tmp_path)
    damage(path)
    before = content(path.parent)
    with caplog.at_level(logging.ERROR):
        store = await open_store(path)
    told = next(r for r in caplog.records if r.message == "executor.store.moved_aside")
    kept = Path(told.__dict__["kept"])
    assert told.__dict__["path"] == str(path)
    assert kept.parent == path.parent
    assert before <= content(path.parent)
    assert kept.with_name(f"{kept.name}-wal").stat().st_size
    assert await store.unfinished() == []
    await store.create(record("new"), [message(1)])
    await store.close()
    store = await open_store(path)
    assert await store.unfinished() == ["new"]
    await store.close()


async def test_a_file_that_gets_damaged_while_it_is_used_says_what_to_do(tmp_path: Path) -> None:
    """Its runs can't be read any more: told as what it is, with what helps; the next start keeps it aside."""
    path = tmp_path / "runs.sqlite"
    store = await open_store(path)
    for number in range(50):
        await store.create(record(f"p{number}"), [message(1)])
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._connection.execute("PRAGMA shrink_memory")  # what it holds in memory is not read again
    overwritten(path)
    with pytest.raises(StoreUnavailableError, match=r"it is damaged\. Start the service again, which keeps the damaged file aside"):
        await store.page((), None, 100)
    await store.close()
    store = await open_store(path)
    assert list(tmp_path.glob("runs.sqlite.damaged-*"))
    assert await store.unfinished() == []
    await store.close()


@pytest.mark.parametrize("damage", [overwritten, truncated, emptied], ids=lambda damage: damage.__name__)
async def test_a_damaged_file_in_use_is_left_to_who_uses_it(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A second process is refused and moves nothing, however the file looks: the first one may still write to it."""
    path = tmp_path / "runs.sqlite"
    store = await open_store(path)
    for number in range(50):
        await store.create(record(f"p{number}"), [message(1)])
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await store.create(record("last"), [message(1)])
    damage(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StoreUnusableError, match="in use by another process"):
        await open_store(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    await store.close()


async def test_a_file_that_lost_its_log_goes_on_from_what_it_has(tmp_path: Path) -> None:
    """Without its write-ahead log it is as it was when that was last written back; nothing older is missing."""
    path = await left_behind(tmp_path)
    path.with_name("runs.sqlite-wal").unlink()
    store = await open_store(path)
    assert len(await store.unfinished()) == 50
    await store.close()


async def test_a_log_that_is_none_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Garbage instead of the write-ahead log is kept and told, and the file goes on as if it had lost its log."""
    path = await left_behind(tmp_path)
    garbage = os.urandom(20_000)
    path.with_name("runs.sqlite-wal").write_bytes(garbage)
    with caplog.at_level(logging.ERROR):
        store = await open_store(path)
    told = next(r for r in caplog.records if r.message == "executor.store.moved_aside")
    assert Path(told.__dict__["kept"]).read_bytes() == garbage
    assert len(await store.unfinished()) == 50
    await store.close()


async def test_a_file_that_was_left_in_the_middle_is_whole(tmp_path: Path) -> None:
    """What a killed process had stored in the write-ahead log only is there."""
    store = await open_store(await left_behind(tmp_path))
    assert "last" in await store.unfinished()
    await store.close()


async def test_a_file_that_another_program_reads_keeps_its_index(tmp_path: Path) -> None:
    """Who has it open shares its index with whoever comes: taken away, both would believe in one of their own. It is refused instead."""
    path = await left_behind(tmp_path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM runs").fetchone() == (51,)
        index = path.with_name(f"{path.name}-shm")
        before = index.stat().st_ino
        with pytest.raises(StoreUnusableError, match="another process uses it"):
            await open_store(path)
        assert index.stat().st_ino == before


async def test_a_newer_file_is_left_as_it_is_with_its_log(tmp_path: Path) -> None:
    """Not a byte changes of a file with a newer schema, nor of a write-ahead log that was not written back."""
    path = await left_behind(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.commit()
    (tmp_path / "newer").mkdir()
    for file in ("runs.sqlite", "runs.sqlite-wal"):
        shutil.copy(path.with_name(file), tmp_path / "newer" / file)
    connection.close()
    before = content(tmp_path / "newer")
    assert len(before) == 2
    with pytest.raises(StoreUnusableError, match="newer version"):
        await open_store(tmp_path / "newer" / "runs.sqlite")
    assert content(tmp_path / "newer") == before


async def test_lists_go_on_over_a_damaged_run(tmp_path: Path) -> None:
    """A run whose short form can't be understood is listed with what else is known of it and what is wrong."""
    store = await open_store(tmp_path / "runs.sqlite")
    for name in ("a", "bad", "c"):
        await store.create(record(name), [message(1)])
    store._connection.execute("UPDATE runs SET summary = x'7b', state = x'00ff' WHERE pipeline_id = 'bad'")
    store._connection.execute("UPDATE progress SET body = x'c3' WHERE pipeline_id = 'bad'")
    listed = {short.pipeline_id: short for short in await store.page((), None, 10)}
    assert listed.keys() == {"a", "bad", "c"}
    assert "damaged" in listed["bad"].error
    assert listed["bad"].status is StageStatus.RUNNING
    assert await store.summary("bad") == listed["bad"]
    with pytest.raises(RunUnreadableError):
        await store.progress("bad", 0, 10)
    await store.close()


async def test_a_damaged_run_does_not_go_on_and_the_others_do(bench: Bench) -> None:
    """Who asks for it is told DATA_LOSS, without a word of ours or Python's, also at the end of its messages; it is left as it is."""
    bench.fleet.script = lambda _: Fate(seconds=None)
    async with bench.executor() as executor:
        for name in ("bad", "good"):
            stages = [PipelineStage(stage_id="a", command=["true"])]
            call = executor.client.ExecutePipeline(PipelineRequest(pipeline_id=name, stages=stages))
            await anext(aiter(call))
            await until(lambda name=name: (name, "a", 1, 1) in bench.fleet.workers)  # type: ignore[misc]  # bound at once
            call.cancel()
    connection = sqlite3.connect(bench.settings.database)
    connection.execute("UPDATE runs SET state = x'7b22' WHERE pipeline_id = 'bad'")
    connection.commit()
    connection.close()
    async with bench.executor() as executor:
        seen: list[PipelineProgress] = []

        async def watch() -> None:
            seen.extend([m async for m in executor.client.WatchPipeline(WatchPipelineRequest(pipeline_id="bad"))])

        async def get() -> Any:
            return await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="bad"))

        async def cancel() -> Any:
            return await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="bad"))

        for ask in (watch, get, cancel):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await ask()
            assert raised.value.code() is grpc.StatusCode.DATA_LOSS
            assert "choose another pipeline_id" in (raised.value.details() or "")
            assert "JSON" not in (raised.value.details() or "")
        bench.fleet.end(("good", "a", 1, 1), Fate())
        said = [m async for m in executor.client.WatchPipeline(WatchPipelineRequest(pipeline_id="good"))]
        assert said[-1].status == StageStatusMessage.STAGE_COMPLETED
        assert len((await executor.client.ListPipelines(ListPipelinesRequest())).pipelines) == 2


class Damaged(MemoryStore):
    """Fails once to save the run `bad`, and can't load it from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged = False

    async def save(self, run: StoredRun, progress: Any, *, edge: bool) -> None:
        if run.definition.pipeline_id == "bad" and not self.damaged:
            self.damaged = True
            raise RuntimeError("an unexpected error, raised by a test")
        await super().save(run, progress, edge=edge)

    async def load(self, pipeline_id: str) -> StoredRun | None:
        if pipeline_id == "bad" and self.damaged:
            raise RunUnreadableError("bad", "told so by a test")
        return await super().load(pipeline_id)


async def test_a_run_that_can_not_be_loaded_again_ends_no_other() -> None:
    """After an unexpected error in a run whose kept state can't be understood either, that run stands still, and the rest goes on."""
    fleet = Fleet()
    async with process(fleet, Damaged()) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), pipeline_id="bad"), b"")
        with pytest.raises(RunUnreadableError):
            await to_the_end(conductor, "bad")
        said = await run(conductor, pipeline(StageSpec("a", retry=RetryPolicy()), pipeline_id="good"))
    fleet.close()
    assert said[-1].status is StageStatus.COMPLETED
