"""What Prometheus sees of lines taken in and of the push to otto-handler: read when somebody asks, so that counting costs an addition."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector as Family

from otto_relay.collector import Collector
from otto_relay.handler import Tally
from otto_relay.outbox import Outboxes
from otto_relay.push import Pushes
from otto_relay.registry import Registry
from otto_relay.retention import Retention
from otto_relay.worker_log import FOLLOWED, PUSHED


class Intake(Family):
    """A collector of prometheus_client; called in its server's thread."""

    def __init__(self, collector: Collector, pushes: Pushes) -> None:
        """Of what `collector` takes in from logs, and `pushes` from workers that send their lines themselves."""
        self._collector = collector
        self._pushes = pushes

    def collect(self) -> Iterable[Metric]:
        """The figures of now."""
        taken, pushes = self._collector.taken, self._pushes
        lines = CounterMetricFamily("otto_relay_lines", "Lines that were stored, read from logs or sent by workers.", labels=("origin",))
        sizes = CounterMetricFamily("otto_relay_line_bytes", "Bytes of the texts of these lines.", labels=("origin",))
        for origin, found in ((FOLLOWED, taken), (PUSHED, pushes)):
            lines.add_metric((origin,), found.lines)
            sizes.add_metric((origin,), found.bytes)
        yield from (lines, sizes)
        yield SummaryMetricFamily(
            "otto_relay_delay_seconds",
            "Time from the writing of a batch's last line until it was stored and could be read.",
            count_value=taken.batches,
            sum_value=taken.delays,
        )
        yield CounterMetricFamily("otto_relay_incomplete", "Places where lines may be missing; the log says so there.", taken.incomplete)
        yield CounterMetricFamily(
            "otto_relay_retries", "Times that lines could not be read or stored, and were tried again within seconds.", taken.retries
        )
        yield GaugeMetricFamily("otto_relay_workers_followed", "Workers whose lines are taken in now.", self._collector.followed)


class Spool(Family):
    """A collector of prometheus_client; called in its server's thread."""

    def __init__(self, registry: Registry, retention: Retention, directory: Path) -> None:
        """Of what `registry` keeps in `directory`, within the limits of `retention`."""
        self._registry = registry
        self._retention = retention
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """The figures of now."""
        retention = self._retention
        disk = shutil.disk_usage(self._directory)
        yield GaugeMetricFamily("otto_relay_workers_kept", "Workers whose lines are kept.", len(self._registry.workers))
        yield GaugeMetricFamily("otto_relay_spool_bytes", "Bytes that all kept lines take.", self._registry.size())
        yield GaugeMetricFamily("otto_relay_spool_limit_bytes", "Bytes that they may take.", retention.limit)
        yield GaugeMetricFamily("otto_relay_spool_disk_bytes", "Size of the disk on which they lie.", disk.total)
        yield GaugeMetricFamily("otto_relay_spool_disk_free_bytes", "Bytes of it that are free.", disk.free)
        yield CounterMetricFamily(
            "otto_relay_workers_evicted", "Ended workers whose lines were deleted before their time for want of room.", retention.evicted
        )
        yield CounterMetricFamily(
            "otto_relay_lines_trimmed", "Lines of running workers that were deleted for want of room.", retention.trimmed
        )


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
