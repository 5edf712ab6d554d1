"""Runs on a real cluster by kubectl, and the front door by other people's clients."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage

from ..patient_clients import Account, Clients, check, script
from .installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def manifest(name: str, text: str) -> str:
    """A PipelineRun of two stages, the first of which runs `text`."""
    stages = [
        {"stageId": "first", "command": ["sh", "-c"], "args": [text]},
        {"stageId": "second", "dependsOn": ["first"], "command": ["sh", "-c"], "args": script(":", "exit 0")},
    ]
    run = {"apiVersion": "ottoscaler.io/v1alpha1", "kind": "PipelineRun", "metadata": {"name": name}, "spec": {"stages": stages}}
    return json.dumps(run)


async def state(installation: Installation, name: str) -> str:
    """Of a PipelineRun; empty if it is gone."""
    return await installation.kubectl_soon("get", "pipelinerun", name, "--ignore-not-found", "--output", "jsonpath={.status.state}")


async def until(installation: Installation, name: str, wanted: str) -> None:
    """Waits for a state."""
    async with asyncio.timeout(150):
        while await state(installation, name) != wanted:
            await asyncio.sleep(0.5)


async def test_an_applied_run_runs(installation: Installation) -> None:
    """`kubectl apply` runs a pipeline, `kubectl get` shows how it stands, and clients of the front door find it with every line."""
    name = f"applied-{secrets.token_hex(3)}"
    await asyncio.to_thread(lambda: installation.kubectl("apply", "--filename", "-", stdin=manifest(name, script(":", "exit 0")[0])))
    await until(installation, name, "Completed")
    columns = (await installation.kubectl_soon("get", "pipelineruns", name, "--no-headers")).split()
    assert columns[:4] == [name, "Completed", "100%", "2/2"]
    clients, account = Clients(installation), Account(name)
    async with asyncio.timeout(60):
        await clients.follow_progress(account)
        await clients.follow_lines(account)
    stages = [PipelineStage(stage_id="first"), PipelineStage(stage_id="second", depends_on=["first"])]
    check([PipelineRequest(pipeline_id=name, stages=stages)], {name: account})


async def test_a_wrong_run_says_what_is_wrong(installation: Installation) -> None:
    """An applied run with an unknown dependency is refused with its name."""
    name = f"wrong-{secrets.token_hex(3)}"
    text = manifest(name, "true").replace('"dependsOn": ["first"]', '"dependsOn": ["nowhere"]')
    await asyncio.to_thread(lambda: installation.kubectl("apply", "--filename", "-", stdin=text))
    await until(installation, name, "Refused")
    assert "nowhere" in await installation.kubectl_soon("get", "pipelinerun", name, "--output", "jsonpath={.status.message}")


async def test_a_deleted_run_is_cancelled_and_cleaned(installation: Installation) -> None:
    """`kubectl delete` of a run stops its workers; nothing of it is left."""
    name = f"deleted-{secrets.token_hex(3)}"
    await asyncio.to_thread(lambda: installation.kubectl("apply", "--filename", "-", stdin=manifest(name, "sleep 600")))
    async with asyncio.timeout(100):
        while not (await asyncio.to_thread(installation.workers)).get(name):
            await asyncio.sleep(0.5)
        assert await claims(installation, name)
        await installation.kubectl_soon("delete", "pipelinerun", name, "--timeout=90s")
        while (await asyncio.to_thread(installation.workers)).get(name) or await claims(installation, name):
            await asyncio.sleep(0.5)


async def claims(installation: Installation, name: str) -> list[str]:
    """Those that belong to a run."""
    found = json.loads(await installation.kubectl_soon("get", "persistentvolumeclaims", "--output", "json"))["items"]
    owned = [claim["metadata"] for claim in found if name in {owner["name"] for owner in claim["metadata"].get("ownerReferences", [])}]
    return [str(claim["name"]) for claim in owned]


async def test_grpcurl(installation: Installation) -> None:
    """Grpcurl finds every service by reflection through the front door, and their health."""

    async def grpcurl(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "grpcurl"), "-plaintext", *arguments]
        return await asyncio.to_thread(lambda: subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    await installation.serves()
    listed = (await grpcurl(installation.address, "list")).split()
    names = ("OttoscalerService", "PipelineService", "LogStreamingService", "OttoHandlerLogService")
    assert {f"ottoscaler.v1.{name}" for name in names} <= set(listed)
    assert "SERVING" in await grpcurl(installation.address, "grpc.health.v1.Health/Check")
    assert "totalCount" not in await grpcurl(
        "-d", '{"task_id": "none"}', installation.address, "ottoscaler.v1.OttoscalerService/GetWorkerStatus"
    )


async def test_helm_test(installation: Installation) -> None:
    """`helm test` runs a pipeline through the front door."""
    command = ["helm", "test", "otto", "--namespace", installation.namespace, "--timeout", "150s"]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded" in done.stdout
