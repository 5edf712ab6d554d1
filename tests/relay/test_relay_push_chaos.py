"""The push under everything at once: a receiver that asks again, drops, hangs, breaks off and restarts, and a relay that restarts."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from otto_relay.testing import FakeHandler, handling
from ottoscaler.v1.otto_handler_log_service_pb2 import LogForwardResponse, WorkerLogEntry

from .conftest import until

NAMES = ["w-1", "w-2", "w-3", "w-4"]
WINDOW = 32


class Moody:
    """Keeps strict order per worker, and otherwise does what the dice say."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.calm = False
        self.last: Counter[str] = Counter()
        self.messages: dict[str, list[str]] = {name: [] for name in NAMES}
        self.dropped: list[str] = []
        self.repeats = 0
        self.breaks = 0

    def __call__(self, entry: WorkerLogEntry) -> LogForwardResponse | None:
        name, sequence = entry.worker_id, int(entry.metadata["otto.sequence"])
        if sequence <= self.last[name]:
            self.repeats += 1
            return LogForwardResponse()
        mood = 1.0 if self.calm else self.dice.random()
        if sequence != self.last[name] + 1 or mood < 0.03:
            return LogForwardResponse(status=LogForwardResponse.RETRY, message="not now")
        if mood < 0.035:
            self.breaks += 1
            return None
        self.last[name] = sequence
        self.messages[name].append(entry.message)
        if mood < 0.1:
            self.dropped.append(entry.message)
            return LogForwardResponse(status=LogForwardResponse.DROP, message="never")
        return LogForwardResponse(throttle_ms=2 if mood < 0.12 else 0)


@pytest.mark.slow
@pytest.mark.timeout(45)
@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_disordered_whatever_both_sides_do(stand: Any, seed: int) -> None:
    """In the end the receiver has every line of every worker in order, and repeats are bounded by what was on its way at each break."""
    dice = random.Random(seed)
    moody = Moody(dice)
    handler = FakeHandler()
    handler.answer = moody
    logs = {name: stand.log(name) for name in NAMES}
    texts: dict[str, list[str]] = {name: [] for name in NAMES}
    for name in NAMES:
        stand.scaler.show(name)

    async with handling(handler) as address:
        pass
    settings = {"handler_address": address, "handler_longest_wait": 0.1, "handler_timeout": 0.4, "handler_window": WINDOW}

    def write() -> None:
        for name in NAMES:
            fresh = [f"{name} {len(texts[name]) + number}" for number in range(1, dice.randrange(1, 40))]
            logs[name].write(*fresh)
            texts[name] += fresh

    for _ in range(3):
        async with stand.relay(**settings):
            for _ in range(3):
                write()
                async with AsyncExitStack() as stack:
                    if dice.random() < 0.8:
                        await stack.enter_async_context(handling(handler, address))
                    await asyncio.sleep(dice.random() * 0.5)
                moody.breaks += 1
        moody.breaks += 1
    moody.calm = True
    async with stand.relay(**settings), handling(handler, address):
        for name in NAMES:
            stand.scaler.show(name, "succeeded")
        await until(lambda: all(len(moody.messages[name]) == len(texts[name]) for name in NAMES), 120)
        await until(lambda: all(handler.told(name)[-1:] == ["COMPLETED"] for name in NAMES), 60)
    assert moody.messages == texts
    assert moody.repeats <= moody.breaks * WINDOW
    for name in NAMES:
        told = handler.told(name)
        assert [kind for number, kind in enumerate(told) if number == 0 or told[number - 1] != kind] == ["CREATED", "RUNNING", "COMPLETED"]
