"""What the backend holds of one worker."""

from otto_scaler.backends.kubernetes import marks
from otto_scaler.backends.kubernetes.deadlines import Deadlines, Moment
from otto_scaler.backends.kubernetes.judging import collected, worker_of
from otto_scaler.backends.kubernetes.pods import WorkerPod
from otto_scaler.worker import Cause, Identity

_STANDING = ("state", "started", "ended", "held", "stopping", "exit_code", "cause", "error", "pending_reason", "node", "address")


class Entry:
    """One pod, as it was last seen, without what takes room; and its worker, as it was last told."""

    def __init__(self, pod: WorkerPod, identity: Identity, deadlines: Deadlines) -> None:
        self.identity = identity
        self.deadlines = deadlines
        self.uid = pod.metadata.uid
        self.worker = worker_of(pod, identity)
        self.version = ""
        """The resource version."""
        self.scheduled = False
        self.gates: tuple[str, ...] = ()
        self.stopping = False
        self.verdict: tuple[Cause, str] | None = None
        """Why its pod is being deleted, which ends it."""
        self.concluded = self._ends_deleted(pod)
        """It ended with its pod's deletion, or its end was decided here: it is kept when the pod is gone."""
        self.gone = False
        """There is no pod any more."""
        self.acting = False
        """Something is being done about it because its time was over."""
        self.note(pod)

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.identity.name

    def note(self, pod: WorkerPod) -> None:
        """Takes over what actions need to know."""
        self.version = pod.metadata.resource_version
        self.scheduled = bool(pod.spec.node_name)
        self.gates = tuple(gate.name for gate in pod.spec.scheduling_gates)
        self.stopping = marks.stop(pod.metadata) is not None

    def older(self, pod: WorkerPod) -> bool:
        """Whether the pod is as it was before it was last seen: answers to calls and what is watched come in no order.

        Versions are numbers that grow (KEP-5504, Kubernetes 1.35; of every server that keeps its objects in etcd before).
        """
        version = pod.metadata.resource_version
        return version.isdecimal() and self.version.isdecimal() and int(version) < int(self.version)

    def look(self, pod: WorkerPod, now: Moment) -> bool:
        """Takes over how the pod stands; whether the worker stands differently now. One that has ended stays as it ended."""
        self.note(pod)
        if self.worker.finished:
            return False
        self.deadlines.look(pod, now)
        worker = worker_of(pod, self.identity)
        if all(getattr(worker, name) == getattr(self.worker, name) for name in _STANDING):
            return False
        self.worker = worker
        self.concluded = self._ends_deleted(pod)
        return True

    def _ends_deleted(self, pod: WorkerPod) -> bool:
        return self.worker.finished and (pod.metadata.deletion_timestamp is not None or collected(pod))
