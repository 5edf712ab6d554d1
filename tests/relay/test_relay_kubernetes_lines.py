"""The pure parts of reading pods' logs: stamped lines, where to go on, and all of it in the bytes that a position may have."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_relay.sources.kubernetes_lines import MARGIN, Answer, Entry, Place
from otto_relay.sources.kubernetes_position import MOST_BYTES, MOST_LANES, Position, lane, mark_of

LONGEST = 16
START = 1_763_949_600_000_000_000
SECOND = 1_000_000_000


def split(text: bytes, complete: bool) -> int:
    return min(len(text), LONGEST) if complete or len(text) >= LONGEST else 0


def stamp(time: int) -> bytes:
    """As Go's RFC3339Nano has it: without the zeros at the end."""
    text = datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{time % SECOND:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z".encode()


def answer(lines: list[tuple[int, bytes]], since: int | None) -> bytes:
    """What the API says when it is asked for lines since a second."""
    return b"".join(stamp(time) + b" " + text + b"\n" for time, text in lines if since is None or time >= since * SECOND)


def read(lines: list[tuple[int, bytes]], place: Place, *, cut: int | None = None, chunk: int = 7) -> list[Entry]:
    """One request, read to its end, or broken off after `cut` bytes."""
    reader = Answer(place, split, LONGEST)
    data = answer(lines, place.since)
    found: list[Entry] = []
    for at in range(0, len(data) if cut is None else min(cut, len(data)), chunk):
        found += reader.feed(data[at : at + chunk] if cut is None else data[at : min(at + chunk, cut)])
    return found if cut is not None else found + reader.close()


def texts(entries: list[Entry]) -> list[tuple[int, bytes]]:
    return [(entry.time, entry.text) for entry in entries]


TIMES = st.integers(0, 2 * MARGIN * 10).map(lambda tenth: tenth * SECOND // 10)
LINES = st.lists(st.tuples(TIMES, st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"."))), max_size=30)


