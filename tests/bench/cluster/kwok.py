"""Fake nodes (kwok) in the real cluster: pods by the thousand, which need no machine."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from otto_kubekit.client import Client
from otto_kubekit.errors import NotFoundError
from otto_kubekit.kinds import Kind
from otto_kubekit.objects import KubeObject

from ...outside import built

MARK = "otto-bench"
"""A label and a taint of the nodes."""
VALUES = (f"workers.nodeSelector.{MARK}=kwok", f"workers.tolerations[0].key={MARK}", "workers.tolerations[0].operator=Exists")
"""Workers run there and nowhere else."""
NODES = 4
ROOM = {"cpu": "1k", "memory": "1Ti", "pods": "1000"}
READY_SECONDS = 60
_NODES = Kind("", "v1", "nodes", "Node", KubeObject, namespaced=False)
_CONFIGURATION = Path(__file__).with_name("kwok.yaml")
_LINE = "2026-11-01T00:00:00.000000001Z stdout F done\n"


class NoKwokError(Exception):
    """It can't be had here; the text says why."""


def program() -> Path:
    """Where it is, built if need be, which takes a minute. Raises NoKwokError."""
    try:
        return built("kwok")
    except subprocess.SubprocessError as error:
        raise NoKwokError("kwok can't be built; see above") from error


@asynccontextmanager
async def fake_nodes(client: Client, node_address: str) -> AsyncIterator[None]:
    """Nodes that pods can be scheduled to; `node_address` is a real one's, from where the API server asks for their logs."""
    kwok = await asyncio.to_thread(program)
    here, port = _seen_from(node_address)
    with tempfile.TemporaryDirectory(prefix="ottoscaler-kwok-") as directory:
        log, configuration = Path(directory) / "pod.log", Path(directory) / "kwok.yaml"
        log.write_text(_LINE)
        configuration.write_text(_CONFIGURATION.read_text().replace("LOGS", str(log)))
        files = ["--config", str(configuration), "--kubeconfig", os.environ["KUBECONFIG"]]
        options = ["--manage-nodes-with-label-selector", f"{MARK}=kwok", "--node-ip", here, "--node-port", str(port)]
        with (Path(directory) / "output").open("w+") as output:
            process = subprocess.Popen([str(kwok), *files, *options], stdout=output, stderr=output)
            try:
                names = [f"{MARK}-{number}" for number in range(NODES)]
                for name in names:
                    await client.create(_NODES, _node(name))
                await _all_ready(len(names))
                yield
            finally:
                for name in names:
                    with suppress(NotFoundError):
                        await client.delete(_NODES, name)
                if process.poll() is not None:
                    output.seek(0)
                    sys.stderr.write("kwok has ended: " + "".join(output.readlines()[-5:]))
                process.terminate()
                await asyncio.to_thread(process.wait)


def _node(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {MARK: "kwok"}},
        "spec": {"taints": [{"key": MARK, "effect": "NoSchedule"}]},
        "status": {"capacity": ROOM, "allocatable": ROOM},
    }


async def _all_ready(count: int) -> None:
    command = ("kubectl", "wait", "--for=condition=Ready", "nodes", f"--selector={MARK}=kwok", f"--timeout={READY_SECONDS}s")
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.count(" condition met") != count:
        raise NoKwokError(f"its nodes are not ready: {done.stderr or done.stdout}")


def _seen_from(address: str) -> tuple[str, int]:
    """Our own address as that one sees it, and a free port of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((address, 9))
        here = str(towards.getsockname()[0])
    with socket.socket() as free:
        free.bind((here, 0))
        return here, int(free.getsockname()[1])
