"""Lines on their way from a worker's log into the spool: restarts, replaced and cut logs, parts, masks, retention; over real gRPC."""

import asyncio
import json
import random
import threading
from typing import Any

import grpc.aio
import pytest

from otto_relay import collector
from otto_relay.encoder import Fresh
from otto_relay.masking import Masker
from otto_relay.sources.protocol import Line
from ottoscaler.v1.log_pb2 import (
    BUILD_LOG_KIND_GAP,
    BUILD_LOG_KIND_LINE,
    BuildIdentifier,
    LogEntry,
    LogSelection,
    WorkerIdentifier,
)
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED, STAGE_RUNNING

from .conftest import until
from .test_relay_reading import everything, relay_knows, some


async def kept(relay: Any, worker_id: str) -> list[LogEntry]:
    request = WorkerIdentifier(worker_id=worker_id, selection=LogSelection(no_follow=True))
    return await everything(relay.logs.StreamWorkerLogs(request), 20)


async def complete(relay: Any, worker_id: str) -> list[LogEntry]:
    return await everything(relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id=worker_id)), 20)


@pytest.mark.parametrize("seed", range(4))
async def test_a_relay_that_is_restarted_at_any_moment_has_each_line_once(stand: Any, seed: int) -> None:
    """While three workers write, some of their lines in parts, the relay is stopped and started at random: no hole, no double."""
    dice = random.Random(seed)
    names = ["w-1", "w-2", "w-3"]
    logs = {name: stand.log(name) for name in names}
    texts: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        stand.scaler.show(name)
    for _ in range(5):
        async with stand.relay(segment_bytes=4096):
            for _ in range(dice.randrange(1, 12)):
                name = dice.choice(names)
                for _ in range(dice.randrange(40)):
                    parts = ["x" * dice.randrange(60) for _ in range(dice.randrange(3))]
                    for part in parts:
                        logs[name].write(part, part=True)
                    last = f" {len(texts[name])}"
                    logs[name].write(last)
                    texts[name].append("".join(parts) + last)
                await asyncio.sleep(dice.random() * 0.02)
    async with stand.relay(segment_bytes=4096):
        for name in names:
            stand.scaler.show(name, "succeeded")
        for name in names:
            got = await complete(stand, name) if texts[name] else []
            assert [entry.message for entry in got] == texts[name]
            assert [entry.sequence for entry in got] == list(range(1, len(texts[name]) + 1))


async def test_a_line_in_parts_is_one_entry_even_when_both_streams_interleave(relay: Any) -> None:
    """Parts of stdout and stderr that alternate make whole lines of each; what has no end when the worker ends is a line too."""
    log = relay.log("w-1")
    log.write("out 1 ", part=True)
    log.write("err 1 ", part=True, stderr=True)
    log.write("out 2")
    log.write("err 2", stderr=True)
    log.write("no end", part=True)
    relay.scaler.show("w-1", "succeeded")
    got = await complete(relay, "w-1")
    assert [(entry.message, entry.source) for entry in got] == [("out 1 out 2", "stdout"), ("err 1 err 2", "stderr"), ("no end", "stdout")]


async def test_any_bytes_become_text_and_long_lines_become_entries(stand: Any) -> None:
    """Bytes that are no UTF-8 are replaced, NUL and colours stay, a line beyond the limit is split at characters and loses nothing."""
    async with stand.relay(max_line_bytes=1024):
        log = stand.log("w-1")
        log.write(b"bad \xff\xfe byte", b"nul \x00 here", "\x1b[31mred\x1b[0m", "한" * 2000)
        stand.scaler.show("w-1", "succeeded")
        got = [entry.message for entry in await complete(stand, "w-1")]
        assert got[:3] == ["bad \ufffd\ufffd byte", "nul \x00 here", "\x1b[31mred\x1b[0m"]
        assert "".join(got[3:]) == "한" * 2000
        assert max(len(message.encode()) for message in got) <= 1024


