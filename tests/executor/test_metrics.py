"""What Prometheus sees of the runs."""

import time
from dataclasses import replace
from math import inf

import pytest
from prometheus_client import CollectorRegistry

from otto_executor.errors import WorkersUnavailableError
from otto_executor.metrics import RunMetrics
from otto_executor.orders import Created, Order, Refused
from otto_executor.retry import FailureCause, RetryPolicy
from otto_executor.runner import HELD_UP_SECONDS, Standing
from otto_executor.stage import StageSpec
from otto_executor.testing.fleet import Fate, Fleet, FleetView
from otto_executor.testing.store import MemoryStore

from .test_conductor import fleet, pipeline, process, run, until  # noqa: F401  the fixture


async def test_runs_and_stages_are_counted_by_how_they_ended(fleet: Fleet) -> None:  # noqa: F811  the fixture
    """With the attempts that were repeated, and the time between stages; a run that goes on counts as active."""
    registry = CollectorRegistry()

    def figure(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"otto_executor_{name}", labels) or 0.0

    def script(key: tuple[str, str, int, int]) -> Fate:
        pipeline_id, _, attempt, _ = key
        return {"long": Fate(seconds=None), "bad": Fate(exit_code=1), "flaky": Fate(exit_code=int(attempt == 1))}.get(pipeline_id, Fate())

    fleet.script = script
    async with process(fleet, MemoryStore()) as conductor:
        metrics = RunMetrics(conductor.standing, 100)
        conductor._means = replace(conductor._means, ended=metrics.ended)
        registry.register(metrics)
        await run(conductor, pipeline(StageSpec("a"), StageSpec("b", depends_on=("a",)), pipeline_id="good"))
        await run(conductor, pipeline(StageSpec("a"), StageSpec("b", depends_on=("a",)), pipeline_id="bad"))
        await run(conductor, pipeline(StageSpec("a", retry=RetryPolicy(retries=1, delay=0.001)), pipeline_id="flaky"))
        await conductor.begin(pipeline(StageSpec("a"), pipeline_id="long"), b"")
        await until(lambda: figure("pipeline_duration_seconds_count", status="completed") == 2)
        assert figure("pipeline_duration_seconds_count", status="failed") == 1
        assert (figure("pipelines_active"), figure("pipelines_limit")) == (1, 100)
    assert figure("stages_ended_total", status="completed", cause="") == 3
    assert figure("stages_ended_total", status="failed", cause="exit_code") == 1
    assert figure("stages_ended_total", status="skipped", cause="") == 1
    assert figure("stage_retries_total", kind="policy") == 1
    assert figure("stage_hop_seconds_count") == 1


async def test_a_pipeline_whose_next_step_does_not_work_is_held_up(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811  the fixture
    """Once the scaler, or the store, has taken its next step for a minute not; no more when it does."""
    passed, away, store = 0.0, True, MemoryStore()
    start = FleetView.start

    async def unless_away(view: FleetView, order: Order) -> Created | Refused:
        if away:
            raise WorkersUnavailableError("away")
        return await start(view, order)

    monkeypatch.setattr(FleetView, "start", unless_away)
    async with process(fleet, store) as conductor:
        conductor._means = replace(conductor._means, steady=lambda: time.monotonic() + passed)
        await conductor.begin(pipeline(StageSpec("a")), b"")
        runner = conductor._active["p"]
        await until(lambda: bool(runner._acting))
        assert conductor.standing() == Standing(1)
        passed += HELD_UP_SECONDS
        assert conductor.standing() == Standing(1, held_up=1)
        fleet.script, away = lambda _: Fate(seconds=None), False
        await until(lambda: conductor.standing() == Standing(1))
        store.unavailable = True
        fleet.end(fleet.of_stage("p", "a")[0], Fate())
        await until(lambda: runner._trouble_since < inf)
        passed += HELD_UP_SECONDS
        assert conductor.standing() == Standing(1, held_up=1)
        store.unavailable = False
        await until(lambda: conductor.standing() == Standing(0))


def test_all_series_there_can_be_are_there_from_the_start() -> None:
    """So that an alert sees the first failure of a kind; and neither a pipeline nor a stage can add one."""
    metrics = RunMetrics(lambda: Standing(3, 2, 1), 100)
    found = {
        (sample.name, *sample.labels.values())
        for family in metrics.collect()
        for sample in family.samples
        if sample.name.endswith(("_total", "_count", "active", "held_up", "unreadable"))
    }
    assert ("otto_executor_stages_ended_total", "failed", "node_lost") in found
    assert len([series for series in found if series[0] == "otto_executor_stages_ended_total"]) == 4 + len(FailureCause)
    assert {series[1] for series in found if series[0] == "otto_executor_pipeline_duration_seconds_count"} == {
        "completed",
        "failed",
        "cancelled",
    }
