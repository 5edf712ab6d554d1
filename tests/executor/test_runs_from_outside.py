"""Runs that people put into the cluster with kubectl and take out again, and executors that die or lose the API server meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from otto_executor.conductor import Conductor
from otto_executor.definition import Definition
from otto_executor.outside import DELETED
from otto_executor.progress import Progress
from otto_executor.retry import RetryPolicy
from otto_executor.settings import Settings
from otto_executor.stage import StageSpec, StageStatus
from otto_executor.stores import StoredRun
from otto_executor.stores.kubernetes import KubernetesStore
from otto_executor.stores.pipelinerun import FINALIZER, WHOLE
from otto_executor.stores.protocol import Arrival
from otto_executor.testing.cluster import store_in
from otto_executor.testing.fleet import Fate, Fleet
from otto_executor.testing.store import Crash
from otto_executor.translate_spec import understood
from otto_executor.workers import scale_up
from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.testing import FakeCluster
from otto_runtime.tasks import Backoff

from .test_conductor import begin_and_end, fleet, pipeline, process, run, to_the_end  # noqa: F401  the fixture
from .test_kubernetes_store import thing


@pytest.fixture
async def kubectl(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with cluster.client() as client:
        yield client


def read(spec: Any, pipeline_id: str) -> tuple[Definition, bytes]:
    return understood(spec, pipeline_id, Settings(), "")


@asynccontextmanager
async def executor(cluster: FakeCluster, fleet: Fleet, **options: Any) -> AsyncIterator[Conductor]:  # noqa: F811  the fixture
    """An executor on the cluster's runs, as one process runs it."""
    async with store_in(cluster) as store, process(fleet, store, outside=(store.outside, read), **options) as conductor:
        yield conductor


