"""What workers use, from the cluster's metrics server where it has one. Polled gently, and only while workers run."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from otto_kubekit.client import Client
from otto_kubekit.errors import ForbiddenError, KubeError, NotFoundError
from otto_kubekit.kinds import POD_METRICS
from otto_kubekit.objects import PodMetrics
from otto_options.quantities import amount
from otto_scaler.backends.kubernetes.refusals import said
from otto_scaler.worker import Usage

log = logging.getLogger(__name__)

ABSENT_SECONDS = 300.0
"""Until a cluster without a metrics server, or one that does not let us ask it, is asked again."""
JITTER = 0.1


@dataclass(slots=True)
class _Sums:
    at: datetime | None = None
    times: int = 0
    cpu: float = 0.0
    cpu_peak: float = 0.0
    memory: int = 0
    memory_peak: int = 0


class Metering:
    """Keeps what was measured of workers for as long as they run. A metrics server measures every 15 s or so, so of a worker that ends
    sooner there may be nothing.
    """

    def __init__(self, client: Client, labels: str, interval: float, running: Callable[[], set[str]]) -> None:
        """`labels` select the workers' pods, `running` are the names of those that run; `interval` seconds, 0: nothing is measured."""
        self._client = client
        self._labels = labels
        self._interval = interval
        self._running = running
        self._sums: dict[str, _Sums] = {}
        self._why = ""

    async def run(self) -> None:
        """Asks as long as it is not cancelled. What can't be had is no error: then there are no figures."""
        pause = self._interval
        while self._interval:
            await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))
            pause = self._interval
            if not (names := self._running()):
                continue
            try:
                async for page in self._client.pages(POD_METRICS, labels=self._labels):
                    for metrics in page.items:
                        if metrics.metadata.name in names:
                            self._note(metrics)
            except (NotFoundError, ForbiddenError) as error:
                pause = max(pause, ABSENT_SECONDS)
                self._unknown(error)
            except KubeError as error:
                self._unknown(error)
            else:
                self._why = ""

    def usage(self, name: str) -> Usage | None:
        """What a worker has used so far; None while nobody has measured it."""
        sums = self._sums.get(name)
        if sums is None:
            return None
        return Usage(sums.cpu / sums.times, sums.cpu_peak, sums.memory // sums.times, sums.memory_peak)

    def forget(self, name: str) -> None:
        """The worker has ended, or there is none of that name any more."""
        self._sums.pop(name, None)

    def _note(self, metrics: PodMetrics) -> None:
        try:
            cpu = float(sum(amount(container.usage.get("cpu", "0")) for container in metrics.containers))
            memory = int(sum(amount(container.usage.get("memory", "0")) for container in metrics.containers))
        except ValueError as error:
            log.debug("scaler.usage.unreadable", extra={"worker": metrics.metadata.name, "why": str(error)})
            return
        sums = self._sums.setdefault(metrics.metadata.name, _Sums())
        if sums.times and sums.at == metrics.timestamp:
            return
        sums.at = metrics.timestamp
        sums.times += 1
        sums.cpu += cpu
        sums.memory += memory
        sums.cpu_peak, sums.memory_peak = max(sums.cpu_peak, cpu), max(sums.memory_peak, memory)

    def _unknown(self, error: KubeError) -> None:
        if self._why != (why := said(error)):
            self._why = why
            log.info("scaler.usage.unknown", extra={"why": why})
