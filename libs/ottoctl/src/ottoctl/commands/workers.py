"""`ottoctl scale up|down` and `ottoctl status`: workers without a pipeline, and how all workers stand."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottoctl import exit_codes
from ottoctl.completion import one_of, task_ids, worker_names
from ottoctl.context import OutputOption, chosen, notice, run
from ottoctl.examples import examples
from ottoctl.render import Output, as_data, counted, dump, emit, table

if TYPE_CHECKING:
    from ottoctl.client import Client

NAMES_SHOWN = 10
"""Names of workers that are listed at most."""
scale = typer.Typer(no_args_is_help=True, help="Start or stop workers of a task, without a pipeline.", epilog=examples("scale"))


def pairs(items: list[str], what: str) -> dict[str, str]:
    """KEY=VALUE texts as a dict; raises typer.BadParameter for one without `=`."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{what} {item!r} is not of the form KEY=VALUE")
        found[key] = value
    return found


@scale.command("up", epilog=examples("scale up"))
def up(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="The task the workers are for; repeating it starts nothing twice.")],
    command: Annotated[list[str] | None, typer.Argument(help="The command, after `--`.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="How many workers.")] = 1,
    repo: Annotated[str, typer.Option(help="A Git repository to check out first.")] = "",
    sha: Annotated[str, typer.Option(help="The commit, branch or tag; empty: the default branch.")] = "",
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="KEY=VALUE, an environment variable; may be repeated.")] = None,
    image: Annotated[str, typer.Option(help="The container image; workers that are processes ignore it.")] = "",
    cpu: Annotated[str, typer.Option(help="CPU of each worker, like 500m or 2.")] = "",
    memory: Annotated[str, typer.Option(help="Memory of each worker, like 512Mi.")] = "",
    timeout: Annotated[int, typer.Option(help="Most seconds each may run; 0: the service's default.")] = 0,
    queue: Annotated[bool, typer.Option("--queue", help="Wait for capacity instead of being refused.")] = False,
    output: OutputOption = None,
) -> None:
    """Start workers of a task."""
    from google.protobuf.duration_pb2 import Duration

    from ottoscaler.v1.ottoscaler_service_pb2 import Admission, ScaleRequest

    request = ScaleRequest(task_id=task, worker_count=count, repository=repo, commit_sha=sha, triggered_by="ottoctl")
    request.worker.image = image
    request.worker.command.extend(command or [])
    request.worker.env.update(pairs(env or [], "--env"))
    if cpu or memory:
        request.worker.resources.cpu, request.worker.resources.memory = cpu, memory
    if timeout:
        request.worker.timeout.CopyFrom(Duration(seconds=timeout))
    if queue:
        request.admission = Admission.ADMISSION_QUEUE
    run(
        context,
        lambda client: _scale(client, client.workers.ScaleUp(request, timeout=60, metadata=client.trace), task, chosen(context, output)),
    )


@scale.command("down", epilog=examples("scale down"))
def down(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="The task.", autocompletion=task_ids)],
    to: Annotated[int, typer.Option("--to", help="How many are to be left.")] = 0,
    reason: Annotated[str, typer.Option(help="Why; kept with the workers.")] = "",
    output: OutputOption = None,
) -> None:
    """Stop workers of a task: waiting ones first, then the youngest."""
    from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest

    request = ScaleRequest(task_id=task, worker_count=to, reason=reason, triggered_by="ottoctl")
    run(context, lambda client: _scale(client, client.workers.ScaleDown(request, timeout=60), task, chosen(context, output)))


async def _scale(client: "Client", call: Any, task: str, output: Output) -> int:
    from ottoctl.words import ServiceError
    from ottoscaler.v1.ottoscaler_service_pb2 import ScaleResponse

    try:
        answer = await client.call(call)
    except ServiceError as error:
        raise ServiceError(_with_flags(str(error)), error.exit_code, error.code) from None
    if output is not Output.TABLE:
        dump(as_data(answer), output)
    else:
        print(f"{ScaleResponse.Status.Name(answer.status)}: {_with_flags(answer.message)}")
        for line in named(list(answer.worker_pod_names), task):
            print(f"  {line}")
    bad = {ScaleResponse.Status.FAILED, ScaleResponse.Status.PARTIAL_SUCCESS}
    return exit_codes.SERVICE_ERROR if answer.status in bad else exit_codes.COMPLETED


