"""After the first failure under otto.fail_fast: work is cut off, what is there for a failure goes on."""

from collections.abc import AsyncIterator

import pytest

from otto_executor.approval import Decision
from otto_executor.definition import Definition
from otto_executor.retry import FailureCause, RetryPolicy
from otto_executor.stage import RunCondition, StageSpec, StageStatus
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import MemoryStore

from .test_conductor import ends, last, pipeline, process, run, to_the_end, until

DONE, FAILED, CANCELLED = StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED
ON_FAILURE, ALWAYS = RunCondition.ON_FAILURE, RunCondition.ALWAYS


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    made.close()


def fast(*stages: StageSpec) -> Definition:
    return pipeline(*stages, fail_fast=True)


async def test_the_readme_s_pipeline_tells(fleet: Fleet) -> None:
    """The stage that tells of a failure runs though all between it and the failure was cancelled."""
    fleet.script = lambda key: Fate(exit_code=1 if key[1] == "install" else 0)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(
            conductor,
            fast(
                StageSpec("install"),
                StageSpec("test", workers=3, depends_on=("install",)),
                StageSpec("approve", depends_on=("test",), approvers=("leads",), workers=0),
                StageSpec("deploy", depends_on=("approve",)),
                StageSpec("tell", depends_on=("deploy",), run_if=ON_FAILURE),
            ),
        )
    assert ends(said) == {"install": FAILED, "test": CANCELLED, "approve": CANCELLED, "deploy": CANCELLED, "tell": DONE, "": FAILED}
    assert [key[1] for key in fleet.created] == ["install", "tell"]


async def test_work_is_stopped_and_clean_up_goes_on(fleet: Fleet) -> None:
    """Running work of other branches is stopped, its clean-up follows; clean-up that runs already is not stopped, nor is its retry."""
    fates = {
        ("fails", 1): Fate(exit_code=1, seconds=0.1),
        ("beside", 1): Fate(seconds=None),
        ("running clean-up", 1): Fate(seconds=0.3, exit_code=5),
        ("running clean-up", 2): Fate(),
    }
    fleet.script = lambda key: fates.get((key[1], key[2]), Fate())
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(
            conductor,
            fast(
                StageSpec("done"),
                StageSpec("fails", depends_on=("done",)),
                StageSpec("beside", depends_on=("done",)),
                StageSpec("after beside", depends_on=("beside",)),
                StageSpec("running clean-up", depends_on=("done",), run_if=ALWAYS, retry=RetryPolicy(retries=1, delay=0.01)),
                StageSpec("clean beside", depends_on=("after beside",), run_if=ALWAYS),
                StageSpec("tell of beside", depends_on=("beside",), run_if=ON_FAILURE),
                StageSpec("report", depends_on=("clean beside",)),
            ),
        )
    assert ends(said) == {
        "done": DONE,
        "fails": FAILED,
        "beside": CANCELLED,
        "after beside": CANCELLED,
        "running clean-up": DONE,
        "clean beside": DONE,
        "tell of beside": DONE,
        "report": CANCELLED,
        "": FAILED,
    }
    assert [stage for _, stage, _ in fleet.stops] == ["beside"]
    assert last(said, "running clean-up").attempt == 2


async def test_a_clean_up_that_fails_is_one_more_failure(fleet: Fleet) -> None:
    """It is named beside the first; what depends on it on success is cancelled, what is there for failures runs."""
    fleet.script = lambda key: Fate(exit_code=1 if key[1] in {"a", "clean"} else 0)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(
            conductor,
            fast(
                StageSpec("a"),
                StageSpec("clean", depends_on=("a",), run_if=ALWAYS),
                StageSpec("tell", depends_on=("clean",), run_if=ON_FAILURE),
            ),
        )
    assert ends(said) == {"a": FAILED, "clean": FAILED, "tell": DONE, "": FAILED}
    assert said[-1].error.startswith("a: ")
    assert "clean: " in said[-1].error


