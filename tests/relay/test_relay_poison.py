"""One line or notice that otto-handler can't bear holds up its own worker, and nobody else for long."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otto_relay.encoder import Fresh
from otto_relay.files import Files
from otto_relay.notices import Notice
from otto_relay.worker_log import Facts

from .pushing import Handler, Rig, until


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def begin(rig: Rig, name: str, *texts: str) -> None:
    known = rig.registry.add(Facts(name, "task"))
    known.append([Fresh(time.time_ns(), 0, text.encode()) for text in texts])


async def test_a_line_that_ends_every_stream_holds_up_its_own_worker_only(
    tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """All lines of five others arrive; its own do when it is no longer poison, in order. The log names the line and calls it no outage."""
    rig = Rig(tmp_path, files)
    rig.handler.poison = {"poison"}
    begin(rig, "a", "poison", "after", "more")
    for number in range(5):
        begin(rig, f"b-{number}", "one", "two", "three")
    async with rig.pushing():
        await until(lambda: len(rig.handler.taken) >= 15 and rig.handler.streams > 4)
        for number in range(5):
            assert set(rig.handler.messages(f"b-{number}")) == {"one", "two", "three"}
        assert rig.handler.messages("a") == []
        rig.handler.poison = set()
        await until(lambda: rig.handler.messages("a") == ["poison", "after", "more"])
    stumbled = [(record.worker, record.sequence) for record in caplog.records if record.msg == "relay.handler.stumbled"]  # type: ignore[attr-defined]  # its fields
    assert ("a", 1) in stumbled
    assert "relay.handler.lost" not in caplog.messages


async def test_notices_that_are_never_taken_hold_up_their_own_workers_only(
    tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """More of them than there are notices on their way at once: those of others arrive, and of each worker in order. It is no outage."""
    rig = Rig(tmp_path, files)
    names = [f"hated-{number}" for number in range(20)]
    rig.handler.hated = set(names)
    for name in [*names, "loved"]:
        begin(rig, name, "line")
        outbox = rig.outboxes.by_worker[name]
        outbox.note("", [Notice("CREATED", 1, ""), Notice("RUNNING", 2, "")])
        rig.notifier.wake(outbox)
    async with rig.pushing():
        await until(lambda: rig.handler.notices == [("loved", "CREATED"), ("loved", "RUNNING")])
        rig.handler.hated = set()
        await until(lambda: len(rig.handler.notices) == 42)
    assert "relay.handler.lost" not in caplog.messages
    for name in names:
        assert [kind for who, kind in rig.handler.notices if who == name] == ["CREATED", "RUNNING"]


async def test_notices_that_wait_for_long_keep_nobody_else_waiting(tmp_path: Path, files: Files) -> None:
    """More of them than are told at once, each at its longest wait of an hour: a worker that comes after all of them is told of."""
    rig = Rig(tmp_path, files, longest_notice_wait=3600.0)
    names = [f"hated-{number}" for number in range(20)]
    rig.handler.hated = set(names)
    for name in [*names, "loved"]:
        begin(rig, name, "line")
        outbox = rig.outboxes.by_worker[name]
        outbox.stumbles = 30
        outbox.note("", [Notice("CREATED", 1, "")])
        rig.notifier.wake(outbox)
    async with rig.pushing():
        await until(lambda: rig.handler.notices == [("loved", "CREATED")])


async def test_what_is_owed_of_removed_workers_is_bounded(tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """The worker known longest is given up with a warning, also in the files; the others are told of as ever."""
    rig = Rig(tmp_path, files, most_removed=3)
    for number in range(5):
        begin(rig, f"w-{number}", "one", "two")
        known = rig.registry.workers[f"w-{number}"]
        known.end()
        rig.registry.remove(known)
    given_up = [(record.worker, record.lines) for record in caplog.records if record.msg == "relay.handler.given_up"]  # type: ignore[attr-defined]
    assert given_up == [("w-0", 2), ("w-1", 2)]
    again = Rig(tmp_path, files, Handler())
    async with again.pushing():
        await until(lambda: len(again.handler.taken) == 3)
        assert [entry.worker_id for entry in sorted(again.handler.taken, key=lambda entry: entry.worker_id)] == ["w-2", "w-3", "w-4"]
        await until(lambda: not list((tmp_path / "spool" / "handler").iterdir()))


async def test_an_answer_for_a_worker_that_was_given_up_changes_nothing(tmp_path: Path, files: Files) -> None:
    """Given up while its count is on its way: the answer makes no file, and what another worker of its name is owed stays."""
    rig = Rig(tmp_path, files, most_removed=1)
    rig.handler.open.clear()
    begin(rig, "w-1", "one")
    known, given_up = rig.registry.workers["w-1"], rig.outboxes.by_worker["w-1"]
    async with rig.pushing():
        await until(lambda: rig.tally.unanswered == 1)
        known.end()
        rig.registry.remove(known)
        begin(rig, "w-2", "one")
        known = rig.registry.workers["w-2"]
        known.end()
        rig.registry.remove(known)
        assert list(rig.outboxes.by_worker) == ["w-2"]
        given_up.keep()
        given_up.save()
        assert not list((tmp_path / "spool" / "handler").glob("w-1-*"))
        begin(rig, "w-1", "new")
        rig.handler.open.set()
        await until(lambda: rig.handler.messages("w-1") == ["one", "new"])
        await until(lambda: rig.outboxes.by_worker["w-1"].owed == 0)
        await asyncio.sleep(0.05)
        assert len(list((tmp_path / "spool" / "handler").glob("w-1-*.json"))) == 1
