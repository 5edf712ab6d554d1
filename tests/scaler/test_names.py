"""Names and texts that other parts of the system rely on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_runtime.times import rfc3339
from otto_scaler.worker import label_value, worker_name

ANY = st.text(max_size=80)


@given(ANY, ANY, ANY, st.integers(1, 10**6), st.integers(1, 10_000))
def test_any_worker_has_a_valid_name(task: str, pipeline: str, stage: str, attempt: int, index: int) -> None:
    """A DNS label of at most 63 characters, whatever the ids hold, and the same one each time."""
    name = worker_name(task, pipeline, stage, attempt, index)
    assert re.fullmatch(r"otto-[a-z0-9-]{0,30}-[0-9a-f]{10}-[1-9][0-9]*", name)
    assert len(name) <= 63
    assert name == worker_name(task, pipeline, stage, attempt, index)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c", "d", 1, 1), ("a", "bc", "d", 1, 1)),
        (("a b", "", "", 1, 1), ("a-b", "", "", 1, 1)),
        (("A", "", "", 1, 1), ("a", "", "", 1, 1)),
        (("t", "p", "s", 1, 1), ("t", "p", "s", 2, 1)),
        (("t", "", "", 1, 1), ("t", "", "", 1, 2)),
        (("가", "", "", 1, 1), ("나", "", "", 1, 1)),
    ],
    ids=["shifted parts", "cleaned alike", "case", "attempt", "index", "only Korean"],
)
def test_different_workers_have_different_names(one: tuple[str, str, str, int, int], other: tuple[str, str, str, int, int]) -> None:
    """Also where what is readable of them is the same."""
    assert worker_name(*one) != worker_name(*other)


@given(ANY)
def test_label_values_are_valid_for_kubernetes(text: str) -> None:
    """At most 63 characters of its alphabet, beginning and ending with a letter or digit."""
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label_value(text))


def test_times_are_utc_with_milliseconds() -> None:
    """And empty before there is one."""
    assert rfc3339(1_795_485_600_123_999_999) == "2026-11-24T02:00:00.123Z"
    assert rfc3339(0) == ""
