"""How a worker stands, out of what the cluster says about its pod.

A worker is finished when its pod is: the kubelet gives the reason of an end (Evicted, DeadlineExceeded) only together with that, and only
then is every container's log complete. What others put beside it and does not end is stopped then. Reasons and conditions named here are
those of Kubernetes 1.26 and later.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from otto_kubekit.objects import Terminated
from otto_scaler.backends.kubernetes import marks
from otto_scaler.backends.kubernetes.pods import WorkerPod, began, nanoseconds
from otto_scaler.backends.kubernetes.trouble import trouble
from otto_scaler.worker import Cause, Identity, State, Worker

HELD_WORDS = "waits for room"
_NODE_REFUSED = ("OutOf", "NodeAffinity", "NodePorts", "UnexpectedAdmissionError", "TopologyAffinityError", "InitContainersRestartPolicy")
_COMMAND_AT_FAULT = (
    "exec:",
    "exec format error",
    "chdir to cwd",
    "no such file or directory",
    "not a directory",
    "permission denied",
    "read-only file system",
)
"""What container runtimes say when a command or a working directory can't be what was asked for; all else that keeps a container from
starting is the node's failure, and another one may succeed. Seen of runc 1.5 and its errno texts.
"""
_NODE_ENDED = ("Evicted", "Preempting", "Preempted", "Terminated", "NodeShutdown", "Shutdown")
_STOPPED_CODES = frozenset({None, 130, 137, 143})
"""Exit codes that SIGTERM, SIGINT and SIGKILL leave."""
_COLLECTED = "DeletionByPodGC"
_DISRUPTIONS = {
    "PreemptionByScheduler": (Cause.EVICTED, "preempted"),
    "EvictionByEvictionAPI": (Cause.EVICTED, "evicted"),
    "TerminationByKubelet": (Cause.EVICTED, "ended by its node"),
    "DeletionByTaintManager": (Cause.NODE_LOST, "its node was lost"),
    _COLLECTED: (Cause.NODE_LOST, "its node is gone"),
}
"""Reasons of the condition DisruptionTarget."""


class End(NamedTuple):
    """How a worker ended."""

    state: State
    code: int | None = None
    cause: Cause = Cause.UNSPECIFIED
    words: str = ""


def worker_of(pod: WorkerPod, identity: Identity, *, gone: bool = False) -> Worker:
    """How the worker stands whose pod this is. `gone`: this is the last that was seen of it, so the worker has ended in any case."""
    started = _started(pod)
    stop = marks.stop(pod.metadata)
    common = {
        "identity": identity,
        "uid": pod.metadata.uid,
        "created": nanoseconds(pod.metadata.creation_timestamp),
        "node": pod.spec.node_name,
        "address": pod.status.pod_ip,
    }
    if pod.terminal or gone:
        end = ending(pod)
        return Worker(
            **common,  # type: ignore[arg-type] # what each is stands above
            state=end.state,
            started=nanoseconds(started),
            ended=max(nanoseconds(_ended(pod)), nanoseconds(started)),
            stopping=stop is not None,
            exit_code=end.code,
            cause=end.cause,
            error=end.words,
        )
    reason = ""
    if started is None:
        reason = HELD_WORDS if pod.held else trouble(pod).words
    return Worker(
        **common,  # type: ignore[arg-type] # what each is stands above
        state=State.PENDING if started is None else State.RUNNING,
        started=nanoseconds(started),
        held=pod.held,
        stopping=stop is not None,
        pending_reason=reason,
    )


def ending(pod: WorkerPod) -> End:
    """How the worker ended whose pod has ended, or is gone."""
    ended = _terminated(pod)
    code = None if ended is None else ended.exit_code
    if ended is not None and marks.rest_stopped(pod.metadata):
        return _by_itself(pod, ended)
    stop = marks.stop(pod.metadata)
    if stop is not None and pod.status.phase != "Succeeded" and _by_stop(pod, ended):
        return End(State.FAILED, code, *stop)
    if (thrown := _thrown_out(pod)) is not None:
        return End(State.FAILED, code, *thrown)
    if pod.metadata.deletion_timestamp is not None and not _ended_before_deletion(pod, ended):
        return End(State.FAILED, code, *disruption(pod))
    if pod.status.reason == "DeadlineExceeded":
        seconds = marks.timeout(pod.metadata)
        if _started(pod) is not None:
            return End(State.FAILED, code, Cause.TIMEOUT, f"ran longer than {seconds:g} s" if seconds is not None else pod.status.message)
        why = trouble(pod)
        return End(State.FAILED, code, why.cause, why.words)
    if ended is not None:
        return _by_itself(pod, ended)
    if not pod.terminal:
        return End(State.FAILED, None, *disruption(pod))
    if pod.status.phase == "Succeeded":
        return End(State.SUCCEEDED, 0)
    words = f"{pod.status.reason}: {pod.status.message}".strip(": ") or _init_failure(pod)
    return End(State.FAILED, None, Cause.INTERNAL, words or "its pod has failed, and nothing says why")


def disruption(pod: WorkerPod) -> tuple[Cause, str]:
    """Why a pod was deleted, as far as whoever did it has left word, or its node had stopped answering before."""
    target = pod.condition("DisruptionTarget")
    if target is not None and target.status == "True":
        cause, words = _DISRUPTIONS.get(target.reason, (Cause.EVICTED, target.reason))
        return cause, f"{words}: {target.message}".strip(": ")
    if abandoned(pod):
        return Cause.NODE_LOST, f"it was deleted when its node {pod.spec.node_name} did not answer"
    return Cause.DELETED, "it was deleted from outside"


def collected(pod: WorkerPod) -> bool:
    """Whether the collector of pods has given it up: it marks a pod whose node is gone as failed, and deletes it at once."""
    target = pod.condition("DisruptionTarget")
    return target is not None and target.status == "True" and target.reason == _COLLECTED and pod.status.phase == "Failed"


def abandoned(pod: WorkerPod) -> bool:
    """Whether its node has stopped answering, by what the cluster says of the pod, as nodes themselves may not be asked about.

    Then the node controller takes the condition Ready away and leaves the others as the kubelet had written them last, which itself takes
    Ready only together with ContainersReady, or by a readiness gate, with a reason.
    """
    ready, containers = pod.condition("Ready"), pod.condition("ContainersReady")
    if ready is None or containers is None or pod.terminal:
        return False
    return (ready.status, ready.reason, containers.status) == ("False", "", "True")


def _by_stop(pod: WorkerPod, ended: Terminated | None) -> bool:
    """Whether what was asked for has ended it, and not something that came first."""
    if pod.status.reason == "DeadlineExceeded":
        return True
    if ended is not None and ended.reason == "OOMKilled":
        return False
    return (None if ended is None else ended.exit_code) in _STOPPED_CODES or not pod.terminal


def _thrown_out(pod: WorkerPod) -> tuple[Cause, str] | None:
    """Whether its node or the scheduler has ended it."""
    reason, message = pod.status.reason, pod.status.message
    if collected(pod):
        return disruption(pod)
    if reason == "NodeLost":
        return Cause.NODE_LOST, message or "its node was lost"
    if reason in _NODE_ENDED:
        return Cause.EVICTED, f"{reason}: {message}".strip(": ")
    if reason.startswith(_NODE_REFUSED) and _started(pod) is None:
        return Cause.EVICTED, f"its node refused it: {reason}: {message}".strip(": ")
    return None


def _by_itself(pod: WorkerPod, ended: Terminated) -> End:
    code = ended.exit_code
    own = pod.worker is not None and pod.worker.state.terminated is ended
    if code == 0 and own:
        return End(State.SUCCEEDED, 0)
    if ended.reason == "OOMKilled":
        return End(State.FAILED, code, Cause.OOM_KILLED, "used more than its limit of memory")
    if ended.reason == "ContainerStatusUnknown":
        return End(State.FAILED, code, Cause.NODE_LOST, ended.message or "its node lost sight of it")
    if not own:
        return End(State.FAILED, code, Cause.EXIT_CODE, ended.message.strip() or f"the checkout failed with exit code {code}")
    if ended.reason in {"StartError", "ContainerCannotRun"}:
        cause = Cause.EXIT_CODE if any(words in ended.message for words in _COMMAND_AT_FAULT) else Cause.INTERNAL
        return End(State.FAILED, code, cause, f"it could not be started: {ended.message.strip()}")
    return End(State.FAILED, code, Cause.EXIT_CODE, f"exit code {code}")


def _terminated(pod: WorkerPod) -> Terminated | None:
    """How the worker's own container ended, or the checkout that kept it from starting."""
    if pod.worker is not None and pod.worker.state.terminated is not None:
        return pod.worker.state.terminated
    checkout = None if pod.checkout is None else pod.checkout.state.terminated
    return checkout if checkout is not None and checkout.exit_code != 0 else None


