"""Watching a run to its end: on a terminal with the live view, in a pipe line by line; at the end why it failed."""

from __future__ import annotations  # the live view is imported on terminals only

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Protocol

from ottoctl import exit_codes
from ottoctl.client import UNARY_SECONDS, Client
from ottoctl.context import notice
from ottoctl.failures import Facts, facts_of, remedy, what
from ottoctl.progress import Run, Stage, cause_word, duration, status_word
from ottoctl.terminal import harmless
from ottoctl.words import LostError, ServiceError
from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogKind, LogSelection, WorkerIdentifier
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.pipeline_pb2 import PipelineProgress
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import FailureCause

if TYPE_CHECKING:
    from ottoctl.live import LiveView

FAILING_LINES = 20
LOGS_LATE_SECONDS = 5.0
"""How long lines that are still on their way are waited for after the pipeline has ended."""
CODES = {
    StageStatus.STAGE_COMPLETED: exit_codes.COMPLETED,
    StageStatus.STAGE_FAILED: exit_codes.FAILED,
    StageStatus.STAGE_CANCELLED: exit_codes.CANCELLED,
}


class View(Protocol):
    """Where a run is shown."""

    def heard(self, message: PipelineProgress) -> None:
        """A message came, and the Run has taken it in."""

    def line(self, stage: Stage, worker: str, text: str) -> None:
        """A worker wrote a line."""

    def say(self, text: str) -> None:
        """Something else to tell."""


class PlainView:
    """One line for each thing that happens; for pipes and logs."""

    def __init__(self, run: Run, *, logs: bool) -> None:
        self._run = run
        self._logs = logs

    def heard(self, message: PipelineProgress) -> None:
        """Prints the time, the stage, its state and what was said."""
        time = message.timestamp[11:19]
        name = self._run.stages[message.stage_id].name if message.stage_id else "pipeline"
        attempt = f" (attempt {message.attempt})" if message.attempt > 1 else ""
        words = harmless(message.error_message or message.message)
        print(f"{time} {name}: {status_word(message.status)}{attempt}" + (f" {words}" if words else ""), flush=True)

    def line(self, stage: Stage, worker: str, text: str) -> None:
        """Prints the line behind its stage, and its worker's number where there are several."""
        if self._logs:
            number = f"/{worker.rsplit('-', 1)[-1]}" if stage.worker_count > 1 else ""
            print(f"{stage.name}{number} | {text}", flush=True)

    def say(self, text: str) -> None:
        """Prints to standard error."""
        print(text, file=sys.stderr, flush=True)


class TerminalView:
    """The live view, drawn by `live.LiveView`; lines show as each stage's last."""

    def __init__(self) -> None:
        self.live: LiveView | None = None

    def heard(self, message: PipelineProgress) -> None:
        """Nothing to do: the picture is drawn from the Run."""

    def line(self, stage: Stage, worker: str, text: str) -> None:  # noqa: ARG002  the row shows any worker's
        """Keeps it as the stage's last line."""
        if text.strip():
            stage.last_line = text

    def say(self, text: str) -> None:
        """Prints above the picture."""
        if self.live is not None:
            self.live.say(text)


def is_dumb() -> bool:
    """Whether standard output can show no live view: a pipe, a file, or a terminal that can't move its cursor."""
    return not sys.stdout.isatty() or os.environ.get("TERM", "") in {"", "dumb", "unknown"}


async def show(client: Client, pipeline_id: str, messages: AsyncGenerator[PipelineProgress], *, logs: bool) -> int:
    """Shows a run to its end and why it failed; returns the exit code. Left early, it says how to come back. Raises ServiceError."""
    run = Run(pipeline_id)
    name = quoted(pipeline_id)
    async with contextlib.aclosing(messages):
        first = await anext(messages)
        try:
            if is_dumb():
                code = await follow(client, run, first, messages, PlainView(run, logs=logs))
            else:
                code = await _show_live(client, run, first, messages)
        except asyncio.CancelledError:
            if run.final is None:
                notice(f"left; it goes on. Watch it: ottoctl pipeline watch {name}   Cancel it: ottoctl pipeline cancel {name}")
            raise
        except LostError:
            notice(f"come back with: ottoctl pipeline watch {name}")
            raise
    for text in await explain(client, run):
        print(text)
    print(result(run))
    return code


async def _show_live(client: Client, run: Run, first: PipelineProgress, messages: AsyncIterator[PipelineProgress]) -> int:
    from rich.console import Console

    from ottoctl.live import LiveView

    print(f"Pipeline {harmless(run.pipeline_id)}")
    view = TerminalView()
    beside = client.contact.tell
    with LiveView(run, Console(highlight=False)) as live:
        view.live = live
        # What is written beside the picture would end up in the middle of it.
        client.contact.tell = view.say
        try:
            return await follow(client, run, first, messages, view)
        finally:
            client.contact.tell = beside


