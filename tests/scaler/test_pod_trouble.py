"""Trouble between the scaler and its cluster: no worker is created twice, none is lost, and none counts as deleted that isn't."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from otto_kubekit import kinds
from otto_kubekit.bodies import merge
from otto_kubekit.testing import FakeCluster, Script, local_process
from otto_kubekit.testing.faults import Asked
from otto_kubekit.testing.resources import PODS
from otto_kubekit.watching import Watching
from otto_scaler import fleet
from otto_scaler.backends.kubernetes import backend as backend_module
from otto_scaler.backends.kubernetes import manifest, pace
from otto_scaler.backends.kubernetes.tending import Tending
from otto_scaler.errors import BackendError, NotReadyError
from otto_scaler.watching import Change, Kind
from otto_scaler.worker import Cause, State, WorkerSpec

from .conftest import DEFAULT_LIMITS, PodsRig, pods_rig, spec, until
from .pod_reports import pod, read, running, waiting

LONG = ("sleep", "300")


def watches(asked: Asked) -> bool:
    return asked.watch


def creations(asked: Asked) -> bool:
    return asked.method == "POST" and asked.path.endswith("/pods")


async def ended_by_hand(pods: PodsRig, count: int) -> list[Any]:
    """Workers that run until `cluster.end`."""
    pods.cluster.script = lambda _pod, _container: Script()
    specs = [spec(index=index, count=count) for index in range(1, count + 1)]
    assert not (await pods.create(*specs)).refused
    for wanted in specs:
        await pods.runs(wanted)
    return specs


async def all_end_well(pods: PodsRig, specs: list[Any]) -> None:
    for wanted in specs:
        worker = await pods.ends(wanted)
        assert (worker.state, worker.error) == (State.SUCCEEDED, "")
    assert len(pods.cluster.storage.all(PODS)) == len(specs)


async def test_a_dropped_watch_loses_nothing(tmp_path: Path) -> None:
    """What happens around the break is seen, again and again."""
    async with pods_rig(tmp_path) as pods:
        specs = await ended_by_hand(pods, 5)
        for wanted in specs:
            pods.cluster.faults.drop_connections(watches)
            pods.cluster.end(wanted.identity.name)
        await all_end_well(pods, specs)


async def test_a_forgotten_past_is_listed_again(tmp_path: Path) -> None:
    """410: what happened meanwhile is found by the list, and nothing counts as gone that is there."""
    async with pods_rig(tmp_path) as pods:
        specs = await ended_by_hand(pods, 5)
        pods.cluster.faults.answer(410, when=watches, times=2)
        pods.cluster.faults.drop_connections(watches)
        for wanted in specs:
            pods.cluster.end(wanted.identity.name)
        pods.cluster.compact()
        await all_end_well(pods, specs)


async def test_events_that_are_lost_are_found_by_the_next_list(tmp_path: Path) -> None:
    """Ends, and a deletion, that no watch has told."""
    async with pods_rig(tmp_path, times={"reconcile": 0.5}) as pods:
        *specs, deleted = await ended_by_hand(pods, 4)
        pods.cluster.faults.lose_events(1000)
        for wanted in specs:
            pods.cluster.end(wanted.identity.name)
        await pods.client.delete(kinds.PODS, deleted.identity.name, grace=0)
        assert (await pods.ends(deleted)).cause is Cause.DELETED
        await all_end_well(pods, specs)


async def test_a_created_worker_is_known_by_the_answer_alone(tmp_path: Path) -> None:
    """Whatever the watch does: a caller waits for the API server only."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script()
        pods.cluster.faults.stall(watches)
        created = await pods.create(spec())
        assert created.created
        assert pods.worker(created.created[0]) is not None
        pods.cluster.faults.resume()


async def test_throttled_creations_come_through_once(tmp_path: Path) -> None:
    """429 with and without Retry-After; each worker is created once."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.faults.answer(429, times=10, when=creations)
        pods.cluster.faults.answer(429, times=1, retry_after=1, when=creations)
        specs = [spec(index=index, count=30) for index in range(1, 31)]
        created = await pods.create(*specs)
        assert (len(created.created), created.refused) == (30, [])
        await all_end_well(pods, specs)


@pytest.mark.parametrize("code", [500, 503])
async def test_a_failing_server_is_asked_again(tmp_path: Path, code: int) -> None:
    """A webhook that does not answer, an API server that starts."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.faults.answer(code, times=3, when=creations)
        assert (await pods.run(spec())).state is State.SUCCEEDED


WEBHOOK = (
    'Internal error occurred: failed calling webhook "policy.example.com": Post "https://policy.svc:443/": dial tcp: connection refused'
)


