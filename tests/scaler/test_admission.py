"""Slots are given fairly, and never more of them than there are."""

from hypothesis import given
from hypothesis import strategies as st

from otto_scaler.admission import Admission


def test_a_task_that_wants_much_does_not_starve_one_that_wants_little() -> None:
    """Those that wait get slots in turns, whoever came first."""
    admission = Admission(2)
    assert admission.take("running-1")
    assert admission.take("running-2")
    for n in range(1000):
        admission.enqueue("big", f"big-{n}")
    admission.enqueue("small", "small-0")
    admission.enqueue("small", "small-1")
    order = []
    for name in ("running-1", "running-2", "big-0", "small-0"):
        admission.free(name)
        order += admission.admit()
    assert order == ["big-0", "small-0", "big-1", "small-1"]


def test_nobody_overtakes_the_queue() -> None:
    """A free slot is not for who asks now while others wait."""
    admission = Admission(1)
    assert admission.take("a")
    admission.enqueue("task", "b")
    admission.free("a")
    assert not admission.take("c")
    assert admission.admit() == ["b"]


def test_what_was_found_running_counts_even_over_the_cap() -> None:
    """A smaller cap after a restart stops nobody, and admits nobody until there is room."""
    admission = Admission(1)
    for name in ("a", "b", "c"):
        admission.hold(name)
    admission.enqueue("task", "d")
    admission.free("a")
    assert admission.admit() == []
    admission.free("b")
    admission.free("c")
    assert admission.admit() == ["d"]


names = st.tuples(st.sampled_from("abc"), st.integers(0, 5)).map(lambda t: (t[0], f"{t[0]}{t[1]}"))
steps = st.lists(st.tuples(st.sampled_from(["take", "enqueue", "free", "hold", "admit"]), names), max_size=60)


@given(st.integers(1, 3), steps)
def test_whatever_happens_slots_and_queue_stay_sound(cap: int, happening: list[tuple[str, tuple[str, str]]]) -> None:
    """Nobody has two places, nobody is admitted over the cap, and everyone who waits gets in once all others are gone."""
    admission = Admission(cap)
    holding: set[str] = set()
    waiting: set[str] = set()
    for step, (task, name) in happening:
        if step == "take":
            if admission.take(name):
                assert name in holding or (len(holding) < cap and not waiting)
                holding.add(name)
        elif step == "enqueue":
            admission.enqueue(task, name)
            if name not in holding:
                waiting.add(name)
        elif step == "hold":
            admission.hold(name)
            holding.add(name)
            waiting.discard(name)
        elif step == "free":
            admission.free(name)
            holding.discard(name)
            waiting.discard(name)
        else:
            admitted = admission.admit()
            assert set(admitted) <= waiting
            assert len(admitted) == len(set(admitted)) == min(len(waiting), max(0, cap - len(holding)))
            waiting -= set(admitted)
            holding |= set(admitted)
        assert admission.queued == len(waiting)
        assert sorted(admission.places().values()) == list(range(1, len(waiting) + 1))
        assert admission.places().keys() == waiting
    for name in sorted(holding):
        admission.free(name)
    left = set(waiting)
    while left:
        places = admission.places()
        admitted = admission.admit()
        assert [places[name] for name in admitted] == list(range(1, len(admitted) + 1))
        assert admitted
        left -= set(admitted)
        for name in admitted:
            admission.free(name)
