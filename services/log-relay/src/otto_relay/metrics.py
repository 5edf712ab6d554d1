"""What Prometheus sees of lines taken in and of the push to otto-handler: read when somebody asks, so that counting costs an addition."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector as Family

from otto_relay.collector import Collector
from otto_relay.handler import Tally
from otto_relay.outbox import Outboxes
from otto_relay.registry import Registry


class Intake(Family):
    """A collector of prometheus_client; called in its server's thread."""

    def __init__(self, collector: Collector, registry: Registry) -> None:
        """Of what `collector` takes in, and `registry` keeps."""
        self._collector = collector
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """The figures of now."""
        taken = self._collector.taken
        yield CounterMetricFamily("otto_relay_lines", "Lines of workers that were stored.", taken.lines)
        yield SummaryMetricFamily(
            "otto_relay_delay_seconds",
            "Time from the writing of a batch's last line until it was stored and could be read.",
            count_value=taken.batches,
            sum_value=taken.delays,
        )
        yield CounterMetricFamily("otto_relay_incomplete", "Places where lines may be missing; the log says so there.", taken.incomplete)
        yield GaugeMetricFamily("otto_relay_workers_followed", "Workers whose lines are taken in now.", self._collector.followed)
        yield GaugeMetricFamily("otto_relay_workers_kept", "Workers whose lines are kept.", len(self._registry.workers))


class Push(Family):
    """A collector of prometheus_client; called in its server's thread."""

    def __init__(self, tally: Tally, outboxes: Outboxes) -> None:
        """Of what was pushed, and what has still to be."""
        self._tally = tally
        self._outboxes = outboxes

    def collect(self) -> Iterable[Metric]:
        """The figures of now."""
        tally = self._tally
        outboxes = list(self._outboxes.all())
        yield CounterMetricFamily("otto_relay_handler_pushed", "Lines that otto-handler has acknowledged.", tally.pushed)
        yield CounterMetricFamily("otto_relay_handler_dropped", "Lines that otto-handler did not want (DROP).", tally.dropped)
        yield CounterMetricFamily("otto_relay_handler_retried", "Answers of otto-handler that asked for a line again.", tally.retried)
        yield CounterMetricFamily("otto_relay_handler_missing", "Lines that were deleted before they were pushed.", tally.missing)
        yield CounterMetricFamily("otto_relay_handler_notices", "Notices that otto-handler has taken.", tally.notices_taken)
        yield CounterMetricFamily("otto_relay_handler_notices_refused", "Notices that otto-handler refused.", tally.notices_refused)
        yield GaugeMetricFamily("otto_relay_handler_backlog_lines", "Lines still to be pushed.", sum(one.owed for one in outboxes))
        yield GaugeMetricFamily("otto_relay_handler_unanswered_lines", "Lines on their way.", tally.unanswered)
        yield GaugeMetricFamily(
            "otto_relay_handler_backlog_notices", "Notices still to be sent.", sum(len(one.notices) for one in outboxes)
        )
