"""An ended run as spans."""

from dataclasses import replace

import pytest

from otto_executor.approval import Decision
from otto_executor.definition import Definition
from otto_executor.errors import StoreUnavailableError
from otto_executor.rerun import Rerun, repetition
from otto_executor.retry import FailureCause, RetryPolicy
from otto_executor.run_state import RunState
from otto_executor.spans import run_spans, told_again
from otto_executor.stage import RunCondition, StageSpec, StageType
from otto_executor.stores import StoredRun, Workspace
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import MemoryStore
from otto_runtime import spans
from otto_runtime.spans import AGAIN_SECONDS, MOST_AGAIN, Span

from .test_conductor import fleet, pipeline, process, run  # noqa: F401  the fixture

TRACE = spans.fresh()
CALLER = spans.child(TRACE, "caller")


async def spans_of(fleet: Fleet, *stages: StageSpec, **fields: object) -> dict[str, Span]:  # noqa: F811  the fixture
    """Runs it to its end, and gives its spans by their names."""
    asked = replace(pipeline(*stages, pipeline_id="p"), traceparent=spans.run(TRACE, "p"), parent=CALLER, **fields)  # type: ignore[arg-type]  # any of its fields
    store = MemoryStore()
    async with process(fleet, store) as conductor:
        await run(conductor, asked)
    record = await store.load("p")
    assert record is not None
    return {span.name: span for span in run_spans(record.definition, record.state)}


async def test_a_run_and_its_stages(fleet: Fleet) -> None:  # noqa: F811  the fixture
    """The run below its caller's span, stages below the run; each says what it is, how it went and how long it took."""
    build, test = StageSpec("build", type=StageType.BUILD), StageSpec("test", name="Unit tests", workers=2, depends_on=("build",))
    told = await spans_of(fleet, build, test, name="Web shop", repository="https://me:secret@git.example.com/shop.git", triggered_by="kim")
    assert list(told) == ["RUN Web shop", "build", "Unit tests"]
    whole = told["RUN Web shop"]
    assert (whole.context, whole.parent, whole.serves, whole.error, whole.links) == (spans.run(TRACE, "p"), CALLER, True, None, ())
    assert whole.attributes == {
        "cicd.pipeline.run.id": "p",
        "cicd.pipeline.name": "Web shop",
        "cicd.pipeline.action.name": "RUN",
        "cicd.pipeline.result": "success",
        "vcs.repository.url.full": "https://git.example.com/shop.git",
        "ottoscaler.triggered.by": "kim",
        "ottoscaler.stages": 2,
    }
    tests = told["Unit tests"]
    assert (tests.context, tests.parent) == (spans.stage(TRACE, "p", "test"), whole.context)
    assert tests.attributes["cicd.pipeline.task.name"] == "Unit tests"
    assert tests.attributes["cicd.pipeline.task.run.id"] == "test"
    assert (tests.attributes["ottoscaler.attempts"], tests.attributes["ottoscaler.workers"]) == (1, 2)
    assert told["build"].attributes["cicd.pipeline.task.type"] == "build"
    assert whole.start <= told["build"].start <= told["build"].end <= tests.start <= tests.end <= whole.end