async def test_a_person_s_cancel_ends_clean_up_too(fleet: Fleet) -> None:
    """Who cancels after the failure means all of it: the clean-up that runs is stopped, the one that waits does not run."""
    fleet.script = lambda key: Fate(exit_code=1) if key[1] == "a" else Fate(seconds=None)
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(
            fast(
                StageSpec("a"),
                StageSpec("clean", depends_on=("a",), run_if=ALWAYS),
                StageSpec("tell", depends_on=("clean",), run_if=ON_FAILURE),
            ),
            b"",
        )
        await until(lambda: ("p", "clean", 1, 1) in fleet.workers)
        await conductor.cancel("p", "cancelled by kim")
        said = await to_the_end(conductor)
    assert ends(said) == {"a": FAILED, "clean": CANCELLED, "tell": CANCELLED, "": FAILED}
    assert {reason for _, _, reason in fleet.stops} == {"cancelled by kim"}


async def test_a_clean_up_that_needs_a_yes_waits_for_it(fleet: Fleet) -> None:
    """Its approval is asked for after the failure as before it."""
    fleet.script = lambda key: Fate(exit_code=1 if key[1] == "a" else 0)
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(fast(StageSpec("a"), StageSpec("undo", depends_on=("a",), run_if=ON_FAILURE, approvers=("kim",))), b"")
        async for progress, _ in conductor.follow("p"):
            if "waits for approval" in progress.message:
                await conductor.approve("p", "undo", Decision.APPROVE, "kim", "")
        said = await to_the_end(conductor)
    assert ends(said) == {"a": FAILED, "undo": DONE, "": FAILED}


@pytest.mark.parametrize("moment", ["before", "with"], ids=["while its others are being stopped", "in the same moment"])
async def test_what_had_failed_when_it_was_cut_off_has_failed(fleet: Fleet, moment: str) -> None:
    """Two stages fail: that the first one's failure cuts off the second hides neither its exit code nor its cause, and repeats nothing."""
    fleet.script = lambda key: Fate(exit_code=7, seconds=0.02) if key[1:] == ("b", 1, 1) else Fate(seconds=None)
    fleet.deaf_to_stop = {"b"}
    async with process(fleet, MemoryStore()) as conductor:
        await conductor.begin(fast(StageSpec("a"), StageSpec("b", workers=2, retry=RetryPolicy(retries=3, delay=0.01))), b"")
        await until(lambda: len(fleet.workers) == 3)
        await until(lambda: fleet.workers["p", "b", 1, 1].status.ended or moment == "with")
        if moment == "before":
            await until(lambda: [stage for _, stage, _ in fleet.stops] == ["b"])
        else:
            fleet.end(("p", "b", 1, 1), Fate(exit_code=7))
        fleet.end(("p", "a", 1, 1), Fate(exit_code=1))
        await until(lambda: "b" in [stage for _, stage, _ in fleet.stops])
        fleet.end(("p", "b", 1, 2), Fate(cause=FailureCause.CANCELLED, exit_code=143, words="stopped"))
        said = await to_the_end(conductor)
    assert ends(said) == {"a": FAILED, "b": FAILED, "": FAILED}
    assert last(said, "b").message == "failed: worker 1 of 2: exit code 7"
    assert last(said, "b").attempt == 1
    assert "b: " in said[-1].error


async def test_what_only_ended_because_it_was_cut_off_is_cancelled(fleet: Fleet) -> None:
    """Its workers ended with an error as they were stopped: that is no failure of its own, also if one never ends."""
    fleet.script = lambda key: Fate(exit_code=1, seconds=0.05) if key[1] == "a" else Fate(seconds=None)
    async with process(fleet, MemoryStore()) as conductor:
        said = await run(conductor, fast(StageSpec("a"), StageSpec("b", workers=2)))
    assert ends(said) == {"a": FAILED, "b": CANCELLED, "": FAILED}
