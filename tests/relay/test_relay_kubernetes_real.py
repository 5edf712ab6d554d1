"""Pods' logs of a real cluster, as its kubelet and container runtime write them."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from otto_kubekit.connecting import connect
from otto_kubekit.kinds import NAMESPACES, PODS
from otto_kubekit.settings import KubeSettings
from otto_relay.sources.kubernetes import KubernetesSource
from otto_relay.sources.protocol import Ending, Line

from ..cluster_report import reported

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
IMAGE = os.environ.get("OTTO_TEST_IMAGE", "ottoscaler-base:latest")
LONGEST = 1 << 20
SCRIPT = """
i=0; while [ $i -lt 3000 ]; do echo "out $i"; if [ $((i % 7)) -eq 0 ]; then echo "err $i" >&2; fi; i=$((i + 1))
if [ $((i % 500)) -eq 0 ]; then sleep 0.3; fi; done
head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'no end'
"""


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """In a namespace of its own, which is deleted afterwards."""
    path = os.environ.get("OTTO_TEST_KUBECONFIG", "")
    if not path:
        pytest.skip("OTTO_TEST_KUBECONFIG names no cluster")
    namespace = f"relay-{uuid.uuid4().hex[:8]}"
    async with connect(KubeSettings(config=path), namespace) as made:
        await made.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        try:
            with reported(namespace):
                yield made
        finally:
            await made.delete(NAMESPACES, namespace)


async def phase(client: Any, wanted: set[str]) -> None:
    async with asyncio.timeout(90):
        while (await client.get(PODS, "w-1")).status.phase not in wanted:
            await asyncio.sleep(0.05)


def split(text: bytes, complete: bool) -> int:
    return min(len(text), LONGEST) if complete or len(text) >= LONGEST else 0


async def read(source: KubernetesSource, position: bytes, ending: Ending, most: int) -> list[Line]:
    """Lines behind a position, at most so many: then the reader is gone."""
    found: list[Line] = []
    async with aclosing(source.lines("w-1", position, ending, split)) as batches:
        async for batch in batches:
            found += batch[: most - len(found)]
            if len(found) >= most:
                break
    return found


async def test_every_line_of_a_pod_comes_once_however_often_reading_begins_anew(client: Any) -> None:
    """Both streams, an init container's before them, a line of 100 KB and one without an end; while it runs and after it has ended."""
    container = {"name": "worker", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", SCRIPT]}
    init = {**container, "name": "checkout", "command": ["/bin/sh", "-c", "echo cloned"]}
    spec = {"containers": [container], "initContainers": [init], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
    await client.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w-1"}, "spec": spec})
    source = KubernetesSource(client, LONGEST)
    ending = Ending()
    assert await asyncio.wait_for(source.available("w-1", ending), 90)
    lines: list[Line] = []
    for most in (1, 300, 901):
        lines += await asyncio.wait_for(read(source, lines[-1].position if lines else b"", ending, most), 90)
    await phase(client, {"Succeeded", "Failed"})
    ending.set()
    lines += await asyncio.wait_for(read(source, lines[-1].position, ending, 1_000_000), 90)
    own = [line for line in lines if not line.container]
    assert [line.text for line in lines if line.container == "checkout"] == [b"cloned"]
    assert lines[0].container == "checkout"
    wanted = [f"out {n}".encode() for n in range(3000)] + [b"x" * 100_000, b"no end"]
    assert [line.text for line in own if not line.text.startswith(b"err")] == wanted
    assert [line.text for line in own if line.text.startswith(b"err")] == [f"err {n}".encode() for n in range(0, 3000, 7)]
    assert not any(line.notice for line in lines)
    assert max(len(line.position) for line in lines) <= 255
