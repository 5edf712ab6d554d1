"""`ottoctl logs`: the lines of a worker, a task or a pipeline, as they were or as they come."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottoctl import exit_codes
from ottoctl.completion import one_of, pipeline_ids, stage_ids, task_ids, worker_names
from ottoctl.context import OutputOption, chosen, notice, run
from ottoctl.render import Output, as_data, emit

if TYPE_CHECKING:
    from ottoctl.client import Client

_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str) -> datetime:
    """A time given as "5m" (ago) or RFC 3339. Raises typer.BadParameter."""
    if found := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a duration like 5m nor a time like 2026-01-31T12:00:00Z") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def logs(
    context: typer.Context,
    worker: Annotated[str, typer.Argument(help="The worker.", autocompletion=worker_names)] = "",
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="All lines of this pipeline.", autocompletion=pipeline_ids)] = "",
    stage: Annotated[str, typer.Option(help="Only this stage of the pipeline.", autocompletion=stage_ids)] = "",
    attempt: Annotated[int, typer.Option(help="Only this attempt of the stage; 0: all.")] = 0,
    task: Annotated[str, typer.Option(help="All workers of this task.", autocompletion=task_ids)] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    since: Annotated[str, typer.Option(help="Only lines after: 5m, 2h, or a time like 2026-01-31T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Only lines before: as --since.")] = "",
    tail: Annotated[int, typer.Option(min=0, help="Only the last so many lines of what is stored; 0: all.")] = 0,
    level: Annotated[
        list[str] | None,
        typer.Option(help="Only INFO, WARN, ERROR or DEBUG; may be repeated.", autocompletion=one_of("info", "warn", "error", "debug")),
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only stdout or stderr.", autocompletion=one_of("stdout", "stderr"))] = None,
    grep: Annotated[
        list[str] | None, typer.Option(help="Only lines that hold this text, in any case; may be repeated: any of them.")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Show when each line was written.")] = False,
    output: OutputOption = None,
) -> None:
    """Show log lines. Without -f: what is stored now."""
    from ottoscaler.v1.log_pb2 import BuildIdentifier, LogSelection, WorkerIdentifier

    if sum(map(bool, (worker and not pipeline, pipeline, task))) != 1:
        raise typer.BadParameter("name one of: a worker, --pipeline or --task")
    if (stage or attempt) and not pipeline:
        raise typer.BadParameter("--stage and --attempt go with --pipeline")
    selection = LogSelection(no_follow=not follow, tail_lines=tail, sources=source or [], keywords=grep or [])
    selection.levels.extend(word.upper() for word in level or [])
    if since:
        selection.since_time.FromDatetime(moment(since))
    if until:
        selection.until_time.FromDatetime(moment(until))
    target: Any
    if pipeline:
        target = BuildIdentifier(pipeline_id=pipeline, stage_id=stage, attempt=attempt, worker_id=worker, selection=selection)
    else:
        target = WorkerIdentifier(worker_id=worker, task_id=task, selection=selection)
    form = chosen(context, output)
    run(context, lambda client: _logs(client, target, form, timestamps=timestamps))


async def _logs(client: "Client", target: Any, output: Output, *, timestamps: bool) -> int:
    from ottoctl.terminal import coloured, harmless
    from ottoscaler.v1.log_pb2 import BuildLogKind

    shown = coloured if sys.stdout.isatty() else harmless
    lines: list[str] = []
    came = False

    def take(entry: Any, prefix: str) -> None:
        if output is not Output.TABLE:
            emit(as_data(entry), output)
            return
        if entry.dropped_before:
            lines.append(f"{prefix}… {entry.dropped_before} lines are missing here …")
        lines.append((f"{entry.timestamp} " if timestamps else "") + prefix + shown(entry.message))

    async for batch in client.tail(target):
        for entry in batch.entries:
            take(entry, f"{entry.worker_id} | " if not target.worker_id else "")
        for built in batch.build_entries:
            if output is not Output.TABLE:
                emit(as_data(built), output)
            elif built.kind == BuildLogKind.BUILD_LOG_KIND_LINE:
                take(built.entry, "" if target.stage_id else f"{harmless(built.stage_name or built.stage_id)} | ")
            elif built.kind == BuildLogKind.BUILD_LOG_KIND_GAP:
                lines.append(f"{harmless(built.stage_name or built.stage_id)} | … {built.dropped} lines are missing here …")
        came = came or bool(batch.entries or batch.build_entries)
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            lines.clear()
        sys.stdout.flush()
    if not came:
        notice("no line fits what was asked for, or none was written" + ("" if target.selection.no_follow else " before it ended"))
    return exit_codes.COMPLETED
