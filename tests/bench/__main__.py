"""`make bench` and `make bench-compare`: measures and prints tables."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console

from . import calls, endings, lines, memory, pipelines, report
from .figures import FIGURES
from .machine import description
from .service import Service, serving

MEASURES: dict[str, Callable[[Service, float], Awaitable[dict[str, float]]]] = {
    "start": calls.starting,
    "status": calls.status,
    "chain": pipelines.chain,
    "pipelines": pipelines.rate,
    "endings": endings.endings,
    "latency": lines.latency,
    "throughput": lines.throughput,
    "memory": memory.footprint,
}
"""In the order in which they run; each gets a service of its own, so that none inherits another's memory."""


async def measured(names: list[str], runs: int, size: float) -> dict[str, list[float]]:
    """The values of all figures, run after run."""
    values: dict[str, list[float]] = {}
    for run in range(runs):
        for name in names:
            sys.stderr.write(f"run {run + 1} of {runs}: {name}\n")
            async with serving() as service:
                for figure, value in (await MEASURES[name](service, size)).items():
                    values.setdefault(figure, []).append(value)
    return values


def main() -> int:
    """Returns the exit code: 0 measured, 1 a target was missed with --strict, 2 usage."""
    parser = argparse.ArgumentParser(prog="bench", description="Measures a standalone service, or compares two results.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    report.options(run, MEASURES, runs=5)
    compare = commands.add_parser("compare", help="what changed beyond noise")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.command == "compare":
        try:
            old, new = (json.loads(path.read_text()) for path in (arguments.old, arguments.new))
            console.print(report.compared(old, new))
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"not a result of `bench run --json`: {error}")
        for key in ("cpu", "cores", "memory_gib"):
            if old["machine"].get(key) != new["machine"].get(key):
                console.print(f"Not the same machine ({key}): {old['machine'].get(key)} and {new['machine'].get(key)}")
        if old.get("size") != new.get("size"):
            console.print(f"Not the same size: {old.get('size')} and {new.get('size')}")
        for words, result in (("old", old), ("new", new)):
            console.print(f"{words}: {', '.join(f'{key} {value}' for key, value in result['machine'].items())}")
        return 0
    names = report.chosen(parser, arguments, MEASURES)
    machine = description()
    values = asyncio.run(measured(names, arguments.runs, arguments.size))
    code = report.told(console, FIGURES, arguments, machine, values)
    if "status" in names and "status.h2load" not in values:
        console.print("not measured: h2load is not there (Debian's package nghttp2-client), or not all of its calls were answered")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
