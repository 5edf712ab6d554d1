"""An executor on a real port in front of a scaler double on a real port."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import msgspec
import pytest

from otto_executor.app import executor_component
from otto_executor.settings import Settings
from otto_executor.testing.cluster import fake_cluster
from otto_executor.testing.fleet import Fleet
from otto_executor.testing.scaler import ScalerDouble
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster
from otto_runtime.server import bound
from otto_runtime.settings import RuntimeSettings
from ottoscaler.v1.ottoscaler_service_pb2_grpc import add_OttoscalerServiceServicer_to_server
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

if TYPE_CHECKING:
    from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceAsyncStub


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """A cluster in this process that knows PipelineRuns."""
    async with fake_cluster() as made:
        yield made


@dataclass
class Executor:
    """A running executor: how to call it, and how to stop it in stages."""

    client: "PipelineServiceAsyncStub"
    stop: asyncio.Event
    served: "asyncio.Task[None]"
    address: str


@dataclass
class Bench:
    """A scaler double that lives through all of a test, and executors on one database."""

    fleet: Fleet
    scaler: ScalerDouble
    scaler_address: str
    settings: Settings
    kube: KubeSettings | None = None

    def set(self, **changes: object) -> None:
        """Other settings for the executors that start from now on."""
        self.settings = msgspec.structs.replace(self.settings, **changes)

    @asynccontextmanager
    async def executor(self) -> AsyncIterator[Executor]:
        """An executor until the block ends; then it is stopped abruptly, unless `stop` was set before."""
        async with AsyncExitStack() as stack:
            runtime = RuntimeSettings(listen="127.0.0.1:0", metrics_listen="off")
            component = await stack.enter_async_context(executor_component(self.settings, self.scaler_address, self.kube))
            host = await stack.enter_async_context(bound(runtime))
            stop, ready = asyncio.Event(), asyncio.Event()
            run = component.run

            async def run_and_tell(announce: Callable[[], None]) -> None:
                def told() -> None:
                    announce()
                    ready.set()

                await run(told)

            watched = type(component)(component.name, component.services, component.register, run_and_tell, component.public_errors)
            served = asyncio.create_task(host.serve([watched], stop), name="serve")
            try:
                async with asyncio.timeout(10):
                    await ready.wait()
                options = [("grpc.use_local_subchannel_pool", 1)]
                async with grpc.aio.insecure_channel(host.address, options=options) as channel:
                    yield Executor(PipelineServiceStub(channel), stop, served, host.address)
            finally:
                served.cancel()
                await asyncio.wait({served})


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A scaler double on a port, and a database that does not exist yet."""
    fleet = Fleet()
    scaler = ScalerDouble(fleet)
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    add_OttoscalerServiceServicer_to_server(scaler, server)  # type: ignore[no-untyped-call, unused-ignore]  # a generated function
    await server.start()
    settings = Settings(database=tmp_path / "runs.sqlite", checkout_retry_delay=0.02, infrastructure_retry_delay=0.01)
    try:
        yield Bench(fleet, scaler, f"127.0.0.1:{port}", settings)
    finally:
        fleet.close()
        await server.stop(None)


@pytest.fixture
async def executor(bench: Bench) -> AsyncIterator[Executor]:
    """A running executor."""
    async with bench.executor() as running:
        yield running
