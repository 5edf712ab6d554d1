"""A real Envoy that runs the chart's own configuration on loopback."""

import asyncio
import http.client
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import yaml

from ..ports import BARE_HOST, HOST, free_port
from .rendering import BIN, objects, one

START_SECONDS = 30.0


def configuration(*arguments: str) -> dict[str, Any]:
    """The front door's configuration as the chart renders it."""
    loaded: dict[str, Any] = yaml.safe_load(one(objects("default", *arguments), "ConfigMap", "front-door")["data"]["envoy.yaml"])
    return loaded


def program() -> str:
    """Envoy from the wheel."""
    return str(BIN / "envoy")


class FrontDoor:
    """A running Envoy: where it listens, and what it wrote."""

    def __init__(self, directory: Path, ports: dict[str, int], process: asyncio.subprocess.Process) -> None:
        self.address = f"{HOST}:{ports['grpc']}"
        self.self_port = ports["self"]
        self.metrics_port = ports["metrics"]
        self.admin = directory / "admin.sock"
        self.process = process
        self._log = directory / "access.log"

    def access(self) -> list[dict[str, Any]]:
        """Its access log so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    async def get(self, port: int, path: str, method: str = "GET", host: str = BARE_HOST) -> tuple[int, str]:
        """Status and body of a plain HTTP request; 0 if nobody answers."""
        return await asyncio.to_thread(_get, host, port, path, method)


def _get(host: str, port: int, path: str, method: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(host, port, timeout=START_SECONDS)) as connection:
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionError:
            return 0, ""


@asynccontextmanager
async def front_door(directory: Path, upstreams: dict[str, str], *arguments: str, everywhere: bool = False) -> AsyncIterator[FrontDoor]:
    """Envoy with the chart's configuration, in which only addresses are others: its ports, its socket, and where the services are.

    `everywhere`: it listens as in a pod, not on this machine alone.
    """
    config = configuration(*arguments)
    ports = {}
    for listener in config["static_resources"]["listeners"]:
        ports[listener["name"]] = free_port()
        listener["address"]["socket_address"]["port_value"] = ports[listener["name"]]
        if not everywhere:
            listener["address"]["socket_address"] = {"address": BARE_HOST, "port_value": ports[listener["name"]]}
    text = json.dumps(config)
    for cluster, address in upstreams.items():
        host, _, port = address.rpartition(":")
        text = text.replace(
            json.dumps({"address": f"otto-ottoscaler-{cluster}", "port_value": 9090}),
            json.dumps({"address": host.strip("[]"), "port_value": int(port)}),
        )
    text = text.replace("/run/envoy/admin.sock", str(directory / "admin.sock"))
    assert "otto-ottoscaler-" not in text
    assert "/run/envoy" not in text
    (directory / "envoy.json").write_text(text)
    with (directory / "access.log").open("wb") as output, (directory / "envoy.log").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(program(), "--config-path", str(directory / "envoy.json"), "--concurrency", "1", "--log-level", "warning"),
            *("--disable-hot-restart", "--file-flush-interval-msec", "50"),
            stdout=output,
            stderr=errors,
            env={"PATH": os.environ["PATH"]},
        )
    door = FrontDoor(directory, ports, process)
    try:
        async with asyncio.timeout(START_SECONDS):
            while (await door.get(door.self_port, "/ready"))[0] != 200:
                assert process.returncode is None, (directory / "envoy.log").read_text()
                await asyncio.sleep(0.05)
        yield door
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(START_SECONDS):
            await process.wait()
