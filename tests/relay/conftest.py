"""A relay on a real port, between a scaler and an executor that say what a test tells them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import pytest

from otto_relay.app import relay_component
from otto_relay.files import Files
from otto_relay.registry import Registry
from otto_relay.settings import Settings
from otto_relay.sources.protocol import LogSource
from otto_relay.testing import FakeExecutor, FakeScaler, LogFile, peers
from otto_runtime.server import bound
from otto_runtime.settings import RuntimeSettings
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceStub


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for a condition; fails after so many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """What a relay knows of workers, without a relay."""
    files = Files(16)
    made = Registry(tmp_path, files, 1 << 22)
    made.load()
    yield made
    files.close()


@dataclass
class Stand:
    """What a test has in hand."""

    directory: Path
    scaler: FakeScaler = field(default_factory=FakeScaler)
    executor: FakeExecutor = field(default_factory=FakeExecutor)
    settings: dict[str, Any] = field(default_factory=dict)
    source: LogSource | None = None
    """Where the relay reads, if not in the log files below `directory`."""
    peer_address: str = ""
    address: str = ""
    """The relay's own."""
    logs: Any = None
    handler: Any = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    halt: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a test that wants the relay to stop while it still looks."""

    @property
    def workers_dir(self) -> Path:
        return self.directory / "workers"

    def log(self, worker_id: str) -> LogFile:
        return LogFile(self.workers_dir, worker_id)

    @asynccontextmanager
    async def relay(self, listen: str = "127.0.0.1:0", **settings: Any) -> AsyncIterator[None]:
        """A relay that runs while this is entered; `logs` and `handler` are its clients."""
        chosen = msgspec.structs.replace(
            Settings(workers_dir=self.workers_dir, spool_dir=self.directory / "spool", release_interval=0.01, stage_wait=5.0),
            **self.settings,
            **settings,
        )
        self.halt = stop = asyncio.Event()
        self.ready = asyncio.Event()
        async with (
            bound(RuntimeSettings(listen=listen, stop_grace=2.0)) as host,
            relay_component(chosen, self.peer_address, self.peer_address, self.source) as component,
            asyncio.TaskGroup() as group,
        ):
            self.address = host.address
            serving = group.create_task(host.serve([component], stop))
            try:
                async with grpc.aio.insecure_channel(host.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                    await asyncio.wait_for(channel.channel_ready(), 30)
                    self.logs = LogStreamingServiceStub(channel)
                    self.handler = OttoHandlerLogServiceStub(channel)
                    yield
            finally:
                stop.set()
                await asyncio.wait([serving])


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """Peers that run; the relay is the test's to start."""
    made = Stand(tmp_path)
    async with peers(made.scaler, made.executor) as address:
        made.peer_address = address
        yield made


@pytest.fixture
async def relay(stand: Stand) -> AsyncIterator[Stand]:
    """Peers and a relay that run."""
    async with stand.relay():
        yield stand
