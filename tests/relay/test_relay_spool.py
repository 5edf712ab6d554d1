"""The spool on disk: nothing stored is lost, doubled or renumbered, whatever happens to the end or the middle of its files."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.records import HEADER_BYTES, pack, parse
from otto_relay.spool import Cursor, Spool, open_spool


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def fill(spool: Spool, texts: list[bytes]) -> None:
    """Appends lines one by one; a line's position is its sequence in decimal."""
    for text in texts:
        sequence = spool.last + 1
        spool.append([pack(sequence, sequence * 10, 0, 0, b"%d" % sequence, text, len(text))], b"%d" % sequence)


def contents(spool: Spool, start: int = 1, chunk: int = 65536) -> list[tuple[int, bytes]]:
    """All that can be read from a sequence on."""
    cursor = Cursor(spool, start)
    found: list[tuple[int, bytes]] = []
    for _ in range(100_000):
        found += [(record.sequence, record.payload) for record in cursor.read(chunk)]
        if cursor.caught_up:
            return found
    raise AssertionError("the cursor does not come to the end")


def numbered(texts: list[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(texts, 1))


TEXTS = [b"line %d " % n + b"x" * (n * 7 % 90) for n in range(1, 60)]


@pytest.mark.parametrize("segment_bytes", [4096, 400, 1], ids=["one file", "some files", "a file per line"])
@pytest.mark.parametrize("chunk", [1, 100, 65536])
def test_lines_come_back_in_order_from_any_sequence(tmp_path: Path, files: Files, segment_bytes: int, chunk: int) -> None:
    """A cursor gives every line from its start on, whatever the sizes of files and reads, also after opening again."""
    spool = Spool(tmp_path, files, segment_bytes)
    fill(spool, TEXTS)
    again = open_spool(tmp_path, files, segment_bytes, refill=True)
    for opened in (spool, again):
        assert opened.last == len(TEXTS)
        assert opened.position == b"%d" % len(TEXTS)
        for start in (1, 2, 30, len(TEXTS), len(TEXTS) + 1):
            assert contents(opened, start, chunk) == numbered(TEXTS)[start - 1 :]


def test_every_torn_end_is_cut_and_filled_again(tmp_path: Path, files: Files) -> None:
    """Cut at any byte of the last lines, a spool has exactly the whole lines before and their position, and goes on without a hole."""
    origin = tmp_path / "origin"
    origin.mkdir()
    fill(Spool(origin, files, 1 << 20), TEXTS[:6])
    (path,) = origin.glob("*.seg")
    data = path.read_bytes()
    ends: list[int] = []
    for record in parse(data, final=True).records:
        ends.append((ends[-1] if ends else 0) + HEADER_BYTES + len(b"%d" % record.sequence) + len(record.payload))
    assert ends[-1] == len(data)
    for size in range(len(data) + 1):
        torn = tmp_path / f"torn-{size}"
        torn.mkdir()
        (torn / path.name).write_bytes(data[:size])
        spool = open_spool(torn, files, 1 << 20, refill=True)
        whole = sum(end <= size for end in ends)
        assert contents(spool) == numbered(TEXTS[:whole]), size
        assert spool.position == (b"%d" % whole if whole else b"")
        fill(spool, TEXTS[whole:8])
        assert contents(spool) == numbered(TEXTS[:8])
        assert contents(open_spool(torn, files, 1 << 20, refill=True)) == numbered(TEXTS[:8])
        spool.close()
        shutil.rmtree(torn)


def test_a_garbage_end_is_cut(tmp_path: Path, files: Files) -> None:
    """What a power cut leaves behind the last line (zeros, noise, half a header) is cut, and the lines before it stay."""
    for index, garbage in enumerate([bytes(4096), os.urandom(500), b"\xf5\x1c" * 40, b"\xf5\x1c" + bytes(34)]):
        directory = tmp_path / str(index)
        directory.mkdir()
        fill(Spool(directory, files, 1 << 20), TEXTS[:5])
        (path,) = directory.glob("*.seg")
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(garbage)
        spool = open_spool(directory, files, 1 << 20, refill=True)
        assert spool.repair.cut == len(garbage)
        assert path.stat().st_size == size
        assert contents(spool) == numbered(TEXTS[:5])


def test_a_flipped_bit_costs_one_line_and_destroys_nothing(tmp_path: Path, files: Files) -> None:
    """With any single byte of a line in the middle damaged, exactly that line is missing and the file is untouched."""
    fill(Spool(tmp_path, files, 1 << 20), TEXTS[:5])
    (path,) = tmp_path.glob("*.seg")
    data = path.read_bytes()
    start = HEADER_BYTES + 1 + len(TEXTS[0])
    end = start + HEADER_BYTES + 1 + len(TEXTS[1])
    for at in range(start, end):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        for refill in (True, False):
            spool = open_spool(tmp_path, files, 1 << 20, refill=refill)
            for chunk in (40, 65536):
                assert contents(spool, 1, chunk) == [one for one in numbered(TEXTS[:5]) if one[0] != 2], at
            assert spool.last == 5
            assert path.read_bytes() == bytes(damaged)
            spool.close()


def test_damage_in_an_earlier_file_is_passed_over(tmp_path: Path, files: Files) -> None:
    """A file that is damaged to its end, emptied or deleted costs its lines only."""
    spool = Spool(tmp_path, files, 300)
    fill(spool, TEXTS)
    firsts = [segment.first for segment in spool.segments]
    assert len(firsts) > 6
    spool.segments[1].path.write_bytes(os.urandom(spool.segments[1].size))
    spool.segments[3].path.write_bytes(b"")
    spool.segments[5].path.unlink()
    spool.close()
    again = open_spool(tmp_path, files, 300, refill=True)
    gone = {sequence for index in (1, 3, 5) for sequence in range(firsts[index], firsts[index + 1])}
    expected = [one for one in numbered(TEXTS) if one[0] not in gone]
    assert contents(again) == expected
    assert contents(spool) == expected


def test_sequences_of_lines_that_nobody_gives_again_are_not_used_again(tmp_path: Path, files: Files) -> None:
    """Without refill, a torn end leaves a hole instead of giving a sequence, which somebody may have been told, to another line."""
    fill(Spool(tmp_path, files, 1 << 20), TEXTS[:5])
    (path,) = tmp_path.glob("*.seg")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    spool = open_spool(tmp_path, files, 1 << 20, refill=False)
    assert spool.last == 5
    again = open_spool(tmp_path, files, 1 << 20, refill=False)
    assert again.last == 5
    fill(again, [b"new"])
    assert contents(again) == [*numbered(TEXTS[:4]), (6, b"new")]
    assert contents(open_spool(tmp_path, files, 1 << 20, refill=False)) == [*numbered(TEXTS[:4]), (6, b"new")]


def test_a_torn_first_line_of_a_new_file_keeps_the_position(tmp_path: Path, files: Files) -> None:
    """The position after the last whole line is found in the file before."""
    spool = Spool(tmp_path, files, 1)
    fill(spool, TEXTS[:3])
    last = spool.segments[-1].path
    last.write_bytes(last.read_bytes()[:10])
    again = open_spool(tmp_path, files, 1, refill=True)
    assert (again.last, again.position) == (2, b"2")
    fill(again, TEXTS[2:4])
    assert contents(again) == numbered(TEXTS[:4])


def test_a_full_disk_stores_all_or_nothing(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves nothing behind: the next one takes its place, also after opening again."""
    spool = Spool(tmp_path, files, 1 << 20)
    fill(spool, TEXTS[:3])
    real = os.pwrite
    calls = 0

    def full(descriptor: int, data: bytes, at: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:20], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SpoolWriteError):
        fill(spool, [b"never"])
    monkeypatch.undo()
    assert contents(spool) == numbered(TEXTS[:3])
    assert contents(open_spool(tmp_path, files, 1 << 20, refill=True)) == numbered(TEXTS[:3])
    fill(spool, TEXTS[3:5])
    assert contents(spool) == numbered(TEXTS[:5])


def test_deleting_old_lines_leaves_readers_with_what_is_kept(tmp_path: Path, files: Files) -> None:
    """A reader in the middle of a file that is deleted goes on with the first line that is kept."""
    spool = Spool(tmp_path, files, 300)
    fill(spool, TEXTS)
    cursor = Cursor(spool, 1)
    first = cursor.read(50)
    assert first[0].sequence == 1
    spool.drop_first()
    spool.drop_first()
    kept = spool.first
    found: list[int] = []
    while not cursor.caught_up:
        found += [record.sequence for record in cursor.read(65536)]
    assert found == list(range(kept, len(TEXTS) + 1))
    while spool.drop_first():
        pass
    assert len(spool.segments) == 1


def test_descriptors_are_bounded(tmp_path: Path) -> None:
    """Any number of files is served with the given number of descriptors."""
    few = Files(16)
    before = len(list(Path("/proc/self/fd").iterdir()))
    spools = []
    for index in range(100):
        directory = tmp_path / str(index)
        directory.mkdir()
        spools.append(Spool(directory, few, 200))
        fill(spools[-1], TEXTS[:10])
    for spool in spools:
        assert contents(spool) == numbered(TEXTS[:10])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 16
    few.close()


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.binary(max_size=200), min_size=1, max_size=30),
    segment_bytes=st.integers(1, 2000),
    chunk=st.integers(1, 3000),
    starts=st.lists(st.integers(1, 40), max_size=5),
)
def test_any_lines_come_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], segment_bytes: int, chunk: int, starts: list[int]
) -> None:
    """Whatever bytes lines hold (also those of our own headers), they come back as they were."""
    some = Files(4)
    directory = tmp_path_factory.mktemp("any")
    spool = Spool(directory, some, segment_bytes)
    fill(spool, [text + b"\xf5\x1c" for text in texts])
    expected = numbered([text + b"\xf5\x1c" for text in texts])
    for start in starts:
        cursor = Cursor(spool, 1)
        cursor.skip_to(start)
        found = []
        while not cursor.caught_up:
            found += [(record.sequence, record.payload) for record in cursor.read(chunk)]
        assert found == expected[start - 1 :]
    assert contents(open_spool(directory, some, segment_bytes, refill=True), 1, chunk) == expected
    some.close()
