"""What workers use, as a real metrics server measures it; and that nothing depends on one."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest, StageMetrics
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus
from ottoscaler.v1.worker_pb2 import WorkerPodStatus

from ..patient_clients import Account, Clients
from ..quick import unless_quick
from .conftest import Install
from .control_plane import ControlPlane
from .installation import CommandError, Installation
from .metrics_server import measured, metrics_server

# While nobody answers for an API that is registered, the cluster deletes no namespace: no place for other tests.
pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, unless_quick, pytest.mark.timeout(1500)]

MB = 1_000_000
PATIENCE = 300
LONG_LEASE = "runtime.lease_duration=300"
"""What was measured is known as long as the scaler that asked for it acts."""
HELD_MB = 100
WORK = f"""
import os, time
first = os.environ["OTTO_WORKER_INDEX"] == "1"
held = b"x" * {HELD_MB * MB} if first else b""
while not os.path.exists("/tmp/gate"):
    if first:
        sum(range(100_000))
    else:
        time.sleep(0.1)
"""
"""The first worker holds memory and burns, the second waits, both until they are let go."""


class Run:
    """A pipeline of one stage with two workers, from when both run."""

    def __init__(self, here: Installation, pipeline_id: str) -> None:
        self.here = here
        self.pipeline_id = pipeline_id
        self.account: Account

    def workers(self) -> list[str]:
        """The pods that run."""
        own = {"ottoscaler.io/pipeline-id": self.pipeline_id}.items()
        running = (pod["metadata"] for pod in self.here.pods("worker") if pod["status"]["phase"] == "Running")
        return [metadata["name"] for metadata in running if own <= metadata["annotations"].items()]

    def stage(self) -> StageMetrics:
        """What the stage's last message says."""
        return [m for m in self.account.progress if m.stage_id == "work"][-1].metrics

    async def statuses(self) -> dict[int, WorkerPodStatus]:
        """Of its workers by their numbers, once they have ended."""
        found: dict[int, WorkerPodStatus] = {}

        async def once(channel: grpc.aio.Channel) -> bool:
            answer = await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
            found.update((worker.index, worker) for worker in answer.workers if worker.pipeline_id == self.pipeline_id)
            return True

        await Clients(self.here).insist(once)
        return found


@asynccontextmanager
async def going(here: Installation) -> AsyncIterator[Run]:
    """It goes on for as long as somebody wants, and then completes."""
    run = Run(here, f"used-{secrets.token_hex(4)}")
    stage = PipelineStage(stage_id="work", worker_count=2, command=["python3", "-c", WORK])
    ending = asyncio.create_task(Clients(here).run(PipelineRequest(pipeline_id=run.pipeline_id, stages=[stage])), name="run")
    try:
        await becomes(lambda: len(run.workers()) == 2)
        yield run
        for worker in await asyncio.to_thread(run.workers):
            await here.open_gate(worker)
        async with asyncio.timeout(PATIENCE):
            run.account = await ending
    finally:
        ending.cancel()
        await asyncio.wait({ending})
    assert run.account.outcome()[""][0] == StageStatus.Name(StageStatus.STAGE_COMPLETED)


async def becomes(condition: Callable[[], bool]) -> None:
    """Asks, beside whatever else runs, until it is so; a command that fails has nobody to answer it."""

    def so() -> bool:
        try:
            return condition()
        except CommandError:
            return False

    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(so):
            await asyncio.sleep(0.5)


def answers(here: Installation, code: str) -> float:
    """How often the scaler has been answered so when it asked what workers use."""
    labels = f'code="{code}",resource="pods.metrics.k8s.io",verb="list"'
    found = re.search(rf"^otto_kube_request_duration_seconds_count{{{re.escape(labels)}}} (\S+)$", here.metrics("scaler"), re.MULTILINE)
    return float(found[1]) if found else 0


async def answered(here: Installation, code: str) -> None:
    """Back when the scaler has asked from now on, and been answered so, as a whole."""
    seen: list[float] = []

    def again() -> bool:
        seen.append(answers(here, code))
        return seen[-1] >= seen[0] + 2

    await becomes(again)


async def has_figures(run: Run) -> None:
    """Back when the scaler knows what both workers use."""
    names = set(await asyncio.to_thread(run.workers))
    await becomes(lambda: names <= measured(run.here.namespace))
    await answered(run.here, "200")


async def check_figures(run: Run) -> None:
    """Each worker has its own, and the stage those of both."""
    metrics, statuses = run.stage(), await run.statuses()
    assert metrics.measured_workers == 2
    busy, idle = statuses[1].usage, statuses[2].usage
    for usage in (busy, idle):
        assert 0 <= usage.average_cpu_cores <= usage.peak_cpu_cores
        assert 0 < usage.average_memory_bytes <= usage.peak_memory_bytes
    assert 2 * idle.average_cpu_cores < busy.average_cpu_cores
    assert busy.peak_cpu_cores < 1.5  # it is one thread
    assert HELD_MB * MB <= busy.peak_memory_bytes < 2 * HELD_MB * MB
    assert idle.peak_memory_bytes < HELD_MB * MB
    assert metrics.peak_cpu_usage == pytest.approx(busy.peak_cpu_cores, abs=0.01)
    assert metrics.peak_memory_mb == pytest.approx(busy.peak_memory_bytes / MB, abs=0.1)
    assert metrics.avg_cpu_usage == pytest.approx((busy.average_cpu_cores + idle.average_cpu_cores) / 2, abs=0.01)
    assert metrics.avg_memory_mb == pytest.approx((busy.average_memory_bytes + idle.average_memory_bytes) / 2 / MB, abs=0.1)


async def check_none(run: Run) -> None:
    """Nothing is made up."""
    assert run.stage().measured_workers == 0
    statuses = await run.statuses()
    assert sorted(statuses) == [1, 2]
    assert not any(worker.HasField("usage") for worker in statuses.values())


async def test_workers_are_measured_by_a_real_metrics_server(installed: Install, plane: ControlPlane) -> None:
    """Stage and workers tell plausible figures; without the server all goes on as before, and with it again there are figures again."""
    with metrics_server(plane) as server:
        here = installed("scaler.settings.usage_interval=1", LONG_LEASE)
        async with going(here) as run:
            await has_figures(run)
        await check_figures(run)

        async with going(here) as cut_off:
            await has_figures(cut_off)
            await asyncio.to_thread(server.stop)
            await answered(here, "503")
        await check_figures(cut_off)

        async with going(here) as again:
            await answered(here, "503")
            await asyncio.to_thread(server.start)
            await has_figures(again)
        await check_figures(again)
    async with going(here) as without:
        await becomes(lambda: answers(here, "404") == 1)
    await check_none(without)