def in_order_but_for(margin: int, lines: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Lines whose stamps lie at most `margin` behind the newest before them."""
    newest = START
    kept = []
    for number, (time, text) in enumerate(lines):
        time = START + number * SECOND // 4 + time  # noqa: PLW2901 - its place in the log
        time = max(time, newest - margin)  # noqa: PLW2901 - as far back as it may be
        newest = max(newest, time)
        kept.append((time, text))
    return kept


@given(LINES, st.lists(st.integers(0, 400), max_size=5), st.sampled_from([0, MARGIN * SECOND]), st.integers(1, 50))
def test_connections_that_break_anywhere_lose_and_double_nothing(
    drawn: list[tuple[int, bytes]], cuts: list[int], disorder: int, chunk: int
) -> None:
    """In the middle of lines, stamps and long lines' parts, with equal stamps and with two streams' stamps out of order."""
    lines = in_order_but_for(disorder, drawn)
    whole = texts(read(lines, Place()))
    place = Place()
    found: list[Entry] = []
    for cut in cuts:
        found += read(lines, place, cut=cut, chunk=chunk)
    found += read(lines, place, chunk=chunk)
    assert texts(found) == whole
    assert not any(entry.missing for entry in found)


@given(LINES)
def test_from_behind_any_entry_exactly_the_rest_comes(drawn: list[tuple[int, bytes]]) -> None:
    """What is remembered in a few bytes is enough, after any line and any part of one."""
    lines = in_order_but_for(MARGIN * SECOND, drawn)
    whole = read(lines, Place())
    for number, entry in enumerate(whole):
        place, end = Place.decoded(entry.place, 0)
        assert end == len(entry.place)
        assert place.encoded() == entry.place
        assert texts(read(lines, place)) == texts(whole[number + 1 :])


def test_a_clock_that_was_set_back_costs_nothing_once_a_line_shows_it() -> None:
    """Lines written after it have earlier stamps; asked for again from far enough back, they come, each once."""
    before = [(START + 3600 * SECOND + number, b"before") for number in range(3)]
    after = [(START + number * SECOND, b"after %d" % number) for number in range(5)]
    lines = before + after
    whole = read(lines, Place())
    for number, entry in enumerate(whole[3:], start=3):
        assert texts(read(lines, Place.decoded(entry.place, 0)[0])) == texts(whole[number + 1 :])


@given(st.integers(2, 20), st.data())
def test_lines_that_were_rotated_away_are_known_to_be_missing(count: int, data: st.DataObject) -> None:
    """If the last line that was had is gone, the first that comes says so; if it is there, none does.

    A rotation between two lines of the same nanosecond can't be told from none.
    """
    lines = [(START + number // 2 * SECOND // 3, b"%d" % number) for number in range(count)]
    had = data.draw(st.integers(1, count - 1))
    gone = data.draw(st.integers(0, count).filter(lambda gone: not 0 < gone < count or lines[gone - 1][0] < lines[gone][0]))
    place = Place()
    read(lines[:had], place)
    left = lines[gone:]
    reader = Answer(place, split, LONGEST)
    found = reader.feed(answer(left, place.since)) + reader.close()
    alike = [number for number in range(had) if lines[number][0] == lines[had - 1][0]]
    if gone <= alike[0]:
        assert texts(found) == lines[had:]
        assert not any(entry.missing for entry in found)
        assert not reader.lost
    elif any(time > lines[had - 1][0] for time, _ in left):
        assert found[0].missing
        assert not any(entry.missing for entry in found[1:])
        assert texts(found) == [line for line in left if line[0] > lines[had - 1][0]]
    else:
        assert reader.lost
        assert not found


def test_stamps_are_read_as_go_writes_them() -> None:
    """To the nanosecond, however many zeros were left out, and in any zone; what follows is the line, whatever bytes it has."""
    reader = Answer(Place(), split, 1 << 20)
    data = (
        b"2026-11-24T02:00:00Z none\n2026-11-24T02:00:00.1Z tenth\n2026-11-24T02:00:00.000000001Z \n"
        b"2026-11-24T11:00:01.5+09:00  two spaces\n2026-11-24T02:00:02.12345678Z \x00\xff\xfe\r\n"
    )
    second = int(datetime(2026, 11, 24, 2, tzinfo=UTC).timestamp()) * SECOND
    assert texts(reader.feed(data)) == [
        (second, b"none"),
        (second + SECOND // 10, b"tenth"),
        (second + 1, b""),
        (second + SECOND * 3 // 2, b" two spaces"),
        (second + 2 * SECOND + 123456780, b"\x00\xff\xfe\r"),
    ]


def test_a_line_of_megabytes_is_split_as_it_comes_and_not_kept() -> None:
    """Entries come before its end does, and resuming within it gives the rest of it."""
    line = bytes(range(11, 256)) * 20_000
    lines = [(START, b"first"), (START + 1, line), (START + 2, b"last")]
    limit = 65_536

    def cut(text: bytes, complete: bool) -> int:
        return min(len(text), limit) if complete or len(text) >= limit else 0

    place = Place()
    reader = Answer(place, cut, limit)
    data = answer(lines, None)
    half = reader.feed(data[: len(line) // 2])
    assert len(half) > 30
    rest = Answer(place, cut, limit)
    found = half + rest.feed(answer(lines, place.since))
    assert b"".join(entry.text for entry in found if entry.time == START + 1) == line
    assert [found[0].text, found[-1].text] == [b"first", b"last"]
    assert max(len(entry.text) for entry in found) <= limit


def test_what_has_no_stamp_is_no_line_of_the_container() -> None:
    """What the kubelet says when it fails, also without a line end; it is kept apart, as much of it as tells why."""
    reader = Answer(Place(), split, LONGEST)
    found = reader.feed(stamp(START) + b" one\n" + stamp(START + 1) + b" two\nfailed to watch the ")
    found += reader.feed(b"directory: too many open files")
    assert [entry.text for entry in found + reader.close()] == [b"one", b"two"]
    assert reader.words == b"failed to watch the "
    alone = Answer(Place(), split, LONGEST)
    assert alone.feed(b"unable to retrieve container logs for containerd://1") == alone.close() == []
    assert alone.words == b"unable to retrieve container logs for containerd://1"


def test_the_end_of_an_older_line_is_nobodys_word() -> None:
    """A line that began before the second that was asked for has lost its stamp; only the first may be one."""
    place = Place()
    place.take(START)
    reader = Answer(place, split, LONGEST)
    found = reader.feed(b"end of an older line\n" + stamp(START) + b" one\n" + stamp(START + 1) + b" two\n")
    assert [entry.text for entry in found + reader.close()] == [b"two"]
    assert not reader.words
    assert not Answer(place, split, LONGEST).feed(b"end\n")


@given(
    st.dictionaries(
        st.integers(0, 2 * 200),
        st.builds(Place, st.integers(0, (1 << 63) - 1), st.integers(1, 100), st.integers(0, 100), st.integers(0, 100_000), st.just(0)),
        min_size=1,
        max_size=MOST_LANES,
    ),
    st.sets(st.integers(0, 200), max_size=50),
    st.booleans(),
)
def test_a_position_holds_all_lanes_and_fits(places: dict[int, Place], ended: set[int], apart: bool) -> None:
    """What goes first where it does not fit is the memory of clocks that were set back, never of the lane that moved."""
    position = Position(mark_of("uid"), apart=apart)
    for container in ended:
        position.end(container)
    encoded = b""
    for number, place in places.items():
        encoded = position.moved(number, place.encoded())
    assert len(encoded) <= MOST_BYTES
    again = Position.decoded(encoded)
    assert (again.mark, again.apart, again.ended) == (mark_of("uid"), apart, ended)
    for number, place in places.items():
        found = again.place(number)
        assert (found.newest, found.same) == (place.newest, place.same)
    assert again.place(list(places)[-1]) == list(places.values())[-1]
    assert again.encoded() == encoded


def test_a_container_that_was_read_to_its_end_costs_a_bit() -> None:
    """Its lanes are forgotten."""
    position = Position(mark_of("uid"), apart=True)
    position.moved(lane(0, stderr=False), Place(START, 1).encoded())
    position.moved(lane(0, stderr=True), Place(START, 1).encoded())
    position.end(0)
    again = Position.decoded(position.encoded())
    assert again.ended == {0}
    assert len(again.encoded()) == 7
    assert again.place(lane(0, stderr=True)) == Place()


@pytest.mark.parametrize("wrong", [b"", b"\1", b"\7abcd\0", b"\1abcd\5", b"\1abcd\0\2\1short"], ids=repr)
def test_what_is_no_position_is_known_as_none(wrong: bytes) -> None:
    """ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match="no position"):
        Position.decoded(wrong)
