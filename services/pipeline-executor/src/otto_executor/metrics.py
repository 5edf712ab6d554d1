"""What Prometheus sees of the runs: how many go on is read when somebody asks, the rest is counted when a run has ended."""

from collections.abc import Callable, Iterable

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from otto_executor.definition import Definition
from otto_executor.retry import FailureCause
from otto_executor.run_state import RunState
from otto_executor.runner import Standing
from otto_executor.stage import StageSpec, StageState, StageStatus

_RUN_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)
_ENDS = tuple(status.lower() for status in (StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED))
_HOP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)


class RunMetrics(Collector):
    """A collector of prometheus_client, called in its server's thread."""

    def __init__(self, standing: Callable[[], Standing], most_active: int) -> None:
        """`standing` tells how runs fare, of which at most `most_active` may be unfinished."""
        self._standing = standing
        self._most_active = most_active
        self._runs = Histogram(
            "otto_executor_pipeline_duration_seconds",
            "Pipelines that have ended: from beginning to end, by outcome.",
            ("status",),
            buckets=_RUN_SECONDS,
            registry=None,
        )
        self._stages = Counter(
            "otto_executor_stages_ended", "Stages of ended pipelines; `cause` is that of a failure.", ("status", "cause"), registry=None
        )
        self._retries = Counter(
            "otto_executor_stage_retries",
            "Attempts repeated by a stage's retry policy, or for infrastructure's sake.",
            ("kind",),
            registry=None,
        )
        self._hops = Histogram(
            "otto_executor_stage_hop_seconds",
            "Time from when the last dependency's end was seen until the scaler has answered for the stage's workers.",
            buckets=_HOP_SECONDS,
            registry=None,
        )
        # All there can be is there from the start: a rate does not see the first one of a series that begins with it.
        for status in _ENDS:
            self._runs.labels(status)
            self._stages.labels(status, "")
        self._stages.labels(StageStatus.SKIPPED.lower(), "")
        for cause in FailureCause:
            self._stages.labels(StageStatus.FAILED.lower(), cause.lower())
        for kind in ("policy", "infrastructure"):
            self._retries.labels(kind)

    def ended(self, definition: Definition, state: RunState) -> None:
        """Counts a run that has just ended."""
        if state.ended_at is None:
            return
        self._runs.labels(state.status.lower()).observe(state.took(state.ended_at))
        for spec in definition.stages:
            stage = state.stages[spec.stage_id]
            if stage.kept_from:
                continue
            cause = stage.failure.cause.name.lower() if stage.failure is not None else ""
            self._stages.labels(stage.status.lower(), cause).inc()
            self._retries.labels("policy").inc(stage.retries)
            self._retries.labels("infrastructure").inc(stage.infrastructure_retries)
            if not state.clock_set_by and (hop := _hop(spec, stage, state)) is not None:
                self._hops.observe(hop)

    def collect(self) -> Iterable[Metric]:
        """The figures of now."""
        standing = self._standing()
        yield GaugeMetricFamily("otto_executor_pipelines_active", "Pipelines that have not ended.", standing.active)
        yield GaugeMetricFamily(
            "otto_executor_pipelines_held_up",
            "Pipelines whose next step has not worked for a minute: the scaler or the memory of runs does not take it.",
            standing.held_up,
        )
        yield GaugeMetricFamily(
            "otto_executor_pipelines_unreadable", "Unfinished pipelines that nobody drives, as they can't be read.", standing.unreadable
        )
        yield GaugeMetricFamily("otto_executor_pipelines_limit", "Most pipelines that may be unfinished.", self._most_active)
        for family in (self._runs, self._stages, self._retries, self._hops):
            yield from family.collect()


def _hop(spec: StageSpec, stage: StageState, state: RunState) -> float | None:
    """Seconds; None where something else than we was waited for: a person, or a first attempt."""
    if not spec.depends_on or spec.approvers is not None or stage.attempt != 1 or stage.confirmed_at is None:
        return None
    ends = [state.stages[name].ended_at for name in spec.depends_on]
    return max(0.0, stage.confirmed_at - max(end for end in ends if end is not None)) if None not in ends else None