async def test_results_are_those_of_the_conventions(fleet: Fleet) -> None:  # noqa: F811  the fixture
    """The work's own failure, a timeout, one of whoever runs it, what was skipped, and a failure that was ignored."""
    fates = {
        "red": Fate(exit_code=3),
        "late": Fate(cause=FailureCause.TIMEOUT, exit_code=143),
        "lost": Fate(cause=FailureCause.NODE_LOST),
        "odd": Fate(exit_code=1),
    }
    fleet.script = lambda key: fates.get(key[1], Fate())
    stages = [StageSpec(name, ignore_errors=name == "odd", retry=RetryPolicy(retries=int(name == "red"), delay=0.001)) for name in fates]
    told = await spans_of(fleet, *stages, StageSpec("after", depends_on=("red",)), StageSpec("tell", run_if=RunCondition.ALWAYS))
    results = {name: span.attributes.get("cicd.pipeline.task.run.result") for name, span in told.items() if name != "RUN"}
    assert results == {"red": "failure", "late": "timeout", "lost": "error", "odd": "success", "after": "skip", "tell": "success"}
    assert {name for name, span in told.items() if span.error is not None} == {"RUN", "red", "late", "lost"}
    assert (told["red"].attributes["error.type"], told["red"].attributes["ottoscaler.attempts"]) == ("EXIT_CODE", 2)
    assert (told["odd"].attributes["ottoscaler.ignored"], "error.type" in told["odd"].attributes) == ("EXIT_CODE", False)
    assert told["after"].start == told["after"].end
    assert told["RUN"].attributes["cicd.pipeline.result"] in {"failure", "timeout", "error"}


async def test_the_wait_for_a_person_is_a_part_of_the_stage(fleet: Fleet) -> None:  # noqa: F811  the fixture
    """It begins with its turn, and says who decided what."""
    store = MemoryStore()
    asked = replace(pipeline(StageSpec("build"), StageSpec("go", approvers=(), depends_on=("build",)), pipeline_id="p"), traceparent=TRACE)
    async with process(fleet, store) as conductor:
        await conductor.begin(asked, b"")
        async for progress, _ in conductor.follow("p"):
            if progress.message.startswith("waits for approval"):
                await conductor.approve("p", "go", Decision.APPROVE, "kim", "")
    record = await store.load("p")
    assert record is not None
    told = {span.name: span for span in run_spans(record.definition, record.state)}
    assert told["go"].attributes["ottoscaler.approval"] == "approved by kim"
    assert told["build"].end == told["go"].start < told["go"].end


def test_a_run_that_goes_on_or_belongs_to_no_trace_tells_nothing() -> None:
    """Also one that an earlier version stored without a trace."""
    assert list(run_spans(Definition("p", traceparent=TRACE), RunState(1.0, {}))) == []
    assert list(run_spans(Definition("p"), RunState(1.0, {}, ended_at=2.0))) == []


def test_a_rerun_is_linked_to_the_run_it_repeats() -> None:
    """In a trace of its own."""
    old, mine = Definition("p", traceparent=TRACE), spans.run(spans.fresh(), "q")
    again = repetition(old, Rerun("p", "q", False, "kim", mine, CALLER, lambda kept: kept))
    (told,) = run_spans(again, RunState(1.0, {}, ended_at=2.0))
    assert (told.context, told.parent, told.links) == (mine, CALLER, (TRACE,))


async def test_runs_that_ended_right_before_the_last_process_did_are_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the older ones and not too many; a memory of runs that can't be read at first is asked again."""
    store, told = MemoryStore(), list[str]()
    for number in range(MOST_AGAIN + 5):
        definition = Definition(f"p-{number}", stages=(), traceparent=TRACE, directory=f"ws-{number}")
        ended = 1000.0 + (number if number < 3 else AGAIN_SECONDS * 10)
        await store.create(StoredRun(definition, b"", RunState(1.0, {}, ended_at=ended)), [])
    await told_again(store, lambda definition, _: told.append(definition.pipeline_id))
    assert len(told) == MOST_AGAIN
    assert "p-0" not in told
    await told_again(MemoryStore(), lambda definition, _: told.append(definition.pipeline_id))
    assert len(told) == MOST_AGAIN
    tried = iter([True, False])
    read = store.workspaces

    async def away_at_first() -> list[Workspace]:
        if next(tried):
            raise StoreUnavailableError("away", "away")
        return await read()

    monkeypatch.setattr(store, "workspaces", away_at_first)
    await told_again(store, lambda definition, _: told.append(definition.pipeline_id))
    assert len(told) == 2 * MOST_AGAIN
