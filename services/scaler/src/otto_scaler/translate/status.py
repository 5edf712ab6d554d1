"""How workers stand, as messages."""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from otto_runtime.times import rfc3339
from otto_scaler.outcomes import Refusal
from otto_scaler.picture import Selection
from otto_scaler.watching import Change, Kind
from otto_scaler.worker import Cause, State, Worker
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerEvent, WorkerRefusal, WorkerStatusResponse
from ottoscaler.v1.worker_pb2 import FailureCause, WorkerPodStatus, WorkerUsage

ANSWER_BYTES = 3 * 1024 * 1024
"""No answer is larger, so that it stays well below the 4 MiB that clients take."""
ERROR_CHARACTERS = 2000

_CAUSES = {cause: FailureCause.Value(f"FAILURE_CAUSE_{cause.name}") for cause in Cause}
_KINDS = {kind: WorkerEvent.Type.Value(f"TYPE_{kind.name}") for kind in Kind}


class StatusBook:
    """Remembers each worker's message for as long as the worker stands like that: most of what is asked for has been asked for before."""

    def __init__(self, cap: int) -> None:
        """`cap`: most workers that run at the same time, which is what those that are held wait under."""
        self._cap = cap
        self._written: WeakKeyDictionary[Worker, tuple[WorkerPodStatus, int]] = WeakKeyDictionary()

    def status(self, worker: Worker) -> WorkerPodStatus:
        """The message; not to be changed."""
        return self._entry(worker)[0]

    def event(self, change: Change) -> WorkerEvent:
        """A step of a watch."""
        return WorkerEvent(type=_KINDS[change.kind], worker=None if change.worker is None else self.status(change.worker))

    def response(self, selection: Selection, places: Mapping[str, int], turned_away: int) -> WorkerStatusResponse:
        """An answer to GetWorkerStatus; lists fewer workers than selected where it would become too large.

        `places` tells at which place those that wait for room will get it, `turned_away` how many can't even wait.
        """
        counts = selection.counts
        left = ANSWER_BYTES
        listed = []
        for worker in selection.workers:
            message, size = self._entry(worker)
            left -= size
            if left < 0:
                break
            place = places.get(worker.name)
            if place is not None and message.room_limit:
                placed = WorkerPodStatus()
                placed.CopyFrom(message)
                placed.pending_reason += f", place {place} of {len(places)}"
                message = placed
            listed.append(message)
        return WorkerStatusResponse(
            total_count=sum(counts.values()),
            running_count=counts[State.RUNNING],
            pending_count=counts[State.PENDING],
            succeeded_count=counts[State.SUCCEEDED],
            failed_count=counts[State.FAILED],
            workers=listed,
            waiting_count=selection.waiting,
            room_limit=self._cap,
            turned_away_count=turned_away,
        )

    def _entry(self, worker: Worker) -> tuple[WorkerPodStatus, int]:
        entry = self._written.get(worker)
        if entry is None:
            message = pod_status(worker, self._cap)
            entry = self._written[worker] = (message, message.ByteSize() + 8)
        return entry


def pod_status(worker: Worker, cap: int) -> WorkerPodStatus:
    """How a worker stands. Secrets are not among what a Worker knows."""
    pending = worker.state is State.PENDING
    waits = worker.held and pending
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
        pending_reason=f"waits for room (cap {cap})" if waits else worker.pending_reason if pending else "",
        index=identity.index,
        worker_count=identity.count,
        uid=worker.uid,
        room_limit=cap if waits else 0,
        traceparent=identity.traceparent,
    )
    if worker.exit_code is not None and worker.finished:
        message.exit_code = worker.exit_code
    if (used := worker.usage) is not None:
        message.usage.CopyFrom(
            WorkerUsage(
                average_cpu_cores=used.cpu_average,
                peak_cpu_cores=used.cpu_peak,
                average_memory_bytes=used.memory_average,
                peak_memory_bytes=used.memory_peak,
            )
        )
    return message


def refusals(refused: Sequence[Refusal]) -> list[WorkerRefusal]:
    """Why workers were not created."""
    return [
        WorkerRefusal(worker_pod_name=refusal.name, cause=_CAUSES[refusal.cause], reason=refusal.why[:ERROR_CHARACTERS])
        for refusal in refused
    ]
