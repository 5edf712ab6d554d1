"""Every alert fires where it should and is silent where it should not: promtool's own unit tests, over series that are made up here."""

import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from otto_runtime.events import CATALOG

from .prometheus import ALERTS, needed, rules

pytestmark = pytest.mark.slow
JOB = 'job="ottoscaler"'
RUNBOOKS = ALERTS.parents[3] / "docs/runbooks.md"


class Case(NamedTuple):
    """Series of two hours, a value a minute: those at which an alert has to fire by then, and those at which it must not."""

    fires: dict[str, str]
    silent: dict[str, str]


RPC = 'otto_rpc_server_duration_seconds_count{job="ottoscaler", method="s/M", code="%s"}'
KUBE = 'otto_kube_request_duration_seconds_count{job="ottoscaler", verb="list", resource="pods", code="%s"}'
ENDED = 'otto_scaler_workers_ended_total{job="ottoscaler", state="failed", cause="%s"}'
STAGES = 'otto_executor_stages_ended_total{job="ottoscaler", status="failed", cause="%s"}'
THERE = {
    'otto_scaler_workers_limit{job="ottoscaler"}': "100x120",
    'otto_executor_pipelines_limit{job="ottoscaler"}': "1000x120",
    'otto_relay_workers_kept{job="ottoscaler"}': "0x120",
}


def lag(late: str, soon: str) -> dict[str, str]:
    """The event loop's lag: how often it was at most 5 s late, and how often at most 0.1."""
    name = 'otto_event_loop_lag_seconds_bucket{job="ottoscaler", instance="a", le="%s"}'
    return {name % "0.1": soon, name % "5": late, name % "+Inf": late}


def answers(late: str, soon: str, verb: str = "create") -> dict[str, str]:
    """Durations of requests to the API server: how many took at most 30 s, and how many at most 0.1."""
    name = 'otto_kube_request_duration_seconds_bucket{job="ottoscaler", verb="%s", resource="pods", code="201", le="%s"}'
    return {name % (verb, "0.1"): soon, name % (verb, "30"): late, name % (verb, "+Inf"): late}


def delays(seconds: str) -> dict[str, str]:
    """Sixty batches a minute, and the seconds that they were late together."""
    return {'otto_relay_delay_seconds_sum{job="ottoscaler"}': seconds, 'otto_relay_delay_seconds_count{job="ottoscaler"}': "0+60x120"}


def push(backlog: str, pushed: str) -> dict[str, str]:
    """The push to otto-handler."""
    name = 'otto_relay_handler_%s{job="ottoscaler"}'
    return {
        name % "backlog_lines": backlog,
        name % "pushed_total": pushed,
        name % "dropped_total": "0x120",
        name % "missing_total": "0x120",
    }


def queue(oldest: str, admitted: str) -> dict[str, str]:
    """The queue of workers: how long the oldest waits, and how many have got room."""
    return {
        'otto_scaler_oldest_queued_seconds{job="ottoscaler"}': oldest,
        'otto_scaler_worker_queue_seconds_count{job="ottoscaler"}': admitted,
    }


def disk(free: str) -> dict[str, str]:
    """The disk of the spool, of a hundred bytes."""
    return {'otto_relay_spool_disk_free_bytes{job="ottoscaler"}': free, 'otto_relay_spool_disk_bytes{job="ottoscaler"}': "100x120"}


def one(name: str, values: str) -> dict[str, str]:
    """A single series."""
    return {name: values}


