"""The log lines of a run that is watched: all of them, and before what is said of their stage's end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ottoctl.progress import ENDED, Run
from ottoctl.terminal import quoted
from ottoctl.views import View
from ottoctl.words import ServiceError
from ottoscaler.v1.log_pb2 import BuildLogKind, LogBatch
from ottoscaler.v1.pipeline_pb2 import PipelineProgress
from ottoscaler.v1.stage_pb2 import StageStatus

HOLD_SECONDS = 5.0
"""Silence after which the end of a stage is told although its lines may not be complete. While lines come it waits for them."""

START_SECONDS = 1.0
"""How long the first line of a stage waits for what is said of its start."""


class Lines:
    """Hands every line to a view. A relay that can't be reached costs the lines, not the view."""

    def __init__(self, run: Run, view: View) -> None:
        self._run = run
        self._view = view
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._complete: set[tuple[str, int]] = set()
        """Stages and attempts of which the last line has come."""
        self._late = False
        """What was waited for did not come: nothing is waited for until something comes."""
        self._held: tuple[str, int] | None = None
        """What `before` waits for."""
        self._told = asyncio.Event()
        self._shown = 0

    def read(self, batches: AsyncIterator[LogBatch]) -> None:
        """Begins to read the lines."""
        self._task = asyncio.create_task(self._read(batches), name="log lines")

    async def _read(self, batches: AsyncIterator[LogBatch]) -> None:
        try:
            async for batch in batches:
                for entry in batch.build_entries:
                    stage = self._run.stages.get(entry.stage_id)
                    if entry.kind == BuildLogKind.BUILD_LOG_KIND_STAGE_FINISHED:
                        self._complete.add((entry.stage_id, entry.attempt))
                        self._news.set()
                    elif entry.kind == BuildLogKind.BUILD_LOG_KIND_STAGE_STARTED:
                        await self._begun(entry.stage_id, entry.attempt)
                    elif entry.kind == BuildLogKind.BUILD_LOG_KIND_GAP:
                        self._view.say(f"… {entry.dropped} lines are missing here …")
                    elif entry.kind == BuildLogKind.BUILD_LOG_KIND_LINE and stage is not None:
                        self._view.line(stage, entry)
                        self._shown += 1
                if any(entry.kind != BuildLogKind.BUILD_LOG_KIND_HEARTBEAT for entry in batch.build_entries):
                    self._view.flush()
                    self._late = False
                    self._news.set()
                    await asyncio.sleep(0)  # a flood of lines leaves room for what is said of stages
        except ServiceError as error:
            self._missing(str(error))

    async def _begun(self, stage_id: str, attempt: int) -> None:
        """Waits a moment for what is said of the stage's start, unless that waits for lines itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while (stage := self._run.stages.get(stage_id)) is None or stage.attempt < attempt:
                    if self._held is not None and self._held not in self._complete:
                        return
                    self._told.clear()
                    await self._told.wait()

    def heard(self) -> None:
        """A message was shown."""
        self._told.set()

    async def before(self, message: PipelineProgress) -> None:
        """Waits for the lines that belong before a message: those of the attempt that it ends."""
        ends = message.status in ENDED or message.status == StageStatus.STAGE_RETRYING
        if not message.stage_id or not message.attempt or not ends or self._late:
            return
        self._held = (message.stage_id, message.attempt)
        self._told.set()
        try:
            while self._held not in self._complete and self._going_on():
                if not await self._something(HOLD_SECONDS):
                    self._late = True
                    return
        finally:
            self._held = None

    async def rest(self, silence: float) -> None:
        """Waits for the last line, as long as nothing fails to come for `silence` seconds; says so if it does."""
        while self._going_on():
            if not await self._something(silence):
                if self._view.in_order:
                    self._missing(f"none came for {silence:g} s")
                return

    async def close(self) -> None:
        """Ends the reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _going_on(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _something(self, seconds: float) -> bool:
        """Whether something comes, or the end of all, within that time."""
        assert self._task is not None
        self._news.clear()
        news = asyncio.create_task(self._news.wait(), name="news of lines")
        try:
            done, _ = await asyncio.wait({news, self._task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await news
        return bool(done)

    def _missing(self, why: str) -> None:
        self._view.say(
            f"ottoctl: no more log lines after {self._shown} ({why}); all of them: ottoctl logs --pipeline {quoted(self._run.pipeline_id)}"
        )
