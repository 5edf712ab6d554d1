"""What otto-handler is owed when a worker's name comes again, and when what was written down of it is torn or cannot be read."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otto_relay.answer import Answer
from otto_relay.encoder import Fresh
from otto_relay.files import Files
from otto_relay.handler import Reply
from otto_relay.notices import Sighting
from otto_relay.outbox import Outbox, sighted
from otto_relay.worker_log import FOLLOWED, Facts, WorkerLog

from .pushing import Rig, Stream, until


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def begin(rig: Rig, name: str, uid: str, count: int = 6) -> WorkerLog:
    """A worker with lines that say which one of the name it is."""
    known = rig.registry.add(Facts(name, "task", origin=FOLLOWED, uid=uid))
    known.append([Fresh(time.time_ns(), 0, text.encode()) for text in lines(uid, count)])
    return known


def lines(uid: str, count: int = 6) -> list[str]:
    return [f"{uid} {number}" for number in range(1, count + 1)]


def told_missing(rig: Rig, name: str) -> list[int]:
    """The places among a worker's lines at which others were said to be missing, with how many."""
    return [
        int(entry.metadata["otto.missing"]) for entry in rig.handler.taken if "otto.missing" in entry.metadata and entry.worker_id == name
    ]


async def test_answers_for_a_worker_that_was_deleted_do_not_count_for_the_next_of_its_name(tmp_path: Path, files: Files) -> None:
    """Lines on their way are answered when the name is another worker's: every line of that one is sent all the same."""
    rig = Rig(tmp_path, files)
    old = begin(rig, "w-1", "old", 30)
    old.end()
    async with rig.pushing():
        await until(lambda: rig.tally.pushed == 30)
        rig.handler.open.clear()
        old.reopen("old")
        old.append([Fresh(time.time_ns(), 0, b"late")])
        await until(lambda: rig.tally.unanswered == 1)
        old.end()
        rig.registry.remove(old)
        known = rig.registry.add(Facts("w-1", "task", origin=FOLLOWED, uid="new"))
        rig.handler.open.set()
        await until(lambda: rig.tally.unanswered == 0)
        known.append([Fresh(time.time_ns(), 0, text.encode()) for text in lines("new")])
        await until(lambda: len(rig.handler.taken) == 37)
        assert rig.handler.messages("w-1") == [*lines("old", 30), "late", *lines("new")]
        await until(lambda: rig.outboxes.by_worker["w-1"].owed == 0)
        assert not rig.outboxes.earlier
        assert len(list((tmp_path / "spool" / "handler").glob("*.json"))) == 1


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
async def test_what_is_missing_of_the_last_worker_of_a_name_comes_before_the_next(tmp_path: Path, files: Files, restart: bool) -> None:
    """Lines of two workers that were deleted unsent are two counts, then come the lines of the third; its notices follow on theirs."""
    rig = Rig(tmp_path, files)
    for uid in ("one", "two"):
        known = begin(rig, "w-1", uid)
        sighted(rig.outboxes.by_worker["w-1"], uid, Sighting("running"))
        known.end()
        rig.registry.remove(known)
    begin(rig, "w-1", "three")
    if restart:
        rig = Rig(tmp_path, files)
    rig.handler.retries = 3
    async with rig.pushing():
        await until(lambda: rig.tally.pushed == 6)
        assert told_missing(rig, "w-1") == [6, 6]
        assert rig.handler.messages("w-1")[2:] == lines("three")
        if restart:
            await until(lambda: len(rig.handler.notices) == 5)
            assert [kind for _, kind in rig.handler.notices] == ["CREATED", "RUNNING", "TERMINATED", "CREATED", "RUNNING"]
        assert not rig.outboxes.earlier


