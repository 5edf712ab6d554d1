"""Standalone is killed again and again at seeded moments, while six real pipelines and a random one of 30 stages run.

What runs is compared with the same pipelines run without any kill: every stage ends as it would have, after as many attempts. What the
workers did is counted by what they themselves wrote, outside the service's state: one note per worker and attempt.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..patient_clients import Clients, approve_when_asked, check, everything, must_have_run, requests_for
from .conftest import Standalone, serving

SEEDS = range(9)
KILLS = 8
"""At most, in one round of a seed: none comes when everything has ended."""
MOMENTS = 6
"""Kills per seed that have to hit something that runs: 54 in all."""
BIRTH_SECONDS = 2.0
"""How long a worker is waited for that is to be made."""
ROUNDS = 4
"""At most, to reach them."""


@dataclass(frozen=True)
class Moment:
    """When the service is killed: seconds after its start, or so many after the first worker that is made from then on."""

    after: float
    birth: float | None


def drawn_moments(draw: random.Random) -> list[Moment]:
    """Every second one lies where it hurts most: what is asked for is there, and who asked may not have heard or noted it."""
    return [Moment(draw.uniform(0.02, 0.8), draw.uniform(0.0, 0.004) if number % 2 else None) for number in range(KILLS)]


def kill_at_a_birth(pid: int, workers: Path, seconds: float) -> None:
    """Kills the service so many seconds after the next worker's directory is there; or after a while, when none is made any more."""
    known = set(os.listdir(workers))  # noqa: PTH208 - names are what is compared
    give_up = time.monotonic() + BIRTH_SECONDS
    while set(os.listdir(workers)) <= known and time.monotonic() < give_up:  # noqa: PTH208 - the same
        time.sleep(0.0003)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)


async def kill_and_start(clients: Clients, standalone: Standalone, birth: float | None, running: "asyncio.Task[Any]") -> bool:
    """Whether something ran when it was killed."""
    clients.up.clear()
    if birth is not None:
        await asyncio.to_thread(kill_at_a_birth, standalone.process.pid, standalone.state / "workers", birth)
    await standalone.kill()
    hit = not running.done()
    await standalone.start()
    clients.up.set()
    return hit


async def outcome_of(directory: Path, seed: int, moments: list[Moment]) -> tuple[dict[str, dict[str, tuple[str, int]]], int]:
    """How every pipeline of a seed ended in a state of its own, checked, and how many of the kills hit something that ran.

    `moments` are those of the kills, each counted from the start before it.
    """
    directory.mkdir()
    marks = directory / "marks"
    note = f'echo "$OTTO_PIPELINE_ID|$OTTO_STAGE_ID|$OTTO_ATTEMPT|$OTTO_WORKER_INDEX" >> {marks}'
    requests = requests_for(seed, note)
    hit = 0
    async with serving(directory / "state") as standalone, asyncio.timeout(400):
        clients = Clients(standalone)
        running = asyncio.create_task(everything(clients, requests), name="everything")
        approving = asyncio.create_task(approve_when_asked(clients), name="approve")
        try:
            for moment in moments:
                await asyncio.wait({running}, timeout=moment.after)
                if running.done():
                    break
                hit += await kill_and_start(clients, standalone, moment.birth, running)
            accounts = await running
            assert [account.pipeline_id for account in accounts.values() if not await clients.replayed(account)] == []
        finally:
            for task in (running, approving):
                task.cancel()
            await asyncio.gather(running, approving, return_exceptions=True)
    expected = check(requests, accounts)
    started = Counter(marks.read_text().splitlines())
    assert set(started.values()) == {1}, [mark for mark, count in started.items() if count > 1]
    assert set(started) <= expected, set(started) - expected
    assert must_have_run(requests, accounts) <= set(started)
    return {pipeline_id: account.outcome() for pipeline_id, account in accounts.items()}, hit


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nobody_notices_but_the_log(tmp_path: Path, seed: int) -> None:
    """Killed with SIGKILL at seeded moments, everything ends as it does without a kill, nothing ran twice, no line is missing."""
    calm, _ = await outcome_of(tmp_path / "calm", seed, [])
    draw = random.Random(f"{seed} moments")
    hits = 0
    # A fast machine has ended everything before enough kills came: then all of it runs and is killed once more.
    for turn in range(ROUNDS):
        outcome, hit = await outcome_of(tmp_path / f"killed-{turn}", seed, drawn_moments(draw))
        assert outcome == calm
        hits += hit
        if hits >= MOMENTS:
            return
    pytest.fail(f"only {hits} kills hit something that ran, in {ROUNDS} rounds")
