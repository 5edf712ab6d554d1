"""OttoscalerService over a real port: what ScaleUp, ScaleDown, GetWorkerStatus and WatchWorkers answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_scaler.testing import MemoryBackend
from otto_scaler.worker import worker_name
from ottoscaler.v1.ottoscaler_service_pb2 import (
    Admission,
    ScaleRequest,
    ScaleResponse,
    WatchWorkersRequest,
    WorkerEvent,
    WorkerStatusRequest,
)
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .conftest import serving, settings_at, until

FOUR_MIB = 4 * 1024 * 1024


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def stub(tmp_path: Path, backend: MemoryBackend) -> AsyncIterator[Any]:
    """A scaler with room for three workers at a time, of whom two more may wait."""
    async with serving(settings_at(tmp_path, max_workers=3, max_queued=2), backend) as (client, _, _):
        yield client


def wanted(task: str, count: int = 1, **fields: Any) -> ScaleRequest:
    """Workers that run until they are ended."""
    worker = {"command": ["sleep", "60"], **fields.pop("worker", {})}
    return ScaleRequest(task_id=task, worker_count=count, worker=WorkerSpec(**worker), **fields)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and words with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


# ScaleUp


async def test_without_any_room_the_answer_is_resource_exhausted(stub: Any) -> None:
    """Its details hold the word that existing clients look for, the number and the cap; nothing was created."""
    assert (await stub.ScaleUp(wanted("a", 3))).status == ScaleResponse.SUCCESS
    code, words = await refused(stub.ScaleUp(wanted("b", 2)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert words.startswith("INSUFFICIENT_RESOURCES: no room for 2 workers under the cap of 3 concurrent workers")
    assert (await stub.GetWorkerStatus(WorkerStatusRequest(task_id="b"))).total_count == 0


async def test_with_room_for_some_the_rest_is_told(stub: Any) -> None:
    """PARTIAL_SUCCESS names those that exist and says why the others don't."""
    answer = await stub.ScaleUp(wanted("a", 5))
    assert (answer.status, answer.processed_count, len(answer.worker_pod_names)) == (ScaleResponse.PARTIAL_SUCCESS, 3, 3)
    assert answer.message.startswith("created 3 workers; INSUFFICIENT_RESOURCES: no room for 2 workers")


