"""A worker's pod as the API shows it: which containers it has, which of them have begun and ended, and which secrets it was given."""

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from otto_kubekit.errors import KubeError, NotFoundError
from otto_kubekit.kinds import PODS
from otto_kubekit.objects import Container, ContainerStatus, Pod
from otto_relay.errors import SourceError, SourceLostError

if TYPE_CHECKING:
    from otto_kubekit.client import Client

WORKER = "worker"
"""The container whose output is the worker's own."""


def in_order(pod: Pod) -> tuple[list[Container], list[Container]]:
    """Its containers as they are read: those that run one after another before the others, and those that run together.

    The worker's own is the first of the latter.
    """
    before = [container for container in pod.spec.init_containers if container.restart_policy != "Always"]
    beside = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    together = sorted([*pod.spec.containers, *beside], key=lambda container: container.name != WORKER)
    return before, together


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from pod.status.init_container_statuses
    yield from pod.status.container_statuses


def begun(pod: Pod, container: str = "") -> bool:
    """Whether a container, or with none named any of them, has run, so that it has a log."""
    return any(
        status.state.running or status.state.terminated or status.last_state.terminated
        for status in _statuses(pod)
        if container in {"", status.name}
    )


def over(pod: Pod, container: str) -> bool:
    """Whether a container has ended."""
    return any(status.state.terminated is not None for status in _statuses(pod) if status.name == container)


def secret_keys(pod: Pod) -> dict[str, set[str]]:
    """The secrets whose values are in its containers' environments: by name the keys, an empty one for all of them."""
    found: dict[str, set[str]] = {}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for variable in container.env:
            reference = variable.value_from.secret_key_ref if variable.value_from else None
            if reference is not None:
                found.setdefault(reference.name, set()).add(reference.key)
        for source in container.env_from:
            if source.secret_ref is not None:
                found.setdefault(source.secret_ref.name, set()).add("")
    return found


def url_passwords(pod: Pod) -> Iterator[str]:
    """What lets one in, of the URLs in its containers' environments: the repository's is one of them."""
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for variable in container.env:
            if "://" not in variable.value or "@" not in variable.value:
                continue
            try:
                parts = urlsplit(variable.value)
            except ValueError:
                continue
            # A token may stand where the user's name does.
            for part in (parts.password, None if parts.password or parts.scheme == "ssh" else parts.username):
                if part:
                    yield from (part, unquote(part))


class WorkerPod:
    """One pod, asked for again when somebody wants it newer."""

    def __init__(self, client: "Client", pod: Pod) -> None:
        """`pod` as it was seen last."""
        self._client = client
        self.pod = pod
        self._seen = time.monotonic()
        self._asking = asyncio.Lock()

    @property
    def name(self) -> str:
        """The worker's."""
        return self.pod.metadata.name

    async def newer(self) -> Pod:
        """The pod as it is now, or a moment after this was called. Raises SourceLostError when it is gone, SourceError."""
        wanted = time.monotonic()
        async with self._asking:
            if self._seen < wanted:
                fresh = await fetched(self._client, self.name)
                if fresh.metadata.uid != self.pod.metadata.uid:
                    raise SourceLostError(f"pod {self.name} is gone; another one has its name")
                self.pod, self._seen = fresh, time.monotonic()
            return self.pod


async def fetched(client: "Client", name: str) -> Pod:
    """The pod. Raises SourceLostError when there is none, SourceError."""
    try:
        return await client.get(PODS, name)
    except NotFoundError as error:
        raise SourceLostError(f"pod {name} is gone") from error
    except KubeError as error:
        raise SourceError(str(error)) from error
