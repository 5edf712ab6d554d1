"""Shares, counts, durations and shortened texts as a run's messages have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_executor import attempt
from otto_executor.progress import MAX_WORDS, Progress, counted, seconds, share, shortened
from otto_executor.stage import StageSpec, StageStatus


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_a_hundred_percent_means_all(part: int, rest: int) -> None:
    """From 0 to 100, 100 only if nothing is left, and never less for more."""
    whole = part + rest
    assert 0 <= share(part, whole) <= 100
    assert (share(part, whole) == 100) is (whole > 0 and rest == 0)
    if rest:
        assert share(part + 1, whole) >= share(part, whole)


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (0, "0 s"),
        (0.5, "0.5 s"),
        (2, "2 s"),
        (99.94, "99.9 s"),
        (150, "150 s"),
        (600, "10 min"),
        (3599, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "24 h"),
    ],
)
def test_durations_for_people(duration: float, words: str) -> None:
    """Seconds below ten minutes, then minutes and hours."""
    assert seconds(duration) == words


def test_counts_have_the_right_number() -> None:
    """One worker, several workers."""
    assert (counted(1, "worker"), counted(0, "worker"), counted(2, "worker")) == ("1 worker", "0 workers", "2 workers")


@given(st.text(max_size=MAX_WORDS * 2))
def test_long_texts_are_cut_visibly(text: str) -> None:
    """At most MAX_WORDS characters, with an ellipsis where something is missing."""
    short = shortened(text)
    assert len(short) <= MAX_WORDS
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


@pytest.mark.parametrize("status", list(StageStatus))
def test_what_is_final(status: StageStatus) -> None:
    """Only the pipeline's own COMPLETED, FAILED or CANCELLED ends a stream."""
    ends = status in {StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED}
    assert Progress(1, "", status, "", at=0.0).final is ends
    assert not Progress(1, "a", status, "", at=0.0).final


@pytest.mark.parametrize(
    ("workers", "numbers", "words"),
    [
        (1, {"waiting": 1, "room": 5}, "1 worker waits for room (cap 5)"),
        (10, {"waiting": 3, "room": 100}, "3 of 10 workers wait for room (cap 100)"),
        (10, {"ended": 2, "running": 5, "waiting": 3, "room": 5}, "2 of 10 workers ended, 5 run, 3 wait for room (cap 5)"),
        (3, {"running": 1, "waiting": 1}, "1 of 3 workers runs, 1 waits for room"),
        (3, {}, ""),
    ],
)
def test_how_workers_stand_in_words(workers: int, numbers: dict[str, int], words: str) -> None:
    """Only what there is to tell, and the whole number once."""
    assert attempt.in_words(StageSpec("a", workers=workers), **numbers) == words