@pytest.mark.parametrize("words", [WEBHOOK, ""], ids=["a webhook that is broken", "an earlier pod that never goes"])
async def test_what_the_cluster_refuses_for_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Callers are told to repeat for as long as a worker may be pending; then it is refused as INTERNAL, in the cluster's own words."""
    async with pods_rig(tmp_path, pending_timeout=5.0) as pods:
        wanted = spec()
        if words:
            pods.cluster.faults.answer(500, message=words, times=None, when=creations)
        else:
            await pods.run(wanted)
            await pods.client.patch(kinds.PODS, wanted.identity.name, merge({"metadata": {"finalizers": ["example.com/stays"]}}))
            await pods.backend.remove(wanted.identity.name)
            await until(lambda: pods.worker(wanted.identity.name) is None)
        monkeypatch.setattr(backend_module, "CREATE_SECONDS", 0.5)
        told: list[str] = []
        async with asyncio.timeout(30):
            while True:
                try:
                    created = await pods.create(wanted)
                    break
                except NotReadyError as error:
                    told.append(str(error))
        assert len(told) > 1
        assert all((words or "is still being deleted") in why for why in told)
        [(_, why, cause, _)] = created.refused
        assert (words or "is still being deleted") in why
        assert cause is Cause.INTERNAL
        pods.cluster.faults.heal()
        monkeypatch.undo()
        if words:
            assert (await pods.run(wanted)).state is State.SUCCEEDED


async def test_a_worker_that_may_not_be_started_for_too_long_ends(tmp_path: Path) -> None:
    """It had waited for room and a broken webhook refuses every change of its pod: it ends, and says why, when it may be deleted."""
    async with pods_rig(tmp_path, replace(DEFAULT_LIMITS, max_workers=1), pending_timeout=1.0) as pods:
        [first] = await ended_by_hand(pods, 1)
        held = spec("held")
        await pods.create(held, queue=True)
        pods.cluster.faults.answer(500, message=WEBHOOK, times=None, when=lambda asked: asked.method == "PATCH")
        pods.cluster.end(first.identity.name)
        worker = await pods.ends(held)
        assert (worker.started, worker.state) == (0, State.FAILED)
        assert WEBHOOK in worker.error


@pytest.mark.parametrize("away", [False, True], ids=["answers again", "still away"])
async def test_a_stop_reaches_a_worker_whose_creation_was_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, away: bool
) -> None:
    """Whoever created it was told to repeat that; whoever stops it is not told that there was nothing to stop while it runs."""
    monkeypatch.setattr(backend_module, "CREATE_SECONDS", 0.2)
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script()
        wanted, faults = spec(), pods.cluster.faults
        faults.stall(watches)
        faults.cut(after=True, when=creations)
        faults.answer(503, times=None, when=lambda asked: asked.path.endswith("/pods") or (away and not asked.watch))
        creating = asyncio.create_task(pods.create(wanted))
        await until(lambda: pods.cluster.storage.all(PODS))
        stopping = asyncio.create_task(pods.fleet.scale_down("task", 0, "enough"))
        with pytest.raises(NotReadyError, match="repeat the call"):
            await creating
        if away:
            with pytest.raises(NotReadyError, match=f"whether {wanted.identity.name} was created; repeat the call"):
                await stopping
        else:
            await stopping
            faults.heal()
            assert (await pods.ends(wanted)).cause is Cause.CANCELLED


@pytest.mark.parametrize("code", [401, 403])
async def test_a_worker_that_can_be_neither_started_nor_stopped_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The scaler's rights are gone for a while when its turn comes: it does not keep its slot, and wait in it, for ever."""
    monkeypatch.setattr(fleet, "START_AGAIN_SECONDS", 0.05)
    async with pods_rig(tmp_path, replace(DEFAULT_LIMITS, max_workers=1)) as pods:
        [first] = await ended_by_hand(pods, 1)
        held = spec("held")
        await pods.create(held, queue=True)
        pods.cluster.faults.answer(code, times=None, when=lambda asked: asked.method in {"PATCH", "DELETE"})
        pods.cluster.end(first.identity.name)
        await until(lambda: any(asked.method == "DELETE" for asked in pods.cluster.requests))
        pods.cluster.faults.heal()
        await pods.runs(held)


