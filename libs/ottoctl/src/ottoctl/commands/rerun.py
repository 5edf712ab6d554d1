"""`ottoctl pipeline rerun`: an ended run again, whole or only what failed."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ottoctl import exit_codes
from ottoctl.commands.pipeline import Id, Logs, left
from ottoctl.context import OutputOption, chosen, run
from ottoctl.render import Output

if TYPE_CHECKING:
    from ottoctl.client import Client
    from ottoscaler.v1.pipeline_service_pb2 import RerunPipelineRequest


def rerun(
    context: typer.Context,
    identity: Id,
    failed_only: Annotated[
        bool,
        typer.Option("--failed-only", help="Only stages that did not complete and what follows from them; the others keep their results."),
    ] = False,
    new_id: Annotated[str, typer.Option("--id", help="The new run's id; default: one made of the old one's.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and leave.")] = False,
    logs: Logs = True,
    output: OutputOption = None,
) -> None:
    """Run an ended pipeline again and show it until it has ended. Ctrl-C leaves it running."""
    from ottoscaler.v1.pipeline_service_pb2 import RerunPipelineRequest

    user = f"ottoctl {os.environ.get('USER', '')}".strip()
    request = RerunPipelineRequest(pipeline_id=identity, new_pipeline_id=new_id, failed_only=failed_only, triggered_by=user)
    form = chosen(context, output)
    run(context, lambda client: _rerun(client, request, form, detach=detach, logs=logs))


async def _rerun(client: "Client", request: "RerunPipelineRequest", output: Output, *, detach: bool, logs: bool) -> int:
    from ottoctl.watching import show

    new_id = await client.rerun(request)
    if detach:
        left(new_id, output)
        return exit_codes.COMPLETED
    return await show(client, new_id, client.watch(new_id), logs=logs, output=output)
