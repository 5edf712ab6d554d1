"""Debian's Prometheus, where it is installed: promtool, and a server on loopback that scrapes what a test names."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

ALERTS = Path(__file__).resolve().parents[2] / "charts/ottoscaler/files/alerts.yaml"
START_SECONDS = 60.0
needed = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed (Debian, Ubuntu: apt-get install --no-install-recommends prometheus)",
)


def rules() -> dict[str, dict[str, Any]]:
    """The alerts by their names."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


class Prometheus:
    """A server that runs."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        async with self._session.get(f"http://{self._address}/api/v1/{path}", params=query) as answer:
            found = await answer.json()
        assert found["status"] == "success", f"{query}: {found.get('error')}"
        return found["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now."""
        return list((await self.get("query", query=expression))["result"])


@asynccontextmanager
async def prometheus(directory: Path, targets: Mapping[str, Mapping[str, str]]) -> AsyncIterator[Prometheus]:
    """A server with the alerts, which scrapes each address every second with these labels as job `ottoscaler`."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "ottoscaler",
                "static_configs": [{"targets": [address], "labels": dict(labels)} for address, labels in targets.items()],
            }
        ],
    }
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
        async with asyncio.timeout(START_SECONDS):
            while not (address := _listening(log)):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, address)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _listening(log: Path) -> str:
    for line in log.read_text().splitlines():
        said = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if said.get("msg") == "Listening on":
            return str(said["address"])
    return ""
