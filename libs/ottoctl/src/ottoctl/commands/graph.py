"""`ottoctl pipeline graph`: a pipeline file or a run as a picture."""

import enum
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ottoctl import exit_codes
from ottoctl.completion import pipeline_ids
from ottoctl.context import run

if TYPE_CHECKING:
    from ottoctl.client import Client
    from ottoctl.graph import Graph

PIPE_CELLS = 100
"""How wide lines are where there is no terminal."""


class Drawing(enum.StrEnum):
    """The forms of `--format`."""

    TEXT = "text"
    DOT = "dot"
    MERMAID = "mermaid"


def graph(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|ID", help="A pipeline file, or the id of a run.", autocompletion=pipeline_ids)],
    form: Annotated[Drawing, typer.Option("--format", "-f", help="Text, or the language of Graphviz or Mermaid.")] = Drawing.TEXT,
) -> None:
    """Show the DAG of a pipeline file, or of a run with how its stages stand."""
    from ottoctl import pipeline_file
    from ottoctl.graph import of_request
    from ottoctl.terminal import harmless

    path = Path(what)
    if what == "-" or path.is_file() or (path.suffix in {".yaml", ".yml"} and "/" in what):
        source = pipeline_file.load(path)
        draw(of_request(source.request, harmless(source.request.name or source.name)), form)
        return
    run(context, lambda client: _graph(client, what, form))


async def _graph(client: "Client", identity: str, form: Drawing) -> int:
    from ottoctl.graph import of_run
    from ottoctl.words import ServiceError
    from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest

    try:
        answer = await client.call(client.pipelines.GetPipeline(GetPipelineRequest(pipeline_id=identity), timeout=30))
    except ServiceError as error:
        raise ServiceError(f"{error} (and there is no file {identity!r} here)", error.exit_code) from None
    draw(of_run(answer), form)
    return exit_codes.COMPLETED


def draw(graph: "Graph", form: Drawing) -> None:
    """Prints it."""
    from ottoctl import graph_drawing, graph_text

    if form is Drawing.TEXT:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_CELLS
        lines = graph_text.rows(graph, width)
    else:
        lines = graph_drawing.dot(graph) if form is Drawing.DOT else graph_drawing.mermaid(graph)
    for line in lines:
        print(line)
