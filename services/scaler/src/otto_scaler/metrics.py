"""What Prometheus sees of the workers: gauges are read when somebody asks, the rest is counted as changes come."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from otto_scaler.fleet import Fleet
from otto_scaler.watching import Change, Kind
from otto_scaler.worker import Cause, State, Worker

_SECONDS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


@dataclass(slots=True)
class _Life:
    """Of a worker that has not ended, in seconds of the steady clock."""

    since: float
    held: bool
    runs: bool = False
    measured: bool = True
    """Its waits are known from their beginning."""


class WorkerMetrics(Collector):
    """A collector of prometheus_client, called in its server's thread; it listens to a fleet."""

    def __init__(self, fleet: Fleet, steady: Callable[[], float] = time.monotonic) -> None:
        """`steady` gives seconds that only grow."""
        self._fleet = fleet
        self._steady = steady
        self._lives: dict[str, _Life] = {}
        self._ended = Counter(
            "otto_scaler_workers_ended", "Workers that have ended; `cause` is that of a failure.", ("state", "cause"), registry=None
        )
        self._queued = Histogram(
            "otto_scaler_worker_queue_seconds", "Time that a worker waited for room under the cap.", buckets=_SECONDS, registry=None
        )
        self._started = Histogram(
            "otto_scaler_worker_start_seconds",
            "Time from when a worker was created, or had room, until it ran: scheduling, images, checkout.",
            buckets=_SECONDS,
            registry=None,
        )

        # All there can be is there from the start: a rate does not see the first one of a series that begins with it.
        self._ended.labels(State.SUCCEEDED.value, "")
        for cause in Cause:
            if cause is not Cause.UNSPECIFIED:
                self._ended.labels(State.FAILED.value, cause.name.lower())

    def begin(self) -> None:
        """All workers are known: from now on changes are counted. Waits of those that are there already are known from now only."""
        for worker in self._fleet.attach(self):
            if not worker.finished:
                self._lives[worker.name] = _Life(self._steady(), worker.held, bool(worker.started), measured=False)

    def offer(self, change: Change) -> None:
        """Counts a change of the fleet, in the order in which they are seen; nothing is counted again after a restart."""
        worker = change.worker
        if worker is None:
            return
        if change.kind is Kind.ADDED and not worker.finished:
            self._lives[worker.name] = _Life(self._steady(), worker.held)
        elif change.kind is not Kind.DELETED and worker.finished:
            cause = worker.cause.name.lower() if worker.state is State.FAILED else ""
            self._ended.labels(worker.state.value, cause).inc()
        if (life := self._lives.get(worker.name)) is not None:
            self._moved(life, worker)
        if change.kind is Kind.DELETED or worker.finished:
            self._lives.pop(worker.name, None)

    def _moved(self, life: _Life, worker: Worker) -> None:
        now = self._steady()
        if life.held and not worker.held:
            if life.measured:
                self._queued.observe(now - life.since)
            life.held, life.since, life.measured = False, now, True
        if not life.runs and worker.started:
            if life.measured:
                self._started.observe(now - life.since)
            life.runs = True

    def collect(self) -> Iterable[Metric]:
        """The figures of now."""
        counts, queued = self._fleet.figures()
        workers = GaugeMetricFamily(
            "otto_scaler_workers", "Workers there are, finished ones until they are tidied away.", labels=("state",)
        )
        for state, count in counts.items():
            workers.add_metric((state.value,), count)
        yield workers
        yield GaugeMetricFamily("otto_scaler_workers_queued", "Workers that wait for room under the cap.", queued)
        yield GaugeMetricFamily("otto_scaler_workers_limit", "Most workers that run at the same time.", self._fleet.cap)
        now, lives = self._steady(), list(self._lives.values())
        yield GaugeMetricFamily(
            "otto_scaler_oldest_queued_seconds",
            "How long the worker that has waited longest for room waits; 0: none does. After a restart counted from it.",
            max((now - life.since for life in lives if life.held), default=0.0),
        )
        yield GaugeMetricFamily(
            "otto_scaler_oldest_pending_seconds",
            "The same of workers that have room and do not run yet: scheduling, images, checkout.",
            max((now - life.since for life in lives if not life.held and not life.runs), default=0.0),
        )
        for family in (self._ended, self._queued, self._started):
            yield from family.collect()
