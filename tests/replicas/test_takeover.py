"""Two scalers and two executors: whoever dies, stops or loses its lease, the other goes on, and nothing is done twice."""

import asyncio
import signal
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_kubekit.testing import Script
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, ScaleResponse, WatchWorkersRequest, WorkerEvent, WorkerStatusRequest
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, ListPipelinesRequest, WatchPipelineRequest
from ottoscaler.v1.stage_pb2 import STAGE_COMPLETED, PipelineStage

from .conftest import Installation, Process, until

pytestmark = pytest.mark.slow
LONG_LEASE = {"OTTO_LEASE_DURATION": "3600"}
"""Nobody who waits for this one to run out takes over within a test."""


async def pair(installation: Installation, kind: str, **environ: str) -> tuple[Process, Process]:
    """The one that acts, and the one that hands on."""
    first = await installation.start(kind, **environ)
    second = await installation.start(kind, **environ)
    assert installation.holder(kind) == first.address
    return first, second


async def answered(make: Any) -> Any:
    """The answer to a call that is repeated when it is UNAVAILABLE, as clients do."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await make()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


async def test_either_scaler_answers_and_one_acts(installation: Installation) -> None:
    """Workers that are asked for at the one that does not act are there once, and seen at both, also by a watch."""
    first, second = await pair(installation, "scaler")
    made = await second.scaler.ScaleUp(ScaleRequest(task_id="t", worker_count=3))
    again = await first.scaler.ScaleUp(ScaleRequest(task_id="t", worker_count=3))
    assert sorted(made.worker_pod_names) == sorted(again.worker_pod_names) == sorted(installation.pods())
    for replica in (first, second):
        assert (await replica.scaler.GetWorkerStatus(WorkerStatusRequest())).total_count == 3
        watch = replica.scaler.WatchWorkers(WatchWorkersRequest())
        kinds = [(await watch.read()).type for _ in range(4)]
        assert kinds == [WorkerEvent.TYPE_ADDED] * 3 + [WorkerEvent.TYPE_SYNCED]
        watch.cancel()
    assert installation.created() == 3


async def test_a_scaler_that_is_killed_is_followed_by_the_other(installation: Installation) -> None:
    """Calls that come meanwhile wait and are answered; a request that is repeated creates nothing twice; the cap counts what is there."""
    first, second = await pair(installation, "scaler", OTTO_SCALER_MAX_WORKERS="5")
    await second.scaler.ScaleUp(ScaleRequest(task_id="t", worker_count=3))
    first.send(signal.SIGKILL)
    await first.ended()
    again = await answered(lambda: second.scaler.ScaleUp(ScaleRequest(task_id="t", worker_count=3)))
    assert sorted(again.worker_pod_names) == sorted(installation.pods())
    assert installation.holder("scaler") == second.address
    more = await second.scaler.ScaleUp(ScaleRequest(task_id="u", worker_count=3))
    assert (more.status, more.processed_count) == (ScaleResponse.PARTIAL_SUCCESS, 2)
    assert installation.created() == len(installation.pods()) == 5


async def test_a_scaler_that_stops_hands_over_at_once(installation: Installation) -> None:
    """Its lease would last an hour, so what takes over here was given it back; streams end with OK, calls are answered."""
    first, second = await pair(installation, "scaler", **LONG_LEASE)
    watch = second.scaler.WatchWorkers(WatchWorkersRequest())
    assert (await watch.read()).type == WorkerEvent.TYPE_SYNCED
    first.send(signal.SIGTERM)
    asked = [asyncio.ensure_future(answered(lambda: second.scaler.GetWorkerStatus(WorkerStatusRequest()))) for _ in range(20)]
    assert await watch.read() is grpc.aio.EOF
    assert await watch.code() is grpc.StatusCode.OK
    for answer in await asyncio.gather(*asked):
        assert answer.total_count == 0
    assert await first.ended() == 0
    await until(lambda: second.said("runtime.replica.acts"), "the other one to act")
    assert installation.holder("scaler") == second.address


async def test_a_scaler_that_can_not_renew_its_lease_stops_before_it_runs_out(installation: Installation) -> None:
    """While the API server is away nobody acts; the former one says why and ends, and when the server is back the other acts."""
    first, second = await pair(installation, "scaler")
    await installation.cluster.stop()
    assert await first.ended() == 1
    assert "the lease was lost" in first.text
    assert not second.said("runtime.replica.acts")
    await installation.cluster.start()
    await until(lambda: second.said("runtime.replica.acts"), "the other one to act")
    assert (await answered(lambda: second.scaler.GetWorkerStatus(WorkerStatusRequest()))).total_count == 0


async def test_a_scaler_that_was_frozen_changes_nothing_when_it_thaws(installation: Installation) -> None:
    """Stopped in its tracks while it creates workers until another has its lease, it creates none after, and ends."""
    first, second = await pair(installation, "scaler")
    installation.cluster.faults.delay(0.2, when=lambda asked: asked.method == "POST" and asked.path.endswith("/pods"))
    asking = asyncio.ensure_future(_swallowed(first.scaler.ScaleUp(ScaleRequest(task_id="t", worker_count=60))))
    await until(lambda: installation.created() >= 4, "the first creations")
    first.send(signal.SIGSTOP)
    await until(lambda: second.said("runtime.replica.acts"), "the other one to act")
    await asyncio.sleep(1.0)
    before = installation.created()
    first.send(signal.SIGCONT)
    assert await first.ended() == 1
    assert installation.created() == before < 60
    await asking


async def _swallowed(call: Any) -> None:
    with suppress(grpc.aio.AioRpcError):
        await call


def chain(pipeline_id: str, length: int, workers: int) -> PipelineRequest:
    """Stages one after another."""
    return PipelineRequest(
        pipeline_id=pipeline_id,
        stages=[
            PipelineStage(
                stage_id=f"s{number}",
                worker_count=workers,
                command=["true"],
                depends_on=[f"s{number - 1}"] if number else [],
            )
            for number in range(length)
        ],
    )


async def finished(replica: Process, pipeline_id: str) -> list[Any]:
    """All messages of a run, attached again whenever the stream ends early."""
    messages: list[Any] = []
    async with asyncio.timeout(120):
        while True:
            after = messages[-1].sequence if messages else 0
            try:
                async for message in replica.pipelines.WatchPipeline(WatchPipelineRequest(pipeline_id=pipeline_id, after_sequence=after)):
                    if message.sequence:
                        messages.append(message)
                    if not message.stage_id and message.status >= STAGE_COMPLETED:
                        return messages
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_an_executor_that_ends_in_the_middle_of_a_run_is_followed_by_the_other(
    installation: Installation, end: signal.Signals
) -> None:
    """The run goes on where it was: every worker was created once, sequences have no hole, and the one that is left shows all of it."""
    installation.cluster.script = lambda _pod, _container: Script(runs=0.3)
    scaler = await installation.start("scaler")
    settings = {"OTTO_EXECUTOR_SCALER_ADDRESS": scaler.address} | (LONG_LEASE if end is signal.SIGTERM else {})
    first, second = await pair(installation, "executor", **settings)
    begun = second.pipelines.ExecutePipeline(chain("run", 6, 2))
    await begun.read()
    await until(lambda: installation.created() >= 5, "some stages")
    first.send(end)
    messages = await finished(second, "run")
    assert messages[-1].status == STAGE_COMPLETED
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
    assert len(installation.pods()) == installation.created() == 12
    assert (await second.pipelines.GetPipeline(GetPipelineRequest(pipeline_id="run"))).summary.pipeline_id == "run"
    listed = await second.pipelines.ListPipelines(ListPipelinesRequest())
    assert len(listed.pipelines) == 1
    begun.cancel()


async def test_an_executor_that_stops_is_no_caller_that_leaves(installation: Installation) -> None:
    """A run that is to be cancelled when its caller leaves goes on if the executor stops that its caller has asked, and handed it on."""
    installation.cluster.script = lambda _pod, _container: Script()
    scaler = await installation.start("scaler")
    first, second = await pair(installation, "executor", OTTO_EXECUTOR_SCALER_ADDRESS=scaler.address)
    request = chain("run", 1, 1)
    request.metadata["otto.on_disconnect"] = "cancel"
    begun = second.pipelines.ExecutePipeline(request)
    await begun.read()
    await until(lambda: len(installation.pods()) == 1, "its worker")
    second.send(signal.SIGTERM)
    while await begun.read() is not grpc.aio.EOF:
        pass
    assert await begun.code() is grpc.StatusCode.OK
    assert await second.ended() == 0
    installation.cluster.end(installation.pods()[0])
    assert (await finished(first, "run"))[-1].status == STAGE_COMPLETED


async def test_what_was_begun_last_is_gone_on_with(installation: Installation) -> None:
    """A run that no watch has told the other executor of, because none says anything, goes on there: who takes over reads all runs."""
    installation.cluster.script = lambda _pod, _container: Script()
    scaler = await installation.start("scaler")
    first, second = await pair(installation, "executor", OTTO_EXECUTOR_SCALER_ADDRESS=scaler.address)
    installation.cluster.faults.stall(lambda asked: asked.watch and asked.path.endswith("/pipelineruns"))
    begun = first.pipelines.ExecutePipeline(chain("run", 1, 1))
    await begun.read()
    await until(lambda: len(installation.pods()) == 1, "its worker")
    first.send(signal.SIGKILL)
    await until(lambda: second.said("runtime.replica.acts"), "the other one to act")
    installation.cluster.end(installation.pods()[0])
    messages = await finished(second, "run")
    assert messages[-1].status == STAGE_COMPLETED
    assert installation.created() == 1
    begun.cancel()


async def test_a_lease_without_what_replicas_share_is_refused(installation: Installation) -> None:
    """Two scalers of local processes, or two executors with a file each, would be two of everything."""
    for kind, setting, value in (("scaler", "OTTO_SCALER_BACKEND", "process"), ("executor", "OTTO_EXECUTOR_STORE", "sqlite")):
        with pytest.raises(AssertionError, match=f"{setting}=kubernetes"):
            await installation.start(kind, **{setting: value, "HOME": str(installation.home)})
