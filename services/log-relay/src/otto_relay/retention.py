"""Keeps the spool within its limits: workers that ended too long ago go first, then those that ended first, then old lines of running ones.

A running worker's lines never go silently: what was deleted shows as a gap with a count.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from otto_relay.build_log import BuildLog
from otto_relay.errors import SpoolWriteError
from otto_relay.registry import Registry
from otto_relay.worker_log import WorkerLog
from otto_runtime.times import SteadyDay

log = logging.getLogger(__name__)

_SETTLED = 60.0
"""Seconds after its end from which on a worker's log is closed until somebody reads it."""


class Retention:
    """The limits and their keeping."""

    def __init__(
        self,
        registry: Registry,
        seconds: float,
        limit: int,
        day: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` of age after a worker's end, `limit` in bytes for all; `day` in seconds since 1970, `steady` since any moment."""
        self._registry = registry
        self._seconds = seconds
        self.limit = limit
        """Bytes that all kept lines may take."""
        self.evicted = 0
        """Ended workers whose lines were deleted before their time, for want of room, since the start."""
        self.trimmed = 0
        """Lines of running workers that were deleted for want of room, since the start."""
        self._day = SteadyDay(day, steady)

    async def run(self, interval: float) -> None:
        """Looks every `interval` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            await self.enforce()

    async def enforce(self) -> None:
        """Deletes what is beyond the limits."""
        now = self._day.now()
        self._registry.mend()
        self._registry.remove_strays(now - self._seconds)
        ended = sorted((known for known in self._registry.workers.values() if known.ended), key=lambda known: known.facts.ended)
        size = self._registry.size()
        deleted = freed = 0
        for known in ended:
            if not known.ended:
                # It was opened again while others were deleted.
                continue
            old = now - known.facts.ended > self._seconds
            if not old and size - freed <= self.limit:
                if abs(now - known.facts.ended) > _SETTLED:
                    known.release_files()
                continue
            freed += self._remove(known)
            deleted += known.removed
            self.evicted += known.removed and not old
            await asyncio.sleep(0)
        for build in list(self._registry.builds.values()):
            if build.ended and not any(True for _ in self._registry.workers_of(build)) and now - build.written() > self._seconds:
                freed += self._remove_build(build)
                await asyncio.sleep(0)
        if deleted:
            log.info("relay.retention.deleted", extra={"workers": deleted, "freed_bytes": freed})
        if size - freed > self.limit:
            self._trim(size - freed)

    def _remove(self, known: WorkerLog) -> int:
        try:
            return self._registry.remove(known)
        except SpoolWriteError as error:
            log.warning("relay.retention.failed", extra={"worker": known.worker_id, "reason": str(error)})
            return 0

    def _remove_build(self, build: BuildLog) -> int:
        try:
            return self._registry.remove_build(build)
        except SpoolWriteError as error:
            log.warning("relay.retention.failed", extra={"worker": build.pipeline_id, "reason": str(error)})
            return 0

    def _trim(self, size: int) -> None:
        """Deletes the oldest lines of the workers that still run, those with the most first."""
        while size > self.limit:
            largest = max(
                (known for known in self._registry.workers.values() if _segments(known) > 1),
                key=lambda known: known.size,
                default=None,
            )
            if largest is None:
                return
            before = largest.spool.first
            try:
                size -= largest.spool.drop_first()
            except OSError as error:
                log.warning("relay.retention.failed", extra={"worker": largest.worker_id, "reason": error.strerror})
                return
            self.trimmed += largest.spool.first - before
            log.warning("relay.retention.trimmed", extra={"worker": largest.worker_id, "lines": largest.spool.first - before})


def _segments(known: WorkerLog) -> int:
    """How many segments it has; none of one that can't be opened now."""
    try:
        return len(known.spool.segments)
    except SpoolWriteError as error:
        log.warning("relay.retention.failed", extra={"worker": known.worker_id, "reason": str(error)})
        return 0
