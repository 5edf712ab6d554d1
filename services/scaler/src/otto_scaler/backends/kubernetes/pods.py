"""A worker's pod, as far as the scaler reads it: without commands and variables, which may be large."""

from datetime import datetime

from otto_kubekit.kinds import Kind
from otto_kubekit.objects import Condition, ContainerStatus, KubeObject, Part, PodStatus, SchedulingGate
from otto_scaler.backends.kubernetes.marks import CHECKOUT, GATE, WORKER


class WorkerPodSpec(Part, frozen=True):
    """What of a pod's spec tells how far it is."""

    node_name: str = ""
    scheduling_gates: tuple[SchedulingGate, ...] = ()
    termination_grace_period_seconds: int = 30
    """The cluster's own default, which it writes into every pod."""


class WorkerPod(KubeObject, frozen=True):
    """A worker's pod."""

    spec: WorkerPodSpec = WorkerPodSpec()
    status: PodStatus = PodStatus()

    @property
    def worker(self) -> ContainerStatus | None:
        """How the worker's own container is doing; None before a node has looked at it."""
        return _named(self.status.container_statuses, WORKER)

    @property
    def checkout(self) -> ContainerStatus | None:
        """How its checkout is doing; None without one."""
        return _named(self.status.init_container_statuses, CHECKOUT)

    @property
    def terminal(self) -> bool:
        """Whether all of its containers have ended for good: the kubelet says so only when their logs are complete."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def left_running(self) -> tuple[str, ...]:
        """Containers that go on though the worker's own has ended, and keep the pod from ending.

        Ours are sidecars, which the kubelet stops itself: these are what others have put into the pod (a mesh's proxy, by a webhook).
        """
        if self.terminal or self.worker is None or self.worker.state.terminated is None:
            return ()
        return tuple(status.name for status in self.status.container_statuses if status.state.terminated is None)

    @property
    def held(self) -> bool:
        """Whether our gate keeps it from being scheduled."""
        return any(gate.name == GATE for gate in self.spec.scheduling_gates)

    def condition(self, kind: str) -> Condition | None:
        """A condition that is told of it, whatever its status."""
        return next((condition for condition in self.status.conditions if condition.type == kind), None)


WORKER_PODS = Kind("", "v1", "pods", "Pod", WorkerPod)


def _named(statuses: tuple[ContainerStatus, ...], name: str) -> ContainerStatus | None:
    return next((status for status in statuses if status.name == name), None)


def began(status: ContainerStatus | None) -> datetime | None:
    """When the container began to run; None if it has not, also when its program could not be started (then it has ended at once)."""
    if status is None:
        return None
    run = status.state.running or status.state.terminated
    return None if run is None or run.started_at is None or run.started_at.timestamp() <= 0 else run.started_at


def nanoseconds(moment: datetime | None) -> int:
    """Since the epoch; 0 for None."""
    return 0 if moment is None else int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