CASES = {
    # another job's target is nobody's business here
    "OttoscalerDown": Case(
        one('up{job="ottoscaler", instance="a"}', "1x10 0x110"),
        {'up{job="ottoscaler", instance="a"}': "1x100 0x3 1x20", 'up{job="other", instance="b"}': "0x120"},
    ),
    "OttoscalerServiceMissing": Case({name: values for name, values in THERE.items() if "relay" not in name}, THERE),
    "OttoscalerNobodyActs": Case(
        {
            'otto_replica_acting{job="ottoscaler", service="scaler", instance="a"}': "1x10 0x110",
            'otto_replica_acting{job="ottoscaler", service="scaler", instance="b"}': "0x120",
        },
        {
            'otto_replica_acting{job="ottoscaler", service="scaler", instance="a"}': "1x100 0x20",
            'otto_replica_acting{job="ottoscaler", service="scaler", instance="b"}': "0x100 1x20",
        },
    ),
    # what callers do wrong is no fault of the service
    "OttoscalerCallsFail": Case(
        {RPC % "OK": "0+90x120", RPC % "INTERNAL": "0+10x120"},
        {RPC % "OK": "0+98x120", RPC % "UNAVAILABLE": "0+2x120", RPC % "INVALID_ARGUMENT": "0+50x120", RPC % "CANCELLED": "0+50x120"},
    ),
    "OttoscalerEventLoopLate": Case(lag("0+120x120", "0+100x120"), lag("0+120x120", "0+120x120")),
    "OttoscalerKubernetesErrors": Case(
        {KUBE % "200": "0+90x120", KUBE % "503": "0+5x120", KUBE % "none": "0+5x120"},
        {KUBE % "200": "0+98x120", KUBE % "500": "0+2x120", KUBE % "404": "0+50x120", KUBE % "409": "0+50x120"},
    ),
    # a quota refuses a pod with 403, which is the user's affair
    "OttoscalerKubernetesForbidden": Case(one(KUBE % "403", "0+1x120"), one(KUBE.replace('"list"', '"create"') % "403", "0+1x120")),
    # a watch is answered when something happens
    "OttoscalerKubernetesSlow": Case(
        answers("0+60x120", "0+50x120"), answers("0+60x120", "0+60x120") | answers("0+60x120", "0+10x120", "watch")
    ),
    "OttoscalerKubernetesThrottled": Case(
        one('otto_kube_request_throttled_seconds_total{job="ottoscaler"}', "0+30x120"),
        one('otto_kube_request_throttled_seconds_total{job="ottoscaler"}', "0+1x120"),
    ),
    "OttoscalerWatchesBreak": Case(
        one('otto_kube_watch_lists_total{job="ottoscaler", resource="pods", why="interrupted"}', "0+1x120"),
        {
            'otto_kube_watch_lists_total{job="ottoscaler", resource="pods", why="reconcile"}': "0+2x120",
            'otto_kube_watch_lists_total{job="ottoscaler", resource="pods", why="expired"}': "0x60 1x60",
        },
    ),
    # long waits in a queue that moves are what a queue is for
    "OttoscalerQueueNotMoving": Case(queue("0+60x120", "7x120"), queue("2000x120", "0+1x120")),
    "OttoscalerWorkersPending": Case(
        one('otto_scaler_oldest_pending_seconds{job="ottoscaler"}', "0x100 0+60x20"),
        one('otto_scaler_oldest_pending_seconds{job="ottoscaler"}', "100x120"),
    ),
    "OttoscalerWorkersNotStarting": Case(
        one(ENDED % "image_pull", "0x110 10x10"), {ENDED % "image_pull": "0x110 3x10", ENDED % "exit_code": "0+9x120"}
    ),
    "OttoscalerInfrastructureFailures": Case(
        one(ENDED % "node_lost", "0x110 10x10"), {ENDED % "evicted": "0x110 2x10", ENDED % "timeout": "0+9x120"}
    ),
    "OttoscalerInfrastructureRetriesUsedUp": Case(
        one(STAGES % "deleted", "0x100 1x20"), {STAGES % "deleted": "1x120", STAGES % "exit_code": "0+9x120"}
    ),
    "OttoscalerPipelinesHeldUp": Case(
        one('otto_executor_pipelines_held_up{job="ottoscaler"}', "0x110 2x10"),
        one('otto_executor_pipelines_held_up{job="ottoscaler"}', "0x100 2x3 0x20"),
    ),
    "OttoscalerPipelinesUnreadable": Case(
        one('otto_executor_pipelines_unreadable{job="ottoscaler"}', "0x110 1x10"),
        one('otto_executor_pipelines_unreadable{job="ottoscaler"}', "0x120"),
    ),
    "OttoscalerPipelinesNearLimit": Case(
        {'otto_executor_pipelines_active{job="ottoscaler"}': "950x120", 'otto_executor_pipelines_limit{job="ottoscaler"}': "1000x120"},
        {'otto_executor_pipelines_active{job="ottoscaler"}': "800x120", 'otto_executor_pipelines_limit{job="ottoscaler"}': "1000x120"},
    ),
    "OttoscalerLogsLate": Case(delays("0+3600x120"), delays("0+30x120")),
    "OttoscalerLogsHeldUp": Case(
        one('otto_relay_retries_total{job="ottoscaler"}', "0+12x120"), one('otto_relay_retries_total{job="ottoscaler"}', "0x60 4x60")
    ),
    "OttoscalerLogsIncomplete": Case(
        one('otto_relay_incomplete_total{job="ottoscaler"}', "0x100 1x20"), one('otto_relay_incomplete_total{job="ottoscaler"}', "1x120")
    ),
    "OttoscalerPushNotMoving": Case(push("5x120", "40x120"), push("5x120", "0+1x120")),
    "OttoscalerSpoolDiskFull": Case(disk("20x100 5x20"), disk("20x120")),
    "OttoscalerSpoolTooSmall": Case(
        one('otto_relay_lines_trimmed_total{job="ottoscaler"}', "0x100 500x20"),
        one('otto_relay_lines_trimmed_total{job="ottoscaler"}', "500x120"),
    ),
}


