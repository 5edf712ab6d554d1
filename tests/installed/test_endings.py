"""How workers end on a real cluster: the typed cause, and every line up to then."""

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import CancelPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.worker_pb2 import FailureCause, Resources

from ..patient_clients import Account, Clients
from .installation import Installation
from .test_pipelines import one_stage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

COUNTING = "i=1; while :; do echo line $i; i=$((i+1)); sleep 0.05; done"
COUNTING_AT_FIRST = f'[ "$OTTO_ATTEMPT" -gt 1 ] && exit 0; {COUNTING}'
"""The first attempt has to be ended, the second one ends well."""


def lines(account: Account) -> list[str]:
    """Of the only worker, in their order."""
    return [e.entry.message for e in account.entries if e.entry.message.startswith("line ")]


def assert_all_lines(account: Account, at_least: int) -> None:
    """They are numbered from 1 without a hole or a repeat."""
    found = lines(account)
    assert len(found) >= at_least
    assert found == [f"line {number}" for number in range(1, len(found) + 1)]


def end_of(account: Account) -> PipelineProgress:
    """The last message of the only stage."""
    return [m for m in account.progress if m.stage_id == "only"][-1]


def first_failure(account: Account) -> PipelineProgress:
    """What was told first of a failure."""
    return next(m for m in account.progress if m.failure_cause)


def assert_retried(account: Account, cause: "FailureCause.ValueType", words: str) -> None:
    """The first attempt of the only stage ended so, with these words and all of its lines; the second is the stage's end."""
    failed = first_failure(account)
    assert failed.failure_cause == cause, failed
    assert words in failed.error_message, failed
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 2)
    assert_all_lines(account, 20)


async def run_and(
    installation: Installation, request: PipelineRequest, enough: int, act: Callable[[], object], seconds: float = 200
) -> Account:
    """Runs it, and acts once `enough` lines have come."""
    clients = Clients(installation)
    account = Account(request.pipeline_id)
    async with asyncio.timeout(seconds):
        await clients.submit(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.follow_progress(account), name="progress")
            group.create_task(clients.follow_lines(account), name="lines")
            while len(lines(account)) < enough:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(act)
    return account


async def test_cancelled(installation: Installation) -> None:
    """A cancelled pipeline stops its pods gently, and what they said until then is there."""
    clients = Clients(installation)
    request = one_stage(f'trap "echo line $((1000000))>/dev/null; echo bye; exit 3" TERM; {COUNTING}')
    account = Account(request.pipeline_id)
    async with asyncio.timeout(200):
        await clients.submit(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.follow_progress(account), name="progress")
            group.create_task(clients.follow_lines(account), name="lines")
            while len(lines(account)) < 20:
                await asyncio.sleep(0.05)
            async with installation.channel() as channel:
                await PipelineServiceStub(channel).CancelPipeline(CancelPipelineRequest(pipeline_id=request.pipeline_id, reason="enough"))
    assert account.outcome()["only"] == ("STAGE_CANCELLED", 1)
    assert_all_lines(account, 20)
    assert "bye" in [e.entry.message for e in account.entries]


async def test_timeout(installation: Installation) -> None:
    """A worker over its time ends with TIMEOUT and all of its lines, to the last one, which tells how many there are."""
    async with asyncio.timeout(200):
        account = await Clients(installation).run(one_stage(f"trap 'echo told $i; exit 1' TERM; {COUNTING}", timeout_seconds=5))
    assert end_of(account).failure_cause == FailureCause.FAILURE_CAUSE_TIMEOUT, end_of(account)
    assert_all_lines(account, 20)
    [told] = [int(e.entry.message.removeprefix("told ")) for e in account.entries if e.entry.message.startswith("told ")]
    assert told - len(lines(account)) in {0, 1}  # by where between two commands the signal came


async def test_out_of_memory(installation: Installation) -> None:
    """A worker that takes more memory than it may ends with OOM_KILLED and all of its lines."""
    script = "i=1; while [ $i -le 50 ]; do echo line $i; i=$((i+1)); done; exec tail /dev/zero"
    async with asyncio.timeout(200):
        account = await Clients(installation).run(one_stage(script, resources=Resources(memory="32Mi")))
    assert end_of(account).failure_cause == FailureCause.FAILURE_CAUSE_OOM_KILLED, end_of(account)
    assert_all_lines(account, 50)


async def test_an_image_that_does_not_exist(installation: Installation) -> None:
    """It ends with IMAGE_PULL and the cluster's own words."""
    async with asyncio.timeout(200):
        account = await Clients(installation).run(one_stage("true", image="localhost/no-such-image:none"))
    assert end_of(account).failure_cause == FailureCause.FAILURE_CAUSE_IMAGE_PULL, end_of(account)
    assert "no-such-image" in end_of(account).error_message


async def test_a_pod_that_is_deleted(installation: Installation) -> None:
    """`kubectl delete pod` of a worker is a failure with cause DELETED, retried as the infrastructure's; what it said is there."""
    request = one_stage(COUNTING_AT_FIRST)

    before: list[str] = []

    def delete() -> None:
        [name] = installation.workers()[request.pipeline_id]
        before.extend(installation.kubectl("logs", name).splitlines())
        installation.kubectl("delete", "pod", "--wait=false", name)

    account = await run_and(installation, request, 20, delete)
    assert lines(account)[: len(before)] == before
    assert_retried(account, FailureCause.FAILURE_CAUSE_DELETED, "it was deleted from outside")


async def test_a_quota_that_refuses(installation: Installation) -> None:
    """A worker that no quota allows ends with QUOTA and its words, once the attempts at it are over."""
    quota = """{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {requests.memory: 900Mi}}}"""
    installation.kubectl("apply", "--filename", "-", stdin=quota)
    try:
        async with asyncio.timeout(200):
            account = await Clients(installation).run(one_stage("true", resources=Resources(memory="4Gi")))
    finally:
        installation.kubectl("delete", "resourcequota", "none")
    assert end_of(account).failure_cause == FailureCause.FAILURE_CAUSE_QUOTA, end_of(account)
    assert "exceeded quota" in end_of(account).error_message


async def test_nothing_is_left_of_a_call_that_is_refused(installation: Installation) -> None:
    """A pipeline with a cycle is refused through the front door with the cycle's path, and is not known afterwards."""
    request = one_stage("true")
    request.stages[0].depends_on.append("only")
    async with installation.channel() as channel, asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await PipelineServiceStub(channel).ExecutePipeline(request).read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "only" in (refused.value.details() or "")
