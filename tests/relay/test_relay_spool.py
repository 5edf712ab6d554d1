"""The spool on disk: nothing stored is lost, doubled or renumbered, whatever happens to the end or the middle of its files."""

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otto_relay.blocks import HEADER_BYTES, Columns, pack
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.parsing import parse
from otto_relay.spool import Cursor, Spool, open_spool
from otto_relay.wire import REPLAYED, tagged


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files(16)
    yield made
    made.close()


def block(first: int, texts: list[bytes]) -> bytes:
    """A block of these lines; its position is its last sequence in decimal."""
    entries = [tagged(text + REPLAYED) for text in texts]
    numbers = range(first, first + len(texts))
    nothing = [0] * len(texts)
    columns = Columns(
        [number * 10 for number in numbers],
        list(map(len, entries)),
        list(map(len, texts)),
        nothing,
        list(map(zlib.crc32, entries)),
        nothing,
    )
    return pack(first, 0, b"%d" % numbers[-1], columns, b"".join(entries))


def fill(spool: Spool, texts: list[bytes], together: int = 1) -> None:
    """Appends lines, so many a block; one by one a line's position is its sequence in decimal."""
    for at in range(0, len(texts), together):
        some = texts[at : at + together]
        spool.append(block(spool.last + 1, some), len(some), b"%d" % (spool.last + len(some)))


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
@pytest.mark.parametrize("together", [1, 7], ids=["a line a block", "seven lines a block"])
def test_lines_come_back_in_order_from_any_sequence(tmp_path: Path, files: Files, segment_bytes: int, chunk: int, together: int) -> None:
    """A cursor gives every line from its start on, whatever the sizes of files and reads, also after opening again."""
    spool = Spool(tmp_path, files, segment_bytes)
    fill(spool, TEXTS, together)
    again = open_spool(tmp_path, files, segment_bytes, refill=True)
    for opened in (spool, again):
        assert opened.last == len(TEXTS)
        assert opened.position == b"%d" % len(TEXTS)
        for start in (1, 2, 30, len(TEXTS), len(TEXTS) + 1):
            assert contents(opened, start, chunk) == numbered(TEXTS)[start - 1 :]


@pytest.mark.parametrize("together", [1, 2], ids=["a line a block", "two lines a block"])
def test_every_torn_end_is_cut_and_filled_again(tmp_path: Path, files: Files, together: int) -> None:
    """Cut at any byte of the last blocks, a spool has exactly the whole ones before and their position, and goes on without a hole."""
    origin = tmp_path / "origin"
    origin.mkdir()
    fill(Spool(origin, files, 1 << 20), TEXTS[:6], together)
    (path,) = origin.glob("*.seg")
    data = path.read_bytes()
    ends: list[int] = []
    for one in parse(data, final=True).blocks:
        ends.append((ends[-1] if ends else 0) + HEADER_BYTES + len(one.table) + len(one.position) + len(one.body))
    assert ends[-1] == len(data)
    assert len(ends) == 6 // together
    for size in range(len(data) + 1):
        torn = tmp_path / f"torn-{size}"
        torn.mkdir()
        (torn / path.name).write_bytes(data[:size])
        spool = open_spool(torn, files, 1 << 20, refill=True)
        whole = together * sum(end <= size for end in ends)
        assert contents(spool) == numbered(TEXTS[:whole]), size
        assert spool.position == (b"%d" % whole if whole else b"")
        fill(spool, TEXTS[whole:8])
        assert contents(spool) == numbered(TEXTS[:8])
        assert contents(open_spool(torn, files, 1 << 20, refill=True)) == numbered(TEXTS[:8])
        spool.close()
        shutil.rmtree(torn)


def test_a_garbage_end_is_cut(tmp_path: Path, files: Files) -> None:
    """What a power cut leaves behind the last line (zeros, noise, half a header) is cut, and the lines before it stay."""
    for index, garbage in enumerate(
        [bytes(4096), os.urandom(500), *(magic + rest for magic in (b"\xf5\x1c", b"\xf5\x1d") for rest in (magic * 40, bytes(34)))]
    ):
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
    start, end = len(block(1, TEXTS[:1])), len(block(1, TEXTS[:1]) + block(2, TEXTS[1:2]))
    only_sum = range(start + 4, start + 8)
    for at in range(start, end):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        for refill in (True, False):
            spool = open_spool(tmp_path, files, 1 << 20, refill=refill)
            for chunk in (40, 65536):
                assert contents(spool, 1, chunk) == [one for one in numbered(TEXTS[:5]) if one[0] != 2 or at in only_sum], at
            assert spool.last == 5
            assert path.read_bytes() == bytes(damaged)
            spool.close()


