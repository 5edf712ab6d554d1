"""The control plane of a cluster whose nodes are containers of ours, as Kind's are: what is done to it on its node, and undone again."""

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .installation import CommandError, said

MANIFEST, ASIDE = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/kube-apiserver.yaml"
EDITED = "/etc/kubernetes/kube-apiserver-edited.yaml"
PKI = "/etc/kubernetes/pki"
CERTIFICATES = ("--cacert", f"{PKI}/etcd/ca.crt", "--cert", f"{PKI}/apiserver-etcd-client.crt", "--key", f"{PKI}/apiserver-etcd-client.key")
PARTS = ("kube-controller-manager", "kube-scheduler")
SECONDS = 180
"""For anything to come about."""


@dataclass(frozen=True)
class ControlPlane:
    """Of a cluster with one node for it. All calls block; whatever was begun is undone, however the test ends."""

    node: str
    address: str

    def on_node(self, *command: str, stdin: str | None = None) -> str:
        """What a command prints there."""
        return said("docker", "exec", *(["--interactive"] if stdin else []), self.node, *command, stdin=stdin)

    @asynccontextmanager
    async def without_api_server(self) -> AsyncIterator[None]:
        """There is no API server until left; entered when it answers nobody any more, left when everything is there again."""
        self.on_node("mv", MANIFEST, ASIDE)
        try:
            await asyncio.to_thread(_until, lambda: not _works(self._readyz), "the API server to be gone")
            yield
        finally:
            await asyncio.to_thread(self._restore)

    @asynccontextmanager
    async def with_features(self, gates: str) -> AsyncIterator[None]:
        """Its API server has these feature gates, `Name=true,…`, until left; entered and left when everything is there again."""
        flag = f"--feature-gates={gates}"
        self.on_node("cp", MANIFEST, ASIDE)
        try:
            self.on_node("sh", "-c", f"sed 's/^    - kube-apiserver$/&\\n    - {flag}/' {ASIDE} > {EDITED} && mv {EDITED} {MANIFEST}")
            await asyncio.to_thread(_until, lambda: self._runs(flag), f"an API server with {flag}")
            await asyncio.to_thread(self._settle)
            yield
        finally:
            self.on_node("mv", ASIDE, MANIFEST)
            await asyncio.to_thread(_until, lambda: not self._runs(flag), f"an API server without {flag}")
            await asyncio.to_thread(self._settle)

    def _runs(self, flag: str) -> bool:
        return flag in self.on_node("sh", "-c", "pgrep -a -x kube-apiserver || true")

    def compact_etcd(self) -> None:
        """Kills etcd; what the API server knows of it is compacted away, and the rest defragmented, before the two meet again.

        So the API server, which stands still meanwhile, finds its own watches too old, begins its caches anew, and tells its watchers that
        theirs are too old too.
        """
        self.on_node("pkill", "-STOP", "-x", "kube-apiserver")
        try:
            self.on_node("pkill", "-KILL", "-x", "etcd")
            _until(lambda: self._etcd("maintenance/status"), "etcd to be there again")
            key = base64.b64encode(b"/ottoscaler/test").decode()
            self._etcd("kv/put", key=key, value=key)
            revision = self._etcd("kv/deleterange", key=key)["header"]["revision"]
            self._etcd("kv/compaction", revision=revision, physical=True)
            self._etcd("maintenance/defragment")
        finally:
            self.on_node("pkill", "-CONT", "-x", "kube-apiserver")
            self._settle()

    def _etcd(self, call: str, **question: Any) -> dict[str, Any]:
        """The answer of etcd's JSON gateway."""
        url = f"https://{self.address}:2379/v3/{call}"
        command = ("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", *CERTIFICATES)
        return dict(json.loads(self.on_node(*command, "--data", json.dumps(question), url)))

    def _readyz(self) -> str:
        return self.on_node("curl", "--silent", "--insecure", "--max-time", "5", "https://127.0.0.1:6443/readyz")

    def _restore(self) -> None:
        self.on_node("sh", "-c", f"[ -e {MANIFEST} ] || mv {ASIDE} {MANIFEST}")
        self._settle()

    def _settle(self) -> None:
        """Waits until the API server is there, and those that lost their Leases with it have begun anew."""
        _until(lambda: self._readyz() == "ok", "the API server to be there again")
        since = datetime.now(UTC)
        _until(lambda: all(stamp > since for stamp in self._renewed()), "the control plane and the nodes to work again")
        said("kubectl", "wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={SECONDS}s")

    def _renewed(self) -> list[datetime]:
        """When the parts of the control plane, and the nodes, last renewed their Leases."""
        shown = "jsonpath={.items[*].spec.renewTime}"
        parts = said("kubectl", "get", "leases", "--namespace=kube-system", *PARTS, "--output", shown)
        nodes = said("kubectl", "get", "leases", "--namespace=kube-node-lease", "--output", shown)
        return [datetime.fromisoformat(stamp) for stamp in f"{parts} {nodes}".split()]


def control_plane() -> ControlPlane | None:
    """That of the cluster of the tests; None if its node is no container that can be reached."""
    selector = "node-role.kubernetes.io/control-plane"
    shown = '{range .items[*]}{.metadata.name} {.status.addresses[?(@.type=="InternalIP")].address}{"\\n"}{end}'
    nodes = said("kubectl", "get", "nodes", "--selector", selector, "--output", f"jsonpath={shown}").splitlines()
    if len(nodes) != 1:
        return None
    name, address = nodes[0].split()
    try:
        reached = subprocess.run(["docker", "inspect", name], capture_output=True, timeout=60, check=False).returncode == 0
    except FileNotFoundError:
        return None
    return ControlPlane(name, address) if reached else None


def _until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not _works(condition):
        if time.monotonic() > end:
            raise CommandError(f"waited {SECONDS} s for {what}")
        time.sleep(0.3)


def _works(condition: Callable[[], Any]) -> bool:
    """Whether it is true; a command that fails has nobody to answer it."""
    try:
        return bool(condition())
    except CommandError:
        return False
