"""How workers stand, as messages."""

from weakref import WeakKeyDictionary

from otto_scaler.picture import Selection
from otto_scaler.watching import Change, Kind
from otto_scaler.worker import Cause, State, Worker, rfc3339
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerEvent, WorkerStatusResponse
from ottoscaler.v1.worker_pb2 import FailureCause, WorkerPodStatus

ANSWER_BYTES = 3 * 1024 * 1024
"""No answer is larger, so that it stays well below the 4 MiB that clients take."""
ERROR_CHARACTERS = 2000

_CAUSES = {cause: FailureCause.Value(f"FAILURE_CAUSE_{cause.name}") for cause in Cause}
_KINDS = {kind: WorkerEvent.Type.Value(f"TYPE_{kind.name}") for kind in Kind}


class StatusBook:
    """Remembers each worker's message for as long as the worker stands like that: most of what is asked for has been asked for before."""

    def __init__(self) -> None:
        self._written: WeakKeyDictionary[Worker, tuple[WorkerPodStatus, int]] = WeakKeyDictionary()

    def status(self, worker: Worker) -> WorkerPodStatus:
        """The message; not to be changed."""
        return self._entry(worker)[0]

    def event(self, change: Change) -> WorkerEvent:
        """A step of a watch."""
        return WorkerEvent(type=_KINDS[change.kind], worker=None if change.worker is None else self.status(change.worker))

    def response(self, selection: Selection) -> WorkerStatusResponse:
        """An answer to GetWorkerStatus; lists fewer workers than selected where it would become too large."""
        counts = selection.counts
        left = ANSWER_BYTES
        listed = []
        for worker in selection.workers:
            message, size = self._entry(worker)
            left -= size
            if left < 0:
                break
            listed.append(message)
        return WorkerStatusResponse(
            total_count=sum(counts.values()),
            running_count=counts[State.RUNNING],
            pending_count=counts[State.PENDING],
            succeeded_count=counts[State.SUCCEEDED],
            failed_count=counts[State.FAILED],
            workers=listed,
        )

    def _entry(self, worker: Worker) -> tuple[WorkerPodStatus, int]:
        entry = self._written.get(worker)
        if entry is None:
            message = pod_status(worker)
            entry = self._written[worker] = (message, message.ByteSize() + 8)
        return entry


def pod_status(worker: Worker) -> WorkerPodStatus:
    """How a worker stands. Secrets are not among what a Worker knows."""
    identity = worker.identity
    message = WorkerPodStatus(
        pod_name=worker.name,
        task_id=identity.task_id,
        status=worker.state.value,
        created_at=rfc3339(worker.created),
        started_at=rfc3339(worker.started),
        completed_at=rfc3339(worker.ended),
        node_name=worker.node,
        pod_ip=worker.address,
        labels=identity.labels,
        error_message=worker.error[:ERROR_CHARACTERS] if worker.state is State.FAILED else "",
        failure_cause=_CAUSES[worker.cause],
        attempt=identity.attempt,
        stage_id=identity.stage_id,
        pipeline_id=identity.pipeline_id,
        pending_reason=worker.pending_reason if worker.state is State.PENDING else "",
        index=identity.index,
        worker_count=identity.count,
        uid=worker.uid,
    )
    if worker.exit_code is not None and worker.finished:
        message.exit_code = worker.exit_code
    return message
