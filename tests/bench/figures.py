"""What is measured: names, units, which way is better, and what the figure should be at least."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    words: str
    lower_is_better: bool = True
    target: float | None = None
    """The worst value that is good enough; None: only reported."""

    def good(self, value: float) -> bool | None:
        """Whether a value meets the target; None without one."""
        if self.target is None:
            return None
        return value <= self.target if self.lower_is_better else value >= self.target


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("start", "s", "start of the process → SERVING", target=2.0),
        Figure("status.p50", "ms", "GetWorkerStatus, 100 workers, one client, p50", target=2.0),
        Figure("status.p99", "ms", "GetWorkerStatus, 100 workers, one client, p99", target=8.0),
        Figure("status.rate", "/s", "GetWorkerStatus, 100 workers, 8 clients of one Python process", lower_is_better=False),
        Figure("status.h2load", "/s", "GetWorkerStatus, 100 workers, 8 clients of h2load", lower_is_better=False),
        Figure("hop.p50", "ms", "stage hop: a watcher sees the dependency's end → sees the next stage's worker, p50", target=20.0),
        Figure("hop.p99", "ms", "the same, p99"),
        Figure("chain.stage", "ms", "a chain of 20 stages of `true`: time per stage"),
        Figure("chain.bare", "ms", "`true` as a bare process of Python's asyncio: time per process"),
        Figure("chain.over_bare", "ms", "a stage of the chain over the bare process"),
        Figure("pipelines.rate", "/s", "one-stage pipelines of `true`, 16 at a time", lower_is_better=False),
        Figure("line.p50", "ms", "log line: worker's write → StreamWorkerLogs reader, p50", target=20.0),
        Figure("line.p99", "ms", "log line: worker's write → StreamWorkerLogs reader, p99", target=100.0),
        Figure("lines.in", "lines/s", "200-byte lines of a worker → stored and searched for a reader", lower_is_better=False),
        Figure("lines.single", "lines/s", "replayed: stored lines → one reader, one a message (StreamWorkerLogs)", lower_is_better=False),
        Figure("lines.single.bare", "lines/s", "a bare grpc.aio stream of the same messages", lower_is_better=False),
        Figure("lines.single.ratio", "%", "the former as a share of the latter", lower_is_better=False, target=70.0),
        Figure("lines.batch", "lines/s", "replayed: stored lines → one reader, in batches (TailLogs)", lower_is_better=False),
        Figure("lines.batch.bare", "lines/s", "a bare grpc.aio stream of the same batches", lower_is_better=False),
        Figure("lines.batch.ratio", "%", "the former as a share of the latter", lower_is_better=False, target=70.0),
        Figure("lines.live.single", "lines/s", "live: a worker's write → one reader, one a message", lower_is_better=False),
        Figure("lines.live.single.ratio", "%", "the same as a share of the bare stream", lower_is_better=False, target=70.0),
        Figure("lines.live.batch", "lines/s", "live: a worker's write → one reader, in batches", lower_is_better=False),
        Figure("lines.live.batch.ratio", "%", "the same as a share of the bare stream of batches", lower_is_better=False, target=70.0),
        Figure("lines.pushed", "lines/s", "pushed: StreamLogs, an answer a line → one reader, one a message", lower_is_better=False),
        Figure("lines.pushed.ratio", "%", "the same as a share of the bare stream", lower_is_better=False),
        Figure("end.killed", "s", "a worker is killed from outside → its end is told with its cause", target=2.0),
        Figure("end.memory", "s", "it uses more memory than it may → the same", target=2.0),
        Figure("end.time", "s", "its time is over → the same", target=2.0),
        Figure("end.deleted", "s", "its directory is deleted → the same", target=2.0),
        Figure("end.disk", "s", "the disk of its log is full → the same", target=2.0),
        Figure("memory.idle", "MB", "RSS of the service, idle", target=110.0),
        Figure("memory.running", "MB", "more with 100 running workers", target=20.0),
        Figure("memory.finished", "MB", "more after 1,000 finished workers", target=20.0),
        Figure("memory.supervisor.rss", "MB", "what keeps a worker company (its supervisor): RSS, each"),
        Figure("memory.supervisor.pss", "MB", "the same, memory shared between them counted once (PSS), each"),
    )
}

Results = Mapping[str, Sequence[float]]
"""Per figure the values of all runs."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def middle(values: Sequence[float]) -> float:
    """The median of a figure's runs: one bad run does not move it."""
    return median(values)


def written(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
