"""`make bench-cluster`: measures on the cluster that KUBECONFIG names, and prints a table. `bench compare` compares its results too."""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc.aio
from rich.console import Console

from otto_runtime.tasks import leaves

from .. import report
from ..machine import description
from . import lines, memory, pipelines, requests, saves, scale, starts, takeover
from .figures import CLUSTER_FIGURES
from .kwok import NoKwokError
from .release import InterruptedMeasureError, Release, released

TRIES = 3


@dataclass(frozen=True)
class Measure:
    """What gives figures, and the values that the release has to have for it, which it keeps for those that follow."""

    measured: Callable[[Release, float], Awaitable[dict[str, float]]]
    values: Sequence[str] = ()


MEASURES = {
    "memory": Measure(memory.footprint),
    "starts": Measure(starts.starting),
    "chain": Measure(pipelines.chain),
    "many": Measure(pipelines.many),
    "lines": Measure(lines.latency),
    "takeover": Measure(takeover.takeover),
    "saves": Measure(saves.saves),
    "requests": Measure(requests.requests, requests.VALUES),
    "scale": Measure(scale.scale, scale.VALUES),
}
"""In the order in which they run on one release: first what wants it fresh, last what fills it."""


async def measured(names: Sequence[str], runs: int, size: float, values: dict[str, list[float]]) -> None:
    """Adds the values of all figures as they come, run after run, each on a release of its own."""
    for run in range(runs):
        async with released() as release:
            for name in names:
                sys.stderr.write(f"run {run + 1} of {runs}: {name}\n")
                for figure, value in (await _undisturbed(MEASURES[name], release, size)).items():
                    values.setdefault(figure, []).append(value)


async def _undisturbed(measure: Measure, release: Release, size: float) -> dict[str, float]:
    """Its figures; it is begun again when a service went away meanwhile, a few times."""
    await release.configure(*measure.values)
    for _ in range(TRIES):
        try:
            return await measure.measured(release, size)
        except (ExceptionGroup, grpc.aio.AioRpcError, InterruptedMeasureError) as error:
            cause = next(leaves(error))
            if not isinstance(cause, grpc.aio.AioRpcError | InterruptedMeasureError):
                raise
            sys.stderr.write(f"disturbed, so begun again: {cause}\n")
        await release.configure()
        await release.emptied()
    raise RuntimeError(f"disturbed {TRIES} times")


def cluster() -> dict[str, str | int]:
    """Which one it is."""
    template = "{range .items[*]}{.status.nodeInfo.kubeletVersion} {end}"
    done = subprocess.run(["kubectl", "get", "nodes", "--output", f"jsonpath={template}"], capture_output=True, text=True, check=True)
    versions = done.stdout.split()
    return {"kubernetes": versions[0], "nodes": len(versions)}


def main() -> int:
    """Returns the exit code: 0 measured, 1 a target was missed with --strict or something can't be measured here, 2 usage."""
    parser = argparse.ArgumentParser(prog="bench.cluster", description="Measures a release on a cluster.")
    run = parser.add_subparsers(dest="command", required=True).add_parser("run", help="measure")
    report.options(run, MEASURES, runs=3)
    arguments = parser.parse_args()
    names = report.chosen(parser, arguments, MEASURES)
    machine = {**description(), **cluster()}
    values: dict[str, list[float]] = {}
    try:
        asyncio.run(measured(names, arguments.runs, arguments.size, values))
    except NoKwokError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BaseException:
        if arguments.json:  # what was measured took long
            report.keep(arguments.json, machine, arguments.runs, arguments.size, values)
        raise
    console = Console(width=None if sys.stdout.isatty() else 200)
    return report.told(console, CLUSTER_FIGURES, arguments, machine, values)


if __name__ == "__main__":
    raise SystemExit(main())
