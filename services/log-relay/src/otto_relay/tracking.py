"""Puts the marks of stages into the order of their pipeline's lines, as the executor tells of them.

The end of an attempt is marked when all lines of its workers are in, or when they have been waited for long enough. Everything the
executor says is read again after a restart: marks that are there are not made twice, so there is nothing to remember.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from otto_relay.build_log import RETRYING, BuildLog, Stage
from otto_relay.errors import NotReadyError, SpoolWriteError, UnknownLogError
from otto_relay.registry import Registry

log = logging.getLogger(__name__)

RUNNING, COMPLETED, FAILED, CANCELLED, SKIPPED = 1, 2, 3, 4, 5
"""Values of StageStatus, besides RETRYING."""
_FINAL = {COMPLETED, FAILED, CANCELLED, SKIPPED}
_NAMES_SOON = 1.0
"""Seconds that a reader waits for the names of stages."""
_ASK_AGAIN = 2.0
"""Seconds until an executor that does not know a pipeline is asked again while workers of it run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One message of a run."""

    stage_id: str
    """Empty: it is about the pipeline."""
    stage_type: int
    status: int
    attempt: int
    workers: tuple[str, ...]


class Runs(Protocol):
    """What the tracker asks of the executor."""

    async def stages(self, pipeline_id: str) -> list[Stage]:
        """The stages of a run. Raises UnknownLogError or NotReadyError."""
        ...

    def progress(self, pipeline_id: str) -> AsyncIterator[Progress]:
        """All it has said and will say of a run, across its restarts; ends after the final message. Raises UnknownLogError."""
        ...


class Tracker:
    """All pipelines that have not ended, a task each."""

    def __init__(self, registry: Registry, runs: Runs, wait: float) -> None:
        """`wait`: seconds that the end of an attempt waits for the lines of its workers."""
        self._registry = registry
        self._runs = runs
        self._wait = wait
        self._tracked: set[str] = set()
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Takes up every pipeline that has not ended; the group owns the tasks."""
        self._group = group
        for build in list(self._registry.builds.values()):
            self.track(build)

    def track(self, build: BuildLog) -> None:
        """Follows a pipeline from now on, unless it has ended or is followed already."""
        if build.ended or build.pipeline_id in self._tracked or self._group is None:
            return
        self._tracked.add(build.pipeline_id)
        self._group.create_task(self._run(build), name=f"track {build.pipeline_id}")

    async def find(self, pipeline_id: str, timeout: float) -> BuildLog:
        """The build of a pipeline, of which perhaps only the executor knows so far.

        Raises UnknownLogError when there is none; NotReadyError when the executor can't be asked within `timeout` seconds.
        """
        build = self._registry.builds.get(pipeline_id)
        if build is not None:
            # It is not tracked yet if the disk was full when it was made.
            self.track(build)
            await self._described(build)
            return build
        if self._group is None:
            raise NotReadyError("the log-relay is starting; try again")
        try:
            async with asyncio.timeout(timeout):
                stages = await self._runs.stages(pipeline_id)
        except TimeoutError as error:
            raise NotReadyError("the pipeline-executor can't be asked about this pipeline now; try again") from error
        try:
            build = self._registry.build(pipeline_id)
            build.describe(stages)
            build.described = True
        except SpoolWriteError as error:
            raise NotReadyError("the disk takes no more lines now; try again") from error
        self.track(build)
        return build

    async def _described(self, build: BuildLog) -> None:
        """Waits a little for the names of stages that are just being asked for, so that all readers see the same ones."""
        deadline = time.monotonic() + _NAMES_SOON
        while not build.described and build.pipeline_id in self._tracked and (left := deadline - time.monotonic()) > 0:
            await build.bell.wait(left)

    async def _run(self, build: BuildLog) -> None:
        try:
            while not build.removed and not build.ended:
                try:
                    await self._follow(build)
                except UnknownLogError:
                    build.described = True
                    # Workers of a pipeline that the executor does not know (a plain ScaleUp may say so): it is over when they are.
                    if all(worker.ended for worker in self._registry.workers_of(build)):
                        await self._stored(build, build.end)
                        return
                    await build.bell.wait(_ASK_AGAIN)
                except Exception:
                    # Whatever one pipeline does to us, the others must not notice.
                    log.exception("relay.pipeline.failed", extra={"pipeline": build.pipeline_id})
                    await asyncio.sleep(_ASK_AGAIN)
        finally:
            self._tracked.discard(build.pipeline_id)

    async def _follow(self, build: BuildLog) -> None:
        """From the first message of the run to its end."""
        await self._describe(build)
        async with asyncio.TaskGroup() as finishing:
            waiting: set[tuple[str, int]] = set()
            async for progress in self._told(build):
                if build.removed:
                    return
                if not progress.stage_id:
                    continue
                stage_id = progress.stage_id
                if not build.has_stage(stage_id):
                    await self._stored(build, lambda p=progress: build.describe([Stage(p.stage_id, p.stage_id, p.stage_type)]))  # type: ignore[misc]  # mypy can't infer lambdas with defaults
                over = progress.status in _FINAL
                attempts = build.open_attempts(stage_id)
                if progress.status == RUNNING and progress.attempt:
                    await self._stored(build, lambda s=stage_id, a=progress.attempt: build.start(s, a))  # type: ignore[misc]  # mypy can't infer lambdas with defaults
                    attempts = [attempt for attempt in attempts if attempt < progress.attempt]
                elif over and progress.attempt and progress.status != SKIPPED and progress.attempt not in attempts:
                    attempts.append(progress.attempt)
                elif not over and progress.status != RETRYING:
                    continue
                for attempt in attempts:
                    if (stage_id, attempt) in waiting or build.finished(stage_id, attempt):
                        continue
                    waiting.add((stage_id, attempt))
                    last = over and attempt == attempts[-1]
                    workers = progress.workers if attempt == progress.attempt else ()
                    finishing.create_task(
                        self._finish(build, stage_id, attempt, progress.status if last else RETRYING, workers), name=f"finish {stage_id}"
                    )
                if over:
                    finishing.create_task(self._close(build, stage_id), name=f"close {stage_id}")
        await self._until(build, lambda: all(worker.ended for worker in self._registry.workers_of(build)), "")
        await self._stored(build, build.end)

    async def _told(self, build: BuildLog) -> AsyncIterator[Progress]:
        """What the executor says of a run; for one that it has forgotten meanwhile nothing more, which ends the run here too."""
        try:
            async for progress in self._runs.progress(build.pipeline_id):
                yield progress
        except UnknownLogError:
            log.warning("relay.pipeline.forgotten", extra={"pipeline": build.pipeline_id})

    async def _describe(self, build: BuildLog) -> None:
        while True:
            try:
                stages = await self._runs.stages(build.pipeline_id)
            except NotReadyError:
                await asyncio.sleep(_ASK_AGAIN)
                continue
            break
        await self._stored(build, lambda: build.describe(stages))
        build.described = True
        build.wake()

    async def _finish(self, build: BuildLog, stage_id: str, attempt: int, status: int, workers: tuple[str, ...]) -> None:
        def collected() -> bool:
            names = {*workers, *build.members_of(stage_id, attempt)}
            found = [self._registry.workers.get(name) for name in names]
            return all(worker is not None and worker.ended for worker in found)

        await self._until(build, collected, stage_id)
        await self._stored(build, lambda: build.finish(stage_id, attempt, status))

    async def _close(self, build: BuildLog, stage_id: str) -> None:
        while build.open_attempts(stage_id):
            await build.bell.wait(1.0)
        build.close_stage(stage_id)

    async def _until(self, build: BuildLog, condition: Callable[[], bool], stage_id: str) -> None:
        """Waits for lines, at most the configured time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait
        while not condition() and not build.removed:
            left = deadline - loop.time()
            if left <= 0:
                log.warning("relay.stage.incomplete", extra={"pipeline": build.pipeline_id, "stage": stage_id, "seconds": self._wait})
                return
            await build.bell.wait(min(left, 1.0))

    async def _stored(self, build: BuildLog, write: Callable[[], None]) -> None:
        """Writes; tries again while the disk does not take it."""
        while not build.removed:
            try:
                write()
            except SpoolWriteError as error:
                log.warning("relay.order.retried", extra={"pipeline": build.pipeline_id, "reason": str(error)})
                await asyncio.sleep(1.0)
            else:
                return
