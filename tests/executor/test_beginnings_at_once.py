"""Beginnings of one id that meet, and those that are taken back while others go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from otto_executor.errors import NotReadyError, PipelineExistsError, StoreUnavailableError, TooManyRunsError
from otto_executor.stage import StageSpec
from otto_executor.stores import kubernetes_outside
from otto_executor.stores.kubernetes import KubernetesStore
from otto_executor.stores.pipelinerun import FINALIZER, WHOLE
from otto_executor.stores.protocol import Arrival, News
from otto_executor.testing.cluster import store_in
from otto_executor.testing.fleet import Fate, Fleet
from otto_kubekit.bodies import merge
from otto_kubekit.testing import FakeCluster
from otto_kubekit.testing.faults import Asked

from .test_conductor import fleet, pipeline, run  # noqa: F401  the fixture
from .test_kubernetes_store import everything, thing, until, wrote
from .test_runs_from_outside import executor
from .test_stores import message, record


@pytest.fixture
async def store(cluster: FakeCluster) -> AsyncIterator[KubernetesStore]:
    async with store_in(cluster) as made:
        yield made


def reads(asked: Asked) -> bool:
    return asked.method == "GET" and asked.path.endswith("/p")


class Late:
    """The first answer to a kind of write is held back until `go`; what was asked for is done."""

    def __init__(self, store: KubernetesStore, verb: str) -> None:
        self._real = getattr(store._objects._client, verb)
        self.done, self.go = asyncio.Event(), asyncio.Event()
        setattr(store._objects._client, verb, self)

    async def __call__(self, *args: Any, **options: Any) -> Any:
        answer, first = await self._real(*args, **options), not self.done.is_set()
        self.done.set()
        if first:
            await self.go.wait()
        return answer


@contextmanager
def noted(store: KubernetesStore) -> Iterator[list[News]]:
    """What the store tells meanwhile."""
    found: list[News] = []

    async def listen() -> None:
        async for news in store.outside.news():
            found.append(news)

    task = asyncio.create_task(listen(), name="listen")
    try:
        yield found
    finally:
        task.cancel()


async def seen_anew(cluster: FakeCluster, store: KubernetesStore) -> None:
    """The watch has told of everything that happened, and what follows from it was begun."""
    await until(lambda: store.outside._picture.named("p") is not None or not everything(cluster))
    before = len(cluster.requests)
    while True:
        await asyncio.sleep(0.1)
        if len(cluster.requests) == before:
            return
        before = len(cluster.requests)


async def one_more_is_refused(cluster: FakeCluster, store: KubernetesStore, late: Late) -> None:
    """Another call of the same id, before the first is answered; what the watch tells of that one comes in between."""
    await late.done.wait()
    with pytest.raises(PipelineExistsError):
        await store.create(record(created_at=9.0), [message(1)])
    cluster.faults.resume()
    await seen_anew(cluster, store)
    late.go.set()


async def test_a_second_beginning_that_is_refused_leaves_the_first_alone(cluster: FakeCluster, store: KubernetesStore) -> None:
    """A client that repeats its call while the first is under way is refused; what the first has made is not taken back."""
    cluster.faults.stall(lambda asked: asked.watch)
    late = Late(store, "create")
    with noted(store):
        first = asyncio.create_task(store.create(record(), [message(1)]))
        await one_more_is_refused(cluster, store, late)
        await first
    assert await store.load("p") == record()


async def test_what_kubectl_applied_is_told_once_while_a_call_is_refused(cluster: FakeCluster, store: KubernetesStore) -> None:
    """What is being begun for kubectl is not told to be gone on with as well: two would drive it."""
    async with cluster.client() as client:
        await client.create(WHOLE, {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": "p"}, "spec": {}})
    with noted(store) as found:
        await until(lambda: bool(found))
        arrival = found.pop()
        assert isinstance(arrival, Arrival)
        late = Late(store, "patch")
        cluster.faults.stall(lambda asked: asked.watch)
        accepted = asyncio.create_task(store.outside.accept(arrival, record(), [message(1)]))
        await one_more_is_refused(cluster, store, late)
        await accepted
        assert found == []


async def test_what_is_about_to_be_taken_back_is_told_to_nobody_as_running(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811
    """A client that was told that nothing was done is not told at its next try that the run exists: nobody would run it."""
    async with executor(cluster, fleet) as conductor:
        answered = 0

        def refuses(asked: Asked) -> bool:
            """All but one: the watch learns what the run is, and nothing can be taken back."""
            nonlocal answered
            if reads(asked) and answered == 1:
                answered = 2
                return False
            return reads(asked)

        cluster.faults.cut(after=True, when=wrote("POST"))
        cluster.faults.answer(503, times=None, when=refuses)
        with pytest.raises(StoreUnavailableError):
            await conductor.begin(pipeline(StageSpec("a", "build")), b"")
        answered = 1
        await until(lambda: answered == 2)
        with pytest.raises(StoreUnavailableError):
            await conductor.begin(pipeline(StageSpec("a", "build")), b"")
        cluster.faults.heal()
        await conductor.begin(pipeline(StageSpec("a", "build")), b"")
        assert len(everything(cluster)) == 1


async def test_an_object_of_which_nothing_is_heard_holds_up_no_other(cluster: FakeCluster, store: KubernetesStore) -> None:
    """While one is waited for that may have to be taken back, other runs begin."""
    cluster.faults.cut(after=True, when=wrote("POST"))
    cluster.faults.answer(503, times=None, when=reads)
    with pytest.raises(StoreUnavailableError):
        await store.create(record(), [message(1)])
    cluster.faults.heal()
    cluster.faults.stall(reads)
    again = asyncio.create_task(store.create(record(created_at=9.0), [message(1)]))
    try:
        await until(lambda: cluster.faults.stalled > 0)
        async with asyncio.timeout(5):
            await store.create(record("other"), [message(1)])
    finally:
        again.cancel()
        cluster.faults.resume()
        with suppress(asyncio.CancelledError):
            await again


async def test_taking_back_leaves_another_object_of_the_same_id_alone(
    cluster: FakeCluster, store: KubernetesStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kubectl applied under the id meanwhile stays begun and held; only the object that nobody wants goes."""
    monkeypatch.setattr(kubernetes_outside, "AGAIN", 0.05)
    cluster.faults.cut(after=True, when=wrote("POST"))
    cluster.faults.answer(503, times=None, when=reads)
    with pytest.raises(StoreUnavailableError):
        await store.create(record(), [message(1)])
    cluster.faults.heal()
    cluster.faults.answer(503, times=None, when=lambda asked: asked.method == "DELETE")
    with noted(store) as found:
        await until(lambda: any(asked.method == "DELETE" for asked in cluster.requests))
        async with cluster.client() as client:
            head = {"apiVersion": WHOLE.api_version, "kind": WHOLE.name}
            await client.create(WHOLE, {**head, "metadata": {"name": "foo"}, "spec": {"pipelineId": "p"}})
        await until(lambda: bool(found))
        arrival = found.pop()
        assert isinstance(arrival, Arrival)
        await store.outside.accept(arrival, record(created_at=9.0), [message(1)])
        cluster.faults.heal()
        await until(lambda: not thing(cluster, "foo")["metadata"].get("finalizers") or len(everything(cluster)) == 1)
        assert thing(cluster, "foo")["metadata"]["finalizers"] == [FINALIZER]
        assert await store.unfinished() == ["p"]
        assert found == []


