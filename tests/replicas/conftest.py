"""Scalers and executors as processes, several of each, on a fake cluster in this one."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from otto_executor.stores.pipelinerun import WHOLE
from otto_kubekit.kinds import LEASES, PODS
from otto_kubekit.testing import FakeCluster
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

DEADLINE = 60.0


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> None:
    """Waits until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for: {what}"
        await asyncio.sleep(0.01)


class Process:
    """One replica."""

    def __init__(self, kind: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.kind = kind
        self.process = process
        self._log = log
        self.address = ""
        self.channel: Any = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]

    @property
    def text(self) -> str:
        """All that it has said."""
        return self._log.read_text()

    def said(self, event: str) -> bool:
        """Whether it has logged such an event."""
        return any(found["event"] == event for found in self.events)

    @property
    def scaler(self) -> Any:
        """A stub of OttoscalerService."""
        return OttoscalerServiceStub(self.channel)

    @property
    def pipelines(self) -> Any:
        """A stub of PipelineService."""
        return PipelineServiceStub(self.channel)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    async def ended(self, seconds: float = DEADLINE) -> int:
        """Its exit code."""
        return await asyncio.wait_for(self.process.wait(), seconds)


class Installation:
    """A cluster and the processes that a test starts."""

    def __init__(self, directory: Path, cluster: FakeCluster, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self._directory = directory
        self.home = directory
        self._stack = stack
        self._count = 0
        self._template = directory / "worker.json"
        self._template.write_text(json.dumps({"spec": {"containers": [{"name": "worker", "image": "any"}]}}))

    async def start(self, kind: str, **environ: str) -> Process:
        """One more replica of "scaler" or "executor"; it is ready when this returns."""
        self._count += 1
        log = self._directory / f"{kind}-{self._count}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTTO_")}
        settings = {
            "OTTO_LISTEN": "127.0.0.1:0",
            "OTTO_METRICS_LISTEN": "off",
            "OTTO_LOG_FORMAT": "json",
            "OTTO_KUBE_CONFIG": str(self.cluster.kubeconfig(self._directory / "kubeconfig")),
            "OTTO_KUBE_TIMEOUT": "5",
            "OTTO_SCALER_BACKEND": "kubernetes",
            "OTTO_SCALER_WORKER_TEMPLATE": str(self._template),
            "OTTO_SCALER_LEASE": "scaler",
            "OTTO_EXECUTOR_STORE": "kubernetes",
            "OTTO_EXECUTOR_LEASE": "executor",
            "OTTO_LEASE_DURATION": "4",
            "OTTO_LEASE_RETRY": "1",
            "OTTO_HAND_ON_PATIENCE": "60",
            "OTTO_UNARY_TIMEOUT": "60",
            **environ,
        }
        with log.open("wb") as output:
            started = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"otto_{kind}", env={**clean, **settings}, stdout=output, stderr=output
            )
        replica = Process(kind, started, log)
        self._stack.push_async_callback(_killed, replica)
        await until(lambda: replica.said("runtime.ready") or started.returncode is not None, f"{kind} to be ready")
        assert started.returncode is None, replica.text
        replica.address = next(e["address"] for e in replica.events if e["event"] == "runtime.serving")
        options = [("grpc.use_local_subchannel_pool", 1)]
        replica.channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(replica.address, options=options))
        return replica

    def holder(self, lease: str) -> str:
        """The address in a lease."""
        for item in self.cluster.storage.all(self._resource(LEASES), "default"):
            if item["metadata"]["name"] == lease:
                return str(item["spec"].get("holderIdentity") or "")
        return ""

    def pods(self) -> list[str]:
        """The names of all pods there are."""
        return [item["metadata"]["name"] for item in self.cluster.storage.all(self._resource(PODS), "default")]

    def created(self) -> int:
        """How many pods were ever asked for."""
        return sum(asked.method == "POST" and asked.path.endswith("/pods") for asked in self.cluster.requests)

    def _resource(self, kind: Any) -> Any:
        return self.cluster.resources.find(kind.group, kind.version, kind.plural)


async def _killed(replica: Process) -> None:
    if replica.process.returncode is None:
        replica.send(signal.SIGKILL)
    await replica.process.wait()


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    """An empty one."""
    async with FakeCluster() as cluster, AsyncExitStack() as stack:
        cluster.define(WHOLE)
        yield Installation(tmp_path, cluster, stack)
