"""A release to be measured, and what can be seen of it from outside."""

import asyncio
import secrets
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from otto_kubekit.client import Client
from otto_kubekit.connecting import connect
from otto_kubekit.errors import DeadlineError
from otto_kubekit.kinds import PODS, Kind
from otto_kubekit.objects import KubeObject, Pod
from otto_kubekit.settings import KubeSettings
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from ...installed.installation import RELEASE, Installation, install, make_namespace, said
from .figures import SERVICES
from .pods import COMPONENT, Floor, Pods, watching

PORT, METRICS_PORT = 9090, 9464
WAIT_SECONDS = 300.0
RUNS = Kind("ottoscaler.io", "v1alpha1", "pipelineruns", "PipelineRun", KubeObject)
PLAIN = (
    "workers.workspace.storageClass=",
    *(f"{part}.resources.requests.cpu=100m" for part in ("scaler", "executor", "relay", "frontDoor")),  # the chart's own, which tests lower
)
"""Workers have no claims: how fast a provisioner makes them is no figure of ours, and bare pods have none either."""


class InterruptedMeasureError(Exception):
    """A service went away in the middle, as on a machine that is too busy to keep a Lease: what was measured is worth nothing."""


@dataclass(frozen=True)
class Release:
    """One release in a namespace of its own."""

    installation: Installation
    client: Client
    pods: Pods
    floor: Floor

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """To the front door, on a connection of its own."""
        async with self.installation.channel() as channel:
            yield channel

    async def configure(self, *sets: str) -> None:
        """Gives it further values; returns when the front door calls everything behind it healthy."""
        if sets:
            await asyncio.to_thread(self.installation.upgrade, *sets)
        await self.installation.serves()

    async def emptied(self) -> None:
        """Ends and deletes all runs and pods, which takes an executor, and nodes for pods that have one; returns when none is there."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                with suppress(DeadlineError):  # it goes on, and thousands take longer than a call may
                    await self.client.delete_all(RUNS, propagation="Background")
                    await self.client.delete_all(PODS, labels=f"{COMPONENT} in (worker, floor)", grace=1)
                if not (self.pods.there or (await self.client.list(RUNS, page_size=1)).items):
                    return
                await asyncio.sleep(0.5)

    async def learn_floor(self) -> None:
        """Makes bare pods as workers are, by having a look at one."""
        async with self.channel() as channel:
            spec = WorkerSpec(command=["true"])
            answer = await OttoscalerServiceStub(channel).ScaleUp(ScaleRequest(task_id=unique("like"), worker_count=1, worker=spec))
        await self.floor.learn(answer.worker_pod_names[0])
        await self.floor.all_ended(answer.worker_pod_names)
        await self.floor.clear()

    async def pod(self, service: str, other_than: str = "") -> Pod:
        """The one pod of a service, once it has an address; not the one of the uid `other_than`."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                found = (await self.client.list(PODS, labels=f"{COMPONENT}={service}")).items
                for pod in found:
                    if pod.metadata.uid != other_than and pod.status.pod_ip and pod.metadata.deletion_timestamp is None:
                        return pod
                await asyncio.sleep(0.05)

    async def samples(self, service: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The metrics of a service as they are now: by name and labels."""
        pod = await self.pod(service)
        text = await asyncio.to_thread(_fetched, f"http://{pod.status.pod_ip}:{METRICS_PORT}/metrics")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def rss(self) -> dict[str, float]:
        """Resident memory of each service in MB."""
        return {service: (await self.samples(service))["process_resident_memory_bytes", frozenset()] / 1e6 for service in SERVICES}

    async def restarted(self, service: str) -> float:
        """Deletes the pod of a service: seconds from the start of the next one's process until it is SERVING."""
        before = await self.pod(service)
        await self.client.delete(PODS, before.metadata.name, uid=before.metadata.uid)
        pod = await self.pod(service, other_than=before.metadata.uid)
        async with asyncio.timeout(WAIT_SECONDS), grpc.aio.insecure_channel(f"{pod.status.pod_ip}:{PORT}", options=_IMPATIENT) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
        serving = time.clock_gettime(time.CLOCK_BOOTTIME)
        # It is told as seconds since 1970 from the kernel's whole second of its boot: on the same machine that can be undone.
        return serving - ((await self.samples(service))["process_start_time_seconds", frozenset()] - _boot_second())


_IMPATIENT = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
]


@asynccontextmanager
async def released() -> AsyncIterator[Release]:
    """A release from its installation to its end, of which nothing is left then."""
    namespace = f"otto-bench-{secrets.token_hex(3)}"
    try:
        await asyncio.to_thread(make_namespace, namespace)
        installation = await asyncio.to_thread(install, namespace, *PLAIN)
        async with connect(KubeSettings(), namespace) as client, watching(client) as pods:
            release = Release(installation, client, pods, Floor(client, pods))
            yield release
            await release.emptied()
    finally:
        await asyncio.to_thread(_removed, namespace)


def _removed(namespace: str) -> None:
    subprocess.run(["helm", "uninstall", RELEASE, "--namespace", namespace, "--wait"], capture_output=True, timeout=120, check=False)
    said("kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--timeout=240s")


def unique(words: str) -> str:
    """An id that nobody has used."""
    return f"{words}-{secrets.token_hex(4)}"


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def _boot_second() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime"))