def test_of_a_damaged_block_every_line_that_is_whole_is_read(tmp_path: Path, files: Files) -> None:
    """Damage costs the lines that it hits; only in the head of a block, which is small, it costs the block. No line is ever wrong."""
    fill(Spool(tmp_path, files, 1 << 20), TEXTS[:12], 4)
    (path,) = tmp_path.glob("*.seg")
    data = path.read_bytes()
    start = len(block(1, TEXTS[:4]))
    middle = block(5, TEXTS[4:8])
    sizes = [len(tagged(text + REPLAYED)) for text in TEXTS[4:8]]
    body = start + len(middle) - sum(sizes)
    hit = [number for number, size in enumerate(sizes, 5) for _ in range(size)]
    only_sum = range(start + 4, start + 8)
    for at in range(start, start + len(middle)):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        lost = set() if at in only_sum else {hit[at - body]} if at >= body else {5, 6, 7, 8}
        for refill in (True, False):
            spool = open_spool(tmp_path, files, 1 << 20, refill=refill)
            for chunk in (40, 65536):
                assert contents(spool, 1, chunk) == [one for one in numbered(TEXTS[:12]) if one[0] not in lost], at
            assert (spool.last, spool.position) == (12, b"12")
            assert path.read_bytes() == bytes(damaged)
            spool.close()


def test_a_damaged_last_block_is_cut_whole_where_it_is_filled_again(tmp_path: Path, files: Files) -> None:
    """Its whole lines come again with the others, under the same sequences: the source goes on at the position before it."""
    fill(Spool(tmp_path, files, 1 << 20), TEXTS[:8], 4)
    (path,) = tmp_path.glob("*.seg")
    data = path.read_bytes()
    path.write_bytes(data[:-10] + bytes(10))
    spool = open_spool(tmp_path, files, 1 << 20, refill=True)
    assert (spool.last, spool.position, spool.repair.damaged) == (4, b"4", 0)
    fill(spool, TEXTS[4:8])
    assert contents(spool) == numbered(TEXTS[:8])


def first_format(sequence: int, text: bytes) -> bytes:
    """A line as the first format of segments had it."""
    position = b"%d" % sequence
    body = struct.pack("<IIIQq", len(position) + len(text), len(text), 0, sequence, sequence * 10) + position + text
    flags = 4
    checksum = zlib.crc32(body, flags << 8 | len(position))
    return b"\xf5\x1c" + bytes((flags, len(position))) + struct.pack("<I", checksum) + body


@pytest.mark.parametrize("chunk", [1, 100, 65536])
def test_a_spool_of_the_first_format_is_read_and_goes_on(tmp_path: Path, files: Files, chunk: int) -> None:
    """What an earlier version stored, its torn end and its damage are read as ever, and new lines follow in the same file."""
    path = tmp_path / f"{1:020d}.seg"
    old = [first_format(number, text) for number, text in numbered(TEXTS[:20])]
    damaged = bytearray(old[7])
    damaged[20] ^= 0x41
    path.write_bytes(b"".join([*old[:7], bytes(damaged), *old[8:]]) + first_format(21, TEXTS[20])[:-3])
    spool = open_spool(tmp_path, files, 1 << 20, refill=True)
    assert (spool.last, spool.position) == (20, b"20")
    assert spool.repair.cut == len(first_format(21, TEXTS[20])) - 3
    fill(spool, TEXTS[20:30], 5)
    expected = [one for one in numbered(TEXTS[:30]) if one[0] != 8]
    for opened in (spool, open_spool(tmp_path, files, 1 << 20, refill=True)):
        assert contents(opened, 1, chunk) == expected
        assert contents(opened, 15, chunk) == expected[13:]
    [first, *_] = Cursor(spool, 1).read(65536)
    assert (first.time, first.flags, first.message_length) == (10, 4, len(TEXTS[0]))


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
    together=st.integers(1, 9),
)
def test_any_lines_come_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], segment_bytes: int, chunk: int, starts: list[int], together: int
) -> None:
    """Whatever bytes lines hold (also those of our own headers), they come back as they were."""
    some = Files(4)
    directory = tmp_path_factory.mktemp("any")
    spool = Spool(directory, some, segment_bytes)
    fill(spool, [text + b"\xf5\x1d" for text in texts], together)
    expected = numbered([text + b"\xf5\x1d" for text in texts])
    for start in starts:
        cursor = Cursor(spool, 1)
        cursor.skip_to(start)
        found = []
        while not cursor.caught_up:
            found += [(record.sequence, record.payload) for record in cursor.read(chunk)]
        assert found == expected[start - 1 :]
    assert contents(open_spool(directory, some, segment_bytes, refill=True), 1, chunk) == expected
    some.close()