async def test_a_log_that_was_cut_short_is_said_to_be_incomplete(stand: Any) -> None:
    """A log file that somebody truncated: what is stored stays, and a line of our own says that some are missing."""
    async with stand.relay(stage_wait=0.1):
        log = stand.log("w-1")
        log.write("one", "two")
        stand.scaler.show("w-1")
        await relay_knows(stand, "w-1", 2)
    log.path.write_bytes(b"")
    async with stand.relay(stage_wait=0.1):
        stand.scaler.show("w-1", "succeeded")
        got = await complete(stand, "w-1")
    assert [entry.message for entry in got[:2]] == ["one", "two"]
    assert got[2].message.startswith("[ottoscaler]")
    assert (got[2].level, dict(got[2].metadata)) == ("WARN", {"otto.notice": "log_incomplete"})


async def test_a_log_that_is_deleted_while_it_is_followed_is_read_to_its_end(relay: Any) -> None:
    """The file is open, so lines that were written before it was deleted are there; the reader ends."""
    log = relay.log("w-1")
    log.write("one")
    relay.scaler.show("w-1")
    call = relay.logs.StreamWorkerLogs(WorkerIdentifier(worker_id="w-1"))
    await some(call, 1, 20)
    log.write("two")
    log.path.unlink()
    relay.scaler.remove("w-1")
    assert [entry.message for entry in await everything(call, 20)] == ["two"]


async def test_a_new_worker_of_the_same_name_goes_on_behind_the_old_one(relay: Any) -> None:
    """Told by its uid, its lines follow with the next sequences, from the start of its own log."""
    log = relay.log("w-1")
    log.write("old 1", "old 2")
    relay.scaler.show("w-1", "succeeded", uid="first")
    await complete(relay, "w-1")
    await until(lambda: relay.scaler.released == ["w-1"], 20)
    log.path.unlink()
    fresh = relay.log("w-1")
    fresh.write("new 1")
    relay.scaler.show("w-1", "running", uid="second")
    await relay_knows(relay, "w-1", 3)
    fresh.write("new 2")
    relay.scaler.show("w-1", "succeeded", uid="second")
    got = await complete(relay, "w-1")
    assert [(entry.sequence, entry.message) for entry in got] == [(1, "old 1"), (2, "old 2"), (3, "new 1"), (4, "new 2")]


