"""Clocks that jump by an hour or a day: within a process no outcome changes, and across a restart none that could be known."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from otto_executor.approval import Decision
from otto_executor.clocks import Clock
from otto_executor.conductor import Conductor
from otto_executor.decisions import Patience
from otto_executor.definition import Definition
from otto_executor.progress import Progress
from otto_executor.retention import Keeping
from otto_executor.retry import RetryPolicy
from otto_executor.runner import Means, Watch
from otto_executor.stage import StageSpec, StageStatus
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import MemoryStore

STEPS = pytest.mark.parametrize("step", [3600.0, -3600.0, 86400.0, -86400.0], ids=["hour on", "hour back", "day on", "day back"])
DEFINITION = Definition(
    "p",
    stages=(
        StageSpec("long", timeout=60.0),
        StageSpec("repeated", retry=RetryPolicy(retries=1, delay=1.0)),
        StageSpec("approved", approvers=("kim",), approval_timeout=60.0),
    ),
)
LONG = ("p", "long", 1, 1)


class Machine:
    """A machine whose clock can be set."""

    def __init__(self) -> None:
        self.set_by = 0.0
        self.fleet = Fleet(lambda key: Fate(seconds=None) if key[1] == "long" else Fate(exit_code=1 if key[1:3] == ("repeated", 1) else 0))
        self.store = MemoryStore()

    def clock(self) -> float:
        return time.time() + self.set_by

    @asynccontextmanager
    async def process(self, keeping: Keeping = Keeping()) -> AsyncIterator[Conductor]:  # noqa: B008  frozen
        patience = Patience(grace=1.0, margin=30.0, unseen=30.0)
        means = Means(self.store, self.fleet.view(), Watch(), patience, draw=lambda: 0.0, clock=self.clock)
        conductor = Conductor(means, keeping, 100)
        task = asyncio.create_task(conductor.run(lambda: None), name="conductor")
        try:
            yield conductor
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    made = Machine()
    yield made
    made.fleet.close()


async def until_retrying(conductor: Conductor) -> int:
    """Waits until one stage runs, one waits for its retry and one for its approval; the last message's sequence."""
    async with asyncio.timeout(10):
        async for progress, _ in conductor.follow("p"):
            if progress.status is StageStatus.RETRYING:
                return progress.sequence
    raise AssertionError("ended without a retry")


async def the_rest(machine: Machine, conductor: Conductor, after: int) -> list[Progress]:
    """The repeated stage ends first, then the long one is let end and the third is approved."""
    said: list[Progress] = []
    async with asyncio.timeout(20):
        async for progress, _ in conductor.follow("p", after):
            said.append(progress)
            if progress.stage_id == "repeated" and progress.status is StageStatus.COMPLETED:
                await conductor.approve("p", "approved", Decision.APPROVE, "kim", "")
                machine.fleet.end(LONG, Fate())
    return said


@STEPS
async def test_a_clock_that_is_set_changes_no_outcome(machine: Machine, step: float) -> None:
    """What runs is not called late, retries and approvals are waited for as long as they were to be, and durations are what has passed."""
    async with machine.process() as conductor:
        await conductor.begin(DEFINITION, b"")
        after = await until_retrying(conductor)
        machine.set_by = step
        said = await the_rest(machine, conductor, after)
    assert [p.status for p in said if p.stage_id == "" or p.stage_id == "approved"][-1] is StageStatus.COMPLETED
    assert machine.fleet.stops == []
    assert [key[1:3] for key in machine.fleet.created] == [("long", 1), ("repeated", 1), ("repeated", 2), ("approved", 1)]
    assert said[-1].duration < 20


@STEPS
async def test_a_clock_that_was_set_meanwhile_stops_no_worker_and_holds_up_no_retry(machine: Machine, step: float) -> None:
    """Set between two processes it looks like time that has passed: running workers are left alone, and waits get no longer."""
    definition = Definition("p", stages=DEFINITION.stages[:2])
    async with machine.process() as conductor:
        await conductor.begin(definition, b"")
        after = await until_retrying(conductor)
    machine.set_by = step
    async with machine.process() as conductor:
        said = []
        async with asyncio.timeout(20):
            async for progress, _ in conductor.follow("p", after):
                said.append(progress)
                if progress.stage_id == "repeated" and progress.status is StageStatus.COMPLETED:
                    machine.fleet.end(LONG, Fate())
    assert said[-1].status is StageStatus.COMPLETED
    assert machine.fleet.stops == []


@pytest.mark.parametrize("step", [86400.0 * 365, -86400.0 * 365], ids=["year on", "year back"])
async def test_a_clock_that_is_set_deletes_nothing_early_nor_late(machine: Machine, step: float) -> None:
    """Workspaces go when they were to go, and ended runs are not forgotten because the clock says that a year has passed."""
    machine.fleet.script = lambda _: Fate()
    keeping = Keeping(workspace=1.5, runs=86400.0, sweep=0.05)
    async with machine.process(keeping) as conductor:
        await conductor.begin(Definition("p", stages=(StageSpec("a"),)), b"")
        _ = [p async for p in conductor.follow("p")]
        machine.set_by = step
        began = time.monotonic()
        async with asyncio.timeout(20):
            while not machine.fleet.workspaces_deleted:
                await asyncio.sleep(0.02)
        assert time.monotonic() - began > 1.0
        await asyncio.sleep(0.3)
        assert (await conductor.load("p")).state.ended


def test_small_differences_are_not_a_clock_that_was_set() -> None:
    """A drift under a second is left alone; once it has grown to one it counts whole, in either direction."""
    day, steady = 1000.0, 0.0
    clock = Clock(lambda: day, lambda: steady)
    day += 10.6
    steady += 10.0
    assert clock.read() == (day, 0.0)
    day += 0.6
    assert clock.read()[1] == pytest.approx(1.2)
    assert clock.read() == (day, 0.0)
    day -= 3600.0
    assert clock.read()[1] == pytest.approx(-3600.0)
