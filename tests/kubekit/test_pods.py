"""What pods do that the scaler lives on: gates, deadlines, grace, exit codes. The same on the fake and on a real cluster."""

from typing import Any

import pytest

from otto_kubekit.bodies import merge, strategic
from otto_kubekit.client import Client
from otto_kubekit.errors import BadRequestError, ForbiddenError, InvalidError, NotFoundError
from otto_kubekit.kinds import CLAIMS, PODS, QUOTAS
from otto_kubekit.objects import Pod, Terminated
from otto_kubekit.testing import FakeCluster, Script

from .conftest import IMAGE, Kube, until

PATIENT = "trap 'echo stopping; sleep 0.5; exit 7' TERM; echo started; while :; do sleep 0.1; done"


async def phase(client: Client, name: str, *phases: str) -> Pod:
    """Waits for one of these phases."""

    async def reached() -> Pod | None:
        pod = await client.get(PODS, name)
        return pod if pod.status.phase in phases else None

    found: Pod = await until(reached, f"{name} is {' or '.join(phases)}", 60)
    return found


async def gone(client: Client, name: str) -> bool:
    try:
        await client.get(PODS, name)
    except NotFoundError:
        return True
    return False


async def started(kube: Kube, name: str) -> Pod:
    """Waits until the script has said so, for before a TERM would find no trap."""
    pod = await phase(kube.client, name, "Running")

    async def said() -> bool:
        path = kube.client.path(PODS, None, name, "log")
        try:
            return b"started" in await kube.client.transport.call("GET", path, {"container": "worker"})
        except BadRequestError:
            return False

    await until(said, "the script runs")
    return pod


def ending(pod: Pod) -> Terminated:
    found = pod.status.container_statuses[0].state.terminated
    assert found is not None
    return found


@pytest.mark.parametrize(("script", "ended", "code", "reason"), [("true", "Succeeded", 0, "Completed"), ("exit 3", "Failed", 3, "Error")])
async def test_a_pod_ends_as_its_process_does(kube: Kube, script: str, ended: str, code: int, reason: str) -> None:
    """Phase, exit code and the runtime's word for it."""
    made = await kube.client.create(PODS, kube.pod("p", script))
    assert made.status.phase == "Pending"
    pod = await phase(kube.client, "p", "Succeeded", "Failed")
    assert (pod.status.phase, ending(pod).exit_code, ending(pod).reason) == (ended, code, reason)
    assert pod.status.start_time is not None
    assert pod.spec.node_name


async def test_a_gated_pod_waits_until_the_gate_is_taken_away(kube: Kube) -> None:
    """It says that it is gated; a gate can't be put back."""
    await kube.client.create(PODS, kube.pod("p", "true", schedulingGates=[{"name": "ottoscaler.io/admission"}]))

    async def gated() -> bool:
        conditions = (await kube.client.get(PODS, "p")).status.conditions
        return [(c.type, c.reason) for c in conditions] == [("PodScheduled", "SchedulingGated")]

    await until(gated, "the pod says that it is gated")
    gates = {"spec": {"schedulingGates": [{"name": "ottoscaler.io/admission", "$patch": "delete"}]}}
    assert (await kube.client.patch(PODS, "p", strategic(gates))).spec.scheduling_gates == ()
    await phase(kube.client, "p", "Succeeded")
    with pytest.raises(InvalidError):
        await kube.client.patch(PODS, "p", strategic({"spec": {"schedulingGates": [{"name": "ottoscaler.io/admission"}]}}))


async def test_a_deadline_stops_a_pod_and_keeps_it(kube: Kube) -> None:
    """TERM, its own exit code, phase Failed with the reason; the pod and its log are still there."""
    await kube.client.create(PODS, kube.pod("p", PATIENT))
    await started(kube, "p")
    await kube.client.patch(PODS, "p", merge({"spec": {"activeDeadlineSeconds": 1}}))
    pod = await phase(kube.client, "p", "Failed", "Succeeded")
    assert (pod.status.phase, pod.status.reason, ending(pod).exit_code) == ("Failed", "DeadlineExceeded", 7)
    path = kube.client.path(PODS, None, "p", "log")
    assert await kube.client.transport.call("GET", path, {"container": "worker"}) == b"started\nstopping\n"


async def test_a_deadline_can_only_come_nearer(kube: Kube) -> None:
    """Neither later, nor never, nor at once."""
    await kube.client.create(PODS, kube.pod("p", "sleep 0.1", activeDeadlineSeconds=600))
    for seconds in (601, None, 0):
        with pytest.raises(InvalidError) as caught:
            await kube.client.patch(PODS, "p", merge({"spec": {"activeDeadlineSeconds": seconds}}))
        assert "spec.activeDeadlineSeconds" in {cause.field for cause in caught.value.details.causes}
    assert (await kube.client.patch(PODS, "p", merge({"spec": {"activeDeadlineSeconds": 599}}))).spec.active_deadline_seconds == 599


async def test_what_a_pod_runs_can_not_be_changed(kube: Kube) -> None:
    """Its command is fixed, its labels are not."""
    await kube.client.create(PODS, kube.pod("p", "true"))
    with pytest.raises(InvalidError):
        await kube.client.patch(PODS, "p", strategic({"spec": {"containers": [{"name": "worker", "command": ["false"]}]}}))
    assert (await kube.client.patch(PODS, "p", merge({"metadata": {"labels": {"a": "b"}}}))).metadata.labels == {"a": "b"}