async def test_values_are_masked_before_anybody_sees_the_line(stand: Any) -> None:
    """Also in parts, over the border of two entries, and after a restart between two parts."""
    (stand.workers_dir / "w-1").mkdir(parents=True)
    (stand.workers_dir / "w-1" / "secrets").write_text(json.dumps(["hunter22 is long"]))
    log = stand.log("w-1")
    async with stand.relay(max_line_bytes=1024):
        log.write("before hunter22 is long after", "x" * 1020 + "hunter22 is long" + "y" * 1500)
        log.write("parted hunter2", part=True)
        stand.scaler.show("w-1")
        await relay_knows(stand, "w-1", 1)
    async with stand.relay(max_line_bytes=1024):
        log.write("2 is long")
        stand.scaler.show("w-1", "succeeded")
        messages = [entry.message for entry in await complete(stand, "w-1")]
    assert messages[0] == "before *** after"
    assert "".join(messages[1:-1]) == "x" * 1020 + "***" + "y" * 1500
    assert messages[-1] == "parted ***"
    assert not [path for path in (stand.directory / "spool").rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


async def test_lines_without_readable_values_are_not_stored_unmasked(stand: Any) -> None:
    """When the values to mask can't be read, no line is stored; after a while the log says so, instead of leaking."""
    (stand.workers_dir / "w-1").mkdir(parents=True)
    (stand.workers_dir / "w-1" / "secrets").write_text("{broken")
    async with stand.relay(stage_wait=0.2):
        stand.log("w-1").write("hunter22")
        stand.scaler.show("w-1", "succeeded")
        got = await complete(stand, "w-1")
    assert len(got) == 1
    assert "values to mask" in got[0].message


async def test_what_retention_deletes_is_a_gap_with_a_count(stand: Any) -> None:
    """Old lines of a worker that still runs: its readers see how many are gone before the first that is kept; builds get a GAP."""
    settings = {"segment_bytes": 4096, "retention_bytes": 60_000, "retention_interval": 0.02}
    async with stand.relay(**settings):
        stand.executor.add("p", "lint")
        log = stand.log("w-1")
        stand.scaler.show("w-1", pipeline_id="p", stage_id="lint", attempt=1)
        await stand.executor.say("p", "lint", STAGE_RUNNING, 1, ["w-1"])
        texts = [f"line {number}" for number in range(1, 2001)]
        for start in range(0, 2000, 50):
            log.write(*texts[start : start + 50])
            await relay_knows_last(stand, "w-1", start + 50)
        workers = stand.directory / "spool"
        await until(lambda: sum(path.stat().st_size for path in workers.rglob("*.seg")) < 60_000, 20)
        got = await kept(stand, "w-1")
        missing = got[0].dropped_before
        assert missing > 100
        assert [entry.sequence for entry in got] == list(range(missing + 1, 2001))
        assert [entry.message for entry in got] == texts[missing:]
        assert not any(entry.dropped_before for entry in got[1:])
        request = BuildIdentifier(pipeline_id="p", selection=LogSelection(no_follow=True))
        entries = await everything(stand.logs.StreamBuildLogs(request), 20)
        gaps = [entry.dropped for entry in entries if entry.kind == BUILD_LOG_KIND_GAP]
        lines = [entry for entry in entries if entry.kind == BUILD_LOG_KIND_LINE]
        assert sum(gaps) == 2000 - len(lines) >= missing
        assert [entry.entry.message for entry in lines] == texts[2000 - len(lines) :]
        stand.scaler.show("w-1", "succeeded", pipeline_id="p", stage_id="lint", attempt=1)
        await stand.executor.say("p", "lint", STAGE_COMPLETED, 1, ["w-1"])


async def relay_knows_last(relay: Any, worker_id: str, sequence: int) -> None:
    """Waits until a line with this sequence is stored."""
    async with asyncio.timeout(20):
        while True:
            request = WorkerIdentifier(worker_id=worker_id, selection=LogSelection(no_follow=True, tail_lines=1))
            try:
                got = await everything(relay.logs.StreamWorkerLogs(request), 20)
            except grpc.aio.AioRpcError:
                got = []
            if got and got[-1].sequence >= sequence:
                return
            await asyncio.sleep(0.005)


async def test_lines_of_ended_workers_go_by_age(stand: Any) -> None:
    """Beyond the configured age after its end a worker's lines are deleted; asking for them is NOT_FOUND."""
    async with stand.relay(retention_seconds=0.3, retention_interval=0.05):
        stand.log("w-1").write("old")
        stand.scaler.show("w-1", "succeeded")
        assert len(await complete(stand, "w-1")) == 1
        stand.scaler.remove("w-1")
        await until(lambda: not list((stand.directory / "spool" / "workers").iterdir()), 20)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await kept(stand, "w-1")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_scaler_that_is_away_for_a_while_changes_nothing(stand: Any) -> None:
    """Its watch ends and begins again: lines of workers that ended meanwhile are complete, and it is told again who may be deleted."""
    async with stand.relay():
        log = stand.log("w-1")
        log.write("one")
        stand.scaler.show("w-1")
        await relay_knows(stand, "w-1", 1)
        log.write("two")
        stand.scaler.end_watches()
        stand.scaler.show("w-1", "succeeded")
        assert [entry.message for entry in await complete(stand, "w-1")] == ["one", "two"]
        await until(lambda: "w-1" in stand.scaler.released, 20)
        stand.scaler.released.clear()
        stand.scaler.end_watches()
        await until(lambda: "w-1" in stand.scaler.released, 20)


async def test_a_long_line_is_masked_beside_the_loop(stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of escapes takes a tenth of a second to look through: readers of others go on meanwhile. Short lines need no thread."""
    loop = threading.get_ident()
    beside: dict[int, bool] = {}
    real = collector.fresh

    def seen(lines: list[Line], masker: Masker, position: bytes) -> list[Fresh]:
        beside[max(len(line.text) for line in lines)] = threading.get_ident() != loop
        return real(lines, masker, position)

    monkeypatch.setattr(collector, "fresh", seen)
    long = "%41" * 100_000
    log = stand.log("w-1")
    async with stand.relay():
        stand.scaler.show("w-1", "running")
        log.write("short")
        await until(lambda: 5 in beside)
        log.write(long)
        await until(lambda: len(long) in beside)
    assert beside == {5: False, len(long): True}
