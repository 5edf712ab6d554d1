"""Watching: every object is Added once and Deleted once, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from otto_kubekit.bodies import merge
from otto_kubekit.errors import ExpiredError, KubeError, NotFoundError, ServerError
from otto_kubekit.kinds import CONFIG_MAPS, custom
from otto_kubekit.testing import FakeCluster, verbs
from otto_kubekit.watching import Added, Deleted, Interrupted, Memory, Modified, Synced, Watching, connection, forever, list_then_watch

from .conftest import THINGS, Kube, Thing, until

FAST = Watching(inactivity=5.0, reconcile=0)


class Watcher:
    """Collects what a watch tells."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._news = asyncio.Event()

    def add(self, seen: Any) -> None:
        self.seen.append(seen)
        self._news.set()

    async def until(self, count: int = 1, kind: type = object, timeout: float = 30.0) -> list[Any]:
        """Waits until so many observations of a kind are there, and returns them."""
        async with asyncio.timeout(timeout):
            while len(found := [s for s in self.seen if isinstance(s, kind)]) < count:
                self._news.clear()
                await self._news.wait()
        return found

    def words(self) -> list[str]:
        """`Added a` and so on, without what is about the watch itself."""
        return [f"{type(s).__name__} {s.object.metadata.name}" for s in self.seen if isinstance(s, Added | Modified | Deleted)]


@asynccontextmanager
async def watching(kube: Kube, how: Watching = FAST, **options: Any) -> AsyncIterator[Watcher]:
    """A watch of things that runs in the background, past its first list."""
    watcher = Watcher()

    async def watch() -> None:
        async with aclosing(forever(kube.client, THINGS, how, **options)) as told:
            async for seen in told:
                watcher.add(seen)

    task = asyncio.create_task(watch(), name="watch")
    try:
        await watcher.until(1, Synced)
        await until(lambda: _opened(kube.fake), "the watch is open")
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _opened(fake: FakeCluster | None) -> bool:
    return fake is None or any(asked.watch for asked in fake.requests)


@pytest.fixture
async def faked(fake: FakeCluster) -> AsyncIterator[Kube]:
    """A client of the fake only: for what a real server can't be told to do."""
    async with fake.client() as client:
        yield Kube(client, fake)


def cluster(kube: Kube) -> FakeCluster:
    assert kube.fake is not None
    return kube.fake


async def test_a_watch_tells_what_is_there_then_what_happens(kube: Kube) -> None:
    """Added for all in the list, Synced, then each change."""
    await kube.client.create(THINGS, kube.thing("old"))
    async with watching(kube) as watcher:
        assert watcher.words() == ["Added old"]
        await kube.client.create(THINGS, kube.thing("new"))
        await kube.client.patch(THINGS, "new", merge({"spec": {"size": 2}}))
        await kube.client.delete(THINGS, "old")
        await watcher.until(1, Deleted)
    assert watcher.words() == ["Added old", "Added new", "Modified new", "Deleted old"]
    assert [s.object.spec.size for s in watcher.seen if isinstance(s, Modified)] == [2]


async def test_who_no_longer_fits_the_selection_is_deleted(kube: Kube) -> None:
    """And who begins to fit is Added."""
    await kube.client.create(THINGS, kube.thing("one", labels={"on": "no"}))
    async with watching(kube, Watching(labels="on=yes", reconcile=0)) as watcher:
        await kube.client.patch(THINGS, "one", merge({"metadata": {"labels": {"on": "yes"}}}))
        await watcher.until(1, Added)
        await kube.client.patch(THINGS, "one", merge({"metadata": {"labels": {"on": "no"}}}))
        await watcher.until(1, Deleted)
    assert watcher.words() == ["Added one", "Deleted one"]


async def test_the_same_name_again_is_another_object(kube: Kube) -> None:
    """Deleted, then Added with a new uid."""
    await kube.client.create(THINGS, kube.thing("one"))
    async with watching(kube) as watcher:
        await kube.client.delete(THINGS, "one")
        await kube.client.create(THINGS, kube.thing("one"))
        added = await watcher.until(2, Added)
    assert watcher.words() == ["Added one", "Deleted one", "Added one"]
    assert added[0].object.metadata.uid != added[1].object.metadata.uid


