"""otto-handler's stack, `@grpc/grpc-js` with our protos loaded at run time, through the front door of a release."""

import asyncio
import json
import re
from pathlib import Path

import grpc.aio
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ..node.script import Script, needs_node, running
from .installation import CHART, RELEASE, Installation, said

pytestmark = [needs_node, pytest.mark.cluster, pytest.mark.timeout(600)]

OWN_SERVICE = "^(the health page|over the cap)"
"""Needs a service with nothing in it, or with room for four workers."""
SECONDS = 240
"""For what a client is told to take 25 s for where workers are processes."""
NODE_PORT = 30090


@pytest.mark.parametrize("file", ["calls.test.js", "pipelines.test.js", "lines.test.js"])
async def test_calls_of_every_kind(installation: Installation, file: str, tmp_path: Path) -> None:
    """Unary calls, streams in one direction and in both, leaving and attaching are what they are without a cluster."""
    more = {"OTTO_OLDER_PROTOS": str(tmp_path / "older"), "OTTO_TEST_SECONDS": str(SECONDS), "OTTO_TEST_LEAVES_OUT": OWN_SERVICE}
    async with running(file, installation.address, report=tmp_path / "report", **more) as script:
        code = await script.ended(timeout=2 * SECONDS)
    assert code == 0, script.report
    assert re.search(r"pass [1-9]", script.report), script.report


async def test_services_that_are_replaced_end_every_stream_with_ok(installation: Installation, tmp_path: Path) -> None:
    """All three at once, as by an upgrade: a client that listens for no error lives, attaches again, and misses nothing."""
    report = tmp_path / "report"
    async with running("stops.js", installation.address, "/tmp/gate", "careless", "replaced", report=report) as script:
        names = await heard(script)
        await restarted(installation, "scaler", "pipeline-executor", "log-relay")
        assert await heard(script) == {name: 14 if "TailLogs" in name else 0 for name in names}
        await goes_on(installation, script, "replaced")


async def test_a_front_door_that_is_replaced_is_an_error_that_a_client_can_handle(installation: Installation, tmp_path: Path) -> None:
    """Streams through it break with UNAVAILABLE or INTERNAL; the same channel then reaches the next one, and nothing is missing."""
    report = tmp_path / "report"
    async with running("stops.js", installation.address, "/tmp/gate", "careful", "door", "detach", report=report) as script:
        names = await heard(script)
        await restarted(installation, "front-door")
        ends = await heard(script)
        assert list(ends) == list(names)
        assert set(ends.values()) <= {13, 14}
        await goes_on(installation, script, "door")


async def test_a_port_of_every_node(installation: Installation) -> None:
    """The Service that the chart makes of `frontDoor.service.type: NodePort` is on 30090, and leads to all of it."""
    command = ["helm", "template", RELEASE, str(CHART), "--namespace", installation.namespace, "--set", "frontDoor.service.type=NodePort"]
    rendered = yaml.safe_load_all(said(*command, "--show-only", "templates/front-door.yaml"))
    (service,) = [one for one in rendered if one["kind"] == "Service"]
    (port,) = service["spec"]["ports"]
    assert port["nodePort"] == NODE_PORT
    taken = said("kubectl", "get", "services", "--all-namespaces", "--output", "jsonpath={.items[*].spec.ports[*].nodePort}").split()
    if str(NODE_PORT) in taken:  # by a release that somebody has installed here
        port["nodePort"] = NODE_PORT + 900
    service["metadata"]["name"] = "port-of-every-node"
    installation.kubectl("apply", "--filename", "-", stdin=json.dumps(service))
    try:
        node = installation.address.rpartition(":")[0]
        async with grpc.aio.insecure_channel(f"{node}:{port['nodePort']}") as channel, asyncio.timeout(60):
            answer = await HealthStub(channel).Check(HealthCheckRequest(), wait_for_ready=True)
        assert answer.status == HealthCheckResponse.SERVING
    finally:
        installation.kubectl("delete", "service", "port-of-every-node")


async def restarted(installation: Installation, *components: str) -> None:
    """Replaces their pods; back when everything serves again."""
    await asyncio.to_thread(installation.restart, *components)
    await installation.serves()


async def heard(script: Script) -> dict[str, object]:
    """What it says next."""
    line = await script.line(timeout=120)
    assert line, script.report
    said_now = json.loads(line)
    return said_now if isinstance(said_now, dict) else dict.fromkeys(said_now)


async def goes_on(installation: Installation, script: Script, run: str) -> None:
    """The client attaches again and sends again; the run ends, with nothing missing, repeated or changed."""
    script.say("started")
    assert await heard(script) == {"sequence": 2}
    (worker,) = (await asyncio.to_thread(installation.workers))[run]
    await installation.open_gate(worker)
    after = await heard(script)
    sequences = after["sequences"]
    assert isinstance(sequences, list)
    assert sequences == list(range(1, len(sequences) + 1))
    assert (after["same"], after["last"]) == (True, ["", 2])
    assert await script.ended() == 0, script.report
