"""Workers that are thrown out of a real cluster: the typed cause in the cluster's words, every line up to then, and another attempt."""

import asyncio
import json
import secrets
from collections.abc import Iterator

import pytest

from ottoscaler.v1.worker_pb2 import FailureCause

from ..cluster.kubectl import pod
from .cluster_nodes import names
from .conftest import Install
from .installation import Installation, said
from .test_endings import COUNTING_AT_FIRST, assert_retried, run_and
from .test_pipelines import one_stage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

EVICTED = FailureCause.FAILURE_CAUSE_EVICTED
SLOT = "example.com/otto-test-slot"
"""A resource of which one node is given one."""


async def test_more_on_disk_than_its_limit(installed: Install) -> None:
    """The kubelet throws a worker out that has written more than its limit of ephemeral storage, and says so."""
    installation = await asyncio.to_thread(installed, "workers.resources.limits.ephemeral-storage=32Mi")
    writing = 'if [ "$OTTO_ATTEMPT" -eq 1 ]; then head -c 64M /dev/zero > "$OTTO_WORKSPACE/much"; fi'
    request = one_stage(f"{writing}; {COUNTING_AT_FIRST}")
    account = await run_and(installation, request, 20, lambda: None)
    assert_retried(account, EVICTED, "local storage usage exceeds the total limit of containers 32Mi")


async def test_the_eviction_api(installation: Installation) -> None:
    """What `kubectl drain` does to a worker; it may end as well as it likes on SIGTERM."""
    request = one_stage(f'trap "exit 0" TERM; {COUNTING_AT_FIRST}')

    def evict() -> None:
        [name] = installation.workers()[request.pipeline_id]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{installation.namespace}/pods/{name}/eviction"
        said("kubectl", "create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))

    assert_retried(await run_and(installation, request, 20, evict), EVICTED, "evicted: Eviction API: evicting")


@pytest.fixture
def slot() -> Iterator[None]:
    """One node has one slot, for one pod at a time."""
    path = f"/status/capacity/{SLOT.replace('/', '~1')}"

    def patch(**change: str) -> None:
        said(
            "kubectl", "patch", "node", names()[0], "--subresource=status", "--type=json", "--patch", json.dumps([change | {"path": path}])
        )

    patch(op="add", value="1")
    try:
        yield
    finally:
        patch(op="remove")


@pytest.fixture
def urgent() -> Iterator[str]:
    """A priority class above that of workers."""
    name = f"otto-test-{secrets.token_hex(3)}"
    said("kubectl", "create", "priorityclass", name, "--value=1000", "--description=of a test")
    try:
        yield name
    finally:
        said("kubectl", "delete", "priorityclass", name)


async def test_a_pod_that_is_more_urgent(installed: Install, slot: None, urgent: str) -> None:
    """The scheduler pushes a worker out for a pod of higher priority, and lets its next attempt run when that has ended."""
    key = SLOT.replace(".", "\\.")
    installation = await asyncio.to_thread(installed, f"workers.resources.limits.{key}=1")
    request = one_stage(COUNTING_AT_FIRST)
    pushing = pod("urgent", "true")
    pushing["spec"]["priorityClassName"] = urgent
    for of in pushing["spec"]["containers"][0]["resources"].values():
        of[SLOT] = "1"

    def push() -> None:
        installation.kubectl("create", "--filename", "-", stdin=json.dumps(pushing))

    assert_retried(await run_and(installation, request, 20, push), EVICTED, "preempted: ")
    assert installation.kubectl("get", "pod", "urgent", "--output", "jsonpath={.status.phase}") == "Succeeded"