async def test_a_worker_that_comes_before_the_removal_of_the_last_one_is_answered_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch tells that the pod is gone, and its name is used again, while the answer to its deletion is on its way."""
    async with pods_rig(tmp_path, replace(DEFAULT_LIMITS, finished_ttl=0.05)) as pods:
        [wanted] = await ended_by_hand(pods, 1)
        name, call, arrives = wanted.identity.name, pods.client.transport.call, asyncio.Event()

        async def late(method: str, *rest: Any, **options: Any) -> bytes:
            answer = await call(method, *rest, **options)
            if method == "DELETE":
                await arrives.wait()
            return answer

        async def over(one: WorkerSpec) -> None:
            pods.cluster.end(one.identity.name)
            await pods.ends(one)
            await pods.fleet.release([one.identity.name])
            await until(lambda: pods.worker(one.identity.name) is None)

        monkeypatch.setattr(pods.client.transport, "call", late)
        await over(wanted)
        await pods.create(wanted)
        there = await pods.runs(wanted)
        arrives.set()
        await pods.create(after := spec("after"))
        await pods.runs(after)
        await over(after)  # workers are removed one after another
        assert pods.worker(name) is there


async def test_an_answer_that_is_lost_creates_nothing_twice(tmp_path: Path) -> None:
    """The pod is there, its name says so, and it is this worker's."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.faults.cut(after=True, when=creations)
        wanted = spec()
        created = await pods.create(wanted)
        assert created.created == [wanted.identity.name]
        assert pods.created() == 2
        await all_end_well(pods, [wanted])


async def test_a_cluster_that_goes_away_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers count as they were; who asks for more is told to repeat; afterwards all is as it should be, and nothing there twice."""
    monkeypatch.setattr(backend_module, "CREATE_SECONDS", 0.5)
    async with pods_rig(tmp_path) as pods:
        specs = await ended_by_hand(pods, 3)
        await pods.cluster.stop()
        for wanted in specs:
            pods.cluster.end(wanted.identity.name)
        later = spec("later")
        with pytest.raises(NotReadyError, match="the cluster can't be reached; repeat the call"):
            await pods.create(later)
        assert all((worker := pods.worker(wanted.identity.name)) is not None and not worker.finished for wanted in specs)
        await pods.cluster.start()
        pods.cluster.script = lambda _pod, _container: local_process
        await pods.run(later)
        await all_end_well(pods, [*specs, later])


async def test_a_silent_cluster_changes_nothing(tmp_path: Path) -> None:
    """Connections that live and say nothing are given up, and what happened meanwhile is found."""
    async with pods_rig(tmp_path, times={"inactivity": 1.0}) as pods:
        specs = await ended_by_hand(pods, 3)
        pods.cluster.faults.stall()
        for wanted in specs:
            pods.cluster.end(wanted.identity.name)
        await asyncio.sleep(2.0)  # longer than silence is borne
        assert all((worker := pods.worker(wanted.identity.name)) is not None and not worker.finished for wanted in specs)
        pods.cluster.faults.resume()
        await all_end_well(pods, specs)


async def test_a_stop_that_comes_too_late_for_deletion_ends_the_running_pod(tmp_path: Path) -> None:
    """A pod that gets its node at that very moment is not deleted: its log would go with it."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script(unschedulable="0/1 nodes are available")
        wanted = spec()
        await pods.create(wanted)
        await pods.reaches(wanted, lambda worker: "available" in worker.pending_reason)
        pods.cluster.faults.stall(watches)
        name = wanted.identity.name
        there = pods.cluster.pod(name)
        pods.cluster.storage.put(PODS, {**there, "spec": {**there["spec"], "nodeName": "fake-node"}})
        await pods.backend.stop(name, "enough")
        stopped = pods.cluster.pod(name)
        assert stopped["spec"]["activeDeadlineSeconds"] == 1
        assert stopped["metadata"]["annotations"]["ottoscaler.io/stop-reason"] == "enough"
        pods.cluster.faults.resume()


async def test_a_deletion_of_ours_is_a_stop_whoever_tells_it_first(tmp_path: Path) -> None:
    """The watch may tell that the pod is gone before the deletion is answered, or that is never answered at all."""
    async with pods_rig(tmp_path) as pods:
        wanted = spec()
        await pods.backend.create(wanted, held=True)
        await pods.reaches(wanted, lambda worker: worker.held)
        pods.cluster.faults.cut(after=True, when=lambda asked: asked.method == "DELETE")
        with suppress(BackendError):
            await pods.backend.stop(wanted.identity.name, "not needed")
        worker = await pods.ends(wanted)
        assert (worker.cause, worker.error, worker.started) == (Cause.CANCELLED, "not needed", 0)


