"""What the scaler's tests share: specs, backends, fleets and servers, all real but for the backend in memory."""

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import pytest

from otto_kubekit import kinds
from otto_kubekit.client import Client
from otto_kubekit.connecting import connect
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster, local_process
from otto_kubekit.testing.resources import CLAIMS
from otto_runtime import launch
from otto_runtime.server import Component
from otto_runtime.settings import RuntimeSettings
from otto_scaler.app import scaler_component
from otto_scaler.backends import WorkerBackend
from otto_scaler.backends.kubernetes.backend import KubernetesBackend
from otto_scaler.backends.kubernetes.claims import ClaimPlan
from otto_scaler.backends.kubernetes.manifest import Plan
from otto_scaler.backends.kubernetes.template import WorkerTemplate
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.opening import process_backend
from otto_scaler.fleet import Fleet
from otto_scaler.limits import Limits
from otto_scaler.settings import Settings
from otto_scaler.testing import MemoryBackend
from otto_scaler.worker import Identity, Worker, WorkerSpec, worker_name
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub

from ..cluster_report import reported

PYTHON = sys.executable
WAIT_SECONDS = 45.0

T = TypeVar("T")
SpecMaker = Callable[..., WorkerSpec]


def spec(task: str = "task", index: int = 1, count: int = 1, command: tuple[str, ...] = ("true",), **fields: Any) -> WorkerSpec:
    """A worker's spec; `workspace`, `pipeline_id`, `stage_id` and `attempt` go into its identity."""
    identity = {key: fields.pop(key) for key in ("workspace", "pipeline_id", "stage_id", "attempt", "labels") if key in fields}
    name = worker_name(task, identity.get("pipeline_id", ""), identity.get("stage_id", ""), identity.get("attempt", 1), index)
    return WorkerSpec(Identity(name, task, index, count, **identity), command, **fields)


def script(text: str, **fields: Any) -> WorkerSpec:
    """A worker that runs a shell script."""
    return spec(command=("sh", "-c", text), **fields)


async def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Waits for something to become true, and returns it."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.005)
    return value


