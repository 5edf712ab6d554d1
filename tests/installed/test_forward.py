"""A port of this machine that leads to the front door, which is what otto-handler on a desk is given."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ..outside import THERE
from ..ports import free_port
from .installation import ROOT, Installation, said

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
DESK = THERE
"""Where otto-handler runs, which is not in the network of a cluster with an engine of its own."""


@pytest.fixture
def port(installation: Installation) -> Iterator[int]:
    """Leads to the installation."""
    status = [sys.executable, "-m", "testcluster", "status"]
    told = subprocess.run(status, cwd=ROOT / "tools", capture_output=True, text=True, timeout=60, check=False).stdout
    if os.environ["OTTO_TEST_KUBECONFIG"] not in told:
        pytest.skip("make forward knows the cluster of make cluster-up only")
    port = free_port()
    environ = {**os.environ, "PORT": str(port), "NAMESPACE": installation.namespace}
    with subprocess.Popen(
        [*DESK, "make", "forward"], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            assert any(f"127.0.0.1:{port} leads to " in line for line in process.stderr)
            yield port
        finally:
            process.terminate()


async def test_a_port_of_the_desk(installation: Installation, port: int) -> None:
    """Pipelines run through it with all their lines, also after the pod behind it was replaced."""

    async def run_hello() -> None:
        command = [*DESK, "ottoctl", "--address", f"127.0.0.1:{port}", "pipeline", "run", "pipelines/hello.yaml"]
        told = await asyncio.to_thread(said, *command, directory=ROOT)
        assert "test/2 | worker 2 of 2 reads: built at" in told

    await run_hello()
    await asyncio.to_thread(installation.restart, "front-door")
    await run_hello()
