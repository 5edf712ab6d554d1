"""A cluster to test against: the fake one, and under the marker `cluster` a real one, which OTTO_TEST_KUBECONFIG names."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from otto_kubekit.client import Client
from otto_kubekit.connecting import connect
from otto_kubekit.errors import NotFoundError
from otto_kubekit.kinds import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, Kind
from otto_kubekit.objects import KubeObject, Part
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster, local_process

from ..cluster_report import reported

DEADLINE = 30.0
IMAGE = os.environ.get("OTTO_TEST_IMAGE", "ottoscaler-base:latest")
"""An image with a shell that the real cluster has."""


class ThingSpec(Part, frozen=True):
    """What a thing shall be."""

    size: int = 0
    words: tuple[str, ...] = ()


class ThingStatus(Part, frozen=True):
    """What a thing is."""

    state: str = ""


class Thing(KubeObject, frozen=True):
    """A kind of our own."""

    spec: ThingSpec = ThingSpec()
    status: ThingStatus = ThingStatus()


THINGS = Kind("test.ottoscaler.io", "v1", "things", "Thing", Thing)
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.test.ottoscaler.io"},
    "spec": {
        "group": THINGS.group,
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"size": {"type": "integer"}, "words": {"type": "array", "items": {"type": "string"}}},
                            },
                            "status": {"type": "object", "properties": {"state": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}


@dataclass(frozen=True)
class Kube:
    """A client in a namespace of its own, and the fake behind it if it is one."""

    client: Client
    fake: FakeCluster | None

    def thing(self, name: str = "", size: int = 1, **meta: Any) -> dict[str, Any]:
        """A thing to send."""
        return {
            "apiVersion": THINGS.api_version,
            "kind": "Thing",
            "metadata": {**({"name": name} if name else {}), **meta},
            "spec": {"size": size},
        }

    def pod(self, name: str, script: str, **spec: Any) -> dict[str, Any]:
        """A pod that runs a shell script in a container named worker."""
        container = {"name": "worker", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container], **spec},
        }


async def until(condition: Callable[[], Awaitable[Any]], what: str, timeout: float = DEADLINE) -> Any:
    """Waits until the condition is true, and returns what it gave."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while not (value := await condition()):
        assert loop.time() < end, f"waited {timeout} s for: {what}"
        await asyncio.sleep(0.05)
    return value


@pytest.fixture
async def fake() -> AsyncIterator[FakeCluster]:
    """A fake cluster whose pods are processes."""
    async with FakeCluster() as cluster:
        cluster.script = lambda _pod, _container: local_process
        cluster.define(THINGS)
        yield cluster


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.cluster, pytest.mark.slow])])
async def kube(request: pytest.FixtureRequest) -> AsyncIterator[Kube]:
    """Either cluster, with a fresh namespace that is deleted afterwards."""
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            fake = await stack.enter_async_context(FakeCluster())
            fake.script = lambda _pod, _container: local_process
            settings = KubeSettings(config=str(fake.kubeconfig(request.getfixturevalue("tmp_path") / "kubeconfig.json")))
        else:
            path = os.environ.get("OTTO_TEST_KUBECONFIG", "")
            if not path:
                pytest.skip("OTTO_TEST_KUBECONFIG names no cluster")
            fake, settings = None, KubeSettings(config=path)
        namespace = f"kubekit-{uuid.uuid4().hex[:8]}"
        client = await stack.enter_async_context(connect(settings, namespace))
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        await client.apply(CUSTOM_RESOURCE_DEFINITIONS, "things.test.ottoscaler.io", DEFINITION, field_manager="tests")
        await until(lambda: _served(client), "the definition is served")
        try:
            with nullcontext() if fake else reported(namespace):
                yield Kube(client, fake)
        finally:
            await client.delete(NAMESPACES, namespace)


async def _served(client: Client) -> bool:
    try:
        await client.list(THINGS)
    except NotFoundError:
        return False
    return True