async def follow(client: Client, run: Run, first: PipelineProgress, messages: AsyncIterator[PipelineProgress], view: View) -> int:
    """Shows a run, from its first message to its last; returns the exit code. Cancellation leaves the run as it is. Raises ServiceError."""
    with contextlib.suppress(ServiceError):
        request = GetPipelineRequest(pipeline_id=run.pipeline_id)
        run.know((await client.contact.ask(lambda: client.pipelines.GetPipeline(request, timeout=UNARY_SECONDS))).stages)
    logs = asyncio.create_task(_lines(client, run, view), name="log lines")
    try:
        _hear(run, view, first)
        async for message in messages:
            _hear(run, view, message)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(logs), LOGS_LATE_SECONDS)
    finally:
        logs.cancel()
        await asyncio.gather(logs, return_exceptions=True)
    return CODES.get(run.final or StageStatus.STAGE_FAILED, exit_codes.SERVICE_ERROR)


def _hear(run: Run, view: View, message: PipelineProgress) -> None:
    run.hear(message)
    view.heard(message)
    if message.stage_id and message.status == StageStatus.STAGE_PENDING and "pprov" in message.message and not message.replayed:
        view.say(f"{run.stages[message.stage_id].name}: {harmless(message.message)}")
        view.say(f"  ottoctl pipeline approve {quoted(run.pipeline_id)} {quoted(message.stage_id)} --as NAME")


def quoted(text: str) -> str:
    """The text as a shell takes it."""
    import shlex

    return shlex.quote(harmless(text))


async def _lines(client: Client, run: Run, view: View) -> None:
    """Hands every log line to the view. A relay that can't be reached costs the lines, not the view."""
    try:
        async for batch in client.tail(BuildIdentifier(pipeline_id=run.pipeline_id)):
            for entry in batch.build_entries:
                stage = run.stages.get(entry.stage_id)
                if stage is not None and entry.kind == BuildLogKind.BUILD_LOG_KIND_LINE:
                    view.line(stage, entry.entry.worker_id, harmless(entry.entry.message))
    except ServiceError as error:
        view.say(f"no log lines: {error}")


async def explain(client: Client, run: Run) -> list[str]:
    """Why a run did not complete: what happened to each failed stage, what one can do, and the last lines of a worker that failed."""
    failed = [stage for stage in run.stages.values() if stage.status == StageStatus.STAGE_FAILED]
    facts: dict[str, Facts] = {}
    if failed:
        with contextlib.suppress(ServiceError):
            request = GetPipelineRequest(pipeline_id=run.pipeline_id)
            facts = facts_of(await client.contact.ask(lambda: client.pipelines.GetPipeline(request, timeout=UNARY_SECONDS)))
    told: list[str] = []
    if run.final == StageStatus.STAGE_CANCELLED and run.error:
        told.append(run.error)
    for stage in failed:
        cause = cause_word(stage.cause)
        known = facts.get(stage.stage_id, Facts())
        told.append(f"{stage.name} failed" + (f" ({cause})" if cause else "") + f": {stage.error or stage.message}")
        told += [f"  {text}" for text in (what(cause, known), remedy(cause, known)) if text]
        worker = await failing_worker(client, stage)
        if not worker:
            continue
        lines: list[str] = []
        nothing = "it wrote nothing"
        try:
            selection = LogSelection(no_follow=True, tail_lines=FAILING_LINES)
            async for batch in client.tail(WorkerIdentifier(worker_id=worker, selection=selection)):
                lines += [harmless(entry.message) for entry in batch.entries]
        except ServiceError as error:
            nothing = f"its lines can't be had: {error}"
        told += [f"  | {line}" for line in lines[-FAILING_LINES:]] or [f"  ({nothing})"]
        told.append(f"  all of it: ottoctl logs {worker}")
    return told


async def failing_worker(client: Client, stage: Stage) -> str:
    """The first worker of the stage's last attempt that failed by itself; the first one if that can't be told."""
    for name in stage.workers if len(stage.workers) > 1 else ():
        ask = functools.partial(client.workers.GetWorkerStatus, WorkerStatusRequest(worker_pod_name=name), timeout=UNARY_SECONDS)
        with contextlib.suppress(ServiceError):
            answer = await client.contact.ask(ask)
            for worker in answer.workers:
                if worker.status == "failed" and worker.failure_cause != FailureCause.FAILURE_CAUSE_CANCELLED:
                    return name
    return stage.workers[0] if stage.workers else ""


def result(run: Run) -> str:
    """The run's end in a line."""
    if run.final is None:
        return f"{run.pipeline_id}: not ended"
    words = status_word(run.final)
    return f"{harmless(run.pipeline_id)}: {words} in {duration((run.ended or run.started) - run.started)}"
