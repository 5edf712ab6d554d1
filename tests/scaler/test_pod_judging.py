"""What becomes of a worker is read out of its pod as the cluster reports it: state, typed cause and the cluster's own words."""

from dataclasses import dataclass

import pytest

from otto_scaler.backends.kubernetes.trouble import Patience, trouble
from otto_scaler.worker import Cause, State

from .conftest import spec
from .pod_reports import (
    ENDED,
    Report,
    condition,
    deleted,
    disrupted,
    marked,
    pod,
    read,
    rest_stopped,
    running,
    terminated,
    waiting,
    worker,
)

CHECKED_OUT = spec(repository="https://git.example.com/a.git", commit="main", timeout=30.0)
NODES = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available"


@dataclass
class Ended:
    """A pod that has ended, and how its worker has."""

    report: Report
    cause: Cause
    words: str
    code: int | None = None
    state: State = State.FAILED
    gone: bool = False


ENDINGS = {
    "exit 0": Ended(pod(phase="Succeeded", containerStatuses=[terminated(0)]), Cause.UNSPECIFIED, "", 0, State.SUCCEEDED),
    "exit 3": Ended(pod(phase="Failed", containerStatuses=[terminated(3)]), Cause.EXIT_CODE, "exit code 3", 3),
    "exit 0, and what ran beside it was stopped": Ended(
        rest_stopped(pod(phase="Failed", reason="DeadlineExceeded", containerStatuses=[terminated(0), terminated(143, name="proxy")])),
        Cause.UNSPECIFIED,
        "",
        0,
        State.SUCCEEDED,
    ),
    "exit 3, what ran beside it was stopped, and then it was cancelled": Ended(
        marked(
            rest_stopped(pod(phase="Failed", reason="DeadlineExceeded", containerStatuses=[terminated(3), terminated(0, name="proxy")])),
            "CANCELLED",
            "enough",
        ),
        Cause.EXIT_CODE,
        "exit code 3",
        3,
    ),
    "an init container that somebody else put there failed": Ended(
        pod(
            phase="Failed",
            containerStatuses=[waiting("PodInitializing")],
            initContainerStatuses=[terminated(0, name="first"), terminated(1, message="iptables: no\n", name="mesh-init")],
        ),
        Cause.INTERNAL,
        "Init:Error: container mesh-init ended with exit code 1: iptables: no",
    ),
    "killed by a signal": Ended(pod(phase="Failed", containerStatuses=[terminated(139)]), Cause.EXIT_CODE, "exit code 139", 139),
    "out of memory": Ended(
        pod(phase="Failed", containerStatuses=[terminated(137, "OOMKilled")]), Cause.OOM_KILLED, "used more than its limit of memory", 137
    ),
    "evicted": Ended(
        pod(
            phase="Failed",
            reason="Evicted",
            message="The node was low on resource: memory. Threshold quantity: 100Mi, available: 84Mi.",
            conditions=[disrupted("TerminationByKubelet", "The node was low on resource: memory.")],
            containerStatuses=[terminated(137)],
        ),
        Cause.EVICTED,
        "Evicted: The node was low on resource: memory. Threshold quantity: 100Mi, available: 84Mi.",
        137,
    ),
    "evicted, and ended well on SIGTERM": Ended(
        pod(phase="Failed", reason="Evicted", message="too much", containerStatuses=[terminated(0)]), Cause.EVICTED, "Evicted: too much", 0
    ),
    "node shut down": Ended(
        pod(
            phase="Failed",
            reason="Terminated",
            message="Pod was terminated in response to imminent node shutdown.",
            containerStatuses=[terminated(143)],
        ),
        Cause.EVICTED,
        "Terminated: Pod was terminated in response to imminent node shutdown.",
        143,
    ),
    "refused by its node": Ended(
        pod(phase="Failed", reason="OutOfcpu", message="Pod was rejected: Node didn't have enough resource: cpu, requested: 2000"),
        Cause.EVICTED,
        "its node refused it: OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 2000",
    ),
    "lost by its node": Ended(
        pod(
            phase="Failed",
            containerStatuses=[terminated(137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated")],
        ),
        Cause.NODE_LOST,
        "The container could not be located when the pod was terminated",
        137,
    ),
    "stopped by us": Ended(
        marked(
            pod(phase="Failed", reason="DeadlineExceeded", message="Pod was active on the node", containerStatuses=[terminated(143)]),
            "CANCELLED",
            "scaled down by me",
        ),
        Cause.CANCELLED,
        "scaled down by me",
        143,
    ),
    "stopped by us, and ended well on SIGTERM": Ended(
        marked(pod(phase="Failed", reason="DeadlineExceeded", containerStatuses=[terminated(0)]), "CANCELLED", "enough"),
        Cause.CANCELLED,
        "enough",
        0,
    ),
    "ended well before our stop reached it": Ended(
        marked(pod(phase="Succeeded", containerStatuses=[terminated(0)]), "CANCELLED", "enough"), Cause.UNSPECIFIED, "", 0, State.SUCCEEDED
    ),
    "failed before our stop reached it": Ended(
        marked(pod(phase="Failed", containerStatuses=[terminated(3)]), "CANCELLED", "enough"), Cause.EXIT_CODE, "exit code 3", 3
    ),
    "timed out by us": Ended(
        marked(pod(phase="Failed", reason="DeadlineExceeded", containerStatuses=[terminated(137)]), "TIMEOUT", "ran longer than 30 s"),
        Cause.TIMEOUT,
        "ran longer than 30 s",
        137,
    ),
    "timed out while nobody watched": Ended(
        pod(phase="Failed", reason="DeadlineExceeded", message="Pod was active on the node", containerStatuses=[terminated(143)]),
        Cause.TIMEOUT,
        "ran longer than 30 s",
        143,
    ),
    "given up by us": Ended(
        marked(
            pod(phase="Failed", reason="DeadlineExceeded", containerStatuses=[waiting("ImagePullBackOff", "Back-off pulling")]),
            "IMAGE_PULL",
            "ErrImagePull: not found",
        ),
        Cause.IMAGE_PULL,
        "ErrImagePull: not found",
    ),
    "never ran while nobody watched": Ended(
        pod(phase="Failed", reason="DeadlineExceeded", containerStatuses=[waiting("ImagePullBackOff", "Back-off pulling image")]),
        Cause.IMAGE_PULL,
        "ImagePullBackOff: Back-off pulling image",
    ),
    "deleted from outside": Ended(
        deleted(pod(phase="Failed", containerStatuses=[terminated(143)]), "2026-11-25T10:00:18Z"),
        Cause.DELETED,
        "it was deleted from outside",
        143,
    ),
    "deleted from outside, and ended well on SIGTERM": Ended(
        deleted(pod(phase="Succeeded", containerStatuses=[terminated(0)]), "2026-11-25T10:00:18Z"),
        Cause.DELETED,
        "it was deleted from outside",
        0,
    ),
    "ended well, deleted later": Ended(
        deleted(pod(phase="Succeeded", containerStatuses=[terminated(0)]), "2026-11-25T10:00:40Z"),
        Cause.UNSPECIFIED,
        "",
        0,
        State.SUCCEEDED,
    ),
    "preempted": Ended(
        deleted(
            pod(
                phase="Failed",
                conditions=[disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod")],
                containerStatuses=[terminated(143)],
            ),
            "2026-11-25T10:00:18Z",
        ),
        Cause.EVICTED,
        "preempted: default-scheduler: preempting to accommodate a higher priority pod",
        143,
    ),
    "drained": Ended(
        deleted(
            pod(
                phase="Failed",
                conditions=[disrupted("EvictionByEvictionAPI", "Eviction API: evicting")],
                containerStatuses=[terminated(143)],
            ),
            "2026-11-25T10:00:18Z",
        ),
        Cause.EVICTED,
        "evicted: Eviction API: evicting",
        143,
    ),
    "gone with its node": Ended(
        pod(
            phase="Failed",
            conditions=[disrupted("DeletionByPodGC", "PodGC: node no longer exists")],
            containerStatuses=[running()],
        ),
        Cause.NODE_LOST,
        "its node is gone: PodGC: node no longer exists",
    ),
    "deleted by force when its node did not answer": Ended(
        pod(
            phase="Running",
            conditions=[condition("Ready", "False"), condition("ContainersReady", "True")],
            containerStatuses=[running()],
        ),
        Cause.NODE_LOST,
        "it was deleted when its node node-1 did not answer",
        gone=True,
    ),
    "deleted, then by force because its node did not answer": Ended(
        deleted(
            pod(
                phase="Running",
                conditions=[condition("Ready", "False"), condition("ContainersReady", "True")],
                containerStatuses=[running()],
            ),
            "2026-11-25T10:00:18Z",
        ),
        Cause.NODE_LOST,
        "it was deleted when its node node-1 did not answer",
        gone=True,
    ),
    "deleted while a gate of somebody's was closed": Ended(
        pod(
            phase="Running",
            conditions=[condition("Ready", "False", "ReadinessGatesNotReady"), condition("ContainersReady", "True")],
            containerStatuses=[running()],
        ),
        Cause.DELETED,
        "it was deleted from outside",
        gone=True,
    ),
    "deleted while one of its containers was not ready": Ended(
        pod(
            phase="Running",
            conditions=[condition("Ready", "False"), condition("ContainersReady", "False", "ContainersNotReady")],
            containerStatuses=[running()],
        ),
        Cause.DELETED,
        "it was deleted from outside",
        gone=True,
    ),
    "deleted by the taint manager, never heard of again": Ended(
        deleted(
            pod(
                phase="Running",
                conditions=[disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")],
                containerStatuses=[running()],
            ),
            "2026-11-25T10:00:18Z",
        ),
        Cause.NODE_LOST,
        "its node was lost: Taint manager: deleting due to NoExecute taint",
        gone=True,
    ),
    "vanished": Ended(pod(phase="Running", containerStatuses=[running()]), Cause.DELETED, "it was deleted from outside", gone=True),
    "vanished before it was on a node": Ended(pod(node=""), Cause.DELETED, "it was deleted from outside", gone=True),
    "vanished while we stopped it": Ended(
        marked(pod(phase="Running", containerStatuses=[running()]), "CANCELLED", "enough"), Cause.CANCELLED, "enough", gone=True
    ),
    "program not found": Ended(
        pod(
            phase="Failed",
            containerStatuses=[
                terminated(
                    128,
                    "StartError",
                    'failed to create containerd task: exec: "nope": executable file not found in $PATH',
                    started="1970-01-01T00:00:00Z",
                )
            ],
        ),
        Cause.EXIT_CODE,
        'it could not be started: failed to create containerd task: exec: "nope": executable file not found in $PATH',
        128,
    ),
    "node could not start it": Ended(
        pod(
            phase="Failed",
            containerStatuses=[
                terminated(
                    128,
                    "StartError",
                    "runc create failed: unable to freeze",
                    started="1970-01-01T00:00:00Z",
                )
            ],
        ),
        Cause.INTERNAL,
        "it could not be started: runc create failed: unable to freeze",
        128,
    ),
    "checkout failed": Ended(
        pod(
            CHECKED_OUT,
            phase="Failed",
            initContainerStatuses=[
                terminated(128, message="the checkout of main of https://… failed: it could not be fetched", name="checkout")
            ],
            containerStatuses=[waiting("PodInitializing")],
        ),
        Cause.EXIT_CODE,
        "the checkout of main of https://… failed: it could not be fetched",
        128,
    ),
    "checkout out of memory": Ended(
        pod(
            CHECKED_OUT,
            phase="Failed",
            initContainerStatuses=[terminated(137, "OOMKilled", name="checkout")],
            containerStatuses=[waiting("PodInitializing")],
        ),
        Cause.OOM_KILLED,
        "used more than its limit of memory",
        137,
    ),
    "without a word (kwok)": Ended(pod(phase="Succeeded"), Cause.UNSPECIFIED, "", 0, State.SUCCEEDED),
    "failed without a word": Ended(pod(phase="Failed"), Cause.INTERNAL, "its pod has failed, and nothing says why"),
}


@pytest.mark.parametrize("case", ENDINGS.values(), ids=ENDINGS.keys())
def test_an_end_has_its_cause_in_the_clusters_words(case: Ended) -> None:
    """Each way in which a pod can end."""
    found = worker(case.report, gone=case.gone)
    assert (found.state, found.cause, found.error, found.exit_code) == (case.state, case.cause, case.words, case.code)
    assert found.created <= found.started <= found.ended or found.started == 0


PULL = 'failed to pull and unpack image "registry.example.com/nope:1": not found'
WAITS = {
    "just created": (pod(node=""), Cause.UNSCHEDULABLE, Patience.PENDING, "waits to be scheduled"),
    "no room on any node": (
        pod(node="", conditions=[condition("PodScheduled", "False", "Unschedulable", NODES)]),
        Cause.UNSCHEDULABLE,
        Patience.PENDING,
        f"Unschedulable: {NODES}",
    ),
    "no such claim": (
        pod(node="", conditions=[condition("PodScheduled", "False", "SchedulerError", 'persistentvolumeclaim "ws" not found')]),
        Cause.UNSCHEDULABLE,
        Patience.SHORT,
        'SchedulerError: persistentvolumeclaim "ws" not found',
    ),
    "a claim that is going": (
        pod(
            node="",
            conditions=[condition("PodScheduled", "False", "Unschedulable", f'{NODES}: persistentvolumeclaim "ws" is being deleted.')],
        ),
        Cause.UNSCHEDULABLE,
        Patience.SHORT,
        f'Unschedulable: {NODES}: persistentvolumeclaim "ws" is being deleted.',
    ),
    "a claim that waits for its volume": (
        pod(node="", conditions=[condition("PodScheduled", "False", "Unschedulable", "pod has unbound immediate PersistentVolumeClaims")]),
        Cause.UNSCHEDULABLE,
        Patience.PENDING,
        "Unschedulable: pod has unbound immediate PersistentVolumeClaims",
    ),
    "image not found": (
        pod(containerStatuses=[waiting("ErrImagePull", PULL)]),
        Cause.IMAGE_PULL,
        Patience.PULL,
        f"ErrImagePull: {PULL}",
    ),
    "image not found, again": (
        pod(containerStatuses=[waiting("ImagePullBackOff", "Back-off pulling image: ErrImagePull: not found")]),
        Cause.IMAGE_PULL,
        Patience.PULL,
        "ImagePullBackOff: Back-off pulling image: ErrImagePull: not found",
    ),
    "image name that is none": (
        pod(containerStatuses=[waiting("InvalidImageName", 'couldn\'t parse image name "A B": invalid reference format')]),
        Cause.IMAGE_PULL,
        Patience.NONE,
        'InvalidImageName: couldn\'t parse image name "A B": invalid reference format',
    ),
    "secret that is missing": (
        pod(containerStatuses=[waiting("CreateContainerConfigError", 'secret "deploy" not found')]),
        Cause.REJECTED,
        Patience.SHORT,
        'CreateContainerConfigError: secret "deploy" not found',
    ),
    "image of a sidecar": (
        pod(initContainerStatuses=[waiting("ErrImagePull", "not found", "db")], containerStatuses=[waiting("PodInitializing")]),
        Cause.IMAGE_PULL,
        Patience.PULL,
        "container db: ErrImagePull: not found",
    ),
    "being made": (
        pod(containerStatuses=[waiting("ContainerCreating")]),
        Cause.INTERNAL,
        Patience.PENDING,
        "ContainerCreating",
    ),
    "its node says nothing": (pod(), Cause.INTERNAL, Patience.PENDING, "its node node-1 has not begun with it"),
}


@pytest.mark.parametrize(("report", "cause", "patience", "words"), WAITS.values(), ids=WAITS.keys())
def test_a_pending_worker_says_what_it_waits_for(report: Report, cause: Cause, patience: Patience, words: str) -> None:
    """In the cluster's words, with the cause that it would fail with and how long that is borne."""
    found = worker(report)
    assert (found.state, found.pending_reason, found.held) == (State.PENDING, words, False)
    why = trouble(read(report))
    assert (why.cause, why.patience, why.words) == (cause, patience, words)


def test_a_held_worker_waits_for_room() -> None:
    """As long as our gate is on it; with somebody else's it waits for that."""
    gated = condition("PodScheduled", "False", "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
    found = worker(pod(node="", held=True, conditions=[gated]))
    assert (found.state, found.held, found.pending_reason) == (State.PENDING, True, "waits for room")
    report = pod(node="", conditions=[gated])
    report["spec"]["schedulingGates"] = [{"name": "example.com/quota"}]
    found = worker(report)
    assert (found.held, found.pending_reason) == (False, "held by example.com/quota")


def test_it_runs_from_its_checkout_on() -> None:
    """The checkout is part of the worker, so its start is the worker's."""
    found = worker(pod(CHECKED_OUT, initContainerStatuses=[running("checkout")], containerStatuses=[waiting("PodInitializing")]))
    assert (found.state, found.pending_reason) == (State.RUNNING, "")
    later = worker(
        pod(
            CHECKED_OUT,
            phase="Running",
            initContainerStatuses=[terminated(0, name="checkout")],
            containerStatuses=[running(started=ENDED)],
        )
    )
    assert (later.state, later.started) == (State.RUNNING, found.started)


def test_a_worker_whose_container_has_ended_is_not_finished_before_its_pod() -> None:
    """Only with the pod's end does the kubelet say whether it was evicted, and that every container's log is complete."""
    assert worker(pod(phase="Running", containerStatuses=[terminated(143)])).state is State.RUNNING


def test_where_it_runs_is_told() -> None:
    """Node and address."""
    found = worker(pod(phase="Running", podIP="10.244.1.7", containerStatuses=[running()]))
    assert (found.node, found.address, found.uid) == ("node-1", "10.244.1.7", "7d3f")
