"""Workers that are pods, each brought to its end by a cluster: typed cause, the cluster's own words, and what is left in the cluster."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from otto_kubekit import kinds
from otto_kubekit.testing import Script, local_process
from otto_kubekit.testing.resources import CLAIMS, PODS, Resource
from otto_scaler.backends.kubernetes import deadlines
from otto_scaler.worker import Cause, Owner, SecretVariable, State

from .conftest import PodsRig, pods_rig, script, spec, until

LONG = ("sleep", "300")
NODE_AWAY = {"conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]}
"""What the node controller makes of a pod whose node does not answer."""


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[PodsRig]:
    """A fleet over pods of a cluster in this process."""
    async with pods_rig(tmp_path) as running:
        yield running


async def test_a_quota_refuses_in_its_own_words(pods: PodsRig) -> None:
    """With cause QUOTA; the others of the request are there."""
    pods.cluster.set_quota(1)
    created = await pods.create(*(spec(index=index, count=2, command=LONG) for index in (1, 2)))
    assert len(created.created) == 1
    [(_, why, cause, _)] = created.refused
    assert cause is Cause.QUOTA
    assert "exceeded quota: fake, requested: pods=1, used: pods=1, limited: pods=1" in why


@pytest.mark.parametrize(
    "words",
    [
        'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        'admission webhook "policy.example.com" denied the request: no such registry',
    ],
)
async def test_what_the_cluster_forbids_is_rejected_in_its_words(pods: PodsRig, words: str) -> None:
    """Nothing is created, and nothing is tried again."""
    pods.cluster.refuse(lambda resource, _: words if resource is PODS else "")
    created = await pods.create(spec())
    [(_, why, cause, _)] = created.refused
    assert cause is Cause.REJECTED
    assert words in why
    assert pods.created() == 1


async def test_an_image_that_can_not_be_pulled_fails_the_worker(pods: PodsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while in which the kubelet tries again; the pod stays, with what the cluster said, and does not come to run any more."""
    monkeypatch.setattr(deadlines, "PULL_SECONDS", 0.3)
    pods.cluster.script = lambda _pod, _container: Script(waiting="ErrImagePull", message="registry.example.com/nope:1: not found")
    wanted = spec(image="registry.example.com/nope:1")
    worker = await pods.run(wanted)
    assert (worker.cause, worker.started, worker.exit_code) == (Cause.IMAGE_PULL, 0, None)
    assert worker.error == "ErrImagePull: registry.example.com/nope:1: not found"
    assert pods.pod(wanted)["status"]["reason"] == "DeadlineExceeded"


async def test_a_worker_that_finds_no_node_fails_after_the_pending_timeout(tmp_path: Path) -> None:
    """With the scheduler's words; its pod is deleted, so that it can't come to run, and the worker stays to be seen."""
    async with pods_rig(tmp_path, pending_timeout=2.0) as pods:
        pods.cluster.script = lambda _pod, _container: Script(unschedulable="0/1 nodes are available: 1 Insufficient cpu.")
        wanted = spec()
        await pods.create(wanted)
        pending = await pods.reaches(wanted, lambda worker: "Insufficient" in worker.pending_reason)
        assert pending.state is State.PENDING
        worker = await pods.ends(wanted)
        assert (worker.cause, worker.error) == (Cause.UNSCHEDULABLE, "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")
        await until(lambda: not pods.cluster.storage.all(PODS))
        assert pods.worker(wanted.identity.name) is worker
        await pods.backend.remove(wanted.identity.name)
        await until(lambda: pods.worker(wanted.identity.name) is None)


async def test_what_keeps_a_pod_from_starting_is_told_by_the_last_warning_about_it(tmp_path: Path) -> None:
    """The pod itself only says ContainerCreating."""
    async with pods_rig(tmp_path, pending_timeout=4.0) as pods:
        pods.cluster.script = lambda _pod, _container: Script(waiting="ContainerCreating")
        wanted = spec()
        await pods.create(wanted)
        pod = pods.pod(wanted)
        about = {"kind": "Pod", "name": wanted.identity.name, "uid": pod["metadata"]["uid"]}
        for number, (kind, words) in enumerate([("Warning", "older"), ("Warning", "no such volume"), ("Normal", "pulled")]):
            event = {"metadata": {"name": f"e{number}"}, "involvedObject": about, "type": kind, "reason": "FailedMount", "message": words}
            await pods.client.create(kinds.EVENTS, event | {"lastTimestamp": f"2026-11-25T10:00:0{number}Z"})
        worker = await pods.ends(wanted)
        assert (worker.cause, worker.error) == (Cause.INTERNAL, "FailedMount: no such volume")


