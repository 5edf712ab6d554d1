"""Logs of workers that are damaged or cut: what is wrong is said where it is, and everything else comes once."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from otto_relay.errors import SourceLostError
from otto_relay.sources.file import FileSource
from otto_relay.testing import LogFile

from .test_relay_source_contract import LONGEST, Reader, until

DAMAGED = "lines may be missing here: this log is damaged, and what follows is what stands in it"
TORN = "the next line may have been longer: this log ends within it"
CUT = "lines may be missing here: this log was cut short before all of it was read"


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[FileSource]:
    """Told by the kernel: it looks by itself only after longer than a test waits."""
    made = FileSource(tmp_path, 300.0, LONGEST)
    yield made
    made.close()


async def read(source: FileSource, position: bytes = b"") -> Reader:
    """All there is of a worker that has ended."""
    reader = Reader(source, position)
    reader.ending.set()
    await asyncio.wait_for(reader.run(), 30)
    return reader


def told(reader: Reader) -> list[tuple[str, str]]:
    """What had to be said, and before which line."""
    return [(line.notice, line.text.decode()) for line in reader.lines if line.notice]


DAMAGES: dict[str, tuple[Callable[[str], str], Callable[[str, str], list[str]]]] = {
    "zeros": (lambda two: "\0" * len(two) + "\n", lambda two, _: ["\0" * len(two), "three"]),
    "no end": (lambda two: two[:20], lambda two, three: [(two[:20] + three)[:LONGEST], *filter(None, [(two[:20] + three)[LONGEST:]])]),
    "no stream": (lambda two: two.replace("out", "\0") + "\n", lambda two, _: [two.replace("out", "\0"), "three"]),
    "no tag": (lambda two: two.replace(" F", " X") + "\n", lambda two, _: [two.replace(" F", " X"), "three"]),
    "no time": (lambda two: f"9{two}\n", lambda two, _: [f"9{two}", "three"]),
    "empty lines": (lambda two: f"\n\n{two}\n", lambda _, __: ["", "", "two", "three"]),
}


@pytest.mark.parametrize(("damage", "found"), DAMAGES.values(), ids=DAMAGES)
async def test_damaged_records_are_told_once_and_stand_as_they_are(
    source: FileSource, tmp_path: Path, damage: Callable[[str], str], found: Callable[[str, str], list[str]]
) -> None:
    """What is no record comes as it was found, behind a word about it; every record before and behind it is a line as ever."""
    log = LogFile(tmp_path, "w-1")
    log.write("one", "two", "three", "four", "five", "six", "seven")
    one, two, three, *rest = log.path.read_text().splitlines()
    log.path.write_text(f"{one}\n{damage(two)}{three}\n" + "\n".join(rest) + "\n")
    reader = await read(source)
    assert reader.texts == ["one", *found(two, three), "four", "five", "six", "seven"]
    assert told(reader) == [(DAMAGED, reader.texts[1])]
    for index, line in enumerate(reader.lines):
        assert (await read(source, line.position)).texts == reader.texts[index + 1 :]


async def test_what_had_no_end_where_a_log_is_damaged_ends_there(source: FileSource, tmp_path: Path) -> None:
    """Parts before the damage are not joined with what comes behind it; from within a long piece of it reading goes on exactly there."""
    log = LogFile(tmp_path, "w-1")
    log.write("out ", part=True)
    log.write("err ", part=True, stderr=True)
    with log.path.open("ab") as writing:
        writing.write(b"d" * 150 + b"\n")
    log.write("end")
    reader = await read(source)
    assert reader.texts == ["out ", "err ", "d" * 64, "d" * 64, "d" * 22, "end"]
    assert told(reader) == [(DAMAGED, "d" * 64)]
    for index, line in enumerate(reader.lines):
        assert (await read(source, line.position)).texts == reader.texts[index + 1 :]


@pytest.mark.parametrize("rest", [b"2026-11-24T02:00:01.000000000Z stdout F half", b"2026-11-24T02:00:01.000000000Z stdo", b"2026"])
async def test_a_log_that_ends_within_a_record_says_so(source: FileSource, tmp_path: Path, rest: bytes) -> None:
    """What there is of it comes, whether or not it can be read as a record."""
    log = LogFile(tmp_path, "w-1")
    log.write("whole")
    with log.path.open("ab") as writing:
        writing.write(rest)
    reader = await read(source)
    last = "half" if rest.endswith(b"half") else rest.decode()
    assert reader.texts == ["whole", last]
    assert told(reader) == [(TORN, last)]


@pytest.mark.parametrize("left", [0, 10, 110], ids=["nothing", "a part of a record", "a record and a part"])
@pytest.mark.parametrize(
    ("away", "more"),
    [(False, 1), (True, 1), (True, 20)],
    ids=["while it is followed", "while nobody reads", "while nobody reads, and it grows"],
)
async def test_a_log_that_is_cut_short_gives_what_is_new_in_it(
    source: FileSource, tmp_path: Path, left: int, away: bool, more: int
) -> None:
    """Nothing that was had comes again, wherever it was cut; what its worker writes from then on comes behind a word about it."""
    log = LogFile(tmp_path, "w-1")
    log.write(*(text.ljust(60) for text in ("one", "two", "three")))
    reader = Reader(source)
    reading = asyncio.create_task(reader.run())
    await until(lambda: len(reader.texts) == 3)
    if away:
        reading.cancel()
        await asyncio.wait([reading])
        reader = Reader(source, reader.lines[-1].position)
    os.truncate(log.path, left)
    # a record that is cut in two, and what is written behind it
    torn = [log.path.read_text().rpartition("\n")[2]] if left else []
    new = ["first", "four", *("x" * n for n in range(more))]
    log.write(*new)
    if away:
        reading = asyncio.create_task(reader.run())
    log.write("six")
    await until(lambda: reader.texts[-1:] == ["six"])
    reader.ending.set()
    await asyncio.wait_for(reading, 30)
    got = reader.texts if away else reader.texts[3:]
    assert got[1:] == [*new[1:], "six"]
    assert got[0].startswith(torn[0]) if torn else got[0] == "first"
    assert got[0].endswith("first")
    assert told(reader) == [(CUT, got[0])]


async def test_a_log_that_was_cut_short_and_says_nothing_more_is_lost(source: FileSource, tmp_path: Path) -> None:
    """SourceLostError when its worker ends: nobody can know what it held."""
    log = LogFile(tmp_path, "w-1")
    log.write("one", "two")
    reader = await read(source)
    os.truncate(log.path, 10)
    with pytest.raises(SourceLostError):
        await read(source, reader.lines[-1].position)
    os.truncate(log.path, 0)
    with pytest.raises(SourceLostError):
        await read(source, reader.lines[-1].position)


async def test_positions_of_earlier_versions_are_understood(source: FileSource, tmp_path: Path) -> None:
    """They had no time in them."""
    log = LogFile(tmp_path, "w-1")
    log.write("one", "in ", part=True)
    log.write("parts")
    first = len(log.path.read_bytes().splitlines(keepends=True)[0])
    assert (await read(source, struct.pack("<Q", first))).texts == ["in parts"]