def _init_failure(pod: WorkerPod) -> str:
    """Which init container, of the template or put there by somebody else, has kept the worker from starting; as kubectl says it."""
    for status in pod.status.init_container_statuses:
        ended = status.state.terminated
        if ended is not None and ended.exit_code:
            words = f"Init:{ended.reason or 'Error'}: container {status.name} ended with exit code {ended.exit_code}"
            return f"{words}: {ended.message.strip()}".strip(": ")
    return ""


def _ended_before_deletion(pod: WorkerPod, ended: Terminated | None) -> bool:
    """Whether it had ended when somebody asked for its deletion. Times are whole seconds: in the same one it counts as deleted."""
    due = pod.metadata.deletion_timestamp
    if ended is None or ended.finished_at is None or due is None:
        return False
    return ended.finished_at < due - timedelta(seconds=pod.metadata.deletion_grace_period_seconds or 0)


def _started(pod: WorkerPod) -> datetime | None:
    """When its checkout began to run, or the worker itself."""
    return min((moment for moment in (began(pod.checkout), began(pod.worker)) if moment is not None), default=None)


def _ended(pod: WorkerPod) -> datetime | None:
    ended = _terminated(pod)
    if ended is not None and ended.finished_at is not None:
        return ended.finished_at
    return max((moment for moment in _moments(pod) if moment is not None), default=None)


def _moments(pod: WorkerPod) -> Iterator[datetime | None]:
    """Whenever something is known to have happened to it."""
    yield pod.metadata.creation_timestamp
    yield pod.status.start_time
    for condition in pod.status.conditions:
        yield condition.last_transition_time
