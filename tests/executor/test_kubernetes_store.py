"""The store of PipelineRuns: what people see of it, what they may do to it, and answers that are lost."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from otto_executor.definition import Definition
from otto_executor.errors import (
    PipelineExistsError,
    RunGoneError,
    RunTooLargeError,
    RunUnreadableError,
    SaveConflictError,
    StoreUnavailableError,
)
from otto_executor.run_state import fresh
from otto_executor.settings import Settings
from otto_executor.stage import Phase, StageSpec, StageStatus, Worker, WorkerStatus
from otto_executor.stores import StoredRun
from otto_executor.stores.kubernetes import KubernetesStore, watched
from otto_executor.stores.pipelinerun import FINALIZER, INSTANCE_LABEL, WHOLE
from otto_executor.stores.protocol import Arrival, Left
from otto_executor.testing.cluster import store_in
from otto_executor.translate_spec import spec_of, understood
from otto_kubekit.bodies import merge
from otto_kubekit.kinds import custom
from otto_kubekit.testing import FakeCluster
from otto_kubekit.testing.faults import Asked

from .test_stores import ended, message, record

RAW = custom(WHOLE.group, WHOLE.version, WHOLE.plural, WHOLE.name)


@pytest.fixture
async def store(cluster: FakeCluster) -> AsyncIterator[KubernetesStore]:
    async with store_in(cluster) as made:
        yield made


def thing(cluster: FakeCluster, name: str) -> dict[str, Any]:
    """The object as the API server keeps it."""
    resource = cluster.resources.find(WHOLE.group, WHOLE.version, WHOLE.plural)
    found: dict[str, Any] = cluster.verbs.get(resource, "default", name)
    return found


def wrote(method: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.method == method and "pipelineruns" in asked.path


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_people_can_read_how_a_run_stands(cluster: FakeCluster, store: KubernetesStore) -> None:
    """The spec is what was asked for; the status says state, progress, and of each stage state, attempt, workers and message."""
    spec = {"stages": [{"stageId": "빌드", "type": "build"}, {"stageId": "gate", "type": "APPROVAL", "dependsOn": ["빌드"]}]}
    definition, request = understood(spec, "내 것", Settings(), "")
    run = StoredRun(definition, request, fresh(definition, 1_700_000_000.5))
    await store.create(run, [message(1)])
    assert run.owner is not None
    item = thing(cluster, run.owner.name)
    assert (item["spec"]["pipelineId"], item["spec"]["stages"][0]) == ("내 것", {"stageId": "빌드", "type": "BUILD"})
    assert (item["metadata"]["finalizers"], item["metadata"]["labels"]) == ([FINALIZER], {INSTANCE_LABEL: "ottoscaler"})
    stage = run.state.stages["빌드"]
    stage.phase, stage.status, stage.attempt, stage.message = Phase.RUNNING, StageStatus.RUNNING, 2, "1 worker asked for"
    stage.workers[1] = Worker("w", WorkerStatus.RUNNING)
    run.state.stages["gate"].phase = Phase.APPROVAL
    await store.save(run, [message(2)], edge=True)
    status = thing(cluster, run.owner.name)["status"]
    assert {field: status[field] for field in ("state", "progress", "stagesEnded", "message", "awaitingApproval", "startedAt")} == {
        "state": "Running", "progress": "0%", "stagesEnded": "0/2", "message": "waits for approval: gate", "awaitingApproval": ["gate"],
        "startedAt": "2023-11-14T22:13:20.500Z",
    }  # fmt: skip
    assert status["stages"][0] == {
        "stageId": "빌드", "state": "Running", "attempt": 2, "workers": "0/1", "message": "1 worker asked for",
    }  # fmt: skip
    run.state.stages["gate"].phase = Phase.ENDED
    run.state.error = "no"
    await store.save(ended(run, 1_700_000_009.0, StageStatus.FAILED), [], edge=True)
    status = thing(cluster, run.owner.name)["status"]
    assert (status["state"], status["message"], status["endedAt"]) == ("Failed", "no", "2023-11-14T22:13:29.000Z")
    assert "awaitingApproval" not in status


async def test_who_marks_a_run_takes_nothing_over(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Labels and annotations that somebody puts on a run change its version in the cluster, not ours: the next save goes on."""
    run = record()
    await store.create(run, [message(1)])
    async with cluster.client() as client:
        for number in range(3):
            await client.patch(WHOLE, "p", merge({"metadata": {"labels": {"team": str(number)}}}))
            await store.save(run, [message(number + 2)], edge=False)
        assert (await client.get(WHOLE, "p")).metadata.labels["team"] == "2"
    assert await store.load("p") == run


