"""The chart's Grafana dashboard, which chart_values.py writes.

A panel is a title, a unit, and queries with their legends. `@` stands for the labels of the installation that the viewer chose.
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

CHOSEN = 'namespace=~"$namespace", app_kubernetes_io_instance=~"$release"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT = 24, 7
COLOURS = {"completed": "green", "succeeded": "green", "failed": "red", "cancelled": "gray"}
"""Of series that have such a name: by their order what failed might be green."""


class Panel(NamedTuple):
    """`queries` are (expression, legend). A stat shows one number, a graph a line per series, a table the labels of each series."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    about: str = ""


def graph(title: str, unit: str, *queries: tuple[str, str], about: str = "") -> Panel:
    """Lines over time."""
    return Panel(title, unit, queries, about=about)


def stat(title: str, unit: str, query: str) -> Panel:
    """One number."""
    return Panel(title, unit, ((query, ""),), "stat")


def rate(metric: str, by: str, more: str = "") -> str:
    """A counter's events per second."""
    return f"sum by ({by}) (rate({metric}{{@{more}}}[$__rate_interval]))" if by else f"sum(rate({metric}{{@{more}}}[$__rate_interval]))"


def quantiles(metric: str, by: str = "", more: str = "") -> tuple[tuple[str, str], ...]:
    """The median and the 99th percentile of a histogram."""
    inner = rate(f"{metric}_bucket", f"le, {by}" if by else "le", more)
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple((f"histogram_quantile({q}, {inner})", f"p{q * 100:.0f}{legend}") for q in (0.5, 0.99))


ROWS: dict[str, tuple[Panel, ...]] = {
    "At a glance": (
        stat("Processes that answer", "none", "count(otto_build_info{@})"),
        stat("Pipelines that go on", "none", "max(otto_executor_pipelines_active{@})"),
        stat("Workers that run", "none", 'sum(otto_scaler_workers{@, state="running"})'),
        stat("Workers that wait for room", "none", "sum(otto_scaler_workers_queued{@})"),
        stat("Pipelines failed, last hour", "none", 'sum(increase(otto_executor_pipeline_duration_seconds_count{@, status="failed"}[1h]))'),
        stat("Lines to be pushed", "none", "sum(otto_relay_handler_backlog_lines{@})"),
    ),
    "Pipelines": (
        graph("Pipelines that ended", "ops", (rate("otto_executor_pipeline_duration_seconds_count", "status"), "{{status}}")),
        graph("How long they took", "s", *quantiles("otto_executor_pipeline_duration_seconds", "status")),
        graph(
            "Pipelines that go on",
            "none",
            ("max(otto_executor_pipelines_active{@})", "unfinished"),
            ("max(otto_executor_pipelines_held_up{@})", "held up"),
            ("max(otto_executor_pipelines_unreadable{@})", "unreadable"),
            about="Held up: the next step has not worked for a minute. Unreadable: nobody drives them.",
        ),
        graph("Stages that ended", "ops", (rate("otto_executor_stages_ended_total", "status"), "{{status}}"), about="Of ended pipelines."),
        graph("Attempts repeated", "ops", (rate("otto_executor_stage_retries_total", "kind"), "{{kind}}"), about="Of ended pipelines."),
        graph(
            "From stage to stage",
            "s",
            *quantiles("otto_executor_stage_hop_seconds"),
            about="From the end of the last dependency until the scaler has answered for the workers.",
        ),
    ),
    "Workers": (
        graph(
            "Workers there are",
            "none",
            ("sum by (state) (otto_scaler_workers{@})", "{{state}}"),
            ("max(otto_scaler_workers_limit{@})", "cap"),
        ),
        graph("Workers that failed", "ops", (rate("otto_scaler_workers_ended_total", "cause", ', state="failed"'), "{{cause}}")),
        graph(
            "Waits that go on",
            "s",
            ("max(otto_scaler_oldest_queued_seconds{@})", "for room"),
            ("max(otto_scaler_oldest_pending_seconds{@})", "to start"),
        ),
        graph("Workers that wait for room", "none", ("sum(otto_scaler_workers_queued{@})", "waiting")),
        graph("Time waited for room", "s", *quantiles("otto_scaler_worker_queue_seconds")),
        graph("From room to running", "s", *quantiles("otto_scaler_worker_start_seconds"), about="Scheduling, images, volumes, checkout."),
    ),
    "Logs": (
        graph("Lines", "ops", (rate("otto_relay_lines_total", "origin"), "{{origin}}")),
        graph("Bytes of lines", "Bps", (rate("otto_relay_line_bytes_total", "origin"), "{{origin}}")),
        graph(
            "From written to readable",
            "s",
            (f"{rate('otto_relay_delay_seconds_sum', '')} / {rate('otto_relay_delay_seconds_count', '')}", "mean"),
        ),
        graph(
            "Gaps and troubles",
            "ops",
            (rate("otto_relay_incomplete_total", ""), "places where lines may be missing"),
            (rate("otto_relay_lines_trimmed_total", ""), "lines deleted while their worker ran"),
            (rate("otto_relay_workers_evicted_total", ""), "workers deleted before their time"),
            (rate("otto_relay_retries_total", ""), "tried again"),
        ),
        graph(
            "Spool",
            "bytes",
            ("sum(otto_relay_spool_bytes{@})", "kept"),
            ("sum(otto_relay_spool_limit_bytes{@})", "limit"),
            ("min(otto_relay_spool_disk_free_bytes{@})", "free on its disk"),
        ),
        graph("Workers' logs", "none", ("sum(otto_relay_workers_followed{@})", "followed"), ("sum(otto_relay_workers_kept{@})", "kept")),
        graph(
            "Push to otto-handler",
            "ops",
            (rate("otto_relay_handler_pushed_total", ""), "acknowledged"),
            (rate("otto_relay_handler_dropped_total", ""), "dropped"),
            (rate("otto_relay_handler_retried_total", ""), "asked for again"),
            (rate("otto_relay_handler_notices_total", ""), "notices"),
        ),
        graph(
            "Still to be pushed",
            "none",
            ("sum(otto_relay_handler_backlog_lines{@})", "lines"),
            ("sum(otto_relay_handler_unanswered_lines{@})", "lines on their way"),
            ("sum(otto_relay_handler_backlog_notices{@})", "notices"),
        ),
    ),
    "Calls": (
        graph("Calls", "ops", (rate("otto_rpc_server_duration_seconds_count", "method"), "{{method}}")),
        graph(
            "Calls that fail",
            "ops",
            (rate("otto_rpc_server_duration_seconds_count", "method, code", ', code!="OK"'), "{{method}} {{code}}"),
        ),
        graph(
            "How long they take",
            "s",
            *quantiles("otto_rpc_server_duration_seconds", "method"),
            about="Streams count with their whole length.",
        ),
        graph("Calls that run", "none", ("sum by (method) (otto_rpc_server_open{@})", "{{method}}")),
        graph("Messages of streams", "ops", (rate("otto_rpc_server_messages_sent_total", "method"), "{{method}}")),
    ),
    "API server": (
        graph("Requests", "ops", (rate("otto_kube_request_duration_seconds_count", "verb, resource"), "{{verb}} {{resource}}")),
        graph("Requests by status", "ops", (rate("otto_kube_request_duration_seconds_count", "code"), "{{code}}")),
        graph(
            "Until the answer begins",
            "s",
            *quantiles("otto_kube_request_duration_seconds", "verb", ', verb!="watch", resource!="pods/log"'),
        ),
        graph("Lists of watches", "ops", (rate("otto_kube_watch_lists_total", "resource, why"), "{{resource}} {{why}}")),
        graph("Connections of watches", "ops", (rate("otto_kube_watch_connections_total", "resource"), "{{resource}}")),
        graph(
            "Told to ask later",
            "s",
            (rate("otto_kube_request_throttled_seconds_total", ""), "seconds waited in each"),
        ),
    ),
    "Processes": (
        graph("Who acts", "none", ("otto_replica_acting{@}", "{{service}} {{instance}}")),
        graph("How late the event loop is", "s", *quantiles("otto_event_loop_lag_seconds", "instance")),
        graph("Tasks", "none", ("otto_asyncio_tasks{@}", "{{instance}}")),
        graph(
            "Processor",
            "percentunit",
            ("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}"),
            about="1 is a whole core, which is all that a process can use.",
        ),
        graph("Memory", "bytes", ("process_resident_memory_bytes{@}", "{{instance}}")),
        graph("Open files", "none", ("process_open_fds{@}", "{{instance}}")),
        Panel("Versions", "none", (("otto_build_info{@}", ""),), "table"),
    ),
}


