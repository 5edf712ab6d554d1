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
from otto_executor.run_state import fresh
from otto_executor.runner import HELD_UP_SECONDS, Standing
from otto_executor.stage import StageSpec, StageState
from otto_executor.testing.fleet import Fate, Fleet, FleetView
from otto_executor.testing.store import MemoryStore

from .test_conductor import fleet, pipeline, process, run, until  # noqa: F401  the fixture
from .test_damaged_stores import Damaged


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


async def test_a_pipeline_that_can_not_be_read_is_counted_until_it_is_deleted(fleet: Fleet) -> None:  # noqa: F811  the fixture
    """While it is driven, and at a start; it is not active then."""
    async with process(fleet, store := Damaged()) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), pipeline_id="bad"), b"")
        await until(lambda: conductor.standing() == Standing(0, unreadable=1))
    async with process(fleet, store) as conductor:
        await until(lambda: conductor.standing() == Standing(0, unreadable=1))
        await conductor.end("bad", "somebody has deleted it")
        assert conductor.standing() == Standing(0)


def test_pipelines_are_shown_by_how_they_stand() -> None:
    """Each number under its own name."""
    registry = CollectorRegistry()
    registry.register(RunMetrics(lambda: Standing(3, held_up=2, unreadable=1), 100))
    shown = {name: registry.get_sample_value(f"otto_executor_pipelines_{name}") for name in ("active", "held_up", "unreadable", "limit")}
    assert shown == {"active": 3, "held_up": 2, "unreadable": 1, "limit": 100}


@pytest.mark.parametrize(
    ("spec", "state", "hops"),
    [
        (StageSpec("c", depends_on=("a", "b")), StageState(attempt=1, confirmed_at=107.5), [0.5]),
        (StageSpec("c", depends_on=("a",)), StageState(attempt=1, confirmed_at=107.5), [3.5]),
        (StageSpec("c"), StageState(attempt=1, confirmed_at=107.5), []),
        (StageSpec("c", depends_on=("a",)), StageState(attempt=2, confirmed_at=107.5), []),
        (StageSpec("c", depends_on=("a",), approvers=()), StageState(attempt=1, confirmed_at=107.5), []),
        (StageSpec("c", depends_on=("a",)), StageState(), []),
        (StageSpec("c", depends_on=("a",)), StageState(attempt=1, confirmed_at=107.5, kept_from="an earlier run"), []),
    ],
    ids=["the last dependency counts", "one dependency", "none", "a second attempt", "a person was asked", "never began", "kept"],
)
def test_a_hop_takes_from_the_last_dependency_s_end_until_the_workers_are_there(
    spec: StageSpec, state: StageState, hops: list[float]
) -> None:
    """In seconds; where something else than we was waited for, there is none, nor when the clock was set meanwhile."""
    metrics = RunMetrics(lambda: Standing(0), 100)
    registry = CollectorRegistry()
    registry.register(metrics)
    definition = pipeline(StageSpec("a"), StageSpec("b"), spec)
    run = fresh(definition, 100.0, {"a": StageState(ended_at=104.0), "b": StageState(ended_at=107.0), "c": state})
    run.ended_at = 110.0
    run.clock_set_by = -60.0
    metrics.ended(definition, run)
    assert registry.get_sample_value("otto_executor_stage_hop_seconds_count") == 0
    run.clock_set_by = 0.0
    metrics.ended(definition, run)
    assert registry.get_sample_value("otto_executor_stage_hop_seconds_count") == len(hops)
    assert registry.get_sample_value("otto_executor_stage_hop_seconds_sum") == sum(hops)


def test_all_series_there_can_be_are_there_from_the_start() -> None:
    """So that an alert sees the first failure of a kind; and neither a pipeline nor a stage can add one."""
    metrics = RunMetrics(lambda: Standing(3, 2, 1), 100)
    found = {
        (sample.name, *sample.labels.values())
        for family in metrics.collect()
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }
    assert ("otto_executor_stages_ended_total", "failed", "node_lost") in found
    assert len([series for series in found if series[0] == "otto_executor_stages_ended_total"]) == 4 + len(FailureCause)
    assert {series[1] for series in found if series[0] == "otto_executor_pipeline_duration_seconds_count"} == {
        "completed",
        "failed",
        "cancelled",
    }
