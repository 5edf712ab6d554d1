"""The tree of commands and the options before them."""

from typing import Annotated

import typer

from ottoctl.commands import doctor, graph, logs, pipeline, rerun, support_bundle, workers
from ottoctl.context import DEFAULT_ADDRESS, Shared
from ottoctl.examples import examples
from ottoctl.render import Output

app = typer.Typer(
    name="ottoctl",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Runs pipelines on Ottoscaler and shows what happens.",
    epilog="Exit codes: 0 done or completed, 1 the pipeline failed, 2 wrong usage or file, 3 cancelled, 4 the service can't be reached, "
    "5 the service answered with an error, 130 interrupted (what runs goes on).\n\n" + examples(""),
)
pipeline.app.command("rerun", epilog=examples("pipeline rerun"))(rerun.rerun)
pipeline.app.command("graph", epilog=examples("pipeline graph"))(graph.graph)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(workers.scale, name="scale")
app.command("status", epilog=examples("status"))(workers.status)
app.command("logs", epilog=examples("logs"))(logs.logs)
app.command("doctor", epilog=examples("doctor"))(doctor.doctor)
app.command("support-bundle", epilog=examples("support-bundle"))(support_bundle.support_bundle)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ottoctl {version('ottoctl')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    address: Annotated[str, typer.Option(envvar="OTTO_ADDRESS", help="Host and port of Ottoscaler.")] = DEFAULT_ADDRESS,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of answers.")] = Output.TABLE,
    patience: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that a connection that was lost is tried again before ottoctl gives up.", show_default="120"),
    ] = None,
    version: Annotated[  # noqa: ARG001  its callback has done it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Takes the options before the command."""
    named = getattr(context.get_parameter_source("address"), "name", "") != "DEFAULT"
    context.obj = Shared(address, named, output, patience)