async def test_a_timeout_ends_the_worker_and_keeps_its_log(pods: PodsRig) -> None:
    """SIGTERM, its grace, and its own exit code; told apart from a stop."""
    wanted = script("echo begun; trap 'echo cleaned; exit 7' TERM; sleep 300 & wait", timeout=1.0, stop_grace=20.0)
    worker = await pods.run(wanted)
    assert (worker.cause, worker.error, worker.exit_code) == (Cause.TIMEOUT, "ran longer than 1 s", 7)
    assert worker.ended - worker.started < 20e9, "it waited for what the first process has left"
    assert pods.pod(wanted)["metadata"]["annotations"]["ottoscaler.io/stop-cause"] == "TIMEOUT"


async def test_a_worker_that_ignores_sigterm_is_killed_after_its_grace(pods: PodsRig) -> None:
    """It is cancelled all the same."""
    wanted = script("trap '' TERM; echo; sleep 300", stop_grace=1.0)
    await pods.create(wanted)
    await pods.runs(wanted)
    await pods.fleet.scale_down("task", 0, "enough")
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.error, worker.exit_code) == (Cause.CANCELLED, "enough", 137)


async def test_out_of_memory_is_told(pods: PodsRig) -> None:
    """As its node tells it."""
    pods.cluster.script = lambda _pod, _container: Script()
    wanted = spec()
    await pods.create(wanted)
    await pods.runs(wanted)
    pods.cluster.end(wanted.identity.name, 137, "OOMKilled")
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.exit_code) == (Cause.OOM_KILLED, 137)


async def test_a_pod_that_is_deleted_from_outside_is_a_failure(pods: PodsRig) -> None:
    """Never a success, however well it ends on SIGTERM; it stays to be seen when the pod is gone."""
    wanted = script("trap 'exit 0' TERM; sleep 300 & wait")
    await pods.create(wanted)
    await pods.runs(wanted)
    await pods.client.delete(kinds.PODS, wanted.identity.name)
    worker = await pods.ends(wanted)
    assert (worker.state, worker.cause, worker.error) == (State.FAILED, Cause.DELETED, "it was deleted from outside")
    await until(lambda: not pods.cluster.storage.all(PODS))
    assert pods.worker(wanted.identity.name) is worker


async def test_a_pod_that_vanishes_at_once_is_a_failure_too(pods: PodsRig) -> None:
    """Deleted by force, nobody says how it ended."""
    wanted = spec(command=LONG)
    await pods.create(wanted)
    await pods.runs(wanted)
    await pods.client.delete(kinds.PODS, wanted.identity.name, grace=0)
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.exit_code) == (Cause.DELETED, None)


async def test_what_is_left_of_an_ended_worker_may_be_deleted(pods: PodsRig) -> None:
    """Then it is not there any more, and nothing has failed."""
    wanted = spec()
    assert (await pods.run(wanted)).state is State.SUCCEEDED
    await pods.client.delete(kinds.PODS, wanted.identity.name)
    await until(lambda: pods.worker(wanted.identity.name) is None)


