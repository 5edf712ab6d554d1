"""A real Prometheus scrapes an installation that works: every query of every alert and every panel has an answer there.

The installation is a standalone that runs pipelines, also ones that fail, and pushes to an otto-handler; and a scaler and an executor with
leases on a fake cluster, for what only Kubernetes brings.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aiohttp
import grpc.aio
import pytest

from otto_executor.stores.pipelinerun import WHOLE
from otto_kubekit.testing import FakeCluster, Faults, Script
from otto_kubekit.testing.faults import Asked
from otto_relay.testing import FakeHandler, handling
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy

from ..replicas.conftest import Installation
from ..standalone.conftest import Standalone, serving
from .prometheus import DASHBOARD, Prometheus, answered, needed, panels, prometheus, rules, selectors

pytestmark = [needed, pytest.mark.slow, pytest.mark.timeout(900)]
TOOL = Path(__file__).resolve().parents[2] / "tools/dashboard_picture.py"
RELEASE = {"namespace": "ci", "app_kubernetes_io_instance": "otto"}


@dataclass
class Scene:
    """What runs while a test asks."""

    standalone: Standalone
    cluster: FakeCluster
    prometheus: Prometheus
    metrics: list[str]
    """Where each process has its metrics."""


def stage(name: str, script: str, **fields: Any) -> PipelineStage:
    return PipelineStage(stage_id=name, name=name, command=["sh", "-c"], args=[script], **fields)


def pipelines(number: int) -> Iterator[PipelineRequest]:
    """One that goes well, one that fails after a retry."""
    well = [stage("build", "echo built", worker_count=2), stage("test", "echo tested", worker_count=2, depends_on=["build"])]
    yield PipelineRequest(pipeline_id=f"well-{number}", stages=well)
    ill = [stage("broken", "echo broken; exit 3", retry_policy=RetryPolicy(max_attempts=1)), stage("after", "true", depends_on=["broken"])]
    yield PipelineRequest(pipeline_id=f"ill-{number}", stages=ill)


async def ended(standalone: Standalone, request: PipelineRequest) -> PipelineProgress:
    """Runs a pipeline to its end; its last message."""
    async with standalone.channel() as channel:
        said: list[PipelineProgress] = [progress async for progress in PipelineServiceStub(channel).ExecutePipeline(request)]
    return said[-1]


async def busy(standalone: Standalone, faults: Faults, scaler: Any) -> None:
    """Until cancelled: pipelines here, workers there; calls that fail by our fault and by their own; an API server with faults."""
    number = 0
    while True:
        number += 1
        await asyncio.gather(*(ended(standalone, request) for request in pipelines(number)))
        with suppress(grpc.aio.AioRpcError):
            await ended(standalone, PipelineRequest(pipeline_id="unknown"))
        faults.answer(429, retry_after=1, when=lambda asked: asked.method == "POST" and asked.path.endswith("/pods"))
        faults.answer(503, when=renews)
        faults.answer(403, when=renews)
        faults.answer(410, when=lambda asked: asked.watch)
        faults.drop_connections(lambda asked: asked.watch)
        with suppress(grpc.aio.AioRpcError):
            await scaler.ScaleUp(ScaleRequest(task_id=f"t-{number}", worker_count=2))
        with suppress(grpc.aio.AioRpcError):
            async for _ in scaler.ExecutePipeline(PipelineRequest(pipeline_id="nobody-is-there")):
                pass


def renews(asked: Asked) -> bool:
    """Whether it is for a lease, of which a replica asks every second."""
    return asked.method == "PUT"


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    """All of it, busy."""
    async with AsyncExitStack() as stack:
        handler = await stack.enter_async_context(handling(FakeHandler()))
        standalone = await stack.enter_async_context(
            serving(
                directory / "state",
                OTTO_METRICS_LISTEN="127.0.0.1:0",
                OTTO_RELAY_HANDLER_ADDRESS=handler,
                OTTO_SCALER_MAX_WORKERS="2",
            )
        )
        cluster = await stack.enter_async_context(FakeCluster())
        cluster.define(WHOLE)
        cluster.script = lambda *_: Script(runs=0.5)
        installation = Installation(directory, cluster, stack)
        scaler = await installation.start("scaler", OTTO_METRICS_LISTEN="127.0.0.1:0", OTTO_SCALER_EXECUTOR_PATIENCE="0.2")
        executor = await installation.start("executor", OTTO_METRICS_LISTEN="127.0.0.1:0", OTTO_EXECUTOR_SCALER_ADDRESS=scaler.address)
        served = [next(e["address"] for e in one.events if e["event"] == "runtime.metrics_serving") for one in (scaler, executor)]
        metrics = [standalone.metrics, *served]
        job = {"job_name": "ottoscaler", "static_configs": [{"targets": metrics, "labels": RELEASE}]}
        server = await stack.enter_async_context(prometheus(directory, job))
        working = asyncio.create_task(busy(standalone, cluster.faults, scaler.scaler), name="busy")
        try:
            yield Scene(standalone, cluster, server, metrics)
        finally:
            if working.done():
                working.result()
            working.cancel()
            await asyncio.wait({working})


async def exposed(address: str) -> str:
    """What a process tells Prometheus."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
        return await answer.text()


def series(text: str) -> set[str]:
    """Names and labels of all series, without the times of their making."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#") and "_created" not in line}


async def test_metrics_are_named_as_prometheus_wants_it_and_do_not_grow_with_what_runs(tmp_path: Path) -> None:
    """`promtool check metrics` finds nothing; new pipelines, stages, workers and methods add no series, and none of their names appears."""
    async with serving(tmp_path / "state", OTTO_METRICS_LISTEN="127.0.0.1:0") as standalone:
        before: set[str] = set()
        for number in range(6):
            await asyncio.gather(*(ended(standalone, request) for request in pipelines(number)))
            async with standalone.channel() as channel:
                with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                    await channel.unary_unary(f"/some.Service/Method{number}", request_serializer=bytes)(b"")
            text = await exposed(standalone.metrics)
            if series(text) == before:
                break
            before = series(text)
        else:
            pytest.fail("each round has added series")
    assert len(before) > 250
    assert not re.findall(r"well-|ill-|broken|some.Service", text)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_every_query_of_alerts_and_panels_has_an_answer(tmp_path: Path) -> None:
    """The server takes what it scrapes and its rules, and finds no alert worth firing; and the dashboard can be drawn from what it has."""
    async with scene(tmp_path) as here:
        await answered(here.prometheus, selectors(rules()) | panels())
        targets = (await here.prometheus.get("targets"))["activeTargets"]
        assert [target["health"] for target in targets] == ["up"] * 3
        (group,) = (await here.prometheus.get("rules"))["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
        assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []
        drawn = ElementTree.fromstring(await asyncio.to_thread(picture, here.prometheus.url))
        titles = [panel["title"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
        assert sorted(text for one in drawn.iterfind(".//{*}text[@class]") if (text := one.text or "") in titles) == sorted(titles)
        lines = [panel.findall("./{*}path[@stroke]") for panel in drawn.iterfind("./{*}g")]
        assert sum(map(bool, lines)) > 30


def picture(url: str) -> str:
    """The dashboard as tools/dashboard_picture.py draws it."""
    command = [sys.executable, str(TOOL), url, "--seconds", "60"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