def test_what_is_older_than_what_was_seen_is_no_news() -> None:
    """Answers to calls and what is watched come in no order."""
    tending = Tending(cast("Any", None), Watching(), 300.0)
    newer = pod(phase="Running", containerStatuses=[running()])
    older = pod(containerStatuses=[waiting("ContainerCreating")])
    older["metadata"]["resourceVersion"] = "99"
    tending.see(read(newer), live=True)
    tending.see(read(older), live=True)
    [entry] = tending.entries.values()
    assert entry.worker.state is State.RUNNING


async def test_what_is_told_late_of_an_earlier_pod_is_no_news_of_its_namesake(tmp_path: Path) -> None:
    """A creation is not answered, its pod deleted from outside, and the next try answered, all before the watch tells of any of it."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script()
        wanted, faults, told = spec(), pods.cluster.faults, list[Change]()
        faults.stall(watches)
        faults.cut(after=True, when=creations)
        faults.delay(0.2, times=1, when=lambda asked: creations(asked) and len(pods.cluster.storage.all(PODS)) == 1)
        creating = asyncio.create_task(pods.create(wanted))
        await until(lambda: pods.cluster.storage.all(PODS))
        await pods.client.delete(kinds.PODS, wanted.identity.name, grace=0)
        await creating
        with pods.fleet.watch(lambda _: True) as changes:
            faults.resume()
            await pods.runs(wanted)
            async for change in changes:
                told.append(change)
                if change.worker is not None and change.worker.state is State.RUNNING:
                    break
    assert Kind.DELETED not in {change.kind for change in told}
    assert len({change.worker.uid for change in told if change.worker is not None}) == 1


async def test_a_stop_before_the_pod_was_seen_finds_it(tmp_path: Path) -> None:
    """A service that has just started, or a watch that is late: the cluster is asked by name."""
    cluster = FakeCluster()
    cluster.script = lambda _pod, _container: Script()
    async with cluster, pods_rig(tmp_path, cluster=cluster) as pods, pods_rig(tmp_path, cluster=cluster) as other:
        wanted = spec()
        cluster.faults.stall(watches)
        await pods.create(wanted)
        assert other.worker(wanted.identity.name) is None
        await other.backend.stop(wanted.identity.name, "enough")
        cluster.faults.resume()
        worker = await pods.ends(wanted)
        assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough")


async def test_a_new_service_finds_all_as_it_is(tmp_path: Path) -> None:
    """Ended, running, stopping and held: each as it was, with its identity, its time going on, and the cap counted right."""
    limits = replace(DEFAULT_LIMITS, max_workers=2)
    async with pods_rig(tmp_path, limits) as pods:
        done = await pods.run(spec("done", command=("sh", "-c", "exit 3")))
        running, overdue = spec("running", command=LONG), spec("overdue", command=LONG, timeout=2.0)
        held = spec("held")
        await pods.create(running, overdue)
        await pods.create(held, queue=True)
        for wanted in (running, overdue):
            await pods.runs(wanted)
        await pods.stop()
        await asyncio.sleep(1.0)
        async with pods_rig(tmp_path, limits, cluster=pods.cluster) as later:
            found = later.worker(done.name)
            assert found is not None
            assert (found.identity, found.uid, found.exit_code, found.cause) == (done.identity, done.uid, 3, Cause.EXIT_CODE)
            assert (await later.create(spec("more"))).no_room
            waits = later.worker(held.identity.name)
            assert waits is not None
            assert (waits.held, later.fleet.places()) == (True, {held.identity.name: 1})
            assert (await later.ends(overdue)).cause is Cause.TIMEOUT
            assert (await later.ends(held)).state is State.SUCCEEDED
            assert len(pods.cluster.storage.all(PODS)) == 4
        await pods.start()


async def test_many_are_created_at_once(tmp_path: Path) -> None:
    """Several creations are under way at a time, each once; status is answered from memory and asks the cluster nothing."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script()
        pods.cluster.faults.stall(creations)
        specs = [spec(index=index, count=100) for index in range(1, 101)]
        creating = asyncio.create_task(pods.create(*specs))
        await until(lambda: pods.created() > 8)
        pods.cluster.faults.resume()
        assert len((await creating).created) == pods.created() == 100
        await until(lambda: all((w := pods.worker(s.identity.name)) is not None and w.state is State.RUNNING for s in specs))
        asked = len(pods.cluster.requests)
        for _ in range(20):
            assert (await pods.fleet.select("", "", None, 500)).counts[State.RUNNING] == 100
        assert len(pods.cluster.requests) == asked


