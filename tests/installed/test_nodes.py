"""Nodes freeze and go away under workers and services of a real cluster: what was lost is retried, and nothing is told wrong."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage
from ottoscaler.v1.worker_pb2 import FailureCause

from ..patient_clients import Account, Clients
from ..quick import unless_quick
from .cluster_nodes import SERVICES, WORKERS, Node, get, names, until
from .conftest import Install, installing
from .installation import COMPONENTS, Installation
from .pod_watch import watching_pods
from .test_endings import COUNTING_AT_FIRST, assert_all_lines, assert_retried, first_failure, lines, run_and
from .test_pipelines import one_stage

pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, pytest.mark.timeout(900)]

NODE_LOST = FailureCause.FAILURE_CAUSE_NODE_LOST
APART = [
    "relay.spool.type=emptyDir",
    *(f"{component}.nodeSelector.{SERVICES}=here" for component in ("scaler", "executor", "relay", "frontDoor")),
    f"workers.nodeSelector.{WORKERS}=here",
]
"""Values with which labels of the nodes decide where what runs."""


def tolerating(seconds: int) -> list[str]:
    """Values with which workers stay so long on a node that does not answer."""
    return [
        f"workers.tolerations[{index}].{field}"
        for index, what in enumerate(("not-ready", "unreachable"))
        for field in (f"key=node.kubernetes.io/{what}", "operator=Exists", "effect=NoExecute", f"tolerationSeconds={seconds}")
    ]


PATIENT = tolerating(600)
UNTIL_TOLD = 'i=1; until [ -e "$OTTO_WORKSPACE/enough" ]; do echo line $i; i=$((i+1)); sleep 0.05; done; echo in all $((i-1))'


@pytest.fixture(scope="module")
def main() -> Node:
    """The node with the API server, on which the services are."""
    found = [Node(name) for name in names()]
    if len(found) < 2:
        pytest.skip("needs a cluster of two nodes (`make cluster-up NODES=2`)")
    if not found[-1].ours:
        pytest.skip("the cluster's nodes are no containers of this machine's engine, which could be frozen")
    return found[0]


@pytest.fixture(scope="module")
def release(main: Node) -> Iterator[Installation]:
    """A release whose workers and services are apart; its workers wait for long for a node that does not answer."""
    main.takes(SERVICES)
    with installing() as install:
        yield install(*APART, *PATIENT)


@pytest.fixture
def spare(main: Node) -> Iterator[Node]:
    """The node that is taken away, at first the only one for workers. In the end it is back, whatever was done to it.

    Asked for behind releases, so that it is back before they are uninstalled.
    """
    node = Node(names()[-1])
    main.takes(SERVICES)
    node.takes(WORKERS)
    try:
        yield node
    finally:
        node.come_back()
        node.takes()
        main.takes()


SECONDS = 600
"""For a pipeline whose node is lost: the cluster takes some minutes to notice and to act."""


def phase_and_ready(installation: Installation, pod: str) -> tuple[str, str]:
    """As the cluster has it."""
    status = get("pod", pod, "--namespace", installation.namespace)["status"]
    return status["phase"], next(c["status"] for c in status["conditions"] if c["type"] == "Ready")


def hosts(installation: Installation, component: str) -> set[str]:
    """The nodes of the pods of a component that are ready."""
    pods = installation.pods(component)
    ready = [p for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
    return {pod["spec"]["nodeName"] for pod in ready}


async def test_workers_on_a_node_that_thaws_in_time(release: Installation, spare: Node) -> None:
    """What ran on a node that stood still until the cluster gave it up goes on: true ends, no attempt more, no line lost or doubled."""
    counting = "i=1; while [ $i -le 200 ]; do echo line $i; i=$((i+1)); sleep 0.05; done"
    request = PipelineRequest(
        pipeline_id=f"thawed-{secrets.token_hex(4)}",
        stages=[
            PipelineStage(stage_id="only", command=["sh", "-c"], args=[counting]),
            PipelineStage(stage_id="others", command=["sh", "-c"], args=[counting], worker_count=2),
            PipelineStage(stage_id="failing", command=["sh", "-c"], args=[f"{counting}; exit 7"]),
        ],
    )

    def act() -> None:
        spare.freeze()
        until(lambda: not spare.ready)
        spare.thaw()

    account = await run_and(release, request, 20, act, SECONDS)
    assert {name: end for name, end in account.outcome().items() if name} == {
        "only": ("STAGE_COMPLETED", 1),
        "others": ("STAGE_COMPLETED", 1),
        "failing": ("STAGE_FAILED", 1),
    }
    failed = first_failure(account)
    assert (failed.failure_cause, failed.exit_code) == (FailureCause.FAILURE_CAUSE_EXIT_CODE, 7)
    by_worker: dict[str, list[str]] = {}
    for entry in account.entries:
        if entry.entry.worker_id:
            by_worker.setdefault(entry.entry.worker_id, []).append(entry.entry.message)
    assert list(by_worker.values()) == [[f"line {number}" for number in range(1, 201)]] * 4
    assert [e.sequence for e in account.entries] == list(range(1, len(account.entries) + 1))


@unless_quick
async def test_a_worker_on_a_node_that_does_not_answer(main: Node, installed: Install, spare: Node) -> None:
    """After what its pod tolerates, it ends with NODE_LOST and is tried again elsewhere; its pod stays until the node is back."""
    installation = await asyncio.to_thread(installed, *APART, *tolerating(1))

    def act() -> None:
        spare.freeze()
        main.takes(SERVICES, WORKERS)

    account = await run_and(installation, one_stage(COUNTING_AT_FIRST), 20, act, SECONDS)
    assert_retried(account, NODE_LOST, f"its node {spare.name} does not answer")
    there = {pod["spec"]["nodeName"]: pod for pod in installation.pods("worker")}
    assert there[spare.name]["metadata"]["deletionTimestamp"]
    await asyncio.to_thread(spare.come_back)
    await asyncio.to_thread(until, lambda: spare.name not in {pod["spec"]["nodeName"] for pod in installation.pods("worker")})


@unless_quick
async def test_a_pod_that_is_forced_away_from_a_node_that_does_not_answer(main: Node, release: Installation, spare: Node) -> None:
    """`kubectl delete --force` ends its worker at once: NODE_LOST, as the node did it and not who deleted it."""
    request = one_stage(COUNTING_AT_FIRST)

    def act() -> None:
        [pod] = release.workers()[request.pipeline_id]
        spare.freeze()
        main.takes(SERVICES, WORKERS)
        until(lambda: phase_and_ready(release, pod) == ("Running", "False"))
        release.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")

    assert_retried(await run_and(release, request, 20, act, SECONDS), NODE_LOST, f"its node {spare.name} did not answer")


async def test_a_worker_on_a_node_that_goes_away_for_good(main: Node, release: Installation, spare: Node) -> None:
    """When its Node object is deleted, the cluster collects its pods: NODE_LOST, and the worker is tried again elsewhere."""

    def act() -> None:
        spare.kill()
        main.takes(SERVICES, WORKERS)
        spare.forget()

    account = await run_and(release, one_stage(COUNTING_AT_FIRST), 20, act, SECONDS)
    assert_retried(account, NODE_LOST, "node no longer exists")


async def test_services_on_a_node_that_goes_away_for_good(main: Node, installed: Install, spare: Node) -> None:
    """All of them come back on another node and go on with what ran: one attempt, no pod twice, every line there, none doubled."""
    await asyncio.to_thread(spare.takes, SERVICES)
    await asyncio.to_thread(main.takes, WORKERS)
    installation = await asyncio.to_thread(installed, *APART, *PATIENT)
    request = one_stage(UNTIL_TOLD)

    def act() -> None:
        spare.kill()
        main.takes(SERVICES, WORKERS)
        spare.forget()
        until(lambda: all(hosts(installation, component) == {main.name} for component in COMPONENTS))
        [pod] = installation.workers()[request.pipeline_id]
        installation.kubectl("exec", pod, "--container", "worker", "--", "touch", "/workspace/enough")

    async with watching_pods(installation) as pods:
        account = await run_and(installation, request, 20, act, SECONDS)
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
    assert [m.sequence for m in account.progress] == list(range(1, len(account.progress) + 1))
    assert not pods.created_twice()
    # What the lost spool had is read again from the pod, so a line's place in the log of the build may be another.
    again = Account(request.pipeline_id)
    again.progress = account.progress
    async with asyncio.timeout(120):
        await Clients(installation).follow_lines(again)
    assert_all_lines(again, 20)
    assert f"in all {len(lines(again))}" in [e.entry.message for e in again.entries]
