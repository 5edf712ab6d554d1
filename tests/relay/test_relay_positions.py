"""How far lines were answered for, and which notices are due: the pure parts of the push."""

from hypothesis import given, settings
from hypothesis import strategies as st

from otto_relay.notices import CREATED, ENDS, RUNNING, Sighting, due, vanished
from otto_relay.positions import Position, unpack


@settings(deadline=None)
@given(st.lists(st.sampled_from(["stored", "again"]), max_size=60), st.data())
def test_exactly_what_has_no_good_answer_is_owed(answers: list[str], data: st.DataObject) -> None:
    """Whatever the answers and however often lines come again, the lines without a good one are owed, also after being written."""
    position = Position()
    bad: set[int] = set()
    flip = st.booleans()
    for sequence, answer in enumerate(answers, start=1):
        (position.settle if answer == "stored" else position.repeat)(sequence)
        if answer == "again":
            bad.add(sequence)
        if data.draw(flip) and bad:
            once_more = position.again[0]
            if data.draw(flip):
                position.settle(once_more)
                bad.discard(once_more)
            else:
                position.repeat(once_more)
        assert position.again == sorted(bad)
        assert position.owed(len(answers)) == len(answers) - sequence + len(bad)
        same = unpack(position.pack() + b"what a longer one left behind")
        assert same is not None
        assert (same.answered, same.again) == (position.answered, position.again)


@settings(deadline=None)
@given(st.integers(0, 2**53), st.lists(st.integers(1, 2**53), max_size=5), st.data())
def test_a_damaged_position_is_known_as_one(answered: int, again: list[int], data: st.DataObject) -> None:
    """Any single byte that is wrong, and any end that is missing, gives no position instead of a wrong one."""
    packed = Position(answered, again).pack()
    at = data.draw(st.integers(0, len(packed) - 1))
    damaged = bytearray(packed)
    damaged[at] ^= data.draw(st.integers(1, 255))
    found = unpack(bytes(damaged))
    assert found is None or (found.answered, found.again) == (answered, again)
    assert unpack(packed[:at]) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["pending", "running", "succeeded", "failed"]), min_size=1, max_size=6), st.booleans())
def test_each_kind_of_notice_is_due_once_and_in_order(statuses: list[str], removed: bool) -> None:
    """Whatever order of sightings, a worker was created before it ran, ran before it ended, and ends once."""
    told: list[str] = []
    numbers: list[int] = []
    started = False
    for status in statuses:
        started = started or status in {"running", "succeeded"}
        for notice in due(Sighting(status, started_at="x" if started else ""), told, len(told), "now"):
            told.append(notice.kind)
            numbers.append(notice.number)
    if removed:
        told += [notice.kind for notice in vanished(told, len(told), "now")]
    assert told[0] == CREATED
    assert len(told) == len(set(told)) <= 3
    assert RUNNING not in told or told.index(RUNNING) == 1
    assert not ENDS.intersection(told[:-1])
    assert bool(ENDS.intersection(told)) == (removed or bool({"succeeded", "failed"}.intersection(statuses)))
    assert numbers == list(range(1, len(numbers) + 1))
