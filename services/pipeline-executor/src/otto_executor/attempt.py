"""One attempt of a stage: what its workers' reports add up to. Pure functions over a stage's state."""

from collections.abc import Callable, Collection, Iterator
from enum import StrEnum

from otto_executor.orders import WorkerReport
from otto_executor.progress import counted, shortened
from otto_executor.retry import Failure, FailureCause, Retry, RetryPolicy, decide
from otto_executor.stage import Phase, StageSpec, StageState, Worker, WorkerStatus
from otto_executor.usage import together

_RANK = {WorkerStatus.PENDING: 0, WorkerStatus.RUNNING: 1, WorkerStatus.SUCCEEDED: 2, WorkerStatus.FAILED: 2}
_WORDS = {
    FailureCause.OOM_KILLED: "used more memory than its limit",
    FailureCause.TIMEOUT: "ran longer than its timeout",
    FailureCause.EVICTED: "was thrown out by its node",
    FailureCause.NODE_LOST: "its node is gone",
    FailureCause.DELETED: "was removed from outside",
    FailureCause.IMAGE_PULL: "its image could not be pulled",
    FailureCause.UNSCHEDULABLE: "found no node to run on",
    FailureCause.QUOTA: "was refused by a quota",
    FailureCause.REJECTED: "was refused",
    FailureCause.CANCELLED: "was stopped on request",
}


class Verdict(StrEnum):
    """What an attempt has come to."""

    GOING = "GOING"
    SUCCEEDED = "SUCCEEDED"
    FAILING = "FAILING"
    """A worker failed and others may still run."""
    OVER = "OVER"
    """It failed or was stopped, and no worker is left."""


def heard(state: StageState, report: WorkerReport, now: float) -> bool:
    """Takes a report of the current attempt in; False if it says nothing new. What has ended stays so, however late reports come."""
    known = state.workers.get(report.index)
    if known is not None and _RANK[known.status] >= _RANK[report.status]:
        return False
    since = known.running_since if known is not None else None
    if report.status is WorkerStatus.RUNNING:
        since = now
    state.workers[report.index] = Worker(
        report.name,
        report.status,
        since,
        report.exit_code,
        report.cause,
        shortened(report.words) if report.status.ended else "",
        report.room if report.status is WorkerStatus.PENDING else 0,
    )
    state.usage = together((state.usage, report.usage))
    return True


def vanished(spec: StageSpec, state: StageState, present: Collection[int], *, expected: bool) -> Iterator[int]:
    """The workers that should be there and are not: live ones, and with `expected` also those never heard of."""
    for index in range(1, spec.workers + 1):
        worker = state.workers.get(index)
        missing = expected if worker is None else not worker.status.ended
        if missing and index not in present:
            yield index


def removed(state: StageState, index: int, words: str) -> None:
    """Notes that a worker is gone without having ended."""
    known = state.workers.get(index)
    name = known.name if known is not None else (state.names[index - 1] if index <= len(state.names) else "")
    state.workers[index] = Worker(name, WorkerStatus.FAILED, None, None, FailureCause.DELETED, words)


def ended(state: StageState) -> int:
    """How many workers have ended."""
    return sum(worker.status.ended for worker in state.workers.values())


def counts(state: StageState) -> tuple[int, int]:
    """How many workers have succeeded and failed."""
    succeeded = sum(worker.status is WorkerStatus.SUCCEEDED for worker in state.workers.values())
    return succeeded, ended(state) - succeeded


def in_words(spec: StageSpec, *, ended: int = 0, running: int = 0, waiting: int = 0, room: int = 0) -> str:
    """How many of a stage's workers stand how: `2 of 10 workers ended, 5 run, 3 wait for room (cap 100)`; "" for none."""
    cap = f" (cap {room})" if room else ""
    parts = [(ended, "ended", "ended"), (running, "runs", "run"), (waiting, f"waits for room{cap}", f"wait for room{cap}")]
    of = f" of {counted(spec.workers, 'worker')}" if spec.workers > 1 else " worker"
    said: list[str] = []
    for number, one, many in parts:
        if number:
            said.append(f"{number}{'' if said else of} {one if number == 1 else many}")
    return ", ".join(said)


def names(state: StageState) -> tuple[str, ...]:
    """The attempt's workers in the order of their numbers, as far as they are known."""
    if state.names:
        return state.names
    return tuple(state.workers[index].name for index in sorted(state.workers))


def failure(spec: StageSpec, state: StageState) -> Failure | None:
    """Why the attempt fails: its first failed worker, one that failed by itself before one that was stopped."""
    failed = [(index, worker) for index, worker in sorted(state.workers.items()) if worker.status is WorkerStatus.FAILED]
    if not failed:
        return None
    index, worker = min(failed, key=lambda pair: (pair[1].cause is FailureCause.CANCELLED, pair[0]))
    cause = worker.cause or (FailureCause.EXIT_CODE if worker.exit_code is not None else FailureCause.INTERNAL)
    words = worker.words or _WORDS.get(cause, "") or (f"exit code {worker.exit_code}" if worker.exit_code is not None else "failed")
    if spec.workers > 1:
        words = f"worker {index} of {spec.workers}: {words}"
    return Failure(cause, words, worker.exit_code)


def verdict(spec: StageSpec, state: StageState) -> Verdict:
    """What the attempt has come to. Workers never heard of are waited for until a stop has been confirmed."""
    done = ended(state)
    everything_ended = done == len(state.workers) and (done == spec.workers or (state.phase is Phase.STOPPING and state.stop_confirmed))
    if state.phase is Phase.STOPPING:
        return Verdict.OVER if everything_ended else Verdict.GOING
    succeeded, failed = counts(state)
    if failed:
        return Verdict.OVER if everything_ended else Verdict.FAILING
    return Verdict.SUCCEEDED if succeeded == spec.workers else Verdict.GOING


def overdue_at(spec: StageSpec, state: StageState, patience: float, unseen_patience: float) -> float | None:
    """When a running attempt has to be given up although nobody said that it ended; None while nothing is due.

    `patience` is what a worker may take beyond its timeout, `unseen_patience` how long after its creation nothing may be heard of it; both
    in seconds. The scaler keeps these times itself; this is for when it does not.
    """
    times = [
        worker.running_since + spec.timeout + patience
        for worker in state.workers.values()
        if worker.status is WorkerStatus.RUNNING and worker.running_since is not None
    ]
    if state.confirmed_at is not None and len(state.workers) < spec.workers:
        times.append(state.confirmed_at + unseen_patience)
    return min(times, default=None)


def repetition(
    spec: StageSpec, state: StageState, failure: Failure, infrastructure: RetryPolicy, draw: Callable[[], float]
) -> Retry | None:
    """Whether the failed attempt is repeated; counted then against the budget that it is repeated on."""
    retry = decide(
        spec.retry, failure, used=state.retries, infrastructure_used=state.infrastructure_retries, infrastructure=infrastructure, draw=draw
    )
    if retry is not None and retry.infrastructure:
        state.infrastructure_retries += 1
    elif retry is not None:
        state.retries += 1
    return retry