async def test_two_executors_never_save_the_same_run(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Who goes on from a version that another process has replaced gets a conflict, also when both had loaded the same; nothing changes."""
    await store.create(record(), [message(1)])
    async with store_in(cluster) as other:
        mine, theirs = await store.load("p"), await other.load("p")
        assert mine is not None
        assert theirs is not None
        await other.save(theirs, [message(2)], edge=False)
        with pytest.raises(SaveConflictError):
            await store.save(mine, [message(2, stage_id="wrong")], edge=False)
        assert await other.progress("p", 1, 9) == [message(2)]


async def test_a_save_whose_answer_is_lost_is_done_once(cluster: FakeCluster, store: KubernetesStore) -> None:
    """It is told as not done; saved again it counts once, and messages are there once."""
    run = record()
    await store.create(run, [message(1)])
    cluster.faults.cut(after=True, when=wrote("PATCH"))
    with pytest.raises(StoreUnavailableError):
        await store.save(run, [message(2)], edge=True)
    await store.save(run, [message(2)], edge=True)
    assert run.version == 2
    assert await store.progress("p", 0, 9) == [message(1), message(2)]
    assert await store.load("p") == run


async def test_what_was_told_to_have_failed_is_written_over(cluster: FakeCluster, store: KubernetesStore) -> None:
    """A save whose answer was lost, and that was taken back, leaves nothing behind once something else is saved."""
    run = record()
    await store.create(run, [message(1)])
    run.state.error = "was never answered"
    cluster.faults.cut(after=True, when=wrote("PATCH"))
    with pytest.raises(StoreUnavailableError):
        await store.save(run, [message(2, stage_id="taken back")], edge=True)
    run.state.error = ""
    await store.save(run, [message(2)], edge=True)
    assert await store.progress("p", 1, 9) == [message(2)]
    assert await store.load("p") == run


async def test_a_beginning_whose_answer_is_lost_counts(cluster: FakeCluster, store: KubernetesStore) -> None:
    """The object that was made is found and taken for what it is."""
    cluster.faults.cut(after=True, when=wrote("POST"))
    await store.create(record(), [message(1)])
    assert await store.load("p") == record()


async def test_a_beginning_that_was_told_to_have_failed_is_taken_back(cluster: FakeCluster, store: KubernetesStore) -> None:
    """When the API server is away after it made the object, the caller is told that nothing was done, and nothing is left of it."""
    cluster.faults.cut(after=True, when=wrote("POST"))
    cluster.faults.answer(503, times=None, when=lambda asked: asked.method == "GET" and asked.path.endswith("/p"))
    with pytest.raises(StoreUnavailableError):
        async with asyncio.timeout(30):
            await store.create(record(), [message(1)])
    assert thing(cluster, "p")["record"]
    cluster.faults.heal()
    news = asyncio.ensure_future(anext(store.outside.news()))
    try:
        await until(lambda: "p" not in [item["metadata"]["name"] for item in everything(cluster)])
        assert not news.done()
    finally:
        news.cancel()
    await store.create(record(), [message(1)])


@pytest.mark.parametrize("told", [False, True], ids=["before the watch tells of it", "once the watch has told of it"])
async def test_a_beginning_that_was_told_to_have_failed_can_be_tried_again_at_once(cluster: FakeCluster, *, told: bool) -> None:
    """The first one's object makes room for the second one's, and what the watch tells of it later is no news of the second one."""
    async with store_in(cluster) as store:
        away = True
        if not told:
            cluster.faults.stall(lambda asked: asked.watch)
        cluster.faults.cut(after=True, when=wrote("POST"))
        cluster.faults.answer(503, times=None, when=lambda asked: away and asked.method == "GET" and asked.path.endswith("/p"))
        with pytest.raises(StoreUnavailableError):
            await store.create(record(), [message(1)])
        first = thing(cluster, "p")["metadata"]["uid"]
        away = False
        if told:
            await until(lambda: store.outside._picture.of("p") is not None)
        news = asyncio.ensure_future(anext(store.outside.news()))
        try:
            await store.create(again := record(created_at=9.0), [message(1)])
            assert thing(cluster, "p")["metadata"]["uid"] != first
            cluster.faults.resume()
            async with cluster.client() as client:
                await client.patch(WHOLE, "p", merge({"metadata": {"labels": {"seen": "yes"}}}))
                version = (await client.get(WHOLE, "p")).metadata.resource_version
            await until(lambda: (known := store.outside._picture.named("p")) is not None and known.resource_version == version)
            assert not news.done()
        finally:
            news.cancel()
        assert await store.load("p") == again
        assert len(everything(cluster)) == 1


async def test_a_second_beginning_that_is_refused_makes_the_first_no_less_uncertain(cluster: FakeCluster, store: KubernetesStore) -> None:
    """What kubectl applied was begun, and nobody was told so; a call that wants its id is refused, and the run goes on."""
    async with cluster.client() as client:
        await client.create(WHOLE, {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": "p"}, "spec": {}})
    news = store.outside.news()
    arrival = await anext(news)
    assert isinstance(arrival, Arrival)
    cluster.faults.cut(after=True, when=wrote("PATCH"))
    with pytest.raises(StoreUnavailableError):
        await store.outside.accept(arrival, record(), [message(1)])
    with pytest.raises(PipelineExistsError):
        await store.create(record(created_at=9.0), [message(1)])
    async with asyncio.timeout(10):
        assert await anext(news) == Left("p")
    assert await store.load("p") == record()


def everything(cluster: FakeCluster) -> list[dict[str, Any]]:
    return list(cluster.storage.all(cluster.resources.find(WHOLE.group, WHOLE.version, WHOLE.plural), "default"))


async def test_a_run_that_is_taken_away_is_told_as_gone(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Who saves it learns that there is no such run any more, also if there is another one of that name by then."""
    run = record()
    await store.create(run, [message(1)])
    async with cluster.client() as client:
        await client.patch(WHOLE, "p", merge({"metadata": {"finalizers": []}}))
        await client.delete(WHOLE, "p")
    with pytest.raises(RunGoneError):
        await store.save(run, [message(2)], edge=True)


async def test_another_object_of_its_name_is_not_taken_for_a_run(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Before the watch tells that somebody has put another one in its place, the run is gone already; it is not damaged."""
    await store.create(record(), [message(1)])
    cluster.faults.stall(lambda asked: asked.watch)
    async with cluster.client() as client:
        await client.patch(WHOLE, "p", merge({"metadata": {"finalizers": []}}))
        await client.delete(WHOLE, "p")
        await client.create(WHOLE, {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": "p"}, "spec": {}})
    assert await store.load("p") is None


@pytest.mark.parametrize(
    ("code", "words"), [(500, "can't be reached"), (403, "does not let the executor"), (404, "does not know PipelineRuns")]
)
async def test_an_api_server_that_refuses_is_told(cluster: FakeCluster, store: KubernetesStore, code: int, words: str) -> None:
    """Nothing is done, the words say what and what to do, and it works again by itself."""
    cluster.faults.answer(code, times=None, when=wrote("POST"))
    with pytest.raises(StoreUnavailableError, match=words) as raised:
        await store.create(record(), [message(1)])
    assert store.outside.unwanted("p") == (code == 500)  # it may have been written all the same; what was refused was not
    assert "told to fail" not in str(raised.value)
    cluster.faults.heal()
    await store.create(record(), [message(1)])


async def test_a_new_process_knows_all_runs(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Lists, states and messages are the same for the next one, also of a run that was begun and never saved."""
    await store.create(first := record("first", 1.0), [message(1)])
    await store.create(record("second", 2.0), [message(1)])
    await store.save(ended(first, 5.0), [message(2)], edge=True)
    async with store_in(cluster) as other:
        assert await other.page((), None, 9) == await store.page((), None, 9)
        assert await other.unfinished() == ["second"]
        assert await other.load("first") == first
        assert await other.progress("first", 0, 9) == [message(1), message(2)]


async def test_installations_in_a_namespace_do_not_see_each_other(cluster: FakeCluster, store: KubernetesStore) -> None:
    """The same id can be used by both, each has its own object."""
    await store.create(record(), [message(1)])
    async with store_in(cluster, "other") as other:
        assert await other.page((), None, 9) == []
        await other.create(record(created_at=9.0), [message(1)])
        loaded = await other.load("p")
    assert loaded is not None
    assert loaded.state.created_at == 9.0
    assert await store.load("p") == record()
    assert len(everything(cluster)) == 2


async def test_an_object_of_that_name_with_another_id_is_no_hindrance(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Somebody's object is called as our id is; the run gets another name. One that waits to be begun under this id keeps it."""
    async with cluster.client() as client:
        head = {"apiVersion": WHOLE.api_version, "kind": WHOLE.name}
        await client.create(WHOLE, {**head, "metadata": {"name": "p"}, "spec": {"pipelineId": "another"}})
        await client.create(WHOLE, {**head, "metadata": {"name": "q"}, "spec": {}})
    await store.create(record(), [message(1)])
    assert await store.load("p") == record()
    with pytest.raises(PipelineExistsError):
        await store.create(record("q"), [message(1)])


async def test_a_damaged_run_harms_no_other(cluster: FakeCluster, store: KubernetesStore) -> None:
    """It is told as such, here and to the next process; the others are there, and it can be let go."""
    run = record("bad")
    await store.create(run, [message(1)])
    await store.create(record("good"), [message(1)])
    await store.save(run, [message(2)], edge=True)
    async with cluster.client() as client:
        await client.patch(WHOLE, "bad", merge({"status": {"memory": {"state": "AAAA"}}}), subresource="status")
    with pytest.raises(RunUnreadableError, match="bad"):
        await store.load("bad")
    async with store_in(cluster) as other:
        assert await other.load("good") == record("good")
        with pytest.raises(RunUnreadableError, match="bad"):
            await other.load("bad")
        await other.outside.let_go("bad")
    assert thing(cluster, "bad")["metadata"].get("finalizers", []) == []


async def test_forgotten_runs_are_deleted(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Nothing of them is left in the cluster, and their ids may be used again."""
    await store.create(run := record(), [message(1)])
    await store.save(ended(run, 5.0), (), edge=True)
    await store.workspace_deleted("p")
    assert await store.forget(6.0, 9) == 1
    assert everything(cluster) == []
    await store.create(record(), [message(1)])


async def test_a_run_that_is_held_by_nobody_is_forgotten_by_one_call(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Nothing but its deletion is asked for, and its id may be used again."""
    await store.create(run := record(), [message(1)])
    await store.save(ended(run, 5.0), (), edge=True)
    await store.workspace_deleted("p")
    tidying = asyncio.create_task(store.outside.tidy(), name="tidy")
    news = asyncio.ensure_future(anext(store.outside.news()))
    try:
        await until(lambda: not thing(cluster, "p")["metadata"].get("finalizers"))
        await until(lambda: not news.done())
    finally:
        for task in (tidying, news):
            task.cancel()
        await asyncio.wait({tidying, news})
    async with asyncio.timeout(10):
        while (known := store._picture.of("p")) is None or known.held:
            await asyncio.sleep(0.005)
    before = len(cluster.requests)
    assert await store.forget(6.0, 9) == 1
    assert [asked.method for asked in cluster.requests[before:]] == ["DELETE"]
    assert everything(cluster) == []
    await store.create(record(), [message(1)])


async def test_a_run_that_no_object_can_hold_is_refused(store: KubernetesStore) -> None:
    """It is told with its size before anything is done."""
    run = record()
    with pytest.raises(RunTooLargeError, match=r"takes 12\d{5} bytes when packed"):
        await store.create(StoredRun(run.definition, random.Random(1).randbytes(900_000), run.state), [message(1)])
    assert await store.load("p") is None


async def test_a_large_run_is_a_small_object(cluster: FakeCluster, store: KubernetesStore) -> None:
    """100 stages with 100 workers each, all running, 5,000 messages: everything together takes below 200 KiB, and fewer saves follow."""
    stages = tuple(StageSpec(f"stage {n} 빌드", workers=100, command=("sh", "-c"), args=(f"make target-{n}",)) for n in range(100))
    spec = {"stages": [{"stageId": s.stage_id, "workerCount": 100, "command": ["sh", "-c"], "args": list(s.args)} for s in stages]}
    _, request = understood(spec, "large", Settings(max_workers=10_000), "")
    definition = Definition("large", stages=stages)
    run = StoredRun(definition, request, fresh(definition, 1_700_000_000.5))
    await store.create(run, [message(1)])
    assert store.pause("large") < 0.5
    draw, said, order = random.Random(1), [], [stage_id for stage_id in run.state.stages for _ in range(50)]
    for number, stage in enumerate(run.state.stages.values()):
        names = tuple(f"otto-large-stage-{number}-{number * 7919:010x}-{i}" for i in range(1, 101))
        stage.phase, stage.status, stage.attempt, stage.names = Phase.RUNNING, StageStatus.RUNNING, 1, names
        stage.workers = {i: Worker(names[i - 1], WorkerStatus.RUNNING, 1_700_000_001 + draw.random()) for i in range(1, 101)}
    draw.shuffle(order)
    for number, stage_id in enumerate(order):
        names, words = (
            run.state.stages[stage_id].names,
            f"{order[:number].count(stage_id) + 1} of 100 workers ended, {draw.randrange(99)} run",
        )
        at = 1_700_000_002 + number / 100 + draw.random() / 100
        said.append(replace(message(number + 2, stage_id=stage_id), message=words, workers=names, at=at, cause=None))
    await store.save(run, said, edge=False)
    item = json.dumps(thing(cluster, "large"), ensure_ascii=False).encode()
    assert len(item) < 200 * 1024, len(item)
    assert 1 < store.pause("large") < 5
    assert len(await store.progress("large", 0, 10_000)) == 5001


async def test_who_can_not_watch_does_not_go_on_as_if_nothing_were(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in the middle of watching ends the executor, which begins anew: its picture would be true no more."""

    def broken(*_: object) -> None:
        raise LookupError("a fault of ours")

    async with cluster.client() as client, store_in(cluster) as other:
        kept = KubernetesStore(client, "ottoscaler", spec_of)

        async def go_on() -> None:
            async with watched(kept), asyncio.timeout(20):
                monkeypatch.setattr(kept.watch, "_seen", broken)
                await other.create(record("a"), [message(1)])
                await asyncio.Event().wait()

        with pytest.raises(ExceptionGroup) as raised:
            await go_on()
    assert raised.group_contains(LookupError)