async def test_with_queue_workers_wait_for_room(stub: Any, backend: MemoryBackend) -> None:
    """They exist at once, run when there is room, and only beyond the bound of those who wait is RESOURCE_EXHAUSTED."""
    queue = {"admission": Admission.ADMISSION_QUEUE}
    assert (await stub.ScaleUp(wanted("a", 5, **queue))).status == ScaleResponse.SUCCESS
    status = await stub.GetWorkerStatus(WorkerStatusRequest())
    assert (status.running_count, status.pending_count) == (3, 2)
    code, words = await refused(stub.ScaleUp(wanted("b", 1, **queue)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert words.startswith("INSUFFICIENT_RESOURCES: too many workers wait for room already")
    backend.finish(backend.started[0])
    await until(lambda: len(backend.started) == 4)


async def test_repeating_a_request_creates_nothing(stub: Any, backend: MemoryBackend) -> None:
    """ALREADY_PROCESSED, the same names, and how many of them have ended."""
    first = await stub.ScaleUp(wanted("a", 2))
    assert first.status == ScaleResponse.SUCCESS
    assert list(first.worker_pod_names) == [worker_name("a", "", "", 1, 1), worker_name("a", "", "", 1, 2)]
    backend.finish(first.worker_pod_names[0])
    again = await stub.ScaleUp(wanted("a", 2))
    assert (again.status, again.processed_count) == (ScaleResponse.ALREADY_PROCESSED, 0)
    assert list(again.worker_pod_names) == list(first.worker_pod_names)
    assert again.message.startswith("2 workers existed before (1 of them ended")
    assert len(backend.started) == 2


async def test_a_larger_request_adds_what_is_missing(stub: Any) -> None:
    """SUCCESS: some existed, the others were created."""
    await stub.ScaleUp(wanted("a", 1))
    answer = await stub.ScaleUp(wanted("a", 3))
    assert (answer.status, answer.processed_count, len(answer.worker_pod_names)) == (ScaleResponse.SUCCESS, 2, 3)


async def test_refusals_are_told_with_their_reasons(stub: Any, backend: MemoryBackend) -> None:
    """Some refused is PARTIAL_SUCCESS, all refused FAILED; each with why."""
    second, other = worker_name("a", "", "", 1, 2), worker_name("b", "", "", 1, 1)
    backend.refusals = {second: "the disk is full", other: "no such image"}
    some = await stub.ScaleUp(wanted("a", 2))
    assert (some.status, some.processed_count, second in some.worker_pod_names) == (ScaleResponse.PARTIAL_SUCCESS, 1, False)
    assert some.message == f"created 1 worker; 1 refused: {second}: the disk is full"
    none = await stub.ScaleUp(wanted("b"))
    assert (none.status, none.processed_count, list(none.worker_pod_names)) == (ScaleResponse.FAILED, 0, [])
    assert none.message == f"1 refused: {other}: no such image"


async def test_what_the_backend_cannot_do_is_named_beside_all_else(stub: Any, backend: MemoryBackend) -> None:
    """INVALID_ARGUMENT alone and together with other problems; nothing is created."""
    alone = await refused(stub.ScaleUp(wanted("a", worker={"priority_class_name": "high"})))
    assert alone == (grpc.StatusCode.INVALID_ARGUMENT, "worker.priority_class_name: is unknown here")
    code, words = await refused(stub.ScaleUp(wanted("a", -1, worker={"priority_class_name": "high", "working_directory": "/etc"})))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    for field in ("worker_count: -1", "worker.working_directory: '/etc'", "worker.priority_class_name: is unknown here"):
        assert field in words
    assert not backend.workers


# ScaleDown


async def test_scale_down_leaves_so_many_and_can_be_repeated(stub: Any) -> None:
    """The youngest go; who asked and why is their error."""
    names = list((await stub.ScaleUp(wanted("a", 3))).worker_pod_names)
    request = ScaleRequest(task_id="a", worker_count=1, triggered_by="kim", reason="too many")
    answer = await stub.ScaleDown(request)
    assert (answer.status, answer.processed_count, set(answer.worker_pod_names)) == (ScaleResponse.SUCCESS, 2, set(names[1:]))
    again = await stub.ScaleDown(request)
    assert (again.status, again.processed_count, again.message) == (ScaleResponse.SUCCESS, 0, "nothing to stop")
    failed = await stub.GetWorkerStatus(WorkerStatusRequest(task_id="a", status_filter="failed"))
    assert {worker.error_message for worker in failed.workers} == {"scaled down by kim: too many"}


async def test_a_scale_down_that_means_nothing_is_refused(stub: Any, backend: MemoryBackend) -> None:
    """A negative number and an empty task are named together; nothing is stopped."""
    await stub.ScaleUp(wanted("a"))
    both = await refused(stub.ScaleDown(ScaleRequest(worker_count=-1)))
    assert both == (grpc.StatusCode.INVALID_ARGUMENT, "task_id: is empty; worker_count: -1 is negative")
    negative = await refused(stub.ScaleDown(ScaleRequest(task_id="a", worker_count=-1)))
    assert negative[1] == "worker_count: -1 is negative"
    assert [worker.state.value for worker in backend.workers.values()] == ["running"]


# GetWorkerStatus


async def test_filters_combine_and_counts_cover_what_they_select(stub: Any, backend: MemoryBackend) -> None:
    """By task, name and status; a status that is none is INVALID_ARGUMENT."""
    first = list((await stub.ScaleUp(wanted("a", 2))).worker_pod_names)
    await stub.ScaleUp(wanted("b"))
    backend.finish(first[0], 3)

    async def counts(**filters: str) -> tuple[int, int, int, list[str]]:
        answer = await stub.GetWorkerStatus(WorkerStatusRequest(**filters))
        return answer.total_count, answer.running_count, answer.failed_count, sorted(worker.pod_name for worker in answer.workers)

    async with asyncio.timeout(10):
        while (await counts())[2] == 0:
            await asyncio.sleep(0.01)
    every = [*first, worker_name("b", "", "", 1, 1)]
    assert await counts() == (3, 2, 1, sorted(every))
    assert await counts(task_id="a") == (2, 1, 1, sorted(first))
    assert await counts(status_filter="failed") == (1, 0, 1, [first[0]])
    assert await counts(task_id="a", status_filter="running") == (1, 1, 0, [first[1]])
    assert await counts(worker_pod_name=first[0], task_id="a", status_filter="failed") == (1, 0, 1, [first[0]])
    assert await counts(worker_pod_name=first[0], task_id="b") == (0, 0, 0, [])
    assert await counts(worker_pod_name=first[0], status_filter="running") == (0, 0, 0, [])
    code, words = await refused(stub.GetWorkerStatus(WorkerStatusRequest(status_filter="RUNNING")))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words == "status_filter: 'RUNNING' is none of pending, running, succeeded, failed"
    code, words = await refused(stub.GetWorkerStatus(WorkerStatusRequest(status_filter="x" * 10_000)))
    assert len(words) < 200


async def test_an_answer_fits_however_much_its_workers_say(tmp_path: Path, backend: MemoryBackend) -> None:
    """With gRPC's own limit of 4 MiB: fewer are listed than there are, the counts cover all."""
    labels = {f"{'p' * 200}/{'n' * 50}{number:03}": "v" * 63 for number in range(60)}
    async with serving(settings_at(tmp_path, max_workers=400), backend) as (stub, _, _):
        await stub.ScaleUp(wanted("a", 300, worker={"labels": labels}))
        answer = await stub.GetWorkerStatus(WorkerStatusRequest(task_id="a"))
        assert answer.total_count == answer.running_count == 300
        assert 100 < len(answer.workers) < 300
        assert FOUR_MIB / 2 < answer.ByteSize() < FOUR_MIB


# WatchWorkers


async def watched(stub: Any, **selected: str) -> tuple[Any, list[str]]:
    """A watch that has shown its snapshot, and whom it showed."""
    call = stub.WatchWorkers(WatchWorkersRequest(**selected))
    seen = []
    while (event := await asyncio.wait_for(call.read(), 10)).type != WorkerEvent.TYPE_SYNCED:
        assert event.type == WorkerEvent.TYPE_ADDED
        seen.append(event.worker.pod_name)
    return call, seen


async def test_a_watch_shows_only_what_was_asked_for(stub: Any, backend: MemoryBackend) -> None:
    """By task, pipeline and name, in the snapshot and after it; together they combine."""
    mine = (await stub.ScaleUp(wanted("a", 1, worker={"pipeline_id": "p", "stage_id": "s"}))).worker_pod_names[0]
    others = (await stub.ScaleUp(wanted("b", 1, worker={"pipeline_id": "q", "stage_id": "s"}))).worker_pod_names[0]
    calls = []
    for selected in ({"task_id": "a"}, {"pipeline_id": "p"}, {"worker_pod_name": mine}, {"task_id": "a", "pipeline_id": "p"}):
        call, snapshot = await watched(stub, **selected)
        assert snapshot == [mine]
        calls.append(call)
    nobody, snapshot = await watched(stub, task_id="a", pipeline_id="q")
    assert snapshot == []
    everybody, snapshot = await watched(stub)
    assert set(snapshot) == {mine, others}
    backend.finish(others)
    backend.finish(mine)
    for call in calls:
        event = await asyncio.wait_for(call.read(), 10)
        assert (event.type, event.worker.pod_name, event.worker.status) == (WorkerEvent.TYPE_MODIFIED, mine, "succeeded")
    assert [(await asyncio.wait_for(everybody.read(), 10)).worker.pod_name for _ in range(2)] == [others, mine]
    for call in (*calls, nobody, everybody):
        call.cancel()
