"""What Prometheus sees of the workers."""

from dataclasses import replace

from prometheus_client import CollectorRegistry

from otto_scaler.metrics import WorkerMetrics
from otto_scaler.worker import Cause

from .conftest import DEFAULT_LIMITS, memory_rig, spec, until

LONG = ("sleep", "300")


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_workers_are_counted_by_state_and_cause_with_the_times_they_waited() -> None:
    """Two run and one waits under a cap of two; then one fails, whereupon the third waits no more; then all have ended."""
    clock, registry = Clock(), CollectorRegistry()
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=2)) as rig:
        metrics = WorkerMetrics(rig.fleet, clock)
        registry.register(metrics)
        metrics.begin()

        def figure(name: str, **labels: str) -> float:
            return registry.get_sample_value(f"otto_scaler_{name}", labels) or 0.0

        one, two, three = (spec("t", index=index, count=3, command=LONG) for index in (1, 2, 3))
        await rig.create(one, two, queue=True)
        await rig.runs(one)
        await rig.runs(two)
        clock.now += 2
        await rig.create(three, queue=True)
        assert (figure("workers", state="running"), figure("workers", state="pending"), figure("workers_queued")) == (2, 1, 1)
        assert figure("workers_limit") == 2
        assert (figure("oldest_queued_seconds"), figure("oldest_pending_seconds")) == (0, 0)
        assert (figure("worker_start_seconds_count"), figure("worker_queue_seconds_count")) == (2, 0)
        clock.now += 7
        assert (figure("oldest_queued_seconds"), figure("oldest_pending_seconds")) == (7, 0)
        rig.memory.finish(one.identity.name, 3)
        await rig.runs(three)
        assert (figure("worker_queue_seconds_count"), figure("worker_queue_seconds_sum")) == (1, 7)
        assert (figure("worker_start_seconds_count"), figure("worker_start_seconds_sum")) == (3, 0)
        for name in (two.identity.name, three.identity.name):
            rig.memory.finish(name)
        await until(lambda: figure("workers_ended_total", state="succeeded", cause="") == 2)
        assert figure("workers_ended_total", state="failed", cause="exit_code") == 1
        assert not metrics._lives


async def test_a_start_is_timed_from_when_there_is_room_until_the_worker_runs() -> None:
    """The oldest of those that have room and do not run yet is a figure meanwhile; the wait for room counts apart."""
    clock, registry = Clock(), CollectorRegistry()
    one, two = (spec("t", index=index, count=2, command=LONG) for index in (1, 2))
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1)) as rig:
        rig.memory.slow = {one.identity.name, two.identity.name}
        metrics = WorkerMetrics(rig.fleet, clock)
        registry.register(metrics)
        metrics.begin()

        def figures(*names: str) -> list[float | None]:
            return [registry.get_sample_value(f"otto_scaler_{name}") for name in names]

        await rig.create(one, two, queue=True)
        clock.now += 4
        assert figures("oldest_pending_seconds", "oldest_queued_seconds", "worker_start_seconds_count") == [4, 4, 0]
        rig.memory.begin(one.identity.name)
        await rig.runs(one)
        assert figures("oldest_pending_seconds", "worker_start_seconds_sum") == [0, 4]
        clock.now += 3
        rig.memory.finish(one.identity.name)
        await rig.reaches(two, lambda worker: not worker.held)
        clock.now += 5
        assert figures("oldest_pending_seconds", "oldest_queued_seconds", "worker_queue_seconds_sum") == [5, 0, 7]
        rig.memory.begin(two.identity.name)
        await rig.runs(two)
        assert figures("oldest_pending_seconds", "worker_start_seconds_count", "worker_start_seconds_sum") == [0, 2, 9]


async def test_who_was_there_before_a_restart_waits_from_it_on() -> None:
    """The oldest waits are counted from then; histograms get no wait of which nobody has seen the beginning."""
    clock, registry = Clock(), CollectorRegistry()
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1)) as rig:
        one, two = (spec("t", index=index, count=2, command=LONG) for index in (1, 2))
        await rig.create(one, two, queue=True)
        await rig.runs(one)
        metrics = WorkerMetrics(rig.fleet, clock)
        registry.register(metrics)
        metrics.begin()
        clock.now += 9
        assert registry.get_sample_value("otto_scaler_oldest_queued_seconds") == 9
        rig.memory.finish(one.identity.name)
        await rig.runs(two)
        assert registry.get_sample_value("otto_scaler_oldest_queued_seconds") == 0
        assert registry.get_sample_value("otto_scaler_worker_queue_seconds_count") == 0
        assert registry.get_sample_value("otto_scaler_worker_start_seconds_count") == 1


async def test_all_series_there_can_be_are_there_from_the_start() -> None:
    """So that an alert sees the first failure of a kind; and no worker, whatever it is called, can add one."""
    async with memory_rig() as rig:
        metrics = WorkerMetrics(rig.fleet)
        metrics.begin()

        def series() -> set[tuple[str, str]]:
            return {
                (sample.labels["state"], sample.labels["cause"])
                for family in metrics.collect()
                for sample in family.samples
                if sample.name == "otto_scaler_workers_ended_total"
            }

        before = series()
        assert before == {("succeeded", "")} | {("failed", cause.name.lower()) for cause in Cause if cause is not Cause.UNSPECIFIED}
        for task in ("one", "two"):
            worker = spec(task, command=LONG)
            await rig.create(worker)
            await rig.runs(worker)
            rig.memory.finish(worker.identity.name, 3)
            await rig.ends(worker)
        assert series() == before
