"""Times as the contract writes them, and a day that nobody sets."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_runtime.times import SteadyDay, nanoseconds, rfc3339


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)))
def test_a_time_is_written_in_utc_with_milliseconds(at: datetime) -> None:
    """Whatever is below a millisecond is cut off, of nanoseconds and of seconds."""
    whole = (at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    expected = at.isoformat(timespec="milliseconds") + "Z"
    assert rfc3339(whole * 1000 + 999) == expected
    assert rfc3339(nanoseconds(whole / 1_000_000)) == expected


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_no_time_is_no_text(seconds: float | None) -> None:
    """0 and None are no time: nothing of ours happened in 1970."""
    assert rfc3339(nanoseconds(seconds)) == ""


def test_a_clock_that_is_set_changes_no_day() -> None:
    """The day goes on from what it was, as fast as time passes."""
    clock, steady = 1_000_000.0, 5.0
    day = SteadyDay(lambda: clock, lambda: steady)
    clock, steady = clock + 86_400 * 365, steady + 60
    assert day.now() == 1_000_060.0