async def test_a_pod_whose_node_does_not_answer_counts_as_lost(pods: PodsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was to be deleted and nothing is heard of it: the worker ends, and removing it deletes the pod by force."""
    monkeypatch.setattr(deadlines, "LOST_SECONDS", -59.0)
    pods.cluster.script = lambda _pod, _container: Script(ignores_term=True)
    wanted = spec(stop_grace=60.0)
    await pods.create(wanted)
    await pods.runs(wanted)
    await pods.client.delete(kinds.PODS, wanted.identity.name)
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.NODE_LOST, "its node fake-node does not answer")
    await pods.backend.remove(wanted.identity.name)
    await until(lambda: pods.worker(wanted.identity.name) is None and not pods.cluster.storage.all(PODS))


async def test_a_worker_that_is_cancelled_on_a_node_that_does_not_answer_ends(pods: PodsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pod may tolerate such a node for ever: the worker ends all the same, and removing it deletes the pod by force."""
    monkeypatch.setattr(deadlines, "LOST_SECONDS", -59.0)
    pods.cluster.script = lambda _pod, _container: Script(ignores_term=True)
    wanted = spec(stop_grace=60.0)
    await pods.create(wanted)
    await pods.runs(wanted)
    pods.cluster.set_status(wanted.identity.name, NODE_AWAY)
    await pods.backend.stop(wanted.identity.name, "enough")
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough; its node fake-node does not answer")
    await pods.backend.remove(wanted.identity.name)
    await until(lambda: pods.worker(wanted.identity.name) is None and not pods.cluster.storage.all(PODS))


async def test_a_pod_that_is_collected_with_its_node_counts_as_lost(pods: PodsRig) -> None:
    """The collector of pods marks it as failed and deletes it at once; the worker stays to be seen when the pod is gone."""
    wanted = spec(command=LONG)
    await pods.create(wanted)
    await pods.runs(wanted)
    target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists"}
    pods.cluster.set_status(wanted.identity.name, {"phase": "Failed", "conditions": [target]})
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.NODE_LOST, "its node is gone: PodGC: node no longer exists")
    await pods.client.delete(kinds.PODS, wanted.identity.name, grace=0)
    await pods.run(spec("later"))  # so the deletion was seen
    assert pods.worker(wanted.identity.name) is worker
    await pods.backend.remove(wanted.identity.name)
    await until(lambda: pods.worker(wanted.identity.name) is None)


async def test_a_pod_that_is_forced_away_from_a_node_that_does_not_answer_counts_as_lost(pods: PodsRig) -> None:
    """`kubectl delete --force`, where the node controller has taken its Ready away: the node did it, not who tidied up behind it."""
    wanted = spec(command=LONG)
    await pods.create(wanted)
    await pods.runs(wanted)
    pods.cluster.set_status(wanted.identity.name, NODE_AWAY)
    await pods.client.delete(kinds.PODS, wanted.identity.name, grace=0)
    worker = await pods.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.NODE_LOST, "it was deleted when its node fake-node did not answer")


async def test_a_claim_is_made_for_who_names_it_and_belongs_to_its_owner(pods: PodsRig) -> None:
    """Once for all workers of a workspace, of the class and size that are configured."""
    owner = Owner("ottoscaler.io/v1alpha1", "PipelineRun", "run", "8c1e")
    created = await pods.create(*(spec(index=index, count=5, command=LONG, workspace="ws-1", owner=owner) for index in range(1, 6)))
    assert len(created.created) == 5
    (claim,) = pods.claims()
    assert (claim["metadata"]["name"], claim["metadata"]["ownerReferences"][0]["uid"]) == ("ws-1", "8c1e")
    assert claim["spec"]["storageClassName"] == "standard"
    assert claim["spec"]["resources"] == {"requests": {"storage": "1Gi"}}
    assert sum(asked.method == "POST" and asked.path.endswith("claims") for asked in pods.cluster.requests) == 1


async def test_an_owner_in_another_namespace_is_none(pods: PodsRig) -> None:
    """Kubernetes would take it for gone and delete at once what it owns: runs in one namespace may have their workers in another."""
    pods.cluster.script = lambda _pod, _container: Script()
    pods.cluster.add_namespace("runs")
    run = await pods.client.create(kinds.CONFIG_MAPS, {"metadata": {"name": "run"}}, namespace="runs")
    wanted = spec(workspace="ws-1", owner=Owner("v1", "ConfigMap", "run", run.metadata.uid, "runs"))
    await pods.create(wanted)
    await pods.runs(wanted)
    await pods.client.create(kinds.CONFIG_MAPS, {"metadata": {"name": "something"}})  # after which the collector has looked again
    await asyncio.sleep(0.2)
    assert "deletionTimestamp" not in pods.pod(wanted)["metadata"]
    assert "ownerReferences" not in pods.pod(wanted)["metadata"]
    (claim,) = pods.claims()
    assert "ownerReferences" not in claim["metadata"]