def promtool(directory: Path, tests: list[dict[str, Any]]) -> str:
    """What promtool finds wrong; "" when all tests pass."""
    file = directory / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def expectation(alert: str, series: dict[str, str], firing: int) -> dict[str, Any]:
    """A test of promtool's: whether the alert fires at the end of these series, or, with 0, at any time in them."""
    alerts = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    fires = f"count({alerts})" if firing else f"count_over_time({alerts}[2h])"
    return {
        "name": f"{alert} {firing}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": fires, "eval_time": "118m", "exp_samples": [{"labels": "{}", "value": firing}] if firing else []}],
    }


@needed
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_where_it_should_and_only_there(alert: str, tmp_path: Path) -> None:
    """With series at fault it fires once; with the same series as they usually are, or a fault that passes by, it does not."""
    case = CASES[alert]
    assert not promtool(tmp_path, [expectation(alert, case.fires, 1), expectation(alert, case.silent, 0)])


@needed
def test_a_test_of_an_alert_can_fail(tmp_path: Path) -> None:
    """Promtool notices an alert that does not fire, and one that should not."""
    case = CASES["OttoscalerDown"]
    assert "got:nil" in promtool(tmp_path, [expectation("OttoscalerDown", case.silent, 1)]).replace(" ", "")
    assert promtool(tmp_path, [expectation("OttoscalerDown", case.fires, 0)])


@needed
def test_an_installation_that_is_well_raises_no_alert(tmp_path: Path) -> None:
    """All silent series together; and promtool finds nothing to say about the rules."""
    well = {series: values for case in CASES.values() for series, values in case.silent.items()}
    everything = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in well.items()],
        "promql_expr_test": [{"expr": 'count_over_time(ALERTS{alertstate="firing"}[2h])', "eval_time": "118m", "exp_samples": []}],
    }
    assert not promtool(tmp_path, [everything])
    subprocess.run(["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS)], check=True, capture_output=True, timeout=60)


def test_every_alert_has_a_case_a_severity_and_words() -> None:
    """And asks only for metrics of this job, so that another installation's don't count."""
    found = rules()
    assert set(found) == set(CASES)
    for name, rule in found.items():
        assert rule["labels"]["severity"] in {"warning", "critical"}, name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        selectors = re.findall(r"\b((?:otto_\w+|up)\{[^}]*\}|\botto_\w+\b(?!\{))", rule["expr"])
        assert selectors, name
        assert [one for one in selectors if JOB not in one] == [], name


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """With what is seen, what it means, and what to do."""
    text = RUNBOOKS.read_text()
    sections = dict(re.findall(r"^## (Ottoscaler\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(rules())
    for name, body in sections.items():
        for part in ("**Symptom.**", "**Meaning.**", "**What to do.**"):
            assert part in body, f"{name}: {part}"
    events = re.findall(r"`((?:runtime|scaler|executor|relay)\.(?!settings|spool)[a-z_]+\.?[a-z_.]+)`", text)
    assert len(events) > 5
    assert set(events) <= set(CATALOG)
    settings = re.findall(r"\b(scaler|executor|relay)\.settings\.(\w+)", text)
    assert len(settings) > 8
    for service, setting in settings:
        assert setting in import_module(f"otto_{service}.settings").Settings.__struct_fields__, setting
