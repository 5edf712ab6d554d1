"""Pods as the API server tells of them, and the floor: the pods that workers are, created with nothing of ours."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from otto_kubekit.bodies import encode
from otto_kubekit.client import Client
from otto_kubekit.kinds import PODS
from otto_kubekit.watching import Added, Deleted, Modified, Watching, forever

COMPONENT = "app.kubernetes.io/component"
WAIT_SECONDS = 300.0
_FLOOR = "floor"
_ASSIGNED = ("nodeName", "priority", "preemptionPolicy", "serviceAccount")
"""What the cluster adds to a pod's spec and does not take back from somebody else, or would not decide anew."""


class Pods:
    """Workers and bare pods: when each was first heard of, seen running and seen ended."""

    def __init__(self) -> None:
        self.created: dict[str, float] = {}
        self.running: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.there: set[str] = set()
        self.named: dict[tuple[str, str], str] = {}
        """The last worker of each pipeline's stage."""
        self.synced = False
        self._news = asyncio.Condition()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns as soon as it is true."""
        async with asyncio.timeout(WAIT_SECONDS), self._news:
            await self._news.wait_for(condition)

    async def watch(self, client: Client) -> None:
        """Until cancelled."""
        selected = Watching(labels=f"{COMPONENT} in (worker, {_FLOOR})")
        async with aclosing(forever(client, PODS, selected)) as seen:
            async for change in seen:
                now = time.perf_counter()
                match change:
                    case Added(pod) | Modified(pod):
                        name, phase = pod.metadata.name, pod.status.phase
                        self.there.add(name)
                        self.created.setdefault(name, now)
                        of = pod.metadata.annotations
                        self.named[of.get("ottoscaler.io/pipeline-id", ""), of.get("ottoscaler.io/stage-id", "")] = name
                        if phase != "Pending":
                            self.running.setdefault(name, now)
                        if phase in {"Succeeded", "Failed"}:
                            self.ended.setdefault(name, now)
                    case Deleted(pod):
                        self.there.discard(pod.metadata.name)
                    case _:
                        self.synced = True
                async with self._news:
                    self._news.notify_all()


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Pods]:
    """Watches from now on, with everything that is there known."""
    pods = Pods()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pods.watch(client), name="watch pods")
        await pods.until(lambda: pods.synced)
        yield pods
        task.cancel()


class Floor:
    """Creates pods as the workers of a release are, from one of those."""

    def __init__(self, client: Client, pods: Pods) -> None:
        """`pods` watches the client's namespace."""
        self._client = client
        self._pods = pods
        self._like: dict[str, Any] = {}
        self._number = 0

    async def learn(self, worker: str) -> None:
        """Bare pods are to be as this worker's."""
        found = json.loads(await self._client.transport.call("GET", self._client.path(PODS, None, worker)))
        self._like = {name: value for name, value in found["spec"].items() if name not in _ASSIGNED}

    async def create(self, count: int, command: Sequence[str]) -> list[str]:
        """So many pods that run a command, all asked for at once; their names."""
        names = []
        for _ in range(count):
            self._number += 1
            names.append(f"floor-{self._number}")
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._client.create(PODS, encode(self._pod(name, command))), name=f"create {name}")
        return names

    def _pod(self, name: str, command: Sequence[str]) -> Mapping[str, Any]:
        containers = [{**container, "command": list(command), "args": []} for container in self._like["containers"]]
        metadata = {"name": name, "labels": {COMPONENT: _FLOOR}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**self._like, "containers": containers}}

    async def all_running(self, names: Sequence[str]) -> None:
        """Returns when all of them run or have."""
        await self._pods.until(lambda: self._pods.running.keys() >= set(names))

    async def all_ended(self, names: Sequence[str]) -> None:
        """Returns when all of them have ended."""
        await self._pods.until(lambda: self._pods.ended.keys() >= set(names))

    async def clear(self) -> None:
        """Deletes all workers and bare pods; returns when none is there."""
        await self._client.delete_all(PODS, labels=f"{COMPONENT} in (worker, {_FLOOR})", grace=1)
        await self._pods.until(lambda: not self._pods.there)
