"""A release of the chart on the cluster of the tests, seen as its users see it: the front door, kubectl and helm."""

import asyncio
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from otto_runtime.channels import channel_options

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "ottoscaler"
IMAGES = Path(os.environ.get("OTTO_TEST_IMAGES", ROOT / ".cache" / "images" / "values.yaml"))
"""Values that name the images to be tested, as `make images` writes them."""
WORKSHOP = IMAGES.with_name("workshop.yaml")
"""Values that name the image of workers which `make install` uses."""
RELEASE = "otto"
COMPONENTS = ("scaler", "pipeline-executor", "log-relay", "front-door")
READY_SECONDS = 240


class CommandError(AssertionError):
    """A command that had to work did not."""


def said(*command: str, stdin: str | None = None, directory: Path | None = None) -> str:
    """What a command prints. Raises CommandError with what it said against it."""
    done = subprocess.run(command, input=stdin, cwd=directory, capture_output=True, text=True, timeout=READY_SECONDS + 60, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Installation:
    """One release in a namespace of its own."""

    namespace: str
    address: str
    """Of the front door, or of what stands in its place."""

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """To the front door, on a connection of its own."""
        async with grpc.aio.insecure_channel(self.address, options=channel_options()) as channel:
            yield channel

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """In its namespace."""
        return said("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin)

    async def kubectl_soon(self, *arguments: str) -> str:
        """The same beside whatever else runs."""
        return await asyncio.to_thread(self.kubectl, *arguments)

    async def open_gate(self, worker: str) -> None:
        """Makes the file that a worker waits for; it may be quicker to end than the command, which then ends with it."""
        try:
            await self.kubectl_soon("exec", worker, "--container", "worker", "--", "touch", "/tmp/gate")
        except CommandError as error:
            if not str(error).endswith("exit code 137"):
                raise

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Those of one component: scaler, pipeline-executor, log-relay, front-door, worker."""
        found = json.loads(self.kubectl("get", "pods", "--selector", f"app.kubernetes.io/component={component}", "--output", "json"))
        return list(found["items"])

    def metrics(self, component: str) -> str:
        """Those of a service's only pod, as they are now."""
        [told] = self.metrics_of_all(component)
        return told

    def metrics_of_all(self, component: str) -> list[str]:
        """The same of each of its pods."""
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        return [self.kubectl("get", "--raw", f"{pods}/{pod['metadata']['name']}:9464/proxy/metrics") for pod in self.pods(component)]

    def workers(self) -> dict[str, list[str]]:
        """The names of the workers there are, by pipeline id."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for pod in self.pods("worker"):
            found[pod["metadata"]["annotations"].get("ottoscaler.io/pipeline-id", "")].append(pod["metadata"]["name"])
        return found

    def kill(self, pod: str) -> bool:
        """`kill -9` of the first process in a pod's container, from the node; false if there is none at the moment.

        Only a cluster whose nodes are containers of ours lets us.
        """
        found = json.loads(self.kubectl("get", "pod", pod, "--output", "json"))
        statuses = found["status"].get("containerStatuses", [])
        container = statuses[0].get("containerID", "").removeprefix("containerd://") if statuses else ""
        on_node = ("docker", "exec", found["spec"].get("nodeName", ""))
        command = ("ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)
        return bool(container) and subprocess.run([*on_node, *command], capture_output=True, timeout=60, check=False).returncode == 0

    def upgrade(self, *sets: str, **values: Any) -> None:
        """Helm upgrade with some values more, as `--set` takes them or by their names, back with all pods ready."""
        given = [word for value in sets for word in ("--set", value)]
        given += [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]
        said(*_helm("upgrade", self.namespace), "--reuse-values", *given)

    def rollback(self) -> None:
        """Helm rollback to the revision before, back with all pods ready."""
        said("helm", "rollback", RELEASE, "--namespace", self.namespace, "--wait", f"--timeout={READY_SECONDS}s")

    def restart(self, *components: str) -> None:
        """Replaces their pods, all at the same time, as an upgrade does; back with all pods ready."""
        self.kubectl("rollout", "restart", *map(_workload, components))
        for component in components:
            self.kubectl("rollout", "status", _workload(component), f"--timeout={READY_SECONDS}s")

    async def serves(self) -> None:
        """Back when the front door says that all three services are SERVING."""
        async with self.channel() as channel, asyncio.timeout(READY_SECONDS):
            while not await _serving(channel):
                await asyncio.sleep(0.2)


def _workload(component: str) -> str:
    return f"{'statefulset' if component == 'log-relay' else 'deployment'}/{RELEASE}-ottoscaler-{component}"


async def _serving(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await HealthStub(channel).Check(HealthCheckRequest(), wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def worker_image() -> str:
    """One of ours that has a shell and is in the nodes already: where it was built, the one with Git and what our own pipelines need."""
    if WORKSHOP.exists():
        return str(yaml.safe_load(WORKSHOP.read_text())["workers"]["image"])
    image = yaml.safe_load(IMAGES.read_text())["test"]["image"]
    return f"{image['repository']}:{image['tag']}"


def make_namespace(namespace: str) -> None:
    """One that keeps to the restricted profile."""
    said("kubectl", "create", "namespace", namespace)
    said("kubectl", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")


def install(namespace: str, *sets: str, address: str = "") -> Installation:
    """A release with every pod ready, in a namespace that is there; `address` is where it is reached, if not at its front door."""
    values = [
        "frontDoor.service.type=NodePort",
        "frontDoor.service.nodePort=null",
        "workers.workspace.storageClass=default",
        "workers.resources.requests.cpu=5m",
        "workers.resources.requests.memory=16Mi",
        "relay.spool.size=1Gi",
        # Two releases fit beside the control plane into two cores, also while each pod of one is replaced by another.
        *(f"{part}.resources.requests.cpu=20m" for part in ("scaler", "executor", "relay", "frontDoor")),
        f"workers.image={worker_image()}",
        *sets,
    ]
    said(*_helm("install", namespace), *(word for value in values for word in ("--set", value)))
    return Installation(namespace, address) if address else reached(namespace)


def reached(namespace: str) -> Installation:
    """The release that is installed there with a NodePort."""
    real = "kubernetes.io/os=linux"  # not a bench's fake ones
    node = said(
        "kubectl", "get", "nodes", "--selector", real, "--output", 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
    )
    selector = "app.kubernetes.io/component=front-door"
    port = said(
        "kubectl",
        "--namespace",
        namespace,
        "get",
        "services",
        "--selector",
        selector,
        "--output",
        "jsonpath={.items[0].spec.ports[0].nodePort}",
    )
    return Installation(namespace, f"{node}:{port}")


def uninstall(namespace: str, *, wait: bool = True) -> None:
    """Removes everything in the order that the README gives: the runs while there is an executor, the release, the rest."""
    said("kubectl", "--namespace", namespace, "delete", "pipelineruns", "--all", "--timeout=180s")
    subprocess.run(["helm", "uninstall", RELEASE, "--namespace", namespace, "--wait"], capture_output=True, timeout=120, check=False)
    said("kubectl", "delete", "namespace", namespace, "--timeout=180s", f"--wait={str(wait).lower()}")


def _helm(verb: str, namespace: str) -> list[str]:
    return ["helm", verb, RELEASE, str(CHART), "--namespace", namespace, "--values", str(IMAGES), "--wait", f"--timeout={READY_SECONDS}s"]
