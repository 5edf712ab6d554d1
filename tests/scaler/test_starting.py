"""Many workers are started a few at a time: who is stopped before their turn never runs, and who hangs holds up nobody."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from otto_scaler.backends.process import environment, processes, tending
from otto_scaler.errors import RefusedError
from otto_scaler.worker import Cause, State

from .conftest import Rig, kill_workers, process_rig, spec, until

SLEEP = ("sleep", "300")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One place, and who gets it first hangs before it has said that it runs; the pids of all supervisors that were started."""
    started: list[int] = []
    spawn = processes.spawn

    def spawned(directory: Path, launch: Any) -> Any:
        supervisor, running = spawn(directory, launch)
        if not started:
            os.kill(supervisor.pid, signal.SIGSTOP)
        started.append(supervisor.pid)
        return supervisor, running

    monkeypatch.setattr(processes, "spawn", spawned)
    monkeypatch.setattr(tending, "STARTING_AT_ONCE", 1)
    monkeypatch.setattr(tending, "PLACE_SECONDS", 3600.0)
    return started


async def test_who_is_stopped_before_their_turn_never_starts(tmp_path: Path, stuck: list[int]) -> None:
    """They were accepted at once, and end at once: CANCELLED, without a supervisor ever having been started for them."""
    workers = [spec(index=index, count=20, command=SLEEP) for index in range(1, 21)]
    async with process_rig(tmp_path) as rig:
        created = await rig.create(*workers)
        assert len(created.created) == 20
        await until(lambda: stuck)
        await asyncio.sleep(0.5)  # for those to start that nothing keeps from it
        stops = await rig.fleet.scale_down("task", 0, "not needed")
        assert len(stops.stopping) == 20
        for worker in workers:
            ended = await rig.ends(worker)
            assert (ended.cause, ended.error) == (Cause.CANCELLED, "not needed")
        assert len(stuck) == 1
        assert sum((rig.directory(worker) / "supervisor").exists() for worker in workers) <= 1
    kill_workers(tmp_path)


async def test_a_start_that_hangs_holds_nobody_up(tmp_path: Path, stuck: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while another one may start all the same."""
    monkeypatch.setattr(tending, "PLACE_SECONDS", 0.05)
    workers = [spec(index=index, count=3, command=SLEEP) for index in (1, 2, 3)]
    async with process_rig(tmp_path) as rig:
        await rig.create(*workers)
        await until(lambda: sum(w.state is State.RUNNING for w in map(rig.worker, (s.identity.name for s in workers)) if w) == 2)
        assert len(stuck) == 3
        await rig.fleet.scale_down("task", 0, "over")
        for worker in workers:
            await rig.ends(worker)
    kill_workers(tmp_path)


async def test_who_runs_makes_room_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place, and nobody who gives up waiting, all start: one place is given back by each that runs, ends or can't be started."""
    monkeypatch.setattr(tending, "STARTING_AT_ONCE", 1)
    monkeypatch.setattr(tending, "PLACE_SECONDS", 3600.0)
    spawn, failures = processes.spawn, iter([True, False, True])

    def spawned(directory: Path, launch: Any) -> Any:
        if next(failures, False):
            raise OSError(12, "Cannot allocate memory")
        return spawn(directory, launch)

    monkeypatch.setattr(processes, "spawn", spawned)
    workers = [spec(index=index, count=8, command=("true",)) for index in range(1, 9)]
    async with process_rig(tmp_path) as rig:
        await rig.create(*workers)
        ended = [await rig.ends(worker) for worker in workers]
    causes = [worker.cause for worker in ended]
    assert (causes.count(Cause.INTERNAL), causes.count(Cause.UNSPECIFIED)) == (2, 6)


async def test_a_stop_before_a_failed_start_stays_the_reason(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What then goes wrong with its start is no news: nothing is written over how it ended."""
    wanted = spec(command=SLEEP)
    read: list[str] = []
    values = environment.secret_values

    def gone(asked: Any, directory: Path) -> Mapping[str, str]:
        read.append(asked.identity.name)
        if len(read) == 1:
            return values(asked, directory)
        while not (rig.directory(wanted) / "exit").exists():
            time.sleep(0.005)
        raise RefusedError("the secret does not exist", Cause.REJECTED)

    monkeypatch.setattr(environment, "secret_values", gone)
    await rig.create(wanted)
    await until(lambda: len(read) == 2)
    await rig.fleet.scale_down("task", 0, "not needed")
    assert (await rig.ends(wanted)).cause is Cause.CANCELLED
    await until(lambda: not rig.backend._tending._files._owed)  # type: ignore[attr-defined]
    assert "not needed" in (rig.directory(wanted) / "exit").read_text()
    assert "REJECTED" not in (rig.directory(wanted) / "exit").read_text()
