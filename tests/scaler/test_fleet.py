"""The fleet: room, order, watching, and what becomes of workers that are over."""

import asyncio
from collections.abc import Sized
from dataclasses import replace
from functools import partial

import pytest

from otto_scaler.errors import NotReadyError, WatcherTooSlowError
from otto_scaler.fleet import Fleet
from otto_scaler.testing import MemoryBackend
from otto_scaler.watching import Change, Kind, Watch
from otto_scaler.worker import Cause, State, WorkerSpec

from .conftest import DEFAULT_LIMITS, Rig, memory_rig, spec, until

LONG = ("sleep", "300")


def reached(things: Sized, count: int) -> bool:
    return len(things) == count


def long(task: str, count: int) -> list[WorkerSpec]:
    return [spec(task, index=n, count=count, command=LONG) for n in range(1, count + 1)]


async def test_the_cap_refuses_what_is_too_much() -> None:
    """Without queueing, so many are created as there is room for, and the rest is named."""
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=3)) as rig:
        created = await rig.create(*long("a", 5))
        assert (len(created.created), len(created.no_room)) == (3, 2)
        rig.memory.finish(created.created[0])
        await rig.ends(created.created[0])
        again = await rig.create(*long("a", 5))
        assert (len(again.existing), len(again.created), len(again.no_room)) == (3, 1, 1)


async def test_queued_workers_run_in_turns_as_room_appears() -> None:
    """A small task that came later gets its share of the slots of a large one."""
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=2)) as rig:
        await rig.create(*long("big", 20), queue=True)
        await rig.create(*long("small", 2), queue=True)
        pending = rig.worker(long("small", 2)[0].identity.name)
        assert pending is not None
        assert pending.state is State.PENDING
        for n in range(4):
            await until(partial(reached, rig.memory.started, n + 2))
            rig.memory.finish(rig.memory.started[n])
        await until(lambda: len(rig.memory.started) == 6)
        assert [name.split("-")[1] for name in rig.memory.started] == ["big", "big", "big", "small", "big", "small"]


async def test_the_queue_is_bounded() -> None:
    """What finds no place in it is refused."""
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1, max_queued=2)) as rig:
        created = await rig.create(*long("a", 5), queue=True)
        assert (len(created.created), len(created.no_room)) == (3, 2)


async def test_a_refused_worker_gives_its_slot_back() -> None:
    """To whoever waits for one."""
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1)) as rig:
        bad, good = spec("bad", command=LONG), spec("good", command=LONG)
        rig.memory.refusals[bad.identity.name] = "no"
        results = await asyncio.gather(rig.create(bad, queue=True), rig.create(good, queue=True))
        assert [(refusal.name, refusal.why) for refusal in results[0].refused] == [(bad.identity.name, "no")]
        await rig.runs(good)


async def test_equal_requests_at_the_same_time_create_once(memory: Rig) -> None:
    """All callers get the same workers, and one of them is told that it created them."""
    results = await asyncio.gather(*(memory.create(*long("a", 3)) for _ in range(20)))
    assert len(memory.memory.specs) == 3
    assert all(len(r.created) + len(r.existing) == 3 and not r.refused for r in results)
    assert sorted(len(r.created) for r in results) == [0] * 19 + [3]


