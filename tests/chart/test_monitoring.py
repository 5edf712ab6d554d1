"""What the chart gives those who run Prometheus's operator and Grafana: a PodMonitor, a PrometheusRule, a dashboard."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import CHART, Object, RefusedError, objects, with_values

ON = {f"metrics.{name}.enabled": True for name in ("podMonitor", "rules", "dashboard")}
KINDS = {"PodMonitor", "PrometheusRule"}
SELECTED = 'namespace="ci", app_kubernetes_io_instance="otto"'


def monitoring(**values: Any) -> tuple[Object, Object, Object]:
    """PodMonitor, PrometheusRule and the dashboard's ConfigMap of release `otto` in namespace `ci`."""
    found = with_values({**ON, **{f"metrics.{name.replace('_', '.')}": value for name, value in values.items()}})
    dashboards = [thing for thing in found if thing["metadata"]["labels"]["app.kubernetes.io/component"] == "dashboard"]
    (monitor,), (rule,) = ([thing for thing in found if thing["kind"] == kind] for kind in sorted(KINDS))
    (dashboard,) = dashboards
    return monitor, rule, dashboard


def test_nothing_of_it_is_there_unless_it_is_asked_for() -> None:
    """The operator's kinds would be refused where there is no operator."""
    found = objects()
    assert not [thing for thing in found if thing["kind"] in KINDS]
    assert not [thing for thing in found if thing["metadata"]["labels"]["app.kubernetes.io/component"] == "dashboard"]


def test_a_pod_monitor_has_the_fields_of_the_operators_api() -> None:
    """It selects all pods of the release and nothing of workers, by the port that has the metrics."""
    monitor, _, _ = monitoring(podMonitor_labels={"release": "prometheus"})
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert set(monitor["spec"]) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    selected = monitor["spec"]["selector"]["matchLabels"]
    templates = [thing["spec"]["template"] for thing in objects() if thing["kind"] in {"Deployment", "StatefulSet"}]
    assert len(templates) == 4
    for template in templates:
        assert selected.items() <= template["metadata"]["labels"].items()
        assert set(monitor["spec"]["podTargetLabels"]) <= set(template["metadata"]["labels"])
        ports = [port["name"] for container in template["spec"]["containers"] for port in container["ports"]]
        assert ports.count("metrics") == 1
    assert selected["app.kubernetes.io/name"] == "ottoscaler"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "interval": "30s"}


def test_a_prometheus_rule_has_the_fields_of_the_operators_api() -> None:
    """Every alert of the file, with its words, for this release only: by the labels that the PodMonitor gives its targets."""
    monitor, rule, _ = monitoring(rules_labels={"release": "prometheus"})
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert set(rule["spec"]) == {"groups"}
    (group,) = rule["spec"]["groups"]
    assert set(group) == {"name", "rules"}
    (source,) = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    assert [one["alert"] for one in group["rules"]] == [one["alert"] for one in source["rules"]]
    given = {"namespace", *(re.sub(r"\W", "_", label) for label in monitor["spec"]["podTargetLabels"])}
    for one, written in zip(group["rules"], source["rules"], strict=True):
        assert set(one) <= {"alert", "expr", "for", "labels", "annotations"}
        assert one["annotations"] == written["annotations"]
        assert one["labels"] == written["labels"] | {"namespace": "ci", "app_kubernetes_io_instance": "otto"}
        assert one["expr"] == written["expr"].replace('job="ottoscaler"', SELECTED)
        assert set(re.findall(r"(\w+)=\"(?:ci|otto)\"", one["expr"])) <= given


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_the_rules_of_a_release(tmp_path: Path) -> None:
    """As the operator hands them to it."""
    _, rule, _ = monitoring()
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    subprocess.run(["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file)], check=True, capture_output=True, timeout=60)


def test_alerts_can_be_left_out_and_runbooks_be_elsewhere() -> None:
    """By name; a name that no alert has is refused."""
    _, rule, _ = monitoring(rules_without=["OttoscalerLogsLate"], rules_runbooks="https://wiki.example.com/otto")
    left = {one["alert"]: one for one in rule["spec"]["groups"][0]["rules"]}
    assert "OttoscalerLogsLate" not in left
    assert left["OttoscalerDown"]["annotations"]["runbook_url"] == "https://wiki.example.com/otto#ottoscalerdown"
    with pytest.raises(RefusedError, match="there is no alert OttoscalerLate"):
        monitoring(rules_without=["OttoscalerLate"])


def test_the_dashboard_is_where_grafanas_sidecar_looks() -> None:
    """A ConfigMap with its label, with the file that was generated; every panel has its place, its own id and its queries."""
    _, _, config = monitoring(dashboard_annotations={"grafana_folder": "CI"})
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["annotations"]["grafana_folder"] == "CI"
    ((name, text),) = config["data"].items()
    assert name.endswith(".json")
    assert text.strip() == (CHART / "files/dashboard.json").read_text().strip()
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 30
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23
    for panel in panels:
        queries = [target["expr"] for target in panel.get("targets", [])]
        assert bool(queries) == (panel["type"] != "row")
        assert all('namespace=~"$namespace", app_kubernetes_io_instance=~"$release"' in query for query in queries), panel["title"]
