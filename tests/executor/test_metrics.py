"""What Prometheus sees of the runs."""

from dataclasses import replace

from prometheus_client import CollectorRegistry

from otto_executor.metrics import RunMetrics
from otto_executor.retry import RetryPolicy
from otto_executor.stage import StageSpec
from otto_executor.testing.fleet import Fate, Fleet
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
        metrics = RunMetrics(lambda: conductor.active, 100)
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
