"""An ended worker as a span."""

import asyncio
from dataclasses import replace

from otto_runtime import spans
from otto_runtime.spans import Span
from otto_scaler.fleet import Fleet
from otto_scaler.limits import Limits
from otto_scaler.spans import AGAIN_SECONDS, WorkerSpans, worker_span
from otto_scaler.testing import MemoryBackend
from otto_scaler.worker import Cause, Identity, State, Worker, WorkerSpec, worker_name

STAGE = spans.stage(spans.fresh(), "p", "s")
SECOND = 1_000_000_000


def worker(attempt: int = 1, **fields: object) -> Worker:
    identity = Identity(worker_name("p/s", "p", "s", attempt, 2), "p/s", 2, 3, pipeline_id="p", stage_id="s", attempt=attempt, parent=STAGE)
    state = Worker(identity, "uid", State.SUCCEEDED, SECOND, started=3 * SECOND, ended=9 * SECOND, exit_code=0, node="n")
    return replace(state, **fields)  # type: ignore[arg-type]  # any of its fields


def test_it_says_what_it_was_and_how_it_went() -> None:
    """From its creation to its end, its wait counted apart, below its stage."""
    told = worker_span(worker(), {"k8s.pod.name": "pod"})
    assert (told.context, told.parent, told.name) == (spans.worker(STAGE, worker().name), STAGE, "worker s")
    assert (told.start, told.end, told.links, told.error) == (SECOND, 9 * SECOND, (), None)
    assert told.attributes == {
        "cicd.worker.id": "uid",
        "cicd.worker.name": worker().name,
        "cicd.pipeline.run.id": "p",
        "cicd.pipeline.task.run.id": "s",
        "k8s.pod.name": "pod",
        "process.exit.code": 0,
        "ottoscaler.task.id": "p/s",
        "ottoscaler.attempt": 1,
        "ottoscaler.worker.index": 2,
        "ottoscaler.worker.count": 3,
        "ottoscaler.pending.seconds": 2.0,
        "ottoscaler.result": "success",
    }


def test_failures_are_errors_and_stops_are_not() -> None:
    """By their causes."""
    failed = worker_span(worker(state=State.FAILED, cause=Cause.EVICTED, error="no room", exit_code=None), {})
    assert (failed.error, failed.attributes["error.type"], failed.attributes["ottoscaler.result"]) == ("no room", "EVICTED", "error")
    own = worker_span(worker(state=State.FAILED, cause=Cause.OOM_KILLED, error="", exit_code=137), {})
    assert (own.error, own.attributes["process.exit.code"], own.attributes["ottoscaler.result"]) == ("OOM_KILLED", 137, "failure")
    stopped = worker_span(worker(state=State.FAILED, cause=Cause.CANCELLED, error="stopped", exit_code=143), {})
    assert (stopped.error, stopped.attributes["ottoscaler.result"]) == (None, "cancellation")


def test_another_attempt_is_linked_to_the_same_worker_of_the_one_before() -> None:
    """Whose span follows from its name, so nothing about it is kept."""
    first, second, third = (worker_span(worker(attempt), {}) for attempt in (1, 2, 3))
    assert (first.links, second.links, third.links) == ((), (first.context,), (second.context,))


async def test_each_worker_is_told_once_and_after_a_start_those_that_ended_shortly_before() -> None:
    """Whatever becomes of it afterwards; one without a trace is none."""
    backend, told = MemoryBackend(), list[Span]()
    limits = Limits(max_workers=10, max_queued=10, finished_ttl=3600, unreleased_limit=3600, watch_backlog=100)

    def begun(clock: int) -> tuple[Fleet, WorkerSpans]:
        fleet = Fleet(backend, limits)
        return fleet, WorkerSpans(fleet, backend.place, told.append, lambda: clock)

    def named(name: str, parent: str = STAGE) -> WorkerSpec:
        return WorkerSpec(Identity(name, "task", 1, 1, parent=parent), ("true",))

    fleet, watching = begun(0)
    known = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(fleet.run(known.set))
        await known.wait()
        watching.begin()
        await fleet.scale_up([named("a"), named("b"), named("untraced", "")], queue=False)
        async with asyncio.timeout(10):
            while len(told) < 2:
                await asyncio.sleep(0.01)
        await backend.remove("b")
        async with asyncio.timeout(10):
            while fleet.worker("b") is not None:
                await asyncio.sleep(0.01)
        running.cancel()
    assert sorted(span.context for span in told) == sorted(spans.worker(STAGE, name) for name in ("a", "b"))
    before = list(told)
    ended = backend.workers["a"].ended
    for clock, again in ((ended + SECOND, 1), (ended + int((AGAIN_SECONDS + 1) * SECOND), 0)):
        told.clear()
        fleet, watching = begun(clock)
        known = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(fleet.run(known.set))
            await known.wait()
            watching.begin()
            running.cancel()
        assert told == [span for span in before if span.context == spans.worker(STAGE, "a")][:again]