@pytest.mark.parametrize("yields", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("left", [0, 4])
async def test_what_is_being_created_is_scaled_down_too(memory: Rig, yields: int, left: int) -> None:
    """However far a request for workers has come, one to scale down that comes later leaves as many as it says: the first ones."""
    creation = asyncio.create_task(memory.create(*long("a", 30)))
    await asyncio.sleep(0)
    for _ in range(yields):
        await asyncio.sleep(0)
    stopped = (await memory.fleet.scale_down("a", left, "enough")).stopping
    assert len((await creation).created) == 30
    for wanted in long("a", 30)[left:]:
        assert (await memory.ends(wanted)).cause is Cause.CANCELLED
    assert len(stopped) == 30 - left
    assert not any(worker.finished for wanted in long("a", left) if (worker := memory.worker(wanted.identity.name)))


async def test_a_refused_worker_that_was_to_be_stopped_can_be_created_later(memory: Rig) -> None:
    """Nothing is kept of a stop of what never was."""
    wanted = spec("a", command=LONG)
    memory.memory.refusals[wanted.identity.name] = "no"
    creation = asyncio.create_task(memory.create(wanted))
    await asyncio.sleep(0)
    assert await memory.fleet.scale_down("a", 0, "enough") == ([], [])
    assert (await creation).refused
    memory.memory.refusals.clear()
    await memory.create(wanted)
    await memory.runs(wanted)
    assert (await memory.fleet.scale_down("a", 0, "enough")).stopping
    await memory.ends(wanted)


async def test_a_caller_that_leaves_changes_nothing(memory: Rig) -> None:
    """What was begun goes on."""
    call = asyncio.create_task(memory.create(*long("a", 3)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: len(memory.memory.started) == 3)


async def test_scaling_down_takes_waiting_ones_first_then_the_youngest() -> None:
    """And what is being stopped is not counted or stopped twice."""
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=3)) as rig:
        specs = long("a", 5)
        await rig.create(*specs, queue=True)
        await rig.runs(specs[2])
        names = [s.identity.name for s in specs]
        assert sorted(w.name for w in (await rig.fleet.scale_down("a", 4, "")).stopping) == [names[4]]
        stops = await rig.fleet.scale_down("a", 1, "")
        assert [w.name for w in stops.stopping] == [names[3], names[2], names[1]]
        assert (await rig.fleet.scale_down("a", 1, "")).stopping == []
        assert (await rig.fleet.scale_down("unknown", 0, "")).stopping == []
        await rig.ends(specs[1])
        first = rig.worker(names[0])
        assert first is not None
        assert first.state is State.RUNNING


async def test_a_stopped_worker_makes_room() -> None:
    """The next one that waits runs."""
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1)) as rig:
        first, second = spec("a", command=LONG), spec("b", command=LONG)
        await rig.create(first, second, queue=True)
        await rig.fleet.scale_down("a", 0, "")
        await rig.runs(second)


async def test_a_worker_deleted_from_outside_has_failed(memory: Rig) -> None:
    """It stays to be seen as DELETED, and its slot is free; one that had ended is just gone."""
    wanted, done = spec("a", command=LONG), spec("b")
    await memory.create(wanted)
    await memory.run(done)
    memory.memory.vanish(wanted.identity.name)
    memory.memory.vanish(done.identity.name)
    worker = await memory.ends(wanted)
    assert (worker.state, worker.cause) == (State.FAILED, Cause.DELETED)
    await until(lambda: memory.worker(done.identity.name) is None)


async def test_what_happened_while_the_backend_was_lost_is_made_up_for(memory: Rig) -> None:
    """After a reconnection the picture is true: what ended has ended, what is gone has failed, what is new is there."""
    ends, goes, stays = (spec(task, command=LONG) for task in ("ends", "goes", "stays"))
    await memory.create(ends, goes, stays)
    memory.memory.disconnect()
    memory.memory.finish(ends.identity.name, 5)
    memory.memory.vanish(goes.identity.name)
    assert (await memory.ends(ends)).exit_code == 5
    assert (await memory.ends(goes)).cause is Cause.DELETED
    remaining = memory.worker(stays.identity.name)
    assert remaining is not None
    assert remaining.state is State.RUNNING


async def test_finished_workers_stay_until_released_and_over_their_time() -> None:
    """Both are needed; the hard limit ends the waiting for a release."""
    async with memory_rig(replace(DEFAULT_LIMITS, finished_ttl=0.1, unreleased_limit=0.6)) as rig:
        released, forgotten = spec("released"), spec("forgotten")
        await rig.run(released)
        await rig.run(forgotten)
        assert await rig.fleet.release([released.identity.name, "otto-unknown-0000000000-1"]) == 1
        assert await rig.fleet.release([released.identity.name]) == 1
        await until(lambda: rig.worker(released.identity.name) is None)
        assert rig.worker(forgotten.identity.name) is not None
        await until(lambda: rig.worker(forgotten.identity.name) is None)
        assert rig.memory.workers == {}


async def test_running_workers_can_not_be_released(memory: Rig) -> None:
    """Their lines can't all be stored yet."""
    wanted = spec(command=LONG)
    await memory.create(wanted)
    assert await memory.fleet.release([wanted.identity.name]) == 0