async def apply(kubectl: Client, name: str, stages: Sequence[dict[str, Any]] = ({"stageId": "a"},), **spec: Any) -> None:
    head = {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": name}}
    await kubectl.create(WHOLE, {**head, "spec": {"stages": list(stages), **spec}})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def state(cluster: FakeCluster, name: str) -> str:
    return str(thing(cluster, name).get("status", {}).get("state", ""))


def names(cluster: FakeCluster) -> list[str]:
    resource = cluster.resources.find(WHOLE.group, WHOLE.version, WHOLE.plural)
    return [item["metadata"]["name"] for item in cluster.storage.all(resource, "default")]


async def test_what_kubectl_applies_runs(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Applied before or after the executor started, it runs to its end, clients know it by its name, and its workers belong to it."""
    await apply(kubectl, "before")
    async with executor(cluster, fleet) as conductor:
        await apply(kubectl, "after", [{"stageId": "빌드"}, {"stageId": "b", "dependsOn": ["빌드"]}])
        await until(lambda: [state(cluster, name) for name in ("before", "after")] == ["Completed", "Completed"])
        said = await to_the_end(conductor, "after")
    assert said[-1].status is StageStatus.COMPLETED
    assert sorted(key[:2] for key in fleet.created) == [("after", "b"), ("after", "빌드"), ("before", "a")]
    owner = scale_up(fleet.orders[-1]).worker.owner
    uid = thing(cluster, "after")["metadata"]["uid"]
    assert (owner.kind, owner.name, owner.uid, owner.namespace) == ("PipelineRun", "after", uid, "default")


async def test_what_is_wrong_with_an_applied_run_stands_in_its_status(
    cluster: FakeCluster,
    kubectl: Client,
    fleet: Fleet,  # noqa: F811  the fixture
) -> None:
    """Every problem is named; nothing runs, neither now nor after a restart, and it can be deleted at once."""
    async with executor(cluster, fleet):
        await apply(kubectl, "wrong", [{"stageId": "a", "dependsOn": ["b"]}, {"stageId": "a", "type": "BUILD"}])
        await until(lambda: state(cluster, "wrong") == "Refused")
    words = thing(cluster, "wrong")["status"]["message"]
    assert "there is no stage 'b'" in words
    assert "is used by 2 stages" in words
    assert "delete this object and apply it again" in words
    async with executor(cluster, fleet):
        await apply(kubectl, "good")
        await until(lambda: state(cluster, "good") == "Completed")
        await kubectl.delete(WHOLE, "wrong")
        assert names(cluster) == ["good"]
    assert [key[0] for key in fleet.created] == ["good"]


async def test_what_was_refused_is_forgotten_by_its_age(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """It counts as ended when it came, also for an executor that has started since; nobody has to delete it."""
    async with executor(cluster, fleet):
        await apply(kubectl, "wrong", [{"stageId": "a", "dependsOn": ["b"]}])
        await until(lambda: state(cluster, "wrong") == "Refused")
    came = datetime.fromisoformat(thing(cluster, "wrong")["metadata"]["creationTimestamp"]).timestamp()
    async with store_in(cluster) as store:
        assert await store.forget(came, 0) == 0
        assert await store.forget(came + 1, 0) == 1
        assert await store.forget(came + 1, 0) == 0
    assert names(cluster) == []


async def test_what_was_refused_stays_refused(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """An executor with other settings does not suddenly run what somebody applied and gave up."""

    def strict(spec: Any, pipeline_id: str) -> tuple[Definition, bytes]:
        return understood(spec, pipeline_id, Settings(max_stages=1), "")

    async with store_in(cluster) as store, process(fleet, store, outside=(store.outside, strict)):
        await apply(kubectl, "large", [{"stageId": "a"}, {"stageId": "b"}])
        await until(lambda: state(cluster, "large") == "Refused")
    async with executor(cluster, fleet):
        await apply(kubectl, "other")
        await until(lambda: state(cluster, "other") == "Completed")
    assert state(cluster, "large") == "Refused"
    assert [key[0] for key in fleet.created] == ["other"]


async def test_an_id_that_is_known_is_refused(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Two objects may name the same id; the second is told which pipeline has it, and the first is unharmed."""
    async with executor(cluster, fleet) as conductor:
        await run(conductor, pipeline(StageSpec("a"), pipeline_id="내 것"))
        await apply(kubectl, "second", pipelineId="내 것")
        await until(lambda: state(cluster, "second") == "Refused")
    assert "ALREADY_COMPLETED" in thing(cluster, "second")["status"]["message"]
    assert len(fleet.created) == 1


async def test_an_applied_run_waits_for_its_turn(
    cluster: FakeCluster,
    kubectl: Client,
    fleet: Fleet,  # noqa: F811  the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While as many pipelines go on as may, it stays Pending and says why; it begins when one has ended."""
    monkeypatch.setattr("otto_executor.outside.ROOM_PATIENCE", 0.05)
    fleet.script = lambda _: Fate(seconds=None)
    async with executor(cluster, fleet, max_active=1) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), pipeline_id="first"), b"")
        await apply(kubectl, "second")
        await until(lambda: "fewer pipelines" in thing(cluster, "second").get("status", {}).get("message", ""))
        assert state(cluster, "second") == "Pending"
        await until(lambda: bool(fleet.created))
        fleet.end(fleet.created[0], Fate())
        await until(lambda: state(cluster, "second") == "Running")


async def test_news_of_a_run_that_is_being_begun_waits(cluster: FakeCluster, kubectl: Client) -> None:
    """News that was told before a beginning and is looked at in the middle of it takes nothing from it; afterwards it is looked at."""
    async with store_in(cluster) as store:
        await apply(kubectl, "second")
        async with aclosing(store.outside.news()) as news, asyncio.timeout(20):
            assert isinstance(await anext(news), Arrival)
            store.outside.again("second")
            async with store.outside.beginning("second", "its record", wanted=True):
                looking = asyncio.create_task(anext(news), name="look")
                await asyncio.sleep(0.2)
                assert not looking.done()
            assert isinstance(await looking, Arrival)


