"""What clients ask for while the memory of runs can't be written: it is refused at once, nothing of it happens, and it works later."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields, is_dataclass
from functools import partial

import pytest

from otto_executor.approval import Decision
from otto_executor.conductor import Conductor
from otto_executor.errors import StoreUnavailableError
from otto_executor.rerun import Rerun
from otto_executor.run_state import fresh
from otto_executor.stage import Phase, StageSpec, StageStatus, Worker, WorkerStatus
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import MemoryStore

from .test_conductor import ends, fleet, pipeline, process, to_the_end, until  # noqa: F401  the fixture

GATED = (StageSpec("work"), StageSpec("gate", workers=0, approvers=("kim",)))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def conductor(fleet: Fleet, store: MemoryStore) -> AsyncIterator[Conductor]:  # noqa: F811  the fixture
    """With an ended run `old` and a run `p` whose worker runs and whose gate waits."""
    async with process(fleet, store) as running:
        await running.begin(pipeline(StageSpec("a"), pipeline_id="old"), b"")
        await to_the_end(running, "old")
        fleet.script = lambda _: Fate(seconds=None)
        await running.begin(pipeline(*GATED), b"")
        await until(lambda: len(fleet.created) == 2)
        record = await running.load("p")
        await until(lambda: record.state.stages["work"].phase is Phase.RUNNING)
        yield running


def decide(decision: Decision, conductor: Conductor) -> Awaitable[object]:
    return conductor.approve("p", "gate", decision, "kim", "")


CHANGES: dict[str, Callable[[Conductor], Awaitable[object]]] = {
    "cancel": lambda conductor: conductor.cancel("p", "cancelled"),
    "approve": partial(decide, Decision.APPROVE),
    "reject": partial(decide, Decision.REJECT),
    "rerun": lambda conductor: conductor.rerun(Rerun("old", "new", False, "", "", "", lambda _: b"")),
    "begin": lambda conductor: conductor.begin(pipeline(StageSpec("a"), pipeline_id="new"), b""),
}


async def refused(conductor: Conductor, change: Callable[[Conductor], Awaitable[object]]) -> None:
    """At once: long before the deadline of a call."""
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailableError, match=r"can't be written now\. .*and repeat the call: nothing of it was done"):
            await change(conductor)


@pytest.mark.parametrize("held_up", [False, True], ids=["nothing else happens", "something else can't be stored either"])
@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_can_not_be_stored_is_refused_and_not_made_later(
    fleet: Fleet,  # noqa: F811  the fixture
    store: MemoryStore,
    conductor: Conductor,
    name: str,
    *,
    held_up: bool,
) -> None:
    """It is UNAVAILABLE with what to do, also the second time; with room again nothing of it has happened, and asked once more it does."""
    store.unavailable = True
    if held_up:
        fleet.end(fleet.created[1], Fate())
        await asyncio.sleep(0.05)
    await refused(conductor, CHANGES[name])
    await refused(conductor, CHANGES[name])
    before = (await conductor.load("p")).state
    assert (before.cancellation, before.stages["gate"].phase) == (None, Phase.APPROVAL)
    assert not fleet.stops
    store.unavailable = False
    if held_up:
        kept = await conductor.load("p")
        await until(lambda: kept.state.stages["work"].status is StageStatus.COMPLETED)
    await asyncio.sleep(0.3)  # three times the slowest retry
    stored = await store.load("p")
    assert stored is not None
    assert (stored.state.cancellation, stored.state.stages["gate"].phase) == (None, Phase.APPROVAL)
    assert await store.load("new") is None
    assert not fleet.stops
    await CHANGES[name](conductor)
    stored = await store.load("p")
    assert stored is not None
    gate = stored.state.stages["gate"].approval
    assert gate is not None
    assert {
        "cancel": stored.state.cancellation is not None,
        "approve": gate.decision is Decision.APPROVE,
        "reject": gate.decision is Decision.REJECT,
        "rerun": await store.load("new") is not None,
        "begin": await store.load("new") is not None,
    }[name]


def test_a_copy_of_a_state_shares_nothing_that_can_change() -> None:
    """What is taken back is whole: no list and no mapping, at any depth, is that of the state which was changed."""

    def changeable(part: object) -> set[int]:
        if isinstance(part, dict | list):
            return {id(part)}.union(*map(changeable, part.values() if isinstance(part, dict) else part))
        if not is_dataclass(part):
            return set()
        own = set() if vars(type(part))["__dataclass_params__"].frozen else {id(part)}
        return own.union(*(changeable(getattr(part, each.name)) for each in fields(part)))

    state = fresh(pipeline(*GATED), 1.0)
    state.stages["work"].workers[1] = Worker("w", WorkerStatus.RUNNING)
    state.failed_stages.append("work")
    copied = state.copy()
    assert copied == state
    assert len(changeable(state)) == 8
    assert not changeable(copied) & changeable(state)


async def test_what_is_told_after_a_refusal_has_no_hole(fleet: Fleet, store: MemoryStore, conductor: Conductor) -> None:  # noqa: F811  the fixture
    """The messages of a change that was taken back are told to nobody, and their sequences are given to what happens next."""
    watched = asyncio.create_task(to_the_end(conductor, "p"))
    store.unavailable = True
    await refused(conductor, CHANGES["cancel"])
    await refused(conductor, CHANGES["reject"])
    store.unavailable = False
    await CHANGES["approve"](conductor)
    fleet.end(fleet.created[1], Fate())
    said = await watched
    assert [p.sequence for p in said] == list(range(1, len(said) + 1))
    assert ends(said) == {"work": StageStatus.COMPLETED, "gate": StageStatus.COMPLETED, "": StageStatus.COMPLETED}
    assert not any("cancel" in p.message or "rejected" in p.message for p in said)


async def test_what_nobody_waits_for_is_kept_until_it_can_be_stored(fleet: Fleet, store: MemoryStore, conductor: Conductor) -> None:  # noqa: F811  the fixture
    """A run whose caller left and had asked for that is cancelled once there is room: nobody is there to repeat the call."""
    store.unavailable = True
    conductor.cancel_later("p", "the caller left")
    await asyncio.sleep(0.2)
    assert not fleet.stops
    store.unavailable = False
    assert ends(await to_the_end(conductor, "p"))[""] is StageStatus.CANCELLED
