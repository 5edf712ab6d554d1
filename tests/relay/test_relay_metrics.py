"""What Prometheus sees of lines that are taken in."""

import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from otto_relay.encoder import Fresh
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.metrics import Spool
from otto_relay.registry import Registry
from otto_relay.retention import Retention
from otto_relay.settings import Settings
from otto_relay.worker_log import Facts
from ottoscaler.v1.log_pb2 import LogEntry

from .conftest import Stand, until
from .test_relay_collecting import complete
from .test_relay_deleting import DAY, worker
from .test_relay_reading import everything
from .test_relay_sending import entries, send

WRITTEN = 1_763_949_600
"""When the lines of a test's log say that they were written."""


def figure(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"otto_relay_{name}", labels)


async def test_lines_are_counted_with_the_time_they_took_while_the_relay_runs(stand: Stand) -> None:
    """A worker that is followed, its lines, and how late they were; a log that is gone is a place where lines may be missing."""
    log = stand.log("w-1")
    stand.scaler.show("w-1")
    async with stand.relay():
        for number in range(50):
            log.write(f"line {number}")
        stand.scaler.show("w-1", "succeeded")
        assert len(await complete(stand, "w-1")) == 50
        assert (figure("lines_total", origin="followed"), figure("workers_kept"), figure("incomplete_total")) == (50, 1, 0)
        assert figure("line_bytes_total", origin="followed") == sum(len(f"line {number}") for number in range(50))
        assert figure("lines_total", origin="pushed") == 0
        batches, seconds = figure("delay_seconds_count"), figure("delay_seconds_sum")
        assert batches is not None
        assert seconds is not None
        assert 1 <= batches <= 50
        assert seconds / batches == pytest.approx(time.time() - WRITTEN, abs=60)
        stand.scaler.show("w-2", "failed")
        await complete(stand, "w-2")
        assert figure("incomplete_total") == 1
    assert figure("lines_total", origin="followed") is None


async def test_lines_that_workers_send_themselves_are_counted_apart(relay: Stand) -> None:
    """With the bytes of their texts; the lines that are dropped are not."""
    await everything(relay.logs.StreamLogs(send([*entries(3), LogEntry(worker_id="")])), 20)
    assert (figure("lines_total", origin="pushed"), figure("line_bytes_total", origin="pushed")) == (3, 18)


async def test_the_spool_is_seen_with_its_limit_and_its_disk(relay: Stand) -> None:
    """Bytes that are kept, may be kept, and are free."""
    before = figure("spool_bytes")
    await everything(relay.logs.StreamLogs(send(entries(100))), 20)
    after, free, disk = figure("spool_bytes"), figure("spool_disk_free_bytes"), figure("spool_disk_bytes")
    assert before is not None
    assert after is not None
    assert after > before
    assert free is not None
    assert disk is not None
    assert 0 < free < disk
    assert figure("spool_limit_bytes") == Settings().retention_bytes


async def test_a_log_that_can_not_be_stored_is_tried_again_and_counted(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time; and no more once it can."""
    write, fails = Files.write, True

    def unless_full(files: Files, *arguments: Any) -> None:
        if fails:
            raise SpoolWriteError("the disk is full")
        write(files, *arguments)

    monkeypatch.setattr(Files, "write", unless_full)
    log = stand.log("w-1")
    stand.scaler.show("w-1")
    async with stand.relay():
        log.write("one")
        await until(lambda: (figure("retries_total") or 0) >= 2)
        fails = False
        stand.scaler.show("w-1", "succeeded")
        await complete(stand, "w-1")
        assert figure("lines_total", origin="followed") == 1


async def test_what_is_deleted_for_want_of_room_is_counted(tmp_path: Path) -> None:
    """Ended workers that might have been kept longer, and lines of running ones; not what was old."""
    files = Files(16)
    registry = Registry(tmp_path / "spool", files, 256)
    registry.load()
    retention = Retention(registry, 7 * DAY, 0)
    worker(registry, "old")
    worker(registry, "new", age=60.0)
    going_on = registry.add(Facts("runs", "task"))
    for _ in range(20):
        going_on.append([Fresh(time.time_ns(), 0, b"x" * 100)])
    spool = Spool(registry, retention, tmp_path)
    await retention.enforce()
    figures = {sample.name: sample.value for family in spool.collect() for sample in family.samples}
    assert figures["otto_relay_workers_evicted_total"] == 1
    assert figures["otto_relay_lines_trimmed_total"] == going_on.spool.first - 1 > 0
    assert figures["otto_relay_workers_kept"] == 1
    files.close()
