"""What is to be measured, as options say; and results for people and for files: a table, its rows as Markdown, JSON, and what changed."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .compare import KNOWN, changes
from .figures import Figure, Results, middle, written

Machine = Mapping[str, str | int | float]


def options(parser: argparse.ArgumentParser, measures: Iterable[str], *, runs: int) -> None:
    """What every bench can be told."""
    parser.add_argument("--runs", type=int, default=runs, help="how often everything is measured (%(default)s)")
    parser.add_argument("--size", type=float, default=1.0, help="how much of everything: 0.1 for a quick look (1)")
    parser.add_argument("--only", default=",".join(measures), help="some of: %(default)s")
    parser.add_argument("--json", type=Path, help="where the values go")
    parser.add_argument("--markdown", action="store_true", help="print the table as the README has it")
    parser.add_argument("--strict", action="store_true", help="end with 1 if a target is missed")


def chosen(parser: argparse.ArgumentParser, given: argparse.Namespace, measures: Iterable[str]) -> list[str]:
    """The measures that were asked for, in the order of `measures`. Ends the process if the options can't be used."""
    known, names = list(measures), given.only.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only: {', '.join(unknown)}: known are {', '.join(known)}")
    if given.runs < 1 or not 0.01 <= given.size <= 10:
        parser.error("--runs is at least 1, --size from 0.01 to 10")
    return [name for name in known if name in names]


def told(console: Console, figures: Mapping[str, Figure], given: argparse.Namespace, machine: Machine, results: Results) -> int:
    """Keeps and prints a result as the options say; the exit code."""
    if given.json:
        keep(given.json, machine, given.runs, given.size, results)
    if given.markdown:
        console.out(markdown(figures, results), highlight=False)
    else:
        console.print(table(figures, results))
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    missed = any(figures[name].good(middle(values)) is False for name, values in results.items())
    return 1 if missed and given.strict else 0


def target(figure: Figure) -> str:
    """What the figure should be at least."""
    return "" if figure.target is None else f"{'≤' if figure.lower_is_better else '≥'} {written(figure.target)}"


def table(figures: Mapping[str, Figure], results: Results) -> Table:
    """Medians, spread and targets."""
    shown = Table("measure", "median", "lowest … highest", "at least", "", title_justify="left")
    for name, figure in figures.items():
        if values := results.get(name):
            value = middle(values)
            mark = {True: "ok", False: "MISSED", None: ""}[figure.good(value)]
            spread = f"{written(min(values))} … {written(max(values))}"
            shown.add_row(figure.words, f"{written(value)} {figure.unit}", spread, target(figure), mark)
    return shown


def markdown(figures: Mapping[str, Figure], results: Results) -> str:
    """The same as the README has it."""
    rows = ["| measure | median | runs | at least |", "| --- | --- | --- | --- |"]
    for name, figure in figures.items():
        if values := results.get(name):
            value = middle(values)
            missed = " **missed**" if figure.good(value) is False else ""
            spread = f"{written(min(values))} … {written(max(values))}"
            rows.append(f"| {figure.words} | {written(value)} {figure.unit}{missed} | {spread} | {target(figure)} |")
    return "\n".join(rows)


def keep(path: Path, machine: Machine, runs: int, size: float, results: Results) -> None:
    """Writes a result for `bench compare`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "runs": runs, "size": size, "values": results}, indent=1) + "\n")


def compared(old: dict[str, Any], new: dict[str, Any]) -> Table:
    """Changes, and whether they are more than noise."""
    shown = Table("measure", "old", "new", "change", "")
    for change in changes(old["values"], new["values"]):
        figure = KNOWN[change.name]
        shown.add_row(
            figure.words,
            f"{written(change.old)} {figure.unit}",
            f"{written(change.new)} {figure.unit}",
            f"{change.share:+.0%}",
            {"same": "", "unsure": "within noise"}.get(change.verdict, change.verdict.upper()),
        )
    return shown
