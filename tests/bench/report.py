"""Results for people and for files: a table, its rows as Markdown, JSON, and what changed between two results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from .compare import KNOWN, changes
from .figures import Figure, Results, middle, written

Machine = Mapping[str, str | int | float]


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