async def test_pages_are_told_as_one_list(kube: Kube) -> None:
    """Synced comes once, after the last page."""
    for number in range(5):
        await kube.client.create(THINGS, kube.thing(f"t{number}"))
    async with watching(kube, Watching(page_size=2, reconcile=0)) as watcher:
        assert watcher.words() == [f"Added t{number}" for number in range(5)]
        assert isinstance(watcher.seen[-1], Synced)


async def test_a_watch_of_nothing_tells_bookmarks(kube: Kube) -> None:
    """One connection that the server ends as asked, with a version to go on from and no object; a real server sends it towards the end."""
    listing = await kube.client.list(THINGS)
    loop = asyncio.get_running_loop()
    events = [e async for e in connection(kube.client, THINGS, Watching(), listing.resource_version, loop.time() + 4)]
    assert all(event.object is None and event.resource_version for event in events)


async def test_an_old_version_is_expired(faked: Kube) -> None:
    """As an event of the stream."""
    listing = await faked.client.list(THINGS)
    cluster(faked).compact()
    with pytest.raises(ExpiredError):
        async for _ in connection(faked.client, THINGS, Watching(), listing.resource_version):
            pass


async def test_a_connection_that_breaks_is_opened_where_it_stood(faked: Kube) -> None:
    """Nothing is told twice, nothing is missing, and nobody lists again."""
    async with watching(faked) as watcher:
        for number in range(5):
            await faked.client.create(THINGS, faked.thing(f"t{number}"))
            await watcher.until(number + 1, Added)
            assert cluster(faked).faults.drop_connections(lambda asked: asked.watch) <= 1
        await faked.client.create(THINGS, faked.thing("last"))
        await watcher.until(6, Added)
        assert [type(s) for s in watcher.seen].count(Synced) == 1
    lists = [asked for asked in cluster(faked).requests if asked.method == "GET" and asked.path.endswith("/things") and not asked.watch]
    assert len(lists) == 1


async def test_a_silent_connection_is_given_up(faked: Kube) -> None:
    """A watch that stalls without breaking is opened again after the inactivity timeout."""
    async with watching(faked, Watching(inactivity=0.3, reconcile=0)) as watcher:
        first = True

        def only_the_first(asked: Any) -> bool:
            return bool(asked.watch) and first

        cluster(faked).faults.stall(only_the_first)
        await faked.client.create(THINGS, faked.thing("one"))
        first = False
        await watcher.until(1, Added)
        assert watcher.words() == ["Added one"]


async def test_bookmarks_keep_a_silent_connection(faked: Kube) -> None:
    """With bookmarks more often than the inactivity timeout there is one connection only."""
    async with watching(faked, Watching(inactivity=3.0, reconcile=0)):
        await asyncio.sleep(3.5)
    assert len([asked for asked in cluster(faked).requests if asked.watch]) == 1


async def test_after_410_only_differences_are_told(faked: Kube) -> None:
    """What was missed is told once, what is gone is Deleted with its last known state."""
    for name in ("stays", "goes", "changes"):
        await faked.client.create(THINGS, faked.thing(name))
    async with watching(faked) as watcher:
        cluster(faked).faults.stall(lambda asked: asked.watch)
        await faked.client.delete(THINGS, "goes")
        await faked.client.create(THINGS, faked.thing("comes"))
        await faked.client.patch(THINGS, "changes", merge({"spec": {"size": 9}}))
        cluster(faked).compact()
        cluster(faked).faults.drop_connections(lambda asked: asked.watch)
        cluster(faked).faults.resume()
        synced = await watcher.until(2, Synced)
    assert sorted(watcher.words()[3:]) == ["Added comes", "Deleted goes", "Modified changes"]
    assert (synced[1].why, synced[1].missed) == ("expired", 3)
    assert [s.assumed for s in watcher.seen if isinstance(s, Deleted)] == [True]


