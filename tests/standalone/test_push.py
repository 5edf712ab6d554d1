"""Standalone is killed while it pushes lines to otto-handler."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from otto_relay.positions import Position, unpack
from otto_relay.registry import directory_name
from otto_relay.testing import FakeHandler, handling
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .conftest import Standalone, serving

LINES = 150
SCRIPT = f'n=0; while [ $n -lt {LINES} ]; do n=$((n+1)); echo "$OTTO_WORKER_INDEX says $n"; sleep 0.005; done'


@pytest.fixture
async def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
async def pushing(tmp_path: Path, handler: FakeHandler) -> AsyncIterator[Standalone]:
    """A standalone that pushes to `handler`."""
    async with handling(handler) as address:
        async with serving(
            tmp_path / "state", OTTO_RELAY_HANDLER_ADDRESS=address, OTTO_RELAY_HANDLER_LONGEST_WAIT="0.2", OTTO_RELAY_HANDLER_WINDOW="20"
        ) as instance:
            yield instance


async def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def answered_for(state: Path, worker_id: str) -> int:
    """How far a killed process had written down that the worker's lines were answered for."""
    path = state / "spool" / "handler" / f"{directory_name(worker_id)}.at"
    position = unpack(path.read_bytes()) if path.exists() else Position()
    assert position is not None
    return position.answered


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(20,), (150, 300), (440,)], ids=["early", "twice", "at-the-end"])
async def test_a_kill_in_the_middle_of_the_push_loses_and_disorders_nothing(
    pushing: Standalone, handler: FakeHandler, moments: tuple[int, ...]
) -> None:
    """Everything arrives, in order per worker; after each start only lines come whose answers the killed process had not written down."""
    handler.slowness = 0.001
    async with pushing.channel() as channel:
        request = ScaleRequest(task_id="t", worker_count=3, worker=WorkerSpec(command=["sh", "-c"], args=[SCRIPT]))
        names = list((await OttoscalerServiceStub(channel).ScaleUp(request)).worker_pod_names)
    repeats = 0
    for moment in moments:
        await until(lambda: len(handler.got) >= moment)  # noqa: B023 - awaited in this round
        await pushing.kill()
        answered = {name: answered_for(pushing.state, name) for name in names}
        before = len(handler.got)
        await pushing.start()
        await until(lambda: len(handler.got) > before)  # noqa: B023 - awaited in this round
        first: dict[str, int] = {}
        for entry in handler.got[before:]:
            first.setdefault(entry.worker_id, int(entry.metadata["otto.sequence"]))
        assert {name: answered[name] + 1 for name in first} == first
        repeats += 20
    await until(lambda: len({(e.worker_id, e.metadata["otto.sequence"]) for e in handler.taken}) == 3 * LINES)
    await until(lambda: all(handler.told(name)[-1:] == ["COMPLETED"] for name in names))
    assert len(handler.got) <= 3 * LINES + repeats
    for name in names:
        assert [kind for kind, _ in itertools.groupby(handler.told(name))] == ["CREATED", "RUNNING", "COMPLETED"]
        once = dict.fromkeys(handler.sequences(name))
        assert list(once) == list(range(1, LINES + 1))
        assert {message.split(" says ")[1] for message in handler.messages(name)} == {str(n) for n in range(1, LINES + 1)}
