"""`ottoctl pipeline …`: run, watch, list, get, cancel, approve, reject, validate."""

import contextlib
import os
import secrets
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottoctl import exit_codes
from ottoctl.completion import one_of, pipeline_ids, running_ids, waiting_stages
from ottoctl.context import OutputOption, chosen, notice, run
from ottoctl.examples import examples
from ottoctl.render import Output, as_data, dump, table

if TYPE_CHECKING:
    from ottoctl.client import Client
    from ottoctl.pipeline_file import PipelineFile

app = typer.Typer(no_args_is_help=True, help="Run pipelines and see how they stand.", epilog=examples("pipeline"))
Id = Annotated[str, typer.Argument(metavar="ID", help="The pipeline's id.", autocompletion=pipeline_ids)]
Running = Annotated[str, typer.Argument(metavar="ID", help="The pipeline's id.", autocompletion=running_ids)]
Logs = Annotated[bool, typer.Option("--logs/--no-logs", help="In a pipe: print log lines too.")]


@app.command("run", epilog=examples("pipeline run"))
def run_pipeline(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A pipeline file.")] = None,
    kind: Annotated[
        str,
        typer.Option("--type", help="Instead of a file: simple, full or parallel.", autocompletion=one_of("simple", "full", "parallel")),
    ] = "",
    repo: Annotated[str, typer.Option(help="The Git repository that is checked out first: a URL or a directory.")] = "",
    sha: Annotated[str, typer.Option(help="The commit, branch or tag.")] = "",
    identity: Annotated[str, typer.Option("--id", help="The run's id; default: the file's name, the time and a random part.")] = "",
    name: Annotated[str, typer.Option(help="What it is called.")] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE: an environment variable or otto.* option of all stages; STAGE:KEY=VALUE: of one; "
            "KEY alone: the value it has here. May be repeated.",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and leave.")] = False,
    on_disconnect: Annotated[
        str,
        typer.Option(help="When ottoctl ends or is cut off: `detach` (it goes on) or `cancel`.", autocompletion=one_of("detach", "cancel")),
    ] = "detach",
    logs: Logs = True,
    output: OutputOption = None,
) -> None:
    """Run a pipeline and show it until it has ended. Ctrl-C leaves it running, unless --on-disconnect is `cancel`."""
    from ottoctl import pipeline_file, templates

    if bool(file) == bool(kind):
        raise typer.BadParameter("name either a pipeline file or --type simple|full|parallel")
    if kind and kind not in templates.TEMPLATES:
        raise typer.BadParameter(f"--type {kind!r} is not one of {', '.join(templates.TEMPLATES)}")
    if on_disconnect not in {"detach", "cancel"}:
        raise typer.BadParameter(f"--on-disconnect {on_disconnect!r} is neither detach nor cancel")
    source = templates.template(kind) if file is None else pipeline_file.load(file)
    request = source.request
    if sha and not (repo or request.repository):
        raise typer.BadParameter("--sha names a commit of nothing: give --repo too, or `repository` in the file")
    if repo or sha:
        request.repository, request.commit_sha = located(repo or request.repository, sha)
    given = {"repository": repo, "commit_sha": sha, "pipeline_id": identity, "name": name}
    source.elsewhere |= {path for path, value in given.items() if value}
    request.name = name or request.name or source.stem
    request.pipeline_id = identity or request.pipeline_id or made_up(source.stem)
    request.triggered_by = request.triggered_by or f"ottoctl {os.environ.get('USER', '')}".strip()
    if on_disconnect == "cancel":
        request.metadata["otto.on_disconnect"] = "cancel"
    for text in set_ or []:
        set_config(source, text)
    form = chosen(context, output)
    run(context, lambda client: _run(client, source, form, detach=detach, logs=logs, cancels=on_disconnect == "cancel"))