def _with_flags(text: str) -> str:
    """The service's words, with ottoctl's name for what it speaks of."""
    return text.replace("with admission QUEUE", "with --queue")


def named(names: list[str], task: str) -> list[str]:
    """Names of workers, of many only the first ones and how to see all."""
    from ottoctl.terminal import quoted

    if len(names) <= NAMES_SHOWN:
        return names
    return [*names[: NAMES_SHOWN - 1], f"… and {len(names) - NAMES_SHOWN + 1} more: ottoctl status {quoted(task)}"]


def status(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="Only workers of this task.", autocompletion=task_ids)] = "",
    worker: Annotated[str, typer.Option(help="Only this worker.", autocompletion=worker_names)] = "",
    state: Annotated[
        str,
        typer.Option(
            "--status",
            help="Only pending, running, succeeded or failed ones.",
            autocompletion=one_of("pending", "running", "succeeded", "failed"),
        ),
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on and show every change.")] = False,
    output: OutputOption = None,
) -> None:
    """Show workers and how they stand."""
    from ottoscaler.v1.ottoscaler_service_pb2 import WatchWorkersRequest, WorkerStatusRequest

    form = chosen(context, output)
    if watch:
        wanted = WatchWorkersRequest(task_id=task, worker_pod_name=worker)
        run(context, lambda client: _watch(client, wanted, state, form))
    request = WorkerStatusRequest(task_id=task, worker_pod_name=worker, status_filter=state)
    run(context, lambda client: _status(client, request, form))


def _row(worker: Any) -> list[str]:
    why = worker.error_message or worker.pending_reason
    return [worker.pod_name, worker.status, worker.task_id, worker.started_at[11:19], worker.completed_at[11:19], why]


COLUMNS = ("worker", "status", "task", "started", "ended", "why")


async def _status(client: "Client", request: Any, output: Output) -> int:
    answer = await client.call(client.workers.GetWorkerStatus(request, timeout=30))
    if output is not Output.TABLE:
        dump(as_data(answer), output)
        return exit_codes.COMPLETED
    if not answer.workers and not answer.turned_away_count and (request.task_id or request.worker_pod_name):
        known = request.worker_pod_name or request.task_id
        notice(
            f"there is no worker {'called' if request.worker_pod_name else 'of a task'} {known!r} (any more)"
            + (f" that is {request.status_filter}" if request.status_filter else "")
        )
    table(COLUMNS, [_row(worker) for worker in answer.workers])
    print(
        f"{counted(answer.total_count, 'worker')}: {answer.running_count} running, {answer.pending_count} pending, "
        f"{answer.succeeded_count} succeeded, {answer.failed_count} failed"
        + (f"; {answer.waiting_count} of them wait for room (cap {answer.room_limit})" if answer.waiting_count else "")
    )
    if answer.turned_away_count:
        print(
            f"INSUFFICIENT_RESOURCES: {answer.turned_away_count} more "
            f"{'was' if answer.turned_away_count == 1 else 'were'} asked for just now, without room (cap {answer.room_limit}) or a place "
            "to wait for it; pipelines go on asking"
        )
    return exit_codes.COMPLETED


async def _watch(client: "Client", request: Any, state: str, output: Output) -> int:
    from ottoctl.terminal import harmless
    from ottoscaler.v1.ottoscaler_service_pb2 import WorkerEvent

    names = {WorkerEvent.TYPE_ADDED: "added", WorkerEvent.TYPE_MODIFIED: "changed", WorkerEvent.TYPE_DELETED: "deleted"}
    async for event in client.watch_workers(request):
        if event.type not in names or (state and event.worker.status != state):
            continue
        if output is Output.TABLE:
            print("\t".join(harmless(cell) for cell in [names[event.type], *_row(event.worker)]), flush=True)
        else:
            emit({"event": names[event.type], "worker": as_data(event.worker)}, output)
            sys.stdout.flush()
    return exit_codes.COMPLETED
