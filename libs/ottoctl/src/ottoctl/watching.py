"""Watching a run to its end: on a terminal with the live view, in a pipe line by line; at the end why it failed."""

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator

from ottoctl import exit_codes
from ottoctl.client import UNARY_SECONDS, Client
from ottoctl.context import notice
from ottoctl.failures import Facts, facts_of, remedy, what
from ottoctl.lines import Lines
from ottoctl.progress import Run, Stage, cause_word, duration, status_word
from ottoctl.render import Output
from ottoctl.terminal import harmless, quoted
from ottoctl.views import DataView, PlainView, TerminalView, View
from ottoctl.words import LostError, ServiceError
from ottoscaler.v1.log_pb2 import BuildIdentifier, LogSelection, WorkerIdentifier
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.pipeline_pb2 import PipelineProgress
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest, GetPipelineRequest
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import FailureCause

FAILING_LINES = 20
CANCEL_SECONDS = 60.0
"""How long the end of a run that Ctrl-C cancels is waited for: its workers have a grace to end in."""
CODES = {
    StageStatus.STAGE_COMPLETED: exit_codes.COMPLETED,
    StageStatus.STAGE_FAILED: exit_codes.FAILED,
    StageStatus.STAGE_CANCELLED: exit_codes.CANCELLED,
}


def is_dumb() -> bool:
    """Whether standard output can show no live view: a pipe, a file, or a terminal that can't move its cursor."""
    return not sys.stdout.isatty() or os.environ.get("TERM", "") in {"", "dumb", "unknown"}


async def show(
    client: Client,
    pipeline_id: str,
    messages: AsyncGenerator[PipelineProgress],
    *,
    logs: bool,
    output: Output = Output.TABLE,
    cancels: bool = False,
) -> int:
    """Shows a run to its end and why it failed; returns the exit code. Left early, it says how to come back; with `cancels` it cancels the
    run, which would end with ottoctl anyway, and shows its end. Raises ServiceError.
    """
    run = Run(pipeline_id)
    name = quoted(pipeline_id)
    live = output is Output.TABLE and not is_dumb()
    view: View = PlainView(run, logs=logs) if output is Output.TABLE else DataView(output, logs=logs)
    async with contextlib.aclosing(messages):
        first = await anext(messages)
        try:
            code = await (_show_live(client, run, first, messages) if live else follow(client, run, first, messages, view))
        except asyncio.CancelledError:
            if run.final is not None:
                notice(f"left; the run has ended ({status_word(run.final)}). All of its lines: ottoctl logs --pipeline {name}")
            elif cancels:
                await _cancel(client, run, view)
            else:
                notice(f"left; it goes on. Watch it: ottoctl pipeline watch {name}   Cancel it: ottoctl pipeline cancel {name}")
            raise
        except LostError:
            notice(f"come back with: ottoctl pipeline watch {name}" + (" (it is cancelled: --on-disconnect cancel)" if cancels else ""))
            raise
    if output is Output.TABLE:
        for text in await explain(client, run):
            print(text)
        print(result(run))
    return code


async def _cancel(client: Client, run: Run, view: View) -> None:
    """Cancels the run of somebody who leaves, and shows it to its end. A second Ctrl-C ends ottoctl, and thereby the run too."""
    notice("cancelling the run, and waiting for its workers to end; Ctrl-C again leaves at once")
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    request = CancelPipelineRequest(pipeline_id=run.pipeline_id, reason="interrupted", cancelled_by="ottoctl")
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await client.call(client.pipelines.CancelPipeline(request, timeout=UNARY_SECONDS))
            async for message in client.watch(run.pipeline_id, run.sequence):
                _hear(run, view, message)
        notice(result(run))
    except (ServiceError, TimeoutError) as error:
        why = f" ({error})" if str(error) else ""
        notice(f"it is to be cancelled, but its end was not seen{why}. See: ottoctl pipeline get {quoted(run.pipeline_id)}")


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
        run.know(await client.contact.ask(lambda: client.pipelines.GetPipeline(request, timeout=UNARY_SECONDS)))
    lines = Lines(run, view)
    if view.patience:
        lines.read(client.tail(BuildIdentifier(pipeline_id=run.pipeline_id)))
    try:
        _hear(run, view, first)
        lines.heard()
        async for message in messages:
            if view.in_order:
                await lines.before(message)
            _hear(run, view, message)
            lines.heard()
        await lines.rest(view.patience)
    finally:
        await lines.close()
    return CODES.get(run.final or StageStatus.STAGE_FAILED, exit_codes.SERVICE_ERROR)


def _hear(run: Run, view: View, message: PipelineProgress) -> None:
    run.hear(message)
    view.heard(message)
    if message.stage_id and message.status == StageStatus.STAGE_PENDING and "pprov" in message.message and not message.replayed:
        stage = run.stages[message.stage_id]
        view.asked(stage, f"ottoctl pipeline approve {quoted(run.pipeline_id)} {quoted(message.stage_id)} --as NAME")


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
