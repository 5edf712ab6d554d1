"""FakeCluster: the parts put together, on a port of this machine."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from otto_kubekit.client import Client
from otto_kubekit.connecting import connect
from otto_kubekit.kinds import POD_METRICS, Kind
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing.containers import End
from otto_kubekit.testing.controllers import Controllers
from otto_kubekit.testing.faults import Asked, Faults
from otto_kubekit.testing.kubelet import Chosen, Kubelet
from otto_kubekit.testing.logs import ContainerLog
from otto_kubekit.testing.refusals import Refusal
from otto_kubekit.testing.resources import NAMESPACES, NODES, PODS, Resource, Resources
from otto_kubekit.testing.server import Api
from otto_kubekit.testing.storage import Object, Storage
from otto_kubekit.testing.verbs import Verbs, now


class FakeCluster:
    """A cluster in this process: `async with FakeCluster() as cluster, cluster.client() as client: …`.

    It has the namespaces `default` and `kube-system` and one node. Pods run until they are stopped unless `script` says otherwise:
    `cluster.script = lambda pod, container: Script(lines=["hello"], runs=0.1)` or `… : local_process`. `faults` has what can go wrong.
    """

    def __init__(self, bookmarks: float = 0.5, tls: ssl.SSLContext | None = None) -> None:
        """`bookmarks` are the seconds between bookmarks of a silent watch (a real server: 60); without `tls` it speaks plain HTTP."""
        self.storage = Storage()
        self.resources = Resources()
        self.verbs = Verbs(self.storage, self.resources)
        self.kubelet = Kubelet(self.storage)
        self.controllers = Controllers(self.storage, self.resources, self.verbs)
        self.faults = Faults()
        self.api = Api(self.storage, self.resources, self.verbs, self.kubelet, self.faults, bookmarks)
        self.url = ""
        self._tls = tls
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._controlling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for name in ("default", "kube-system"):
            self.add_namespace(name)
        self.verbs.create(NODES, "", {"metadata": {"name": "fake-node"}})
        self._controlling = asyncio.create_task(self.controllers.run(), name="controllers of the fake cluster")
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._controlling is not None:
            self._controlling.cancel()
            await asyncio.gather(self._controlling, return_exceptions=True)
        await self.kubelet.close()
        await self.stop()

    async def start(self) -> None:
        """Listens, after `stop` again on the same port; what is stored is still there."""
        self.api.closing = asyncio.Event()
        self._runner = web.AppRunner(self.api.application(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()
        self._port = listener.getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """The API server goes away: connections are refused, open ones are cut."""
        self.api.closing.set()
        self.faults.resume()
        self.faults.drop_connections()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, path: Path, namespace: str = "default", token: str = "") -> Path:
        """Writes a kubeconfig of this cluster."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
            "current-context": "fake",
        }
        path.write_text(json.dumps(config))
        return path

    @asynccontextmanager
    async def client(self, namespace: str = "default", timeout: float = 30.0, token: str = "") -> AsyncIterator[Client]:
        """A client of this cluster; by its `token` faults can tell it from others."""
        with TemporaryDirectory() as directory:
            settings = KubeSettings(config=str(self.kubeconfig(Path(directory) / "kubeconfig.json", token=token)), timeout=timeout)
            async with connect(settings, namespace) as client:
                yield client

    @property
    def script(self) -> Callable[[Object, str], Chosen]:
        """Says what becomes of each container, given its pod and its name."""
        return self.kubelet.script

    @script.setter
    def script(self, script: Callable[[Object, str], Chosen]) -> None:
        self.kubelet.script = script

    @property
    def requests(self) -> list[Asked]:
        """Every request so far."""
        return self.api.requests

    def define(self, kind: Kind[Any], status: bool = True) -> None:
        """Serves a kind of one's own; `status`: with the status subresource."""
        self.resources.define(kind, status)

    def add_namespace(self, name: str) -> None:
        """A namespace more."""
        self.verbs.create(NAMESPACES, "", {"metadata": {"name": name, "finalizers": ["kubernetes"]}})

    def refuse(self, when: Callable[[Resource, Object], str]) -> None:
        """From now on creations are forbidden for which `when` returns words other than "", as a quota or a policy does."""

        def admission(resource: Resource, item: Object) -> None:
            if words := when(resource, item):
                name = item["metadata"]["name"]
                raise Refusal(403, "Forbidden", f'{resource.title} "{name}" is forbidden: {words}', {"name": name, "kind": resource.plural})

        self.verbs.admissions.append(admission)

    def set_quota(self, pods: int, namespace: str = "default") -> None:
        """A ResourceQuota: no more than so many pods that have not ended."""

        def words(resource: Resource, item: Object) -> str:
            if resource is not PODS or item["metadata"]["namespace"] != namespace:
                return ""
            used = sum(p["status"].get("phase") not in {"Succeeded", "Failed"} for p in self.storage.all(PODS, namespace))
            return f"exceeded quota: fake, requested: pods=1, used: pods={used}, limited: pods={pods}" if used >= pods else ""

        self.refuse(words)

    def pod(self, name: str, namespace: str = "default") -> Object:
        """A pod as it is stored."""
        return self.verbs.get(PODS, namespace, name)

    def log(self, pod: str, container: str = "worker", namespace: str = "default") -> ContainerLog:
        """The log of a container, to write into or to rotate."""
        return self.kubelet.log(self.pod(pod, namespace), container)

    def end(
        self, pod: str, exit_code: int = 0, reason: str = "", message: str = "", container: str = "worker", namespace: str = "default"
    ) -> None:
        """Ends a scripted container now, for instance with 137 and OOMKilled."""
        self.kubelet.end(self.pod(pod, namespace), container, End(exit_code, reason, message))

    def set_status(self, pod: str, change: Mapping[str, Any], namespace: str = "default") -> None:
        """Puts fields of a pod's status, as a kubelet or a controller would: evicted, node lost."""
        self.kubelet.set_status(self.pod(pod, namespace), change)

    def serve(self, pod: str, port: int, path: str, text: str, namespace: str = "default") -> None:
        """What a pod answers at one of its ports, asked through the API server."""
        self.api.pages[f"{namespace}/{pod}:{port}/{path}"] = text

    def set_usage(self, pod: str, cpu: str, memory: str, namespace: str = "default") -> None:
        """What a metrics server says of a pod; until it is said of one, the cluster has none."""
        self.define(POD_METRICS, status=False)
        metadata = {"name": pod, "namespace": namespace, "labels": self.pod(pod, namespace)["metadata"].get("labels", {})}
        containers = [{"name": "worker", "usage": {"cpu": cpu, "memory": memory}}]
        item = {"apiVersion": POD_METRICS.api_version, "kind": POD_METRICS.name, "metadata": metadata}
        resource = self.resources.find(POD_METRICS.group, POD_METRICS.version, POD_METRICS.plural)
        self.storage.put(resource, {**item, "timestamp": now(micro=True), "window": "15s", "containers": containers})

    def compact(self) -> None:
        """Forgets the past: who goes on from an older version or page gets 410."""
        self.storage.forget()