async def test_a_lost_event_is_found_by_the_next_list(faked: Kube) -> None:
    """A server that loses events is caught by the periodic reconcile, and told to be one."""
    async with watching(faked, Watching(reconcile=0.7)) as watcher:
        cluster(faked).faults.lose_events(1)
        await faked.client.create(THINGS, faked.thing("lost"))
        await watcher.until(1, Added)
        synced = await watcher.until(2, Synced)
    assert watcher.words() == ["Added lost"]
    assert [(s.why, s.missed) for s in synced[1:2]] == [("reconcile", 1)]


async def test_a_reconcile_with_nothing_new_tells_nothing(faked: Kube) -> None:
    """Only that it took place."""
    await faked.client.create(THINGS, faked.thing("one"))
    async with watching(faked, Watching(reconcile=0.3)) as watcher:
        synced = await watcher.until(4, Synced)
    assert watcher.words() == ["Added one"]
    assert [s.missed for s in synced[:4]] == [0, 0, 0, 0]


async def test_an_outage_is_told_and_survived(faked: Kube) -> None:
    """The API server goes away and comes back: Interrupted meanwhile, then what happened."""
    await faked.client.create(THINGS, faked.thing("before"))
    async with watching(faked, decide=lambda _error, _failures: 0.1) as watcher:
        await cluster(faked).stop()
        await watcher.until(2, Interrupted)
        cluster(faked).verbs.create(cluster(faked).resources.find(THINGS.group, "v1", "things"), "default", faked.thing("meanwhile"))
        await cluster(faked).start()
        await watcher.until(2, Added)
    assert watcher.words() == ["Added before", "Added meanwhile"]


async def test_an_error_may_end_it(faked: Kube) -> None:
    """When the decision is to raise."""
    nothing = custom("nobody.example", "v1", "nothings", "Nothing")
    with pytest.raises(NotFoundError):
        async for _ in forever(faked.client, nothing, FAST, decide=lambda _error, _failures: None):
            pass


async def test_failures_are_counted_from_the_last_success(faked: Kube) -> None:
    """So that waits grow while nothing works, and begin small again after."""
    counts: list[int] = []

    def decide(error: KubeError, failures: int) -> float:
        assert isinstance(error, ServerError)
        counts.append(failures)
        return 0.01

    cluster(faked).faults.answer(500, times=3)
    async with watching(faked, decide=decide):
        pass
    assert counts == [1, 2, 3]


async def test_a_very_long_line_is_read(faked: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of several megabytes, as a cluster with a larger limit than usual has it, and no line reader of aiohttp takes."""
    monkeypatch.setattr(verbs, "ETCD_BYTES", 10_000_000)
    async with watching(faked) as watcher:
        big = {**faked.thing("big"), "spec": {"size": 1, "words": ["x" * 1_000_000] * 6}}
        cluster(faked).verbs.create(cluster(faked).resources.find(THINGS.group, "v1", "things"), "default", big)
        added = await watcher.until(1, Added)
    thing: Thing = added[0].object
    assert [len(word) for word in thing.spec.words] == [1_000_000] * 6


async def test_list_then_watch_raises_what_it_meets(faked: Kube) -> None:
    """The layer below forever decides nothing."""
    memory: Memory[Thing] = Memory()
    cluster(faked).faults.answer(500)
    with pytest.raises(ServerError):
        async for _ in list_then_watch(faked.client, THINGS, FAST, memory):
            pass


@pytest.mark.parametrize("code", [403, 410, 500])
async def test_a_watch_that_never_opens_does_not_list_in_a_tight_loop(code: int) -> None:
    """Each list works, and is asked for less and less often."""
    async with FakeCluster() as cluster, cluster.client() as client:
        cluster.faults.answer(code, times=None, when=lambda asked: asked.watch)
        watcher = Watcher()

        async def watch() -> None:
            async with aclosing(forever(client, CONFIG_MAPS, FAST)) as told:
                async for seen in told:
                    watcher.add(seen)

        task = asyncio.create_task(watch(), name="watch")
        await watcher.until(2, Synced)
        await asyncio.sleep(4.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert sum(not asked.watch for asked in cluster.requests) < 12