@pytest.mark.parametrize("away", [False, True], ids=["while the executor runs", "while it is away"])
async def test_a_deleted_run_is_cancelled_then_gone(
    cluster: FakeCluster,
    kubectl: Client,
    fleet: Fleet,  # noqa: F811  the fixture
    away: bool,
) -> None:
    """Its workers are stopped and its workspace is deleted before the object goes; who follows it sees that it was cancelled and why."""
    fleet.script = lambda _: Fate(seconds=None)
    async with executor(cluster, fleet) as conductor:
        await conductor.begin(pipeline(StageSpec("a", workers=2), StageSpec("b", depends_on=("a",))), b"")
        await until(lambda: len(fleet.created) == 2)
        workspace = (await conductor.load("p")).definition.workspace
        if not away:
            following = asyncio.create_task(to_the_end(conductor), name="follow")
            await kubectl.delete(WHOLE, "p")
            said = await following
            assert said[-1].status is StageStatus.CANCELLED
            assert DELETED in said[-1].message
            await until(lambda: not names(cluster))
    if away:
        await kubectl.delete(WHOLE, "p")
        assert names(cluster) == ["p"], "its finalizer keeps it until an executor has seen to it"
        async with executor(cluster, fleet):
            await until(lambda: not names(cluster))
    assert all(worker.status.ended for worker in fleet.workers.values())
    assert len(fleet.created) == 2
    assert fleet.workspaces_deleted == [workspace]


def finalizers(cluster: FakeCluster, name: str = "p") -> list[str]:
    return list(thing(cluster, name)["metadata"].get("finalizers", []))


def taken_off(cluster: FakeCluster, name: str = "p") -> int:
    """How often a finalizer was to be taken off: only then the object itself is patched after its beginning."""
    return len([asked for asked in cluster.requests if asked.method == "PATCH" and asked.path.endswith(f"/{name}")])


