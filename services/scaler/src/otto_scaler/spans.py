"""A worker that has ended as a span: from its creation to its end as the backend knows it, so a scaler that was not there can tell it."""

import time
from collections.abc import Callable, Mapping

from otto_runtime import spans
from otto_runtime.spans import Span
from otto_scaler.fleet import Fleet
from otto_scaler.watching import Change, Kind
from otto_scaler.worker import Cause, State, Worker, worker_name

AGAIN_SECONDS = 600.0
"""Workers that ended so shortly before a start are told of at it: they ended while no scaler ran, or their spans had not been sent when the
last one was killed. Some have been told of before; their spans have the same ids again.
"""
MOST_AGAIN = 1000
"""Of those, so that a start sends no flood."""
_RESULTS = {
    Cause.UNSPECIFIED: spans.SUCCESS,
    Cause.EXIT_CODE: spans.FAILURE,
    Cause.TIMEOUT: spans.TIMEOUT,
    Cause.CANCELLED: spans.CANCELLATION,
}


def worker_span(worker: Worker, place: Mapping[str, str]) -> Span:
    """Of one that has ended and belongs to a trace. `place`: attributes that say where it ran."""
    identity = worker.identity
    told = {
        spans.WORKER_ID: worker.uid or worker.name,
        spans.WORKER_NAME: worker.name,
        **place,
        **spans.given(
            task_id=identity.task_id,
            attempt=identity.attempt,
            worker_index=identity.index,
            worker_count=identity.count,
            pending_seconds=round((worker.started - worker.created) / 1e9, 3) if worker.started else None,
            result=_RESULTS.get(worker.cause, spans.ERROR if worker.cause is not Cause.OOM_KILLED else spans.FAILURE),
        ),
    }
    if identity.pipeline_id:
        told |= {spans.RUN_ID: identity.pipeline_id, spans.TASK_RUN_ID: identity.stage_id}
    if worker.exit_code is not None:
        told[spans.EXIT_CODE] = worker.exit_code
    failed = worker.state is State.FAILED and worker.cause is not Cause.CANCELLED
    if failed:
        told[spans.ERROR_TYPE] = worker.cause.name
    return Span(
        context=identity.traceparent,
        parent=identity.parent,
        name=f"worker {identity.stage_id}".rstrip(),
        start=worker.created,
        end=worker.ended,
        attributes=told,
        links=(_former(worker),) if identity.attempt > 1 else (),
        error=spans.shortened(worker.error or worker.cause.name) if failed else None,
    )


def _former(worker: Worker) -> str:
    """The span of the worker of the same number in the attempt before, whose name and trace follow from its own."""
    identity = worker.identity
    name = worker_name(identity.task_id, identity.pipeline_id, identity.stage_id, identity.attempt - 1, identity.index)
    return spans.worker(identity.parent, name)


class WorkerSpans:
    """Listens to a fleet, and has each worker that ends told."""

    def __init__(
        self,
        fleet: Fleet,
        place: Callable[[Worker], Mapping[str, str]],
        tell: Callable[[Span], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`place` gives attributes that say where a worker runs; `clock` nanoseconds since the epoch."""
        self._fleet = fleet
        self._place = place
        self._tell = tell
        self._clock = clock

    def begin(self) -> None:
        """All workers are known."""
        ended = (worker for worker in self._fleet.attach(self) if worker.finished)
        for worker in spans.to_tell_again(ended, lambda one: one.ended / 1e9, self._clock() / 1e9 - AGAIN_SECONDS, MOST_AGAIN):
            self._told(worker)

    def offer(self, change: Change) -> None:
        """A change of the fleet: a worker changes no more once it has ended."""
        if change.worker is not None and change.worker.finished and change.kind is not Kind.DELETED:
            self._told(change.worker)

    def _told(self, worker: Worker) -> None:
        if worker.identity.parent:
            self._tell(worker_span(worker, self._place(worker)))