async def test_a_watch_begins_with_what_is_there_and_tells_every_change(memory: Rig) -> None:
    """Snapshot, SYNCED, then each change in its order; only what was selected."""
    before = spec("before", command=LONG)
    await memory.create(before, spec("other", command=LONG))
    await memory.runs(before)
    with memory.fleet.watch(lambda worker: worker.identity.task_id != "other") as watch:
        changes = aiter(watch)
        seen: list[tuple[str, str, str]] = []

        async def take(count: int) -> None:
            for _ in range(count):
                change = await asyncio.wait_for(anext(changes), 5)
                worker = change.worker
                seen.append(
                    (change.kind.value, "" if worker is None else worker.identity.task_id, "" if worker is None else worker.state.value)
                )

        await take(2)
        after = spec("after")
        await memory.run(after)
        await memory.backend.remove(after.identity.name)
        await take(4)
        assert seen == [
            ("ADDED", "before", "running"),
            ("SYNCED", "", ""),
            ("ADDED", "after", "pending"),
            ("MODIFIED", "after", "running"),
            ("MODIFIED", "after", "succeeded"),
            ("DELETED", "after", "succeeded"),
        ]


async def test_a_watcher_that_is_too_slow_is_told(memory: Rig) -> None:
    """Its backlog is bounded; it loses the watch, not single changes."""
    worker = await memory.run(spec())
    watch = Watch([], lambda _: True, backlog=3)
    changes = aiter(watch)
    assert (await anext(changes)).kind is Kind.SYNCED
    for _ in range(3):
        watch.offer(Change(Kind.MODIFIED, worker))
    assert (await anext(changes)).worker is worker
    for _ in range(2):
        watch.offer(Change(Kind.MODIFIED, worker))
    with pytest.raises(WatcherTooSlowError):
        await anext(changes)


async def test_calls_wait_for_the_workers_to_be_known_but_not_for_ever() -> None:
    """Before, nothing true could be said; after the end neither."""
    fleet = Fleet(MemoryBackend(), replace(DEFAULT_LIMITS, ready_timeout=0.05))
    with pytest.raises(NotReadyError):
        await fleet.scale_up([spec()], queue=False)
    with pytest.raises(NotReadyError):
        await fleet.select("", "", None, 10)
    async with memory_rig() as rig:
        kept = rig.fleet
    with pytest.raises(NotReadyError):
        await kept.scale_down("task", 0, "")


async def test_questions_select_and_count(memory: Rig) -> None:
    """Filters combine; counts cover what they select, lists are cut, unfinished and newest first."""
    await memory.run(spec("a", index=1, count=3))
    await memory.run(spec("a", index=2, count=3, command=("false",)))
    await memory.create(spec("a", index=3, count=3, command=LONG), *long("b", 4))
    everything = await memory.fleet.select("", "", None, 3)
    assert everything.counts == {State.PENDING: 0, State.RUNNING: 5, State.SUCCEEDED: 1, State.FAILED: 1}
    assert [w.identity.task_id for w in everything.workers] == ["b", "b", "b"]
    of_a = await memory.fleet.select("a", "", None, 10)
    assert [w.identity.index for w in of_a.workers] == [3, 2, 1]
    assert sum(of_a.counts.values()) == 3
    failed = await memory.fleet.select("a", "", State.FAILED, 10)
    assert [w.identity.index for w in failed.workers] == [2]
    assert sum(failed.counts.values()) == 1
    assert sum((await memory.fleet.select("", "", State.FAILED, 10)).counts.values()) == 1
    one = of_a.workers[0].name
    assert [w.name for w in (await memory.fleet.select("a", one, None, 10)).workers] == [one]
    assert (await memory.fleet.select("b", one, None, 10)).workers == []
    assert (await memory.fleet.select("nobody", "", None, 10)).workers == []


async def test_held_workers_found_at_the_start_keep_their_order() -> None:
    """In the order of their creation, after what runs already."""
    backend = MemoryBackend()
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1), backend) as rig:
        await rig.create(*long("a", 3), queue=True)
        await rig.runs(long("a", 3)[0])
    async with memory_rig(replace(DEFAULT_LIMITS, max_workers=1), backend) as rig:
        for n in range(2):
            await until(partial(reached, backend.started, n + 1))
            backend.finish(backend.started[n])
        await until(lambda: len(backend.started) == 3)
        assert backend.started == [s.identity.name for s in long("a", 3)]