def made_up(stem: str) -> str:
    """An id that nobody used: the stem, the time (UTC) and three random bytes."""
    return f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def located(repo: str, sha: str) -> tuple[str, str]:
    """A repository and commit as the service can use them: a directory here becomes absolute, and names like HEAD are resolved in it."""
    path = Path(repo).expanduser()
    if not repo or "://" in repo or not path.is_dir():
        return repo, sha
    path = path.resolve()
    done = subprocess.run(
        ["git", "-C", str(path), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{sha or 'HEAD'}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise typer.BadParameter(f"{sha or 'HEAD'!r} is no commit of {path}")
    return str(path), done.stdout.strip()


def set_config(source: "PipelineFile", text: str) -> None:
    """Applies one `--set`. Raises typer.BadParameter for a stage that there is not."""
    key, equals, value = text.partition("=")
    stage_id, colon, inner = key.rpartition(":")
    stages = [(number, stage) for number, stage in enumerate(source.request.stages) if not colon or stage.stage_id == stage_id]
    if not stages:
        raise typer.BadParameter(f"--set {text!r}: there is no stage {stage_id!r}")
    if not inner:
        raise typer.BadParameter(f"--set {text!r} names no key")
    if not equals:
        if inner not in os.environ:
            notice(f"--set {text}: there is no variable {inner} here, so it is not set")
            return
        value = os.environ[inner]
    for number, stage in stages:
        stage.config[inner] = value
        source.elsewhere.add(f'stages[{number}].config["{inner}"]')


async def _run(client: "Client", source: "PipelineFile", output: Output, *, detach: bool, logs: bool, cancels: bool) -> int:
    from ottoctl.checking import in_file
    from ottoctl.terminal import quoted
    from ottoctl.watching import show
    from ottoctl.words import ServiceError

    request = source.request
    messages = client.run(request)
    try:
        if detach:
            async with contextlib.aclosing(messages):
                await anext(messages)
            left(request.pipeline_id, output)
            return exit_codes.COMPLETED
        return await show(client, request.pipeline_id, messages, logs=logs, output=output, cancels=cancels)
    except ServiceError as error:
        if error.code == "INVALID_ARGUMENT":
            # The same words, but with the lines they are about.
            raise await in_file(client, source, error) from None
        if error.code == "ALREADY_EXISTS":
            name = quoted(request.pipeline_id)
            raise ServiceError(
                f"run {name} exists already. Watch it: ottoctl pipeline watch {name}   Run it again: ottoctl pipeline rerun {name}   "
                "Start another one: choose another --id (an `id` in the file can be used once)"
            ) from None
        raise


def left(pipeline_id: str, output: Output) -> None:
    """Says the id of a run that was started and is left."""
    from ottoctl.terminal import quoted

    if output is Output.TABLE:
        print(pipeline_id, flush=True)
    else:
        dump({"pipeline_id": pipeline_id}, output)
    notice(f"watch it with: ottoctl pipeline watch {quoted(pipeline_id)}")


@app.command("watch", epilog=examples("pipeline watch"))
def watch(
    context: typer.Context,
    identity: Id,
    after: Annotated[int, typer.Option(min=0, help="Only what came after this sequence.")] = 0,
    logs: Logs = False,
    output: OutputOption = None,
) -> None:
    """Show a run from its start until it has ended."""
    from ottoctl.watching import show

    form = chosen(context, output)
    run(context, lambda client: show(client, identity, client.watch(identity, after), logs=logs, output=form))


STATES = ("running", "completed", "failed", "cancelled")


@app.command("list", epilog=examples("pipeline list"))
def list_pipelines(
    context: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option(help=f"Only {', '.join(STATES)} ones; may be repeated.", autocompletion=one_of(*STATES))
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    output: OutputOption = None,
) -> None:
    """List runs, newest first."""
    from ottoscaler.v1.pipeline_pb2 import PipelineState
    from ottoscaler.v1.pipeline_service_pb2 import ListPipelinesRequest

    for word in state or []:
        if word not in STATES:
            raise typer.BadParameter(f"--state {word!r} is not one of {', '.join(STATES)}")
    states = [PipelineState.Value(f"PIPELINE_STATE_{word.upper()}") for word in state or []]
    run(context, lambda client: _list(client, ListPipelinesRequest(states=states), limit, chosen(context, output)))


async def _list(client: "Client", request: Any, limit: int, output: Output) -> int:
    found: list[Any] = []
    while len(found) < limit:
        request.page_size = min(500, limit - len(found))
        page = await client.call(client.pipelines.ListPipelines(request, timeout=30))
        found += page.pipelines
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if output is not Output.TABLE:
        dump([as_data(one) for one in found], output)
        return exit_codes.COMPLETED
    rows = []
    for one in found:
        waits = f"waits for approval: {', '.join(one.awaiting_approval)}" if one.awaiting_approval else one.error_message
        created = one.created_at.ToDatetime(UTC).astimezone()
        rows.append([one.pipeline_id, one.name, state_word(one.state), f"{one.percentage}%", f"{created:%Y-%m-%d %H:%M:%S}", waits])
    table(("id", "name", "state", "done", "created", ""), rows)
    return exit_codes.COMPLETED


def state_word(state: Any) -> str:
    """Running for PIPELINE_STATE_RUNNING."""
    from ottoscaler.v1.pipeline_pb2 import PipelineState

    return PipelineState.Name(state).removeprefix("PIPELINE_STATE_").lower()


@app.command("get", epilog=examples("pipeline get"))
def get(context: typer.Context, identity: Id, output: OutputOption = None) -> None:
    """Show a run and its stages as they stand."""
    run(context, lambda client: _get(client, identity, chosen(context, output)))


async def _get(client: "Client", identity: str, output: Output) -> int:
    from ottoctl.progress import cause_word, duration, status_word
    from ottoctl.terminal import harmless
    from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest

    answer = await client.call(client.pipelines.GetPipeline(GetPipelineRequest(pipeline_id=identity), timeout=30))
    if output is not Output.TABLE:
        dump(as_data(answer), output)
        return exit_codes.COMPLETED
    summary = answer.summary
    print(f"{harmless(summary.pipeline_id)}: {state_word(summary.state)}, {summary.percentage}%  {harmless(summary.error_message)}")
    if summary.rerun_of:
        print(f"repeats {harmless(summary.rerun_of)}")
    for warning in answer.warnings:
        print(f"warning: {harmless(warning)}")
    if answer.held_up:
        print(f"as it stood before this: {harmless(answer.held_up)}")
    rows = []
    for stage in answer.stages:
        end = stage.ended_at if stage.HasField("ended_at") else None
        took = (
            duration(end.ToNanoseconds() / 1e9 - stage.started_at.ToNanoseconds() / 1e9)
            if end and stage.HasField("started_at") and stage.worker_count
            else ""
        )
        why = f"{cause_word(stage.failure_cause)} {stage.error_message or stage.message}".strip()
        rows.append([stage.stage_id, status_word(stage.status).lower(), str(stage.attempt or ""), str(stage.worker_count), took, why])
    table(("stage", "state", "try", "workers", "took", ""), rows)
    return exit_codes.COMPLETED


@app.command("cancel", epilog=examples("pipeline cancel"))
def cancel(
    context: typer.Context,
    identity: Running,
    reason: Annotated[str, typer.Option(help="Why; kept in the run.")] = "",
    output: OutputOption = None,
) -> None:
    """Cancel a run: its workers are stopped gently."""
    from ottoctl.terminal import harmless
    from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest

    request = CancelPipelineRequest(pipeline_id=identity, reason=reason, cancelled_by=f"ottoctl {os.environ.get('USER', '')}".strip())

    async def work(client: "Client") -> int:
        answer = await client.call(client.pipelines.CancelPipeline(request, timeout=30))
        form = chosen(context, output)
        if form is not Output.TABLE:
            dump(as_data(answer), form)
        else:
            print(f"{harmless(identity)}: {harmless(answer.message or state_word(answer.state))}")
        return exit_codes.COMPLETED

    run(context, work)


As = Annotated[str, typer.Option("--as", help="Who decides; has to be among the stage's approvers, where it names any.")]
Comment = Annotated[str, typer.Option(help="Kept with the decision.")]
StageId = Annotated[str, typer.Argument(metavar="STAGE", help="The stage that waits.", autocompletion=waiting_stages)]


@app.command("approve", epilog=examples("pipeline approve"))
def approve(
    context: typer.Context, identity: Running, stage: StageId, user: As = "", comment: Comment = "", output: OutputOption = None
) -> None:
    """Approve a stage that waits for it."""
    _decide(context, identity, stage, "APPROVE", user, comment, output)


@app.command("reject", epilog=examples("pipeline reject"))
def reject(
    context: typer.Context, identity: Running, stage: StageId, user: As = "", comment: Comment = "", output: OutputOption = None
) -> None:
    """Refuse a stage that waits for approval: it fails."""
    _decide(context, identity, stage, "REJECT", user, comment, output)


def _decide(context: typer.Context, identity: str, stage: str, decision: str, user: str, comment: str, output: Output | None) -> None:
    from ottoscaler.v1.pipeline_pb2 import ApprovalDecision
    from ottoscaler.v1.pipeline_service_pb2 import ApproveStageRequest

    request = ApproveStageRequest(
        pipeline_id=identity,
        stage_id=stage,
        decision=ApprovalDecision.Value(f"APPROVAL_DECISION_{decision}"),
        user=user or os.environ.get("USER", "") or "ottoctl",
        comment=comment,
    )

    async def work(client: "Client") -> int:
        answer = await client.call(client.pipelines.ApproveStage(request, timeout=30))
        form = chosen(context, output)
        if form is not Output.TABLE:
            dump(as_data(answer), form)
        else:
            print(f"{stage}: {'approved' if decision == 'APPROVE' else 'rejected'} by {answer.approval.decided_by}")
        return exit_codes.COMPLETED

    run(context, work)


@app.command("validate", epilog=examples("pipeline validate"))
def validate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A pipeline file.")],
    offline: Annotated[bool, typer.Option("--offline", help="Check the file only; ask no service.")] = False,
    output: OutputOption = None,
) -> None:
    """Check a pipeline file without running it, and let the service check what it stands for."""
    from ottoctl.checking import report, validated
    from ottoctl.pipeline_file import read

    source = read(file)
    form = chosen(context, output)
    if offline or not source.request.stages:
        raise typer.Exit(report(source, [], [], form, offline=True))
    source.request.pipeline_id = source.request.pipeline_id or made_up(source.stem)
    run(context, lambda client: validated(client, source, form))