class Rig:
    """A backend and the fleet over it, running."""

    def __init__(self, backend: WorkerBackend, limits: Limits, root: Path) -> None:
        self.backend = backend
        self.root = root
        self._limits = limits
        self.fleet = Fleet(backend, limits)
        self._task: asyncio.Task[None] | None = None

    @property
    def memory(self) -> MemoryBackend:
        assert isinstance(self.backend, MemoryBackend)
        return self.backend

    async def start(self) -> None:
        """Starts with a new fleet that knows nothing."""
        self.fleet = Fleet(self.backend, self._limits)
        ready = asyncio.Event()
        self._task = asyncio.create_task(self.fleet.run(ready.set))
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.wait({self._task, waiting := asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def create(self, *specs: WorkerSpec, queue: bool = False) -> Any:
        return await self.fleet.scale_up(specs, queue=queue)

    def worker(self, name: str) -> Worker | None:
        return self.fleet.worker(name)

    async def reaches(self, wanted: WorkerSpec | str, condition: Callable[[Worker], bool]) -> Worker:
        """Waits until the worker satisfies the condition."""
        name = wanted if isinstance(wanted, str) else wanted.identity.name
        try:
            found = await until(lambda: (worker := self.worker(name)) is not None and condition(worker) and worker)
        except TimeoutError:
            raise AssertionError(f"it never came to that; last seen: {self.worker(name)}") from None
        assert isinstance(found, Worker)
        return found

    async def ends(self, wanted: WorkerSpec | str) -> Worker:
        return await self.reaches(wanted, lambda worker: worker.finished)

    async def runs(self, wanted: WorkerSpec | str) -> Worker:
        return await self.reaches(wanted, lambda worker: worker.state.value == "running")

    async def run(self, wanted: WorkerSpec) -> Worker:
        """Creates a worker and waits for its end."""
        created = await self.create(wanted)
        assert not created.refused, created.refused
        return await self.ends(wanted)

    def directory(self, wanted: WorkerSpec) -> Path:
        return self.root / "workers" / wanted.identity.name

    def own(self, wanted: WorkerSpec) -> Path:
        """Where the worker's own files are."""
        worker = self.worker(wanted.identity.name)
        assert worker is not None
        return self.root / "workspaces" / ".own" / worker.uid

    def log(self, wanted: WorkerSpec) -> list[tuple[str, str, bytes]]:
        """The worker's log: stream, F or P, content."""
        records = []
        for line in (self.directory(wanted) / "log").read_bytes().split(b"\n")[:-1]:
            _, stream, tag, content = line.split(b" ", 3)
            records.append((stream.decode(), tag.decode(), content))
        return records

    def output(self, wanted: WorkerSpec, stream: str = "stdout") -> str:
        """What the worker wrote to one of its streams, its parts joined."""
        text = b""
        for source, tag, content in self.log(wanted):
            if source == stream:
                text += content + (b"\n" if tag == "F" else b"")
        return text.decode("utf-8", "replace")


DEFAULT_LIMITS = Limits(max_workers=100, max_queued=1000, finished_ttl=3600, unreleased_limit=86400, watch_backlog=1000, peer_grace=0)


@asynccontextmanager
async def process_rig(root: Path, limits: Limits = DEFAULT_LIMITS, path: str = os.environ["PATH"]) -> AsyncIterator[Rig]:
    """A fleet over the process backend with its state below `root`; workers outlive it."""
    async with process_backend(root / "workers", root / "workspaces", Surroundings(root / "secrets", path, "C.UTF-8")) as backend:
        rig = Rig(backend, limits, root)
        await rig.start()
        try:
            yield rig
        finally:
            await rig.stop()


@asynccontextmanager
async def memory_rig(limits: Limits = DEFAULT_LIMITS, backend: MemoryBackend | None = None) -> AsyncIterator[Rig]:
    """A fleet over a backend in memory."""
    rig = Rig(backend or MemoryBackend(), limits, Path("/nonexistent"))
    await rig.start()
    try:
        yield rig
    finally:
        await rig.stop()


class ClusterRig(Rig):
    """A fleet over the Kubernetes backend, and a client of the cluster beside it."""

    def __init__(self, backend: KubernetesBackend, limits: Limits, root: Path, client: Client) -> None:
        super().__init__(backend, limits, root)
        self.client = client


class PodsRig(ClusterRig):
    """On a cluster in this process, whose containers are processes of this machine."""

    def __init__(self, backend: KubernetesBackend, limits: Limits, root: Path, cluster: FakeCluster, client: Client) -> None:
        super().__init__(backend, limits, root, client)
        self.cluster = cluster

    def pod(self, wanted: WorkerSpec | str) -> dict[str, Any]:
        """The worker's pod as the cluster has it."""
        return self.cluster.pod(wanted if isinstance(wanted, str) else wanted.identity.name)

    def claims(self) -> list[dict[str, Any]]:
        """All claims of the cluster."""
        return self.cluster.storage.all(CLAIMS, "default")

    def created(self) -> int:
        """How many pods were ever created."""
        return sum(asked.method == "POST" and asked.path.endswith("/pods") for asked in self.cluster.requests)


@asynccontextmanager
async def pods_rig(
    root: Path,
    limits: Limits = DEFAULT_LIMITS,
    cluster: FakeCluster | None = None,
    times: Mapping[str, float] = {},
    **plan: Any,
) -> AsyncIterator[PodsRig]:
    """A fleet over pods of a cluster in this process, of one's own or the one given; pods outlive it with that."""
    plan = {"pending_timeout": 300.0, "workspaces": True, **plan}
    claims = ClaimPlan("standard", "1Gi", "ReadWriteOnce") if plan["workspaces"] else None
    image = WorkerTemplate(worker={"image": "registry.example.com/tools:1"})
    async with AsyncExitStack() as stack:
        if cluster is None:
            cluster = await stack.enter_async_context(FakeCluster())
            cluster.script = lambda _pod, _container: local_process
        client = await stack.enter_async_context(cluster.client())
        backend = KubernetesBackend(client, Plan(**{"instance": "ottoscaler", "template": image, **plan}), claims, **times)
        rig = PodsRig(backend, limits, root, cluster, client)
        await rig.start()
        try:
            yield rig
        finally:
            await rig.stop()


@asynccontextmanager
async def cluster_rig(root: Path, limits: Limits = DEFAULT_LIMITS, *, image: str = "", **plan: Any) -> AsyncIterator[ClusterRig]:
    """A fleet over pods of a real cluster, in a namespace of its own that enforces the restricted profile."""
    settings = KubeSettings(config=os.environ["OTTO_TEST_KUBECONFIG"])
    namespace = f"otto-test-{secrets.token_hex(4)}"
    image = image or os.environ.get("OTTO_TEST_IMAGE", "ottoscaler-base:latest")
    template = WorkerTemplate(worker={"image": image, "imagePullPolicy": "IfNotPresent"})
    async with connect(settings, namespace) as client:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        await client.create(kinds.NAMESPACES, {"metadata": {"name": namespace, "labels": labels}})
        try:
            accounts = kinds.custom("", "v1", "serviceaccounts", "ServiceAccount")
            await eventually(lambda: client.list(accounts), lambda found: bool(found.items))
            plan = {"instance": "ottoscaler", "template": template, "pending_timeout": 120.0, "workspaces": True, **plan}
            backend = KubernetesBackend(client, Plan(**plan), ClaimPlan("default", "16Mi", "ReadWriteOnce"))
            rig = ClusterRig(backend, limits, root, client)
            await rig.start()
            try:
                with reported(namespace):
                    yield rig
            finally:
                await rig.stop()
        finally:
            await client.delete(kinds.NAMESPACES, namespace)


async def eventually(ask: Callable[[], Awaitable[T]], condition: Callable[[T], Any], seconds: float = WAIT_SECONDS) -> T:
    """Asks until the answer is as it should be, and returns it."""
    async with asyncio.timeout(seconds):
        while not condition(answer := await ask()):
            await asyncio.sleep(0.05)
    return answer


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A fleet over the process backend; its workers are killed after the test."""
    async with process_rig(tmp_path) as running:
        yield running
    kill_workers(tmp_path)


@pytest.fixture
async def memory() -> AsyncIterator[Rig]:
    """A fleet over a backend in memory."""
    async with memory_rig() as running:
        yield running


def processes_of(root: Path) -> list[int]:
    """Supervisors and workers that run with state below `root`."""
    found = []
    mark = os.fsencode(root)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def delete(directory: Path) -> None:
    """Deletes a worker's directory, as somebody would who repeats it when a supervisor has written its report in the middle."""
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)


def kill_workers(root: Path) -> None:
    """Ends every process that is left of a test."""
    for pid in processes_of(root):
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


@asynccontextmanager
async def serving(
    settings: Settings, backend: WorkerBackend | None = None, executor_address: str = "127.0.0.1:1", kube: KubeSettings | None = None
) -> AsyncIterator[tuple[Any, grpc.aio.Channel, asyncio.Event]]:
    """The scaler on a port of its own: a stub, its channel, and the event that stops the server."""
    runtime = RuntimeSettings(listen="127.0.0.1:0", metrics_listen="off", stop_grace=2.0)
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def compose(_: str, __: RuntimeSettings) -> list[AbstractAsyncContextManager[Component]]:
        return [scaler_component(settings, executor_address, backend, kube)]

    server = asyncio.create_task(launch.host("scaler", runtime, compose, stop, address.set_result))
    either: list[asyncio.Future[Any]] = [server, address]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            server.result()
        async with grpc.aio.insecure_channel(await address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield OttoscalerServiceStub(channel), channel, stop
    finally:
        stop.set()
        await server


def settings_at(root: Path, **changes: Any) -> Settings:
    """Settings with all state below `root`."""
    return Settings(
        workers_dir=str(root / "workers"), workspaces_dir=str(root / "workspaces"), secrets_dir=str(root / "secrets"), **changes
    )
