"""What is counted of the traffic with the API server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client import REGISTRY

from otto_kubekit.client import Client
from otto_kubekit.errors import AlreadyExistsError
from otto_kubekit.kinds import CONFIG_MAPS
from otto_kubekit.metrics import labels
from otto_kubekit.testing import FakeCluster
from otto_kubekit.watching import Synced, Watching, forever


def figure(name: str, **wanted: str) -> float:
    return REGISTRY.get_sample_value(name, wanted) or 0.0


@pytest.mark.parametrize(
    ("method", "path", "query", "wanted"),
    [
        ("GET", "/api/v1/namespaces/n/pods", {}, ("list", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, ("watch", "pods")),
        ("GET", "/api/v1/namespaces/n/pods/p/log", {"follow": "true"}, ("get", "pods/log")),
        ("GET", "/api/v1/namespaces/n", {}, ("get", "namespaces")),
        ("PATCH", "/apis/ottoscaler.io/v1alpha1/namespaces/n/pipelineruns/p/status", {}, ("patch", "pipelineruns/status")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", {}, ("update", "leases")),
        ("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods", {}, ("list", "pods.metrics.k8s.io")),
        ("DELETE", "/api/v1/namespaces/n/pods", {}, ("deletecollection", "pods")),
        ("GET", "/version", {}, ("get", "none")),
    ],
)
def test_requests_are_labelled_as_kubernetes_names_them(method: str, path: str, query: dict[str, str], wanted: tuple[str, str]) -> None:
    """Verb and resource, as in RBAC rules; neither a name nor a namespace, of which there is no end."""
    assert labels(method, path, query) == wanted


async def test_every_request_counts_with_its_code() -> None:
    """Also one that is refused, and one that gets no answer."""
    name = "otto_kube_request_duration_seconds_count"
    before = {code: figure(name, verb="create", resource="configmaps", code=code) for code in ("201", "409", "none")}
    async with FakeCluster() as fake, fake.client(timeout=5.0) as client:
        body = {"metadata": {"name": "one"}}
        await client.create(CONFIG_MAPS, body)
        with pytest.raises(AlreadyExistsError):
            await client.create(CONFIG_MAPS, body)
        fake.faults.stall(lambda asked: asked.method == "POST")
        with pytest.raises(Exception, match="no answer"):
            await client.create(CONFIG_MAPS, {"metadata": {"name": "two"}}, timeout=0.2)
    after = {code: figure(name, verb="create", resource="configmaps", code=code) for code in before}
    assert {code: after[code] - before[code] for code in before} == {"201": 1, "409": 1, "none": 1}


async def test_lists_and_connections_of_watches_count() -> None:
    """By what made them necessary; and the seconds that the server had us wait."""
    names = {"start": figure("otto_kube_watch_lists_total", resource="configmaps", why="start")}
    connections = figure("otto_kube_watch_connections_total", resource="configmaps")
    waited = figure("otto_kube_request_throttled_seconds_total")
    async with FakeCluster() as fake, fake.client(timeout=5.0) as client:
        fake.faults.answer(429, times=1, retry_after=0)
        await synced(client)
    assert figure("otto_kube_watch_lists_total", resource="configmaps", why="start") == names["start"] + 1
    assert figure("otto_kube_watch_connections_total", resource="configmaps") == connections + 1
    assert figure("otto_kube_request_throttled_seconds_total") >= waited + 0.1


@pytest.mark.parametrize(("why", "code"), [("expired", 410), ("interrupted", 404), ("reconcile", None)])
async def test_what_only_a_list_shows_is_counted_with_why_it_was_asked_for(why: str, code: int | None) -> None:
    """A change that comes while no watch can be opened, or whose event is lost; the objects of the first list are no such changes."""

    def figures() -> list[float]:
        lists = figure("otto_kube_watch_lists_total", resource="configmaps", why=why)
        return [lists, figure("otto_kube_watch_missed_changes_total", resource="configmaps")]

    watching = Watching(reconcile=0 if code else 0.3)
    async with FakeCluster() as fake, fake.client(timeout=5.0) as client:
        await client.create(CONFIG_MAPS, {"metadata": {"name": "there"}})
        before = figures()
        async with asyncio.timeout(20), aclosing(forever(client, CONFIG_MAPS, watching, lambda *_: 0.0)) as seen:
            assert (await first(seen, Synced)).why == "start"
            assert figures() == before
            if code is None:
                fake.faults.lose_events(1)
            else:
                fake.faults.answer(code, when=lambda asked: asked.watch)
            await client.create(CONFIG_MAPS, {"metadata": {"name": "missed"}})
            assert (await first(seen, Synced)).missed == 1
    assert figures() == [before[0] + 1, before[1] + 1]


async def first(seen: AsyncIterator[Any], kind: type[Any]) -> Any:
    """The next of this kind that a watch tells."""
    return await anext(change async for change in seen if isinstance(change, kind))


async def synced(client: Client) -> None:
    """Watches until a first change was told by the connection."""
    async with asyncio.timeout(20), aclosing(forever(client, CONFIG_MAPS, Watching())) as seen:
        async for change in seen:
            if isinstance(change, Synced):
                await client.create(CONFIG_MAPS, {"metadata": {"name": "seen"}})
            else:
                return
