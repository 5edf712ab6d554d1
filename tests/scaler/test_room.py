"""Room under the cap over a real port: who waits, why and at which place; fair between tasks; the end of the queue is told."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_scaler.picture import Picture
from otto_scaler.testing import MemoryBackend
from otto_scaler.turned_away import MOST, TurnedAway
from otto_scaler.worker import Identity, State, Worker, worker_name
from ottoscaler.v1.ottoscaler_service_pb2 import (
    Admission,
    ScaleRequest,
    ScaleResponse,
    WatchWorkersRequest,
    WorkerStatusRequest,
    WorkerStatusResponse,
)
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .conftest import serving, settings_at, until


def wanted(task: str, count: int = 1) -> ScaleRequest:
    return ScaleRequest(task_id=task, worker_count=count, admission=Admission.ADMISSION_QUEUE, worker=WorkerSpec(command=["sleep", "60"]))


def running(backend: MemoryBackend) -> list[str]:
    return [name for name, worker in backend.workers.items() if worker.state.value == "running"]


async def next_to_run(backend: MemoryBackend) -> str:
    """Ends a worker; returns which one got its room."""
    before = len(backend.started)
    backend.finish(running(backend)[0])
    await until(lambda: len(backend.started) > before)
    return backend.started[before]


async def test_a_thousand_workers_do_not_starve_one(tmp_path: Path) -> None:
    """A task asks for 1,000 workers under a cap of 4, another one then for one: it runs as soon as two of the thousand have ended."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, max_workers=4), backend) as (stub, _, _):
        big = await stub.ScaleUp(wanted("big", 1000))
        assert (big.status, big.processed_count, big.waiting_count) == (ScaleResponse.SUCCESS, 1000, 996)
        small = await stub.ScaleUp(wanted("small"))
        assert (small.processed_count, small.waiting_count, small.room_limit) == (1, 1, 4)
        name = small.worker_pod_names[0]
        assert name in {await next_to_run(backend), await next_to_run(backend)}
        for _ in range(20):
            await next_to_run(backend)
        assert len(running(backend)) == 4


async def test_many_tasks_get_room_in_turns(tmp_path: Path) -> None:
    """Ten tasks with ten workers each: of the first ten that get room every task has one, though they came one after the other."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, max_workers=1), backend) as (stub, _, _):
        await stub.ScaleUp(wanted("first"))
        for number in range(10):
            await stub.ScaleUp(wanted(f"task-{number}", 10))
        tasks = [backend.workers[await next_to_run(backend)].identity.task_id for _ in range(10)]
        assert tasks == [f"task-{number}" for number in range(10)]


async def test_status_shows_who_waits_and_where(tmp_path: Path) -> None:
    """Each waiting worker has the cap and its place in the reason; places move up, counts cover what was selected; none waits: no words."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, max_workers=1), backend) as (stub, _, _):
        await stub.ScaleUp(wanted("a", 3))
        await stub.ScaleUp(wanted("b", 1))
        answer = await stub.GetWorkerStatus(WorkerStatusRequest())
        assert (answer.running_count, answer.pending_count, answer.waiting_count, answer.room_limit) == (1, 3, 3, 1)
        assert reasons(answer) == {
            ("a", 1): ("", 0),
            ("a", 2): ("waits for room (cap 1), place 1 of 3", 1),
            ("b", 1): ("waits for room (cap 1), place 2 of 3", 1),
            ("a", 3): ("waits for room (cap 1), place 3 of 3", 1),
        }
        assert (await stub.GetWorkerStatus(WorkerStatusRequest(task_id="a"))).waiting_count == 2
        assert (await stub.GetWorkerStatus(WorkerStatusRequest(status_filter="running"))).waiting_count == 0
        assert (await stub.GetWorkerStatus(WorkerStatusRequest(status_filter="pending"))).waiting_count == 3
        await next_to_run(backend)
        one = await stub.GetWorkerStatus(WorkerStatusRequest(task_id="b"))
        assert one.workers[0].pending_reason.endswith("place 1 of 2")
        for _ in range(2):
            await next_to_run(backend)
        answer = await stub.GetWorkerStatus(WorkerStatusRequest())
        assert (answer.waiting_count, answer.running_count) == (0, 1)
        assert not any(worker.pending_reason or worker.room_limit for worker in answer.workers)


