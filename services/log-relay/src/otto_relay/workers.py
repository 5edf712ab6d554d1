"""The relay as a client of the scaler: which workers there are, and telling it whose lines are stored."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc.aio

from otto_relay.bell import Bell
from otto_relay.collector import Collector
from otto_relay.errors import NotReadyError, SpoolWriteError
from otto_relay.translate import observed
from otto_runtime.tasks import Backoff
from ottoscaler.v1.ottoscaler_service_pb2 import ReleaseWorkersRequest, WatchWorkersRequest, WorkerEvent, WorkerStatusRequest

if TYPE_CHECKING:
    from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceAsyncStub

log = logging.getLogger(__name__)

_MOST_NAMES = 1000
"""Names in one ReleaseWorkers; the contract takes 10,000."""


async def watch_workers(stub: "OttoscalerServiceAsyncStub", collector: Collector, synced: Callable[[], None]) -> None:
    """Shows the collector every worker, for ever; `synced` is called after each complete snapshot. A scaler that is away is waited for."""
    backoff = Backoff()
    attached = True
    failures = 0
    while True:
        reason = "the stream ended"
        try:
            shown: set[str] = set()
            complete = False
            async for event in stub.WatchWorkers(WatchWorkersRequest()):
                if event.type == WorkerEvent.TYPE_SYNCED:
                    collector.synced(shown)
                    complete = True
                    if not attached:
                        log.info("relay.scaler.attached", extra={"workers": len(shown)})
                    attached = True
                    failures = 0
                    backoff.reset()
                    synced()
                elif event.type == WorkerEvent.TYPE_DELETED:
                    collector.gone(event.worker.pod_name)
                else:
                    if not complete:
                        shown.add(event.worker.pod_name)
                    collector.observe(observed(event.worker))
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except SpoolWriteError as error:
            reason = str(error)
        failures += 1
        # A stream that ends once is how a scaler stops; the next attempt tells whether it is away.
        if attached and failures > 1:
            log.warning("relay.scaler.lost", extra={"reason": reason})
            attached = False
        await backoff.wait()


class ScalerFleet:
    """Asks the scaler about single workers."""

    def __init__(self, stub: "OttoscalerServiceAsyncStub", timeout: float) -> None:
        """`timeout` in seconds."""
        self._stub = stub
        self._timeout = timeout

    async def has(self, worker_id: str, task_id: str) -> bool:
        """Whether there is such a worker, or any of such a task. Raises NotReadyError."""
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._stub.GetWorkerStatus(WorkerStatusRequest(worker_pod_name=worker_id, task_id=task_id))
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            raise NotReadyError("the scaler can't be asked about this worker now; try again") from error
        return answer.total_count > 0


class Releases:
    """Finished workers whose lines are stored, gathered for a short time and told to the scaler until it has taken them."""

    def __init__(self, stub: "OttoscalerServiceAsyncStub", interval: float) -> None:
        """`interval` in seconds."""
        self._stub = stub
        self._interval = interval
        self._names: dict[str, None] = {}
        self._bell = Bell()

    def add(self, worker_id: str) -> None:
        """All lines of this finished worker are stored. Repeating it is harmless."""
        self._names[worker_id] = None
        self._bell.ring()

    async def run(self) -> None:
        """Tells the scaler, for ever."""
        backoff = Backoff()
        while True:
            if not self._names:
                await self._bell.wait()
            await asyncio.sleep(self._interval)
            names = list(self._names)[:_MOST_NAMES]
            try:
                await self._stub.ReleaseWorkers(ReleaseWorkersRequest(worker_pod_names=names))
            except grpc.aio.AioRpcError as error:
                log.warning("relay.release.retried", extra={"count": len(names), "reason": f"{error.code().name}: {error.details()}"})
                await backoff.wait()
                continue
            backoff.reset()
            for name in names:
                self._names.pop(name, None)
