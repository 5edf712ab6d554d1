"""What a process measures of itself."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from otto_runtime.settings import RuntimeSettings
from otto_runtime.telemetry import LAG_SECONDS, telemetry


def lag() -> tuple[float | None, float | None]:
    """How often the event loop was looked at, and by how many seconds it was late in all."""
    name = "otto_event_loop_lag_seconds_"
    return REGISTRY.get_sample_value(name + "count"), REGISTRY.get_sample_value(name + "sum")


async def test_how_late_the_event_loop_is_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still and then jumps: what was due in half a second comes three seconds late."""
    now = 1000.0
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "time", lambda: now)
        async with telemetry(RuntimeSettings(metrics_listen="off"), "trial"):
            count, seconds = lag()
            assert count is not None
            assert seconds is not None
            await turns()
            now += LAG_SECONDS + 3
            await turns()
    assert lag() == (count + 1, seconds + 3)


async def turns() -> None:
    """Enough of the event loop's for whatever is due to begin and to wait again."""
    for _ in range(10):
        await asyncio.sleep(0)
