"""What workers used, added up for their stage and their run, as messages tell it."""

from collections.abc import AsyncIterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_executor.testing.fleet import Fate
from otto_executor.usage import Usage, together
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest, StageMetrics
from ottoscaler.v1.pipeline_service_pb2 import WatchPipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy

from .conftest import Bench, Executor
from .test_service_run import everything

MB = 1_000_000
FIGURES = st.integers(0, 10**12)
USAGES = st.none() | st.builds(Usage, st.integers(0, 100), FIGURES, FIGURES, FIGURES, FIGURES)


@given(st.lists(USAGES, max_size=8))
def test_together_is_what_the_parts_say(usages: list[Usage | None]) -> None:
    """As many workers as the parts have, averages between theirs, peaks the largest; nothing from nothing."""
    known = [usage for usage in usages if usage is not None and usage.workers]
    whole = together(usages)
    if whole is None:
        assert known == []
        return
    assert whole.workers == sum(usage.workers for usage in known)
    for name in ("cpu", "memory"):
        averages = [getattr(usage, f"{name}_average") for usage in known]
        assert min(averages) <= getattr(whole, f"{name}_average") <= max(averages)
        assert getattr(whole, f"{name}_peak") == max(getattr(usage, f"{name}_peak") for usage in known)


def figures(metrics: StageMetrics) -> tuple[float, ...]:
    """Measured workers; cores and megabytes, averages before peaks."""
    cores, memory = (metrics.avg_cpu_usage, metrics.peak_cpu_usage), (metrics.avg_memory_mb, metrics.peak_memory_mb)
    return metrics.measured_workers, *(round(value, 3) for value in (*cores, *memory))


async def last_of(call: AsyncIterable[PipelineProgress]) -> dict[str, StageMetrics]:
    """The metrics of each stage's last message; "" is the run's."""
    return {message.stage_id: message.metrics for message in await everything(call)}


def stage(name: str, *needs: str, workers: int = 1, retries: int = 0) -> PipelineStage:
    policy = RetryPolicy(max_attempts=retries)
    return PipelineStage(stage_id=name, depends_on=needs, command=["true"], worker_count=workers, retry_policy=policy)


async def test_a_stage_and_its_run_have_the_figures_of_their_workers(bench: Bench, executor: Executor) -> None:
    """Averages over those that were measured, peaks of one of them; one that nobody measured is left out. A replay says the same."""
    known = {1: Usage(1, 1500, 2000, 100 * MB, 300 * MB), 2: Usage(1, 500, 900, 50 * MB, 60 * MB)}
    bench.fleet.script = lambda key: Fate(usage=known.get(key[3]) if key[1] == "many" else Usage(1, 100, 100, 10 * MB, 10 * MB))
    request = PipelineRequest(pipeline_id="p", stages=[stage("many", workers=3), stage("one", "many")])
    told = await last_of(executor.client.ExecutePipeline(request))
    assert figures(told["many"]) == (2, 1.0, 2.0, 75.0, 300.0)
    assert told["many"].successful_workers == 3
    assert figures(told["one"]) == (1, 0.1, 0.1, 10.0, 10.0)
    assert figures(told[""]) == (3, 0.7, 2.0, 53.333, 300.0)
    assert await last_of(executor.client.WatchPipeline(WatchPipelineRequest(pipeline_id="p"))) == told


async def test_figures_are_those_of_the_last_attempt(bench: Bench, executor: Executor) -> None:
    """As durations and counts are: a new attempt begins without any."""
    bench.fleet.script = lambda key: Fate(exit_code=int(key[2] == 1), usage=Usage(1, 1000 * key[2], 1000 * key[2], MB, MB))
    seen = await everything(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a", retries=1)])))
    by_attempt = {message.attempt: message.metrics for message in seen if message.stage_id == "a" and message.metrics.measured_workers}
    assert [figures(by_attempt[attempt])[:3] for attempt in (1, 2)] == [(1, 1.0, 1.0), (1, 2.0, 2.0)]


async def test_nobody_measured_is_no_figure(bench: Bench, executor: Executor) -> None:
    """Then `measured_workers` is 0, as older services leave it."""
    told = await last_of(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a")])))
    assert {figures(metrics) for metrics in told.values()} == {(0, 0.0, 0.0, 0.0, 0.0)}


@pytest.mark.parametrize("cores", [0.0, 0.0004, 64.0])
async def test_small_and_large_figures_pass(bench: Bench, executor: Executor, cores: float) -> None:
    """A worker that hardly did anything was measured all the same."""
    bench.fleet.script = lambda _: Fate(usage=Usage(1, round(cores * 1000), round(cores * 1000), 0, 2**40))
    told = await last_of(executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage("a")])))
    assert told["a"].measured_workers == 1
    assert told["a"].avg_cpu_usage == pytest.approx(cores, abs=0.001)
    assert told["a"].peak_memory_mb == pytest.approx(2**40 / 1e6, rel=1e-6)
