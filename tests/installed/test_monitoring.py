"""A real Prometheus that finds the pods of a release as docs/monitoring.md says, and answers what its alerts and the dashboard ask."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..monitoring.prometheus import answered, needed, panels, prometheus, selectors
from .conftest import Install
from .installation import CHART, RELEASE, ROOT, said
from .scraping import FAULTS, scraped, work

pytestmark = [needed, pytest.mark.cluster, pytest.mark.timeout(1500)]


def job() -> dict[str, Any]:
    """The one that the page describes, but for how it finds pods."""
    page = (ROOT / "docs/monitoring.md").read_text()
    (text,) = re.findall(r"^```yaml\n(scrape_configs:\n  - job_name: kubernetes-pods.*?)^```", page, re.MULTILINE | re.DOTALL)
    (described,) = yaml.safe_load(text)["scrape_configs"]
    assert described.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    return dict(described)


async def test_a_prometheus_that_finds_pods_by_annotations_answers_for_a_release(installed: Install, tmp_path: Path) -> None:
    """All pods with metrics are found, front door and replicas too; every query has an answer for this release, and no alert fires."""
    here = installed("scaler.replicas=2", "executor.replicas=2", "scaler.settings.max_workers=2")
    on = ("--set", "metrics.rules.enabled=true", "--show-only", "templates/prometheus-rule.yaml")
    spec = yaml.safe_load(said("helm", "template", RELEASE, str(CHART), "--namespace", here.namespace, *on))["spec"]
    (rules := tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    alerts = {rule["alert"]: rule for rule in spec["groups"][0]["rules"]}
    wanted = selectors(alerts) | panels(here.namespace, RELEASE)
    working = asyncio.create_task(work(here), name="work")
    try:
        async with prometheus(tmp_path, scraped(tmp_path, here, job()), rules, "2s") as server:
            await answered(server, {name: query for name, query in wanted.items() if not FAULTS.search(f"{name}{query}")})
            acting = await server.query("sum by (service) (otto_replica_acting)")
            assert {one["metric"]["service"]: one["value"][1] for one in acting} == {"scaler": "1", "pipeline-executor": "1"}
            targets = (await server.get("targets"))["activeTargets"]
            assert sorted(target["labels"]["app_kubernetes_io_component"] for target in targets) == [
                *("front-door", "log-relay", "pipeline-executor", "pipeline-executor", "scaler", "scaler")
            ]
            assert {target["health"] for target in targets} == {"up"}
            (group,) = (await server.get("rules"))["groups"]
            assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing" or rule["health"] != "ok"] == []
    finally:
        working.cancel()
        await asyncio.wait({working})