async def test_a_deleted_run_that_had_ended_goes_at_once(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Its workspace is deleted with it, once, and its id may be used again."""
    async with executor(cluster, fleet) as conductor:
        await run(conductor, pipeline(StageSpec("a")))
        await until(lambda: not finalizers(cluster))
        await kubectl.delete(WHOLE, "p")
        assert not names(cluster)
        await until(lambda: bool(fleet.workspaces_deleted))
        await run(conductor, pipeline(StageSpec("b")))
    assert len(fleet.workspaces_deleted) == 1


async def test_a_run_that_is_deleted_as_it_ends_goes_too(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Deleted before its finalizer could be taken off, it goes once its workspace is deleted."""
    cluster.faults.answer(500, times=None, when=lambda asked: asked.method == "PATCH" and asked.path.endswith("/p"))
    async with executor(cluster, fleet) as conductor:
        await run(conductor, pipeline(StageSpec("a")))
        await kubectl.delete(WHOLE, "p")
        await until(lambda: bool(fleet.workspaces_deleted))
        assert names(cluster) == ["p"]
        cluster.faults.heal()
        await until(lambda: not names(cluster))
    assert len(set(fleet.workspaces_deleted)) == 1


async def test_only_unfinished_runs_have_a_finalizer(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """It is taken off by one patch when the end is stored; what others put there stays. Without an executor ended runs can go then."""
    fleet.script = lambda key: Fate(seconds=None if key[0] == "on" else 0.0)
    async with executor(cluster, fleet) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), pipeline_id="on"), b"")
        await run(conductor, pipeline(StageSpec("a")))
        await until(lambda: not finalizers(cluster))
        assert taken_off(cluster) == 1
        metadata = {"name": "applied", "finalizers": ["test.io/other"]}
        head = {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": metadata}
        await kubectl.create(WHOLE, {**head, "spec": {"stages": [{"stageId": "a"}]}})
        await until(lambda: state(cluster, "applied") == "Completed" and finalizers(cluster, "applied") == ["test.io/other"])
    assert finalizers(cluster, "on") == [FINALIZER]
    await kubectl.patch(WHOLE, "applied", merge({"metadata": {"finalizers": []}}))
    await kubectl.delete_all(WHOLE)
    assert names(cluster) == ["on"]


async def test_an_ended_run_is_never_begun_again(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Executors that come later know it and all that was told of it by what was saved, whoever took its finalizer off."""
    cluster.faults.answer(500, times=None, when=lambda asked: asked.method == "PATCH" and asked.path.endswith("/torn"))
    async with executor(cluster, fleet) as conductor:
        said = await run(conductor, pipeline(StageSpec("a")))
        await run(conductor, pipeline(StageSpec("a"), pipeline_id="torn"))
        await until(lambda: not finalizers(cluster))
    cluster.faults.heal()
    await kubectl.patch(WHOLE, "torn", merge({"metadata": {"finalizers": []}}))
    cluster.requests.clear()
    for _ in range(2):
        async with executor(cluster, fleet) as conductor:
            await apply(kubectl, "second", pipelineId="p")
            await until(lambda: state(cluster, "second") == "Refused")
            await kubectl.delete(WHOLE, "second")
            assert sorted(short.pipeline_id for short in await conductor.page((), None, 9)) == ["p", "torn"]
            assert [(p.sequence, p.message) for p in await to_the_end(conductor)] == [(p.sequence, p.message) for p in said]
    assert not [asked for asked in cluster.requests if asked.path.endswith("/torn")], "what a list tells is enough"
    assert sorted(fleet.created) == [("p", "a", 1, 1), ("torn", "a", 1, 1)]


async def test_a_run_that_ends_as_it_begins_is_let_go_too(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """A run of which nothing was to be done is shown as ended, loses its finalizer, and is known to the next executor."""
    async with executor(cluster, fleet):
        await apply(kubectl, "p", [{"stageId": "a", "config": {"otto.run_if": "on_failure"}}])
        await until(lambda: state(cluster, "p") == "Completed" and not finalizers(cluster))
    async with executor(cluster, fleet) as conductor:
        await until(lambda: state(cluster, "p") == "Completed")
        assert [short.status for short in await conductor.page((), None, 9)] == [StageStatus.COMPLETED]
        assert (await to_the_end(conductor))[-1].status is StageStatus.COMPLETED
    assert fleet.created == []


async def test_what_could_not_be_let_go_is_let_go_later(
    cluster: FakeCluster,
    fleet: Fleet,  # noqa: F811  the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An API server that takes no patch of objects holds no run up; the finalizer goes when it takes them, or at the next start."""
    monkeypatch.setattr("otto_executor.stores.kubernetes_holds.Backoff", lambda *_: Backoff(0.01, 0.05))
    cluster.faults.answer(500, times=None, when=lambda asked: asked.method == "PATCH" and asked.path.endswith(("/p", "/q")))
    async with executor(cluster, fleet) as conductor:
        assert (await run(conductor, pipeline(StageSpec("a"))))[-1].status is StageStatus.COMPLETED
        await until(lambda: taken_off(cluster) > 1)
        assert finalizers(cluster) == [FINALIZER]
        cluster.faults.heal()
        await until(lambda: not finalizers(cluster))
        cluster.faults.answer(500, times=None, when=lambda asked: asked.method == "PATCH" and asked.path.endswith("/q"))
        await run(conductor, pipeline(StageSpec("a"), pipeline_id="q"))
    assert finalizers(cluster, "q") == [FINALIZER]
    cluster.faults.heal()
    async with executor(cluster, fleet):
        await until(lambda: not finalizers(cluster, "q"))


async def test_a_run_that_is_torn_away_leaves_no_worker(cluster: FakeCluster, kubectl: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Somebody takes the finalizer off and deletes the object under a running pipeline: its workers are stopped all the same."""
    fleet.script = lambda _: Fate(seconds=None)
    async with executor(cluster, fleet) as conductor:
        await conductor.begin(pipeline(StageSpec("a", workers=2), StageSpec("b")), b"")
        await until(lambda: len(fleet.created) == 3)
        await kubectl.patch(WHOLE, "p", merge({"metadata": {"finalizers": []}}))
        await kubectl.delete(WHOLE, "p")
        await until(lambda: all(worker.status.ended for worker in fleet.workers.values()))


async def test_an_api_server_that_is_away_holds_runs_up(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Who follows a run is told why nothing more is stored; when the API server is back it goes on, and nothing is missing or doubled."""
    fleet.script = lambda _: Fate(seconds=None)
    async with executor(cluster, fleet) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), StageSpec("b", depends_on=("a",))), b"")
        await until(lambda: bool(fleet.created))
        await cluster.stop()
        fleet.end(fleet.created[0], Fate())
        await until(lambda: "can't be reached" in conductor.held_up("p"))
        assert "See that the API server answers" in conductor.held_up("p")
        assert len(fleet.created) == 1
        fleet.script = lambda _: Fate()
        await cluster.start()
        said = await to_the_end(conductor)
    assert said[-1].status is StageStatus.COMPLETED
    assert [p.sequence for p in said if p.sequence] == list(range(1, len([p for p in said if p.sequence]) + 1))