async def test_runs_that_begin_at_once_are_bounded_too(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811
    """Those that are still being stored count: only as many begin as may be unfinished, and a place that was not needed is free again."""
    fleet.script = lambda _: Fate(seconds=None)
    async with executor(cluster, fleet, max_active=2) as conductor:
        cluster.faults.answer(503, when=wrote("POST"))
        with pytest.raises(StoreUnavailableError):
            await conductor.begin(pipeline(StageSpec("a", "build")), b"")
        begun = [conductor.begin(pipeline(StageSpec("a", "build"), pipeline_id=f"p{number}"), b"") for number in range(4)]
        said = await asyncio.gather(*begun, return_exceptions=True)
        assert [type(answer) for answer in said] == [type(None), type(None), TooManyRunsError, TooManyRunsError]
        assert conductor.standing().active == 2


async def test_a_namesake_waits_until_the_run_that_was_torn_away_is_let_go(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811
    """Both would stand under one id: the end of the first took the second along, and the second's own end the whole service."""
    fleet.script = lambda _: Fate(seconds=None)
    async with executor(cluster, fleet) as conductor, cluster.client() as kubectl:
        await conductor.begin(pipeline(StageSpec("a"), StageSpec("b")), b"")
        await until(lambda: len(fleet.created) == 2)
        cluster.faults.stall(lambda asked: asked.method in {"PUT", "PATCH"} and not cluster.faults.stalled)
        fleet.end(("p", "a", 1, 1), Fate())
        await until(lambda: cluster.faults.stalled > 0)
        await kubectl.patch(WHOLE, "p", merge({"metadata": {"finalizers": []}}))
        await kubectl.delete(WHOLE, "p")
        async with asyncio.timeout(10):
            while await conductor.page([], None, 1):
                await asyncio.sleep(0.005)
        with pytest.raises(NotReadyError, match="just being ended"):
            await conductor.begin(pipeline(StageSpec("c")), b"")
        cluster.faults.resume()
        await until(lambda: not conductor.standing().active)
        fleet.script = lambda _: Fate()
        await run(conductor, pipeline(StageSpec("c")))
