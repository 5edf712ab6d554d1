"""The chart's PodMonitor and PrometheusRule as Prometheus's real operator takes them, and what a Prometheus has of that."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..monitoring.prometheus import answered, needed, panels, rules, selectors, serving
from ..quick import unless_quick
from .conftest import installing
from .installation import CHART, RELEASE, ROOT, Installation, said
from .prometheus_operator import configured, operating, operator
from .scraping import FAULTS, scraped, work

pytestmark = [needed, pytest.mark.cluster, pytest.mark.long, unless_quick, pytest.mark.timeout(1500)]


def values() -> dict[str, Any]:
    """Those that docs/monitoring.md has for it, but for how often."""
    page = (ROOT / "docs/monitoring.md").read_text()
    (text,) = re.findall(r"^```yaml\n(metrics:\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(text)
    found["metrics"]["podMonitor"]["interval"] = "2s"  # so that there is something to ask for soon
    return found


def selecting(given: dict[str, Any]) -> dict[str, Any]:
    """A Prometheus that asks for these labels, of the version that is installed here, which decides what it is told."""
    version = re.search(r"version (\S+?)[+ ]", said("prometheus", "--version"))
    assert version is not None
    return {
        "version": f"v{version[1]}",
        "evaluationInterval": "2s",
        "podMonitorSelector": {"matchLabels": given["metrics"]["podMonitor"]["labels"]},
        "ruleSelector": {"matchLabels": given["metrics"]["rules"]["labels"]},
    }


def known(here: Installation, given: dict[str, Any], directory: Path) -> None:
    """The API server knows each field of both objects, and takes its value."""
    (file := directory / "values.yaml").write_text(yaml.safe_dump(given))
    shown = [word for name in ("pod-monitor", "prometheus-rule") for word in ("--show-only", f"templates/{name}.yaml")]
    objects = said("helm", "template", RELEASE, str(CHART), "--namespace", here.namespace, "--values", str(file), *shown)
    told = here.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=objects)
    assert sorted(line.split(".")[0] for line in told.splitlines()) == ["podmonitor", "prometheusrule"]


async def test_the_operator_configures_a_prometheus_for_a_release(tmp_path: Path) -> None:
    """By the values of docs/monitoring.md it scrapes every pod, replicas and front door too, answers every query, and has every alert."""
    given = values()
    with operator() as program, installing() as install:
        here = install("scaler.replicas=2", "executor.replicas=2", "scaler.settings.max_workers=2")
        known(here, given, tmp_path)
        here.upgrade(**given)
        with operating(program, here, tmp_path / "operator.log"):
            configuration = configured(here, selecting(given), tmp_path / "rules")
        (described,) = configuration["scrape_configs"]
        assert described["job_name"] == f"podMonitor/{here.namespace}/{RELEASE}-ottoscaler-metrics/0"
        (found,) = described.pop("kubernetes_sd_configs")
        assert (found["role"], found["namespaces"]) == ("pod", {"names": [here.namespace]})
        configuration["scrape_configs"] = [scraped(tmp_path, here, described)]
        (file := tmp_path / "checked.yaml").write_text(yaml.safe_dump(configuration))
        assert "1 rule files found" in said("promtool", "check", "config", "--lint=all", "--lint-fatal", str(file))

        working = asyncio.create_task(work(here), name="work")
        try:
            async with serving(tmp_path, configuration) as server:
                (group,) = (await server.get("rules"))["groups"]
                alerts = {rule["name"]: {"expr": rule["query"]} for rule in group["rules"]}
                assert alerts.keys() == rules().keys()
                wanted = selectors(alerts) | panels(here.namespace, RELEASE)
                await answered(server, {name: query for name, query in wanted.items() if not FAULTS.search(f"{name}{query}")})
                targets = (await server.get("targets"))["activeTargets"]
                assert sorted(target["labels"]["app_kubernetes_io_component"] for target in targets) == [
                    *("front-door", "log-relay", "pipeline-executor", "pipeline-executor", "scaler", "scaler")
                ]
                (group,) = (await server.get("rules"))["groups"]
                assert [rule["name"] for rule in group["rules"] if rule["health"] != "ok"] == []
        finally:
            working.cancel()
            await asyncio.wait({working})
