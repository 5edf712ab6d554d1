"""All workers that are known, in memory: pure bookkeeping, so that questions are answered without asking anybody."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from otto_scaler.watching import Change, Kind
from otto_scaler.worker import Cause, State, Worker


@dataclass(frozen=True, slots=True)
class Selection:
    """What a question selects: how many in each state, and the first of them."""

    counts: dict[State, int]
    workers: list[Worker]
    waiting: int
    """How many of the pending ones wait for room."""


class Picture:
    """The workers by name. Unfinished ones are kept in the order of their creation, finished ones in that of their end."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._unfinished: dict[str, None] = {}
        self._finished: dict[str, None] = {}
        self._tasks: dict[str, dict[str, None]] = {}
        self._counts: Counter[State] = Counter()
        self._held = 0

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, name: str) -> Worker | None:
        """The worker of that name."""
        return self._workers.get(name)

    def all(self) -> list[Worker]:
        """Every worker."""
        return list(self._workers.values())

    def finished(self) -> list[Worker]:
        """The finished ones, the longest finished first."""
        return [self._workers[name] for name in self._finished]

    def unfinished(self, task: str) -> list[Worker]:
        """The unfinished ones of a task, in the order of their creation."""
        return [worker for worker in self._of_task(task) if not worker.finished]

    def count(self, task: str) -> int:
        """How many there are of a task."""
        return len(self._tasks.get(task, ()))

    def counts(self) -> dict[State, int]:
        """How many there are in each state."""
        return {state: self._counts[state] for state in State}

    def put(self, worker: Worker) -> list[Change]:
        """Takes over how a worker stands; nothing follows if that is not new. A finished one stays as it ended, until another one has its
        name.
        """
        changes: list[Change] = []
        before = self._workers.get(worker.name)
        if before is not None and before.uid != worker.uid:
            changes += self.drop(worker.name)
            before = None
        if before is worker or (before is not None and before.finished):
            return []
        self._workers[worker.name] = worker
        self._tasks.setdefault(worker.identity.task_id, {})[worker.name] = None
        if before is not None:
            self._counts[before.state] -= 1
            self._held -= _waits(before)
        self._counts[worker.state] += 1
        self._held += _waits(worker)
        if worker.finished:
            self._unfinished.pop(worker.name, None)
            self._finished[worker.name] = None
        else:
            self._unfinished[worker.name] = None
        return [*changes, Change(Kind.ADDED if before is None else Kind.MODIFIED, worker)]

    def lose(self, name: str, now: int, reason: str = "") -> list[Change]:
        """The worker isn't there any more. A finished one is dropped; one that was not has failed, and stays to be seen.

        `reason` says that it was asked to stop, and why: then that is how it ended.
        """
        worker = self._workers.get(name)
        if worker is None:
            return []
        if worker.finished:
            return self.drop(name)
        cause, error = (Cause.CANCELLED, reason) if reason else (Cause.DELETED, "it was deleted from outside")
        return self.put(replace(worker, state=State.FAILED, ended=now, cause=cause, error=error, pending_reason="", held=False))

    def drop(self, name: str) -> list[Change]:
        """Forgets a worker."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return []
        self._unfinished.pop(name, None)
        self._finished.pop(name, None)
        self._counts[worker.state] -= 1
        self._held -= _waits(worker)
        names = self._tasks[worker.identity.task_id]
        del names[name]
        if not names:
            del self._tasks[worker.identity.task_id]
        return [Change(Kind.DELETED, worker)]

    def select(self, task: str, name: str, state: State | None, limit: int) -> Selection:
        """The workers that match all that is given (an empty text or None matches any), unfinished and newest first, at most `limit`.

        The counts cover all. Without a task or name the cost does not grow with the number of finished workers.
        """
        if not task and not name:
            counts = {s: count if state in {None, s} else 0 for s, count in self.counts().items()}
            waiting = self._held if state in {None, State.PENDING} else 0
            return Selection(counts, list(self._listed(state, limit)), waiting)
        if name:
            one = self._workers.get(name)
            matching = [one] if one is not None and task in {"", one.identity.task_id} else []
        else:
            matching = list(self._of_task(task))
        matching = [w for w in matching if state in {None, w.state}]
        counted = Counter(w.state for w in matching)
        matching.sort(key=lambda w: (not w.finished, w.created, w.identity.index), reverse=True)
        waiting = sum(_waits(w) for w in matching)
        return Selection({s: counted[s] for s in State}, matching[:limit], waiting)

    def _of_task(self, task: str) -> Iterator[Worker]:
        return (self._workers[name] for name in self._tasks.get(task, ()))

    def _listed(self, state: State | None, limit: int) -> Iterator[Worker]:
        left = limit
        for names in (self._unfinished, self._finished):
            for name in reversed(names):
                if left <= 0:
                    return
                worker = self._workers[name]
                if state in {None, worker.state}:
                    left -= 1
                    yield worker


def _waits(worker: Worker) -> bool:
    return worker.held and not worker.finished
