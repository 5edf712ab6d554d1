"""Draws the Grafana dashboard of the chart as SVG, from what a Prometheus has: for docs/, without a Grafana.

python tools/dashboard_picture.py http://127.0.0.1:9095 --seconds 900 --rows "At a glance,Pipelines" > picture.svg
"""

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[1] / "charts/ottoscaler/files/dashboard.json"
COLUMN, LINE, GAP = 50, 30, 6
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9", "#37872d", "#fa6400", "#447ebc", "#c4162a")
POINTS = 120
LEGEND = 4
"""Series that are named below a graph, the highest ones; of more only their number is told."""
SCALES = {
    "s": ((60, "min", 60), (1, "s", 1), (0.001, "ms", 0.001), (0.000001, "µs", 0.000001)),
    "bytes": ((2**30, "GiB", 2**30), (2**20, "MiB", 2**20), (2**10, "KiB", 2**10), (1, "B", 1)),
}
Points = list[tuple[float, float]]


class Source:
    """A Prometheus, and the time that is looked at."""

    def __init__(self, address: str, seconds: float) -> None:
        """The last `seconds` before now."""
        self._address = address
        self.end = time.time()
        self.start = self.end - seconds

    def _get(self, path: str, **query: str | float) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self._address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:  # noqa: S310  the address is the caller's
            return list(json.load(answer)["data"]["result"])

    def over_time(self, expression: str) -> list[tuple[dict[str, str], Points]]:
        """Labels and points of each series."""
        step = (self.end - self.start) / POINTS
        found = self._get("query_range", query=expression, start=self.start, end=self.end, step=step)
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"] if math.isfinite(float(value))]) for one in found]

    def now(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series at the end."""
        return [(one["metric"], float(one["value"][1])) for one in self._get("query", query=expression, time=self.end)]


def worded(value: float, unit: str) -> str:
    """A number as Grafana would write it."""
    if unit == "percentunit":
        return f"{value:.0%}"
    suffix = {"ops": "/s", "Bps": "B/s"}.get(unit, "")
    for least, name, by in SCALES.get(unit, ()):
        if value >= least:
            return f"{value / by:.3g} {name}"
    return f"{value:.3g}{suffix}"


def named(legend: str, labels: dict[str, str], title: str) -> str:
    """What a series is called."""
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return title if legend == "__auto" else legend


def drawn(panel: dict[str, Any], source: Source) -> Iterator[str]:
    """A panel, in a frame of its own."""
    place = panel["gridPos"]
    x, y = place["x"] * COLUMN + GAP / 2, place["y"] * LINE + GAP / 2
    width, height = place["w"] * COLUMN - GAP, place["h"] * LINE - GAP
    if panel["type"] == "row":
        yield f'<text x="{x + 4}" y="{y + 17}" class="row">{escape(panel["title"])}</text>'
        return
    unit = panel["fieldConfig"]["defaults"]["unit"]
    queries = [
        (
            target["expr"].replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$release", ".*"),
            target["legendFormat"],
        )
        for target in panel["targets"]
    ]
    yield f'<g transform="translate({x} {y})"><rect width="{width}" height="{height}" class="panel"/>'
    yield f'<text x="8" y="17" class="title">{escape(panel["title"])}</text>'
    if panel["type"] == "timeseries":
        series = [
            (named(legend, labels, panel["title"]), points) for query, legend in queries for labels, points in source.over_time(query)
        ]
        series = sorted(((name, points) for name, points in series if points), key=lambda one: -max(value for _, value in one[1]))
        yield from _graph(series, unit, width, height, source)
    elif panel["type"] == "stat":
        found = source.now(queries[0][0])
        yield f'<text x="{width / 2}" y="{height - 30}" class="stat">{f"{found[0][1]:.0f}" if found else "–"}</text>'
    else:
        for number, (labels, _) in enumerate(source.now(queries[0][0])):
            told = ", ".join(f"{name} {labels[name]}" for name in ("instance", "version", "python") if name in labels)
            yield f'<text x="8" y="{38 + number * 15}" class="small">{escape(told)}</text>'
    yield "</g>"


def _graph(series: list[tuple[str, Points]], unit: str, width: float, height: float, source: Source) -> Iterator[str]:
    left, top, right, bottom = 62.0, 28.0, width - 10, height - 36
    most = max((value for _, points in series for _, value in points), default=0) or 1
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - top)
        yield f'<path d="M{left} {y:.0f}H{right}" class="grid"/>'
        yield f'<text x="{left - 5}" y="{y + 4:.0f}" class="tick">{worded(share * most, unit)}</text>'
    for at, anchor in ((source.start, "start"), (source.end, "end")):
        x = left if anchor == "start" else right
        when = time.strftime("%H:%M", time.gmtime(at))
        yield f'<text x="{x}" y="{bottom + 13}" class="small" text-anchor="{anchor}">{when}</text>'
    step = 1.5 * (source.end - source.start) / POINTS
    for number, (_, points) in enumerate(series):
        path, before = [], -math.inf
        for at, value in points:
            x = left + (at - source.start) / (source.end - source.start) * (right - left)
            path.append(f"{'L' if at - before < step else 'M'}{x:.0f} {bottom - value / most * (bottom - top):.1f}")
            before = at
        yield f'<path d="{"".join(path)}" fill="none" stroke-width="1.3" stroke="{COLOURS[number % len(COLOURS)]}"/>'
    names = [(name, COLOURS[number % len(COLOURS)]) for number, (name, _) in enumerate(series[:LEGEND])]
    spans = "".join(f'<tspan fill="{colour}">● </tspan><tspan>{escape(name)}  </tspan>' for name, colour in names)
    more = f"<tspan>and {len(series) - LEGEND} more</tspan>" if len(series) > LEGEND else ""
    yield f'<text x="8" y="{height - 8}" class="small">{spans}{more}</text>'


def chosen(rows: set[str]) -> list[dict[str, Any]]:
    """The panels of these rows (all, if there are none), moved together."""
    found: list[dict[str, Any]] = []
    wanted, top, base = False, 0, 0
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            wanted, base = not rows or panel["title"] in rows, panel["gridPos"]["y"]
            top = max((one["gridPos"]["y"] + one["gridPos"]["h"] for one in found), default=0)
        if wanted:
            found.append({**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] - base + top}})
    return found


def picture(source: Source, rows: set[str]) -> str:
    """The whole, as SVG."""
    panels = chosen(rows)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * LINE
    style = (
        "text{font-family:sans-serif;font-size:11px;fill:#ccccdc}.row{font-size:14px;font-weight:600}.title{font-size:12px;font-weight:600}"
        ".stat{font-size:34px;fill:#73bf69;text-anchor:middle}.small,.tick{font-size:10px;fill:#9fa7b3}.tick{text-anchor:end}"
        ".panel{fill:#181b1f;stroke:#2c3235}.grid{stroke:#2c3235}"
    )
    inside = "\n".join(part for panel in panels for part in drawn(panel, source))
    size = f'width="{24 * COLUMN}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n<rect {size} fill="#111217"/>\n{inside}\n</svg>\n'


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Draw the dashboard of the chart as SVG from what a Prometheus has.")
    parser.add_argument("prometheus", help="its address, http://host:port")
    parser.add_argument("--seconds", type=float, default=900.0, help="how long before now it begins (900)")
    parser.add_argument("--rows", default="", help="titles of rows, separated by commas; all if not said")
    arguments = parser.parse_args()
    rows = {row.strip() for row in arguments.rows.split(",") if row.strip()}
    sys.stdout.write(picture(Source(arguments.prometheus, arguments.seconds), rows))


if __name__ == "__main__":
    main()