def reasons(answer: Any) -> dict[tuple[str, int], tuple[str, int]]:
    return {(worker.task_id, worker.index): (worker.pending_reason, worker.room_limit) for worker in answer.workers}


async def test_a_watch_tells_who_waits_for_room(tmp_path: Path) -> None:
    """An event of a waiting worker has the cap in room_limit, those after it got room have 0."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, max_workers=1), backend) as (stub, _, _):
        await stub.ScaleUp(wanted("a"))
        waiting = (await stub.ScaleUp(wanted("b"))).worker_pod_names[0]
        call = stub.WatchWorkers(WatchWorkersRequest(task_id="b"))
        first = await anext(aiter(call))
        assert (first.worker.status, first.worker.room_limit) == ("pending", 1)
        backend.finish(running(backend)[0])
        async with asyncio.timeout(10):
            async for event in call:
                if event.worker.pod_name == waiting and event.worker.status == "running":
                    assert event.worker.room_limit == 0
                    break
        call.cancel()


async def test_a_full_queue_refuses_in_words_and_numbers(tmp_path: Path) -> None:
    """What finds neither room nor a place is counted; a request of which nothing can even wait is RESOURCE_EXHAUSTED; later it works."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, max_workers=1, max_queued=1), backend) as (stub, _, _):
        some = await stub.ScaleUp(wanted("a", 4))
        assert (some.status, some.processed_count) == (ScaleResponse.PARTIAL_SUCCESS, 2)
        assert (some.waiting_count, some.no_room_count, some.room_limit) == (1, 2, 1)
        assert "INSUFFICIENT_RESOURCES" in some.message
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ScaleUp(wanted("b"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "INSUFFICIENT_RESOURCES" in (refused.value.details() or "")
        await next_to_run(backend)
        assert (await stub.ScaleUp(wanted("b"))).status == ScaleResponse.SUCCESS


async def test_who_is_turned_away_is_counted_in_the_status(tmp_path: Path) -> None:
    """By task, by name and in all, once however often they ask, and not any more when they have found a place."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, max_workers=1, max_queued=1), backend) as (stub, _, _):

        async def count(**filters: str) -> int:
            answer: WorkerStatusResponse = await stub.GetWorkerStatus(WorkerStatusRequest(**filters))
            return answer.turned_away_count

        assert await count() == 0
        await stub.ScaleUp(wanted("a", 4))
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ScaleUp(wanted("b"))
        b = worker_name("b", "", "", 1, 1)
        assert (await count(), await count(task_id="a"), await count(task_id="b"), await count(task_id="c")) == (3, 2, 1, 0)
        assert (await count(worker_pod_name=b), await count(worker_pod_name="other")) == (1, 0)
        assert await count(task_id="a", worker_pod_name=b) == 0
        assert (await count(status_filter="pending"), await count(status_filter="running")) == (3, 0)
        await next_to_run(backend)
        await stub.ScaleUp(wanted("b"))
        assert (await count(), await count(task_id="b")) == (2, 0)


def test_who_does_not_ask_again_is_forgotten() -> None:
    """After the time within which pipelines ask again, and the longest known beyond the most that are kept."""
    kept = TurnedAway()
    kept.note("t", "gives up", 0.0)
    kept.note("t", "goes on", 0.0)
    kept.note("t", "goes on", 10.0)
    assert (kept.count("t", "", 14.9), kept.count("t", "", 15.1), kept.count("t", "", 25.1)) == (2, 1, 0)
    for number in range(MOST + 5):
        kept.note("t", f"{number}", 30.0)
    assert (kept.count("", "", 30.0), kept.count("", "4", 30.0), kept.count("", "5", 30.0)) == (MOST, 0, 1)


def test_a_waiting_worker_that_was_replaced_is_counted_once() -> None:
    """One of the same name but another uid takes the first one's part in the count, and what ends leaves it."""
    picture = Picture()
    waiting = Worker(Identity("w", "t", 1, 1), "1", State.PENDING, 1, held=True)
    for worker, count in ((waiting, 1), (replace(waiting, uid="2"), 1), (replace(waiting, uid="2", state=State.FAILED, held=False), 0)):
        picture.put(worker)
        assert picture.select("", "", None, 10).waiting == picture.select("t", "", None, 10).waiting == count
