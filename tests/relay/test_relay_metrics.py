"""What Prometheus sees of lines that are taken in."""

import time

import pytest
from prometheus_client import REGISTRY

from .conftest import Stand
from .test_relay_collecting import complete

WRITTEN = 1_763_949_600
"""When the lines of a test's log say that they were written."""


def figure(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"otto_relay_{name}")


async def test_lines_are_counted_with_the_time_they_took_while_the_relay_runs(stand: Stand) -> None:
    """A worker that is followed, its lines, and how late they were; a log that is gone is a place where lines may be missing."""
    log = stand.log("w-1")
    stand.scaler.show("w-1")
    async with stand.relay():
        for number in range(50):
            log.write(f"line {number}")
        stand.scaler.show("w-1", "succeeded")
        assert len(await complete(stand, "w-1")) == 50
        assert (figure("lines_total"), figure("workers_kept"), figure("incomplete_total")) == (50, 1, 0)
        batches, seconds = figure("delay_seconds_count"), figure("delay_seconds_sum")
        assert batches is not None
        assert seconds is not None
        assert 1 <= batches <= 50
        assert seconds / batches == pytest.approx(time.time() - WRITTEN, abs=60)
        stand.scaler.show("w-2", "failed")
        await complete(stand, "w-2")
        assert figure("incomplete_total") == 1
    assert figure("lines_total") is None