def panels() -> Iterator[dict[str, Any]]:
    """The panels as Grafana has them, row by row."""
    ids, top = count(1), 0
    for title, row in ROWS.items():
        yield {
            "id": next(ids),
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        stats = row[0].kind == "stat"
        width, height = (COLUMNS // len(row), 4) if stats else (COLUMNS // 3, HEIGHT)
        for place, panel in enumerate(row):
            left, down = place % (COLUMNS // width) * width, place // (COLUMNS // width) * height
            yield {"id": next(ids), **described(panel), "gridPos": {"x": left, "y": top + down, "w": width, "h": height}}
        top += -(-len(row) // (COLUMNS // width)) * height


def described(panel: Panel) -> dict[str, Any]:
    """A panel without its place."""
    instant = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": expression.replace("@", CHOSEN),
            "legendFormat": legend or "__auto",
            **({"instant": True, "range": False} if instant else {}),
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for number, (expression, legend) in enumerate(panel.queries)
    ]
    about = {"description": panel.about} if panel.about else {}
    more = {"timeseries": {"min": 0}, "stat": {"decimals": 0}}.get(panel.kind, {})
    coloured = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}]}
        for name, colour in COLOURS.items()
        if panel.kind == "timeseries"
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        **about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, **more}, "overrides": coloured},
        "targets": targets,
    }


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice among the values of a label; all of them, also none, unless the viewer chooses."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> str:
    """The text of dashboard.json: a line for each panel, so that a review sees which ones changed."""
    whole = {
        "__comment": "Written by `make generate` from tools/dashboard.py.",
        "uid": "ottoscaler",
        "title": "Ottoscaler",
        "tags": ["ottoscaler"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"},
                variable("namespace", "Namespace", "label_values(otto_build_info, namespace)"),
                variable("release", "Release", 'label_values(otto_build_info{namespace=~"$namespace"}, app_kubernetes_io_instance)'),
            ]
        },
    }
    head = json.dumps(whole, indent=1, ensure_ascii=False)
    lines = ",\n".join(f"  {json.dumps(panel, ensure_ascii=False)}" for panel in panels())
    return f'{head.removesuffix(chr(10) + "}")},\n "panels": [\n{lines}\n ]\n}}\n'
