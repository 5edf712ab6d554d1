"""`make bench` and `make bench-compare`: measures and prints tables."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console

from . import calls, endings, lines, memory, pipelines
from .figures import FIGURES, middle
from .machine import description
from .report import compared, keep, markdown, table
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
    run.add_argument("--runs", type=int, default=5, help="how often everything is measured (5)")
    run.add_argument("--size", type=float, default=1.0, help="how much of everything: 0.1 for a quick look (1)")
    run.add_argument("--only", default=",".join(MEASURES), help="some of: %(default)s")
    run.add_argument("--json", type=Path, help="where the values go")
    run.add_argument("--markdown", action="store_true", help="print the table as the README has it")
    run.add_argument("--strict", action="store_true", help="end with 1 if a target is missed")
    compare = commands.add_parser("compare", help="what changed beyond noise")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.command == "compare":
        try:
            old, new = (json.loads(path.read_text()) for path in (arguments.old, arguments.new))
            console.print(compared(old, new))
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
    names = arguments.only.split(",")
    if unknown := [name for name in names if name not in MEASURES]:
        parser.error(f"--only: {', '.join(unknown)}: known are {', '.join(MEASURES)}")
    if arguments.runs < 1 or not 0.01 <= arguments.size <= 10:
        parser.error("--runs is at least 1, --size from 0.01 to 10")
    machine = description()
    values = asyncio.run(measured(names, arguments.runs, arguments.size))
    if arguments.json:
        keep(arguments.json, machine, arguments.runs, arguments.size, values)
    if arguments.markdown:
        sys.stdout.write(markdown(FIGURES, values) + "\n")
    else:
        console.print(table(FIGURES, values))
    if "status" in names and "status.h2load" not in values:
        console.print("not measured: h2load is not there (Debian's package nghttp2-client), or not all of its calls were answered")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    missed = any(FIGURES[name].good(middle(found)) is False for name, found in values.items())
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    raise SystemExit(main())
