"""What is deleted for its age or for room, while otto-handler has not got all of it, the disk is full, or the clock is set."""

import asyncio
import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from otto_relay import worker_log
from otto_relay.encoder import Fresh
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.registry import Registry
from otto_relay.retention import Retention
from otto_relay.spool import Spool, open_spool
from otto_relay.worker_log import FOLLOWED, PUSHED, Facts, WorkerLog

from .pushing import Rig, until

DAY = 86400.0


@pytest.fixture
def files() -> Any:
    made = Files(16)
    yield made
    made.close()


def worker(registry: Registry, name: str, count: int = 5, *, age: float = 30 * DAY, origin: str = FOLLOWED) -> WorkerLog:
    """A worker that ended some seconds ago."""
    known = registry.add(Facts(name, "task", origin=origin, uid=f"uid-{name}"))
    known.append([Fresh(time.time_ns(), 0, f"{name} {number}".encode()) for number in range(1, count + 1)])
    known.end()
    known.facts.ended = time.time() - age
    return known


def full(monkeypatch: pytest.MonkeyPatch, room: Any) -> None:
    """The disk takes nothing of an outbox unless `room()`."""
    real = Path.write_text

    def write_text(self: Path, *arguments: Any, **more: Any) -> int:
        if self.parent.name == "handler" and not room():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "write_text", write_text)


async def test_a_full_disk_does_not_keep_lines_that_nobody_is_owed(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What otto-handler has got is deleted without anything being written."""
    rig = Rig(tmp_path, files)
    known = worker(rig.registry, "w-1")
    async with rig.pushing():
        await until(lambda: rig.tally.pushed == 5)
        full(monkeypatch, lambda: False)
        await Retention(rig.registry, 7 * DAY, 1 << 40).enforce()
        assert known.removed
        assert not rig.outboxes.by_worker


async def test_a_full_disk_gets_room_by_deleting_what_is_owed(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that were not pushed are deleted though the count of them finds room only afterwards; otto-handler is told the count."""
    rig = Rig(tmp_path, files)
    rig.handler.away = True
    known = worker(rig.registry, "w-1")
    full(monkeypatch, lambda: not known.spool.segments)
    await Retention(rig.registry, 7 * DAY, 1 << 40).enforce()
    assert known.removed
    again = Rig(tmp_path, files)
    async with again.pushing():
        await until(lambda: again.tally.missing == 5)


@pytest.mark.parametrize("what", ["the count", "the lines"])
async def test_lines_that_could_not_be_deleted_are_still_pushed(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A deletion that fails at its beginning changes nothing: every line is sent, and none is told to be missing."""
    rig = Rig(tmp_path, files)
    known = worker(rig.registry, "w-1")

    def fails(*_: Any, **__: Any) -> None:
        raise SpoolWriteError("it does not work")

    if what == "the count":
        monkeypatch.setattr(type(rig.outboxes.by_worker["w-1"]), "save", fails)
    else:
        monkeypatch.setattr(known, "delete", fails)
    await Retention(rig.registry, 7 * DAY, 1 << 40).enforce()
    assert not known.removed
    async with rig.pushing():
        await until(lambda: rig.tally.pushed == 5)
        assert not rig.tally.missing


async def test_a_worker_that_is_opened_again_while_others_are_deleted_is_kept(tmp_path: Path, files: Files) -> None:
    """It has not ended any more, so it is neither old nor deleted."""
    registry = Registry(tmp_path / "spool", files, 4096)
    registry.load()
    for number in range(50):
        worker(registry, f"old-{number:02}", age=30 * DAY)
    known = worker(registry, "sender", age=29 * DAY, origin=PUSHED)

    async def send_again() -> None:
        known.reopen("")
        known.append([Fresh(time.time_ns(), 0, b"here again")])

    sending = asyncio.create_task(send_again())
    await Retention(registry, 7 * DAY, 1 << 40).enforce()
    await sending
    assert list(registry.workers) == ["sender"]


async def test_a_clock_that_is_set_deletes_nothing(tmp_path: Path, files: Files) -> None:
    """A clock that is set to next week makes no line a week old; time that passes does."""
    registry = Registry(tmp_path / "spool", files, 4096)
    registry.load()
    known = worker(registry, "w-1", age=0.0)
    day, steady = time.time(), 0.0
    retention = Retention(registry, 7 * DAY, 1 << 40, lambda: day, lambda: steady)
    day += 8 * DAY
    await retention.enforce()
    assert not known.removed
    day, steady = day + 8 * DAY, steady + 8 * DAY
    await retention.enforce()
    assert known.removed


async def test_a_spool_that_can_not_be_opened_holds_up_only_its_own_worker(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are sent when it can be read again; those of others go on, and the push does not end."""
    rig = Rig(tmp_path, files)
    known, other = worker(rig.registry, "w-1"), worker(rig.registry, "w-2")
    known.release_files()
    broken = True
    real = open_spool

    def opened(directory: Path, *arguments: Any, **more: Any) -> Spool:
        if broken and directory == known._directory:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(directory, *arguments, **more)

    monkeypatch.setattr(worker_log, "open_spool", opened)
    async with rig.pushing():
        await until(lambda: rig.handler.messages("w-2") == [f"w-2 {number}" for number in range(1, 6)])
        assert other.spool.last == 5
        await until(lambda: rig.outboxes.by_worker["w-1"].unread > 2)
        broken = False
        await until(lambda: rig.handler.messages("w-1") == [f"w-1 {number}" for number in range(1, 6)])