async def test_a_deleted_pod_gets_its_grace(kube: Kube) -> None:
    """It is marked, told, and gone when it has ended; one that never ran is gone at once."""
    await kube.client.create(PODS, kube.pod("p", PATIENT))
    await started(kube, "p")
    await kube.client.delete(PODS, "p", grace=20)
    going = await kube.client.get(PODS, "p")
    assert (going.metadata.deletion_grace_period_seconds, going.metadata.deletion_timestamp is not None) == (20, True)
    await until(lambda: gone(kube.client, "p"), "the pod is gone", 19)
    await kube.client.create(PODS, kube.pod("q", "true", schedulingGates=[{"name": "test.io/never"}]))
    await kube.client.delete(PODS, "q")
    assert await gone(kube.client, "q")


async def test_init_containers_run_first(kube: Kube) -> None:
    """One that fails ends the pod: the others never run."""
    init = {"name": "checkout", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", "exit 4"]}
    await kube.client.create(PODS, kube.pod("p", "true", initContainers=[init]))
    pod = await phase(kube.client, "p", "Failed")
    state = pod.status.init_container_statuses[0].state.terminated
    assert state is not None
    assert state.exit_code == 4
    assert pod.status.container_statuses[0].state.terminated is None


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": []},
        {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]},
        {"containers": [{"name": "a", "image": "i"}], "activeDeadlineSeconds": 0},
        {"containers": [{"image": "i"}]},
    ],
    ids=["no container", "a name twice", "no time", "no name"],
)
async def test_a_pod_that_can_not_be_is_refused(kube: Kube, spec: dict[str, Any]) -> None:
    """With the field that is wrong."""
    with pytest.raises(InvalidError) as caught:
        await kube.client.create(PODS, {"metadata": {"name": "p"}, "spec": spec})
    assert caught.value.details.causes[0].field.startswith("spec.")


async def test_the_log_of_a_container_that_is_not_there_is_refused(kube: Kube) -> None:
    """As a bad request, whether it waits or does not exist."""
    await kube.client.create(PODS, kube.pod("p", "sleep 0.1"))
    await phase(kube.client, "p", "Running", "Succeeded")
    path = kube.client.path(PODS, None, "p", "log")
    with pytest.raises(BadRequestError):
        await kube.client.transport.call("GET", path, {"container": "other"})


async def test_a_quota_refuses_in_words(kube: Kube) -> None:
    """ForbiddenError says that it was a quota."""
    if kube.fake is not None:
        kube.fake.set_quota(1, kube.client.namespace)
    else:
        await kube.client.create(QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}})

        async def counted() -> bool:
            return bool((await kube.client.get(QUOTAS, "q")).status.get("used"))

        await until(counted, "the quota is known")
    await kube.client.create(PODS, kube.pod("one", "true", schedulingGates=[{"name": "test.io/never"}]))
    with pytest.raises(ForbiddenError) as caught:
        await kube.client.create(PODS, kube.pod("two", "true"))
    assert caught.value.quota


async def test_a_claim_lives_while_a_pod_uses_it(kube: Kube) -> None:
    """It is bound for its pod, and deleted when the pod has ended."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    await kube.client.create(CLAIMS, {"metadata": {"name": "c"}, "spec": spec})
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}}]
    await kube.client.create(PODS, kube.pod("p", PATIENT, volumes=volumes))
    await started(kube, "p")
    assert (await kube.client.get(CLAIMS, "c")).status.phase == "Bound"
    await kube.client.delete(CLAIMS, "c")
    assert (await kube.client.get(CLAIMS, "c")).metadata.deletion_timestamp is not None
    await kube.client.delete(PODS, "p")

    async def claim_gone() -> bool:
        return "c" not in [claim.metadata.name for claim in (await kube.client.list(CLAIMS)).items]

    await until(claim_gone, "the claim is gone", 60)


@pytest.mark.parametrize(
    ("script", "reason", "code"),
    [
        (Script(unschedulable="0/1 nodes are available: 1 Insufficient cpu."), "Unschedulable", None),
        (Script(waiting="ErrImagePull", message="not found"), "ErrImagePull", None),
        (Script(exit_code=137, reason="OOMKilled", runs=0.01), "OOMKilled", 137),
    ],
    ids=["unschedulable", "image", "memory"],
)
async def test_scripts_tell_what_clusters_tell(fake: FakeCluster, script: Script, reason: str, code: int | None) -> None:
    """The fake's ways to fail, in the fields where a cluster has them."""
    fake.script = lambda _pod, _container: script
    async with fake.client() as client:
        pod = {"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "i"}]}}
        await client.create(PODS, pod)

        async def told() -> bool:
            status = (await client.get(PODS, "p")).status
            words = [c.reason for c in status.conditions]
            for container in status.container_statuses:
                words += [s.reason for s in (container.state.waiting, container.state.terminated) if s is not None]
                if code is not None and container.state.terminated is not None:
                    assert container.state.terminated.exit_code == code
            return reason in words

        await until(told, reason)