async def test_a_kill_while_what_is_owed_is_forgotten_repeats_nothing(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two files of an outbox: after it no line is told to be missing, and what is left of them is gone."""
    rig = Rig(tmp_path, files)
    known = begin(rig, "w-1", "one")
    known.end()

    async with rig.pushing():
        await until(lambda: rig.tally.pushed == 6)

    class Killed(BaseException):
        pass

    real = Path.unlink
    count = 0

    def unlink(path: Path, *arguments: Any, **more: Any) -> None:
        nonlocal count
        if path.parent.name == "handler":
            count += 1
            if count == 2:
                raise Killed
        real(path, *arguments, **more)

    outbox = rig.outboxes.by_worker["w-1"]
    outbox.known, outbox.gone = None, True
    outbox.save()
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(Killed):
        rig.outboxes.drop(outbox)
    monkeypatch.undo()
    monkeypatch.setattr(rig.registry, "observer", None)
    rig.registry.remove(known)
    again = Rig(tmp_path, files)
    async with again.pushing():
        await asyncio.sleep(0.1)
        assert again.handler.taken == []
    assert list((tmp_path / "spool" / "handler").iterdir()) == []


async def test_a_position_without_its_outbox_counts_for_nobody(tmp_path: Path, files: Files) -> None:
    """What a kill left of the position of an earlier worker of the name is not taken for the new one's."""
    rig = Rig(tmp_path, files)
    begin(rig, "w-1", "one")
    outbox = rig.outboxes.by_worker["w-1"]
    outbox.position.settle(6)
    outbox.keep()
    known = rig.registry.workers["w-1"]
    known.end()
    rig.registry.observer = None
    rig.registry.remove(known)
    rig.outboxes.by_worker.clear()
    outbox._json.unlink()
    rig.registry.observer = rig.outgoing
    rig.handler.away = True
    begin(rig, "w-1", "two")
    again = Rig(tmp_path, files)
    async with again.pushing():
        await until(lambda: again.handler.messages("w-1") == lines("two"))


async def test_a_worker_whose_lines_can_not_be_read_at_the_start_is_pushed_later(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay starts, others are pushed, and its lines as soon as they can be read."""
    rig = Rig(tmp_path, files)
    known = begin(rig, "w-1", "one")
    begin(rig, "w-2", "two")
    segment = known.spool.segments[0].path
    aside = tmp_path / "aside"
    segment.rename(aside)
    segment.mkdir()
    again = Rig(tmp_path, files)
    async with again.pushing():
        await until(lambda: again.handler.messages("w-2") == lines("two"))
        segment.rmdir()
        aside.rename(segment)
        await until(lambda: again.handler.messages("w-1") == lines("one"))


async def test_lines_that_a_power_cut_took_are_not_waited_for_in_a_hurry(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences behind the spool's end, also such that were to be sent again, are not looked for over and over; new lines are sent."""
    rig = Rig(tmp_path, files)
    known = begin(rig, "w-1", "one")
    outbox = rig.outboxes.by_worker["w-1"]
    async with rig.pushing():
        await until(lambda: rig.tally.pushed == 6)
        looks = 0
        real = rig.forwarder._lines

        def counted(outbox: Outbox) -> Any:
            nonlocal looks
            looks += 1
            return real(outbox)

        monkeypatch.setattr(rig.forwarder, "_lines", counted)
        outbox.newest = 9
        rig.forwarder.wake(outbox)
        for _ in range(200):
            await asyncio.sleep(0)
        outbox.position.repeat(8)
        rig.forwarder.wake(outbox)
        for _ in range(200):
            await asyncio.sleep(0)
        assert looks <= 4
        known.append([Fresh(time.time_ns(), 0, text.encode()) for text in ("7", "8", "9")])
        await until(lambda: "9" in rig.handler.messages("w-1"))


async def test_a_count_of_missing_lines_that_is_asked_for_again_is_told(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RETRY for it, while the lines before it have just been answered for: it comes again, and nothing behind it comes before."""
    rig = Rig(tmp_path, files)
    known = rig.registry.add(Facts("w-1", "task", origin=FOLLOWED, uid="one"))
    rig.forwarder._allowed = 8
    known.append([Fresh(time.time_ns(), 0, text.encode()) for text in ("1", "2", "3")])
    known.spool.last += 3
    known.append([Fresh(time.time_ns(), 0, text.encode()) for text in ("7", "8", "9")])
    asked = False

    async def receive(stream: Stream, _timeout: float) -> Reply:
        nonlocal asked
        entry = await stream._sent.get()
        await rig.handler.open.wait()
        for _ in range(20):
            # The sender has its turn between two answers.
            await asyncio.sleep(0)
        if "otto.missing" in entry.metadata and not asked:
            asked = True
            return Reply(Answer.AGAIN)
        rig.handler.taken.append(entry)
        return Reply(Answer.STORED)

    monkeypatch.setattr(Stream, "receive", receive)
    rig.handler.open.clear()
    async with rig.pushing():
        await until(lambda: rig.tally.unanswered == 4)
        rig.handler.open.set()
        await until(lambda: rig.outboxes.by_worker["w-1"].owed == 0)
    assert asked
    got = [entry.metadata.get("otto.missing", entry.message) for entry in rig.handler.taken]
    assert got == ["1", "2", "3", "3", "7", "8", "9"]


async def test_a_worker_that_waited_for_one_that_is_given_up_is_pushed(tmp_path: Path, files: Files) -> None:
    """Its lines come after those of the last worker of its name, also when those are never sent."""
    rig = Rig(tmp_path, files, most_removed=1)
    rig.handler.retries = 1
    known = begin(rig, "w-1", "one", 1)
    async with rig.pushing():
        await until(lambda: rig.tally.retried == 1)
        known.end()
        rig.registry.remove(known)
        begin(rig, "w-1", "two", 1).end()
        for _ in range(20):
            await asyncio.sleep(0)
        assert rig.outboxes.earlier
        known = begin(rig, "w-2", "other", 1)
        known.end()
        rig.registry.remove(known)
        assert not rig.outboxes.earlier
        await until(lambda: rig.handler.messages("w-1") == lines("two", 1))