async def test_a_claim_of_somebody_else_is_neither_used_nor_deleted(pods: PodsRig) -> None:
    """A workspace's name comes with the request, so it must not open other people's storage."""
    theirs: dict[str, Any] = {"metadata": {"name": "data", "namespace": "default"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    pods.cluster.verbs.create(CLAIMS, "default", theirs)
    created = await pods.create(spec(workspace="data"))
    [(_, why, cause, _)] = created.refused
    assert (cause, pods.created()) == (Cause.REJECTED, 0)
    assert "not ours" in why
    await pods.backend.delete_workspace("data")
    done = await pods.run(spec("other"))
    assert done.finished
    assert [claim["metadata"]["name"] for claim in pods.claims()] == ["data"]


async def test_a_workspace_that_was_to_be_deleted_is_deleted_by_the_next_service(tmp_path: Path) -> None:
    """The wish is in the cluster."""
    async with pods_rig(tmp_path) as pods:
        wanted = spec(command=LONG, workspace="ws-1")
        await pods.create(wanted)
        await pods.runs(wanted)
        await pods.backend.delete_workspace("ws-1")
        await pods.stop()
        async with pods_rig(tmp_path, cluster=pods.cluster) as later:
            assert later.claims()
            await later.fleet.scale_down("task", 0, "enough")
            await until(lambda: not later.claims())
        await pods.start()


async def test_secrets_reach_the_worker_only_by_reference(pods: PodsRig) -> None:
    """The scaler never asks the cluster for one."""
    await pods.create(spec(command=LONG, secrets=(SecretVariable("TOKEN", "deploy", "token"),)))
    assert not any("secrets" in asked.path for asked in pods.cluster.requests)


async def test_two_installations_in_a_namespace_do_not_see_each_other(tmp_path: Path) -> None:
    """Neither in their pictures nor by name: what has the name already and is another's is refused."""
    async with pods_rig(tmp_path) as pods, pods_rig(tmp_path, cluster=pods.cluster, instance="other") as other:
        wanted = spec(command=LONG)
        await pods.create(wanted)
        await pods.runs(wanted)
        created = await other.create(wanted)
        [(_, why, cause, _)] = created.refused
        assert cause is Cause.REJECTED
        assert "use another task_id" in why
        assert other.worker(wanted.identity.name) is None
        await other.backend.stop(wanted.identity.name, "not yours")
        await other.run(spec("second"))
        assert pods.worker(wanted.identity.name) is not None
        assert {worker.identity.task_id for worker in (await pods.fleet.select("", "", None, 10)).workers} == {"task"}


def injected(pods: PodsRig, field: str, name: str) -> None:
    """A webhook puts a container into each pod, as meshes do."""

    def webhook(resource: Resource, item: Any) -> None:
        if resource is PODS:
            item["spec"].setdefault(field, []).append({"name": name, "image": "registry.example.com/mesh:1"})

    pods.cluster.verbs.admissions.append(webhook)


@pytest.mark.parametrize("code", [0, 3])
async def test_a_container_that_a_webhook_put_beside_it_does_not_keep_a_worker(
    pods: PodsRig, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The worker ends as its own container did, long before its timeout; its pod ends too, and is there with its logs until removed."""
    monkeypatch.setattr(deadlines, "REST_SECONDS", 0.3)
    pods.cluster.script = lambda _pod, container: Script() if container == "proxy" else local_process
    injected(pods, "containers", "proxy")
    wanted = script(f"exit {code}", timeout=60.0)
    worker = await pods.run(wanted)
    assert (worker.exit_code, worker.cause) == (code, Cause.EXIT_CODE if code else Cause.UNSPECIFIED)
    assert not worker.stopping
    status = pods.pod(wanted)["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert all("terminated" in container["state"] for container in status["containerStatuses"])
    await pods.backend.remove(wanted.identity.name)
    await until(lambda: not pods.cluster.storage.all(PODS))


async def test_an_init_container_that_a_webhook_put_there_and_fails_is_named(pods: PodsRig) -> None:
    """The worker never ran: that is the cluster's failure, told as kubectl tells it."""
    injected(pods, "initContainers", "mesh-init")
    pods.cluster.script = lambda _pod, container: Script(runs=0.05, exit_code=1) if container == "mesh-init" else local_process
    worker = await pods.run(script("true"))
    assert (worker.cause, worker.started, worker.exit_code) == (Cause.INTERNAL, 0, None)
    assert worker.error == "Init:Error: container mesh-init ended with exit code 1"