async def test_many_large_workers_take_no_more_memory_than_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand may be asked for at once, with a megabyte each: their bodies are made one after another, when they are sent."""
    made: list[str] = []
    write = manifest.pod

    def written(wanted: WorkerSpec, *rest: Any, **options: Any) -> dict[str, Any]:
        made.append(wanted.identity.name)
        return write(wanted, *rest, **options)

    monkeypatch.setattr(manifest, "pod", written)
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script()
        pods.cluster.faults.stall(creations)
        creating = asyncio.create_task(pods.create(*(spec(index=index, count=100) for index in range(1, 101))))
        await until(lambda: pods.cluster.faults.stalled == pace.FIRST)
        assert len(made) == pace.FIRST
        pods.cluster.faults.resume()
        assert len((await creating).created) == len(made) == 100


async def test_a_worker_costs_the_api_server_two_requests(tmp_path: Path) -> None:
    """One creates its pod, one deletes it; all that is known in between comes with the watch."""
    async with pods_rig(tmp_path) as pods:
        before = len(pods.cluster.requests)
        wanted = spec()
        await pods.run(wanted)
        await pods.backend.remove(wanted.identity.name)
        await until(lambda: pods.worker(wanted.identity.name) is None)
        asked_of_pods = [asked for asked in pods.cluster.requests[before:] if "/pods" in asked.path and not asked.watch]
        assert [asked.method for asked in asked_of_pods] == ["POST", "DELETE"]


async def test_a_pod_with_our_labels_that_is_none_of_ours_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody copied the labels, or tore the annotations off: it is said once, and it is nobody's worker."""
    async with pods_rig(tmp_path) as pods:
        pods.cluster.script = lambda _pod, _container: Script()
        labels = {"ottoscaler.io/instance": "ottoscaler", "app.kubernetes.io/component": "worker"}
        body = {"metadata": {"name": "stranger", "labels": labels}, "spec": {"containers": [{"name": "worker", "image": "x"}]}}
        await pods.client.create(kinds.PODS, body)
        await pods.create(spec())
        await until(lambda: any(record.message == "scaler.pod.unreadable" for record in caplog.records))
        assert pods.worker("stranger") is None
        assert pods.pod("stranger")


@pytest.mark.parametrize("queue", [False, True])
async def test_a_worker_whose_creation_is_only_seen_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, queue: bool
) -> None:
    """The API server makes the pod and says so to the watch only, then is away: the worker keeps its slot, or its turn in the queue."""
    monkeypatch.setattr(backend_module, "CREATE_SECONDS", 0.5)
    limits = replace(DEFAULT_LIMITS, max_workers=2 if not queue else 1)
    async with pods_rig(tmp_path, limits) as pods:
        [first] = await ended_by_hand(pods, 1)
        later = spec("later")
        pods.cluster.faults.cut(after=True, when=creations)
        pods.cluster.faults.answer(503, times=None, when=lambda asked: not asked.watch)
        assert (await pods.create(later, queue=queue)).created == [later.identity.name]
        pods.cluster.faults.heal()
        there = pods.worker(later.identity.name)
        assert there is not None
        assert there.held is queue
        assert (await pods.create(spec("more"))).no_room
        assert (await pods.create(later, queue=queue)).existing
        pods.cluster.end(first.identity.name)
        await pods.runs(later)


async def test_whoever_gets_room_while_the_cluster_is_away_runs_afterwards(tmp_path: Path) -> None:
    """A slot that is free is not lost with it, and the worker whose turn it is neither fails nor waits for ever."""
    async with pods_rig(tmp_path, replace(DEFAULT_LIMITS, max_workers=1)) as pods:
        [first] = await ended_by_hand(pods, 1)
        held = spec("held")
        await pods.create(held, queue=True)
        pods.cluster.faults.answer(503, times=None, when=lambda asked: asked.method in {"PATCH", "DELETE"})
        pods.cluster.end(first.identity.name)
        await pods.ends(first)
        await asyncio.sleep(1.0)  # several tries
        pods.cluster.faults.heal()
        worker = await pods.runs(held)
        assert (worker.cause, worker.stopping) == (Cause.UNSPECIFIED, False)


async def test_a_replica_that_acts_no_more_refuses_nothing(tmp_path: Path) -> None:
    """What it must not create any more another one may: the caller is told to repeat, and the worker has not failed."""
    async with pods_rig(tmp_path) as pods:
        pods.client.transport.fence = lambda: False
        creating = asyncio.create_task(pods.create(spec()))
        await asyncio.sleep(0.3)
        assert not creating.done()
        await pods.stop()  # as the loss of the role does
        with pytest.raises(NotReadyError, match="repeat the call"):
            await creating
        await pods.start()
