"""`ottoctl pipeline rerun`: an ended run again, whole or only what failed."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ottoctl import exit_codes
from ottoctl.commands.pipeline import Id, Logs
from ottoctl.context import notice, run

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
) -> None:
    """Run an ended pipeline again and show it until it has ended. Ctrl-C leaves it running."""
    from ottoscaler.v1.pipeline_service_pb2 import RerunPipelineRequest

    user = f"ottoctl {os.environ.get('USER', '')}".strip()
    request = RerunPipelineRequest(pipeline_id=identity, new_pipeline_id=new_id, failed_only=failed_only, triggered_by=user)
    run(context, lambda client: _rerun(client, request, detach=detach, logs=logs))


async def _rerun(client: "Client", request: "RerunPipelineRequest", *, detach: bool, logs: bool) -> int:
    from ottoctl.watching import quoted, show

    new_id = (await client.call(client.pipelines.RerunPipeline(request, timeout=30))).pipeline_id
    if detach:
        print(new_id, flush=True)
        notice(f"watch it with: ottoctl pipeline watch {quoted(new_id)}")
        return exit_codes.COMPLETED
    return await show(client, new_id, client.watch(new_id), logs=logs)