async def test_the_loser_of_a_run_lets_go_of_it(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Of two executors that both believe to be alone, the one whose save finds another one's stops acting, and the run ends once."""
    fleet.script = lambda key: Fate(seconds=None if key[1] == "a" else 0.0)
    stages = (StageSpec("a"), StageSpec("b", depends_on=("a",)))
    async with executor(cluster, fleet) as first:
        await first.begin(pipeline(*stages), b"")
        await until(lambda: bool(fleet.created))
        async with executor(cluster, fleet) as second:
            await until(lambda: "p" in second._active)
            await second.cancel("p", "by the second")
            said = await to_the_end(second)
            await until(lambda: "p" not in first._active)
    assert said[-1].status is StageStatus.CANCELLED
    assert [key[1] for key in fleet.created] == ["a"]


async def test_fast_changes_are_saved_together(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """Of 60 workers that end one by one not each costs a save; starts and ends are saved at once, and messages have no holes."""
    fleet.script = lambda key: Fate(seconds=key[3] / 100)
    async with executor(cluster, fleet) as conductor:
        said = await run(conductor, pipeline(StageSpec("a", workers=60), StageSpec("b", depends_on=("a",))))
    saves = [asked for asked in cluster.requests if asked.method == "PATCH" and asked.path.endswith("/p/status")]
    assert len(saves) < 20
    assert [p.sequence for p in said] == list(range(1, len(said) + 1))
    assert said[-1].status is StageStatus.COMPLETED


class Halting:
    """A process's view of its store, which hangs where `crash` says."""

    def __init__(self, store: KubernetesStore, crash: Crash) -> None:
        self._store = store
        self._crash = crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def create(self, run: StoredRun, progress: Sequence[Progress], **options: Any) -> None:
        await self._crash.step()
        await self._store.create(run, progress, **options)
        await self._crash.step()

    async def save(self, run: StoredRun, progress: Sequence[Progress], *, edge: bool) -> None:
        await self._crash.step()
        await self._store.save(run, progress, edge=edge)
        await self._crash.step()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run", "cancel"])
async def test_a_crash_between_any_two_steps_is_survived(cluster: FakeCluster, fleet: Fleet, what: str) -> None:  # noqa: F811  the fixture
    """Killed before or after any write or any call to the scaler, the next process ends the run the same, no worker created twice."""
    fleet.script = lambda key: Fate(exit_code=1) if key[1:] == ("a", 1, 2) else Fate(seconds=0.002 if what == "run" else None)
    stages = (StageSpec("a", workers=2, retry=RetryPolicy(retries=1)), StageSpec("b", depends_on=("a",)))
    for at in range(100):
        name, crash = f"p{at}", Crash(at)
        async with store_in(cluster) as store:
            halting: Any = Halting(store, crash)
            async with process(fleet, halting, crash, outside=(store.outside, read)) as conductor:
                doing = asyncio.create_task(begin_and_end(conductor, pipeline(*stages, pipeline_id=name), what), name="doing")
                reached = asyncio.create_task(crash.reached.wait(), name="reached")
                await asyncio.wait({doing, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
                unharmed = doing.done()
                for task in (doing, reached):
                    task.cancel()
                await asyncio.wait({doing, reached})
        fleet.interrupt()
        async with executor(cluster, fleet) as conductor:
            if name in names(cluster):
                if what == "cancel":
                    await conductor.cancel(name, "cancelled")
                said = await to_the_end(conductor, name)
                assert said[-1].status is (StageStatus.COMPLETED if what == "run" else StageStatus.CANCELLED), at
                assert [p.sequence for p in said] == list(range(1, len(said) + 1))
        created = [key for key in fleet.created if key[0] == name]
        assert len(created) == len(set(created)), at
        if unharmed:
            assert at >= 6
            return
    pytest.fail("the run takes more steps than expected")
