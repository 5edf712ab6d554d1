"""What Prometheus sees of the push to otto-handler: read when somebody asks, so that counting costs an addition."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from otto_relay.handler import Tally
from otto_relay.outbox import Outboxes


class _Push:
    """A collector of prometheus_client; called in its server's thread."""

    def __init__(self, tally: Tally, outboxes: Outboxes) -> None:
        self._tally = tally
        self._outboxes = outboxes

    def describe(self) -> Iterable[Metric]:
        """The names alone, so that registering asks for nothing."""
        return self.collect()

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


@contextmanager
def measured(tally: Tally, outboxes: Outboxes) -> Iterator[None]:
    """The push is among the process's metrics while this is entered."""
    push = _Push(tally, outboxes)
    REGISTRY.register(push)
    try:
        yield
    finally:
        REGISTRY.unregister(push)
