"""Debian's Prometheus, where it is installed: promtool, and a server on loopback that scrapes what a test names."""

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

ALERTS = Path(__file__).resolve().parents[2] / "charts/ottoscaler/files/alerts.yaml"
DASHBOARD = ALERTS.with_name("dashboard.json")
START_SECONDS = 60.0
PATIENCE = 600.0
needed = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed (Debian, Ubuntu: apt-get install --no-install-recommends prometheus)",
)


def rules() -> dict[str, dict[str, Any]]:
    """The alerts by their names."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels(namespace: str = ".*", release: str = ".*") -> dict[str, str]:
    """The queries of the dashboard by panel, as Grafana sends them for these choices."""
    return {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$namespace", namespace)
        .replace("$release", release)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    }


def selectors(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What alerts look at: every selector of their expressions."""
    return {
        f"{name}: {selector}": selector
        for name, rule in found.items()
        for selector in re.findall(r"\b(?:otto_\w+|up)\{[^}]*\}", rule["expr"])
    }


async def answered(server: "Prometheus", queries: Mapping[str, str]) -> None:
    """Waits until each of them has been answered with a number."""
    left, end = dict(queries), time.monotonic() + PATIENCE
    while left:
        for name, expression in list(left.items()):
            if any(sample["value"][1] != "NaN" for sample in await server.query(expression)):
                del left[name]
        assert time.monotonic() < end, f"no answer in {PATIENCE} s to: {left}"
        await asyncio.sleep(0.5)


class Prometheus:
    """A server that runs."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self.url = f"http://{address}"

    async def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        async with self._session.get(f"{self.url}/api/v1/{path}", params=query) as answer:
            found = await answer.json()
        assert found["status"] == "success", f"{query}: {found.get('error')}"
        return found["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now."""
        return list((await self.get("query", query=expression))["result"])


@asynccontextmanager
async def prometheus(directory: Path, job: Mapping[str, Any], rules: Path = ALERTS, every: str = "1s") -> AsyncIterator[Prometheus]:
    """A server with these rules and this job, whose targets it scrapes that often."""
    configuration = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [str(rules)],
        "scrape_configs": [dict(job)],
    }
    async with serving(directory, configuration) as server:
        yield server


@asynccontextmanager
async def serving(directory: Path, configuration: Mapping[str, Any]) -> AsyncIterator[Prometheus]:
    """A server that is configured so."""
    file, log = directory / "prometheus.yml", directory / "prometheus.log"
    file.write_text(yaml.safe_dump(configuration))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
            "--log.format=json",
            stdout=output,
            stderr=output,
        )
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(START_SECONDS):
                while not ((address := _listening(log)) and await _ready(session, address)):
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.05)
            yield Prometheus(session, address)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(session: aiohttp.ClientSession, address: str) -> bool:
    async with session.get(f"http://{address}/-/ready") as answer:
        return answer.status == 200


def _listening(log: Path) -> str:
    for line in log.read_text().splitlines():
        said = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if said.get("msg") == "Listening on":
            return str(said["address"])
    return ""
