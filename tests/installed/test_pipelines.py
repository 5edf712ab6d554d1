"""Pipelines on a real cluster, through the front door."""

import asyncio
import secrets

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy

from ..patient_clients import LINES, Clients, check, script
from .installation import Installation
from .shared_pipelines import run_shared_pipelines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def one_stage(script_text: str, **fields: object) -> PipelineRequest:
    """A pipeline of one stage with one worker, under an id nobody had."""
    fields.setdefault("command", ["sh", "-c"])
    stage = PipelineStage(stage_id="only", args=[script_text], **fields)  # type: ignore[arg-type]  # fields of the message
    return PipelineRequest(pipeline_id=f"one-{secrets.token_hex(4)}", stages=[stage])


async def test_the_shared_pipelines_and_a_random_one(installation: Installation) -> None:
    """Six real pipelines and a DAG of 30 stages at once: everything ends as it should, no line is missing or doubled, no pod twice."""
    await run_shared_pipelines(installation)


async def test_a_hundred_workers_at_once(installation: Installation) -> None:
    """A stage of 100 workers ends well, with every line of each."""
    request = one_stage(script(":", "exit 0")[0], worker_count=100)
    async with asyncio.timeout(400):
        account = await Clients(installation).run(request)
    check([request], {request.pipeline_id: account})
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
    lines = [e.entry.worker_id for e in account.entries if e.entry.message.startswith("line ")]
    assert len(lines) == 100 * LINES
    assert len(set(lines)) == 100


async def test_a_failed_attempt_is_retried(installation: Installation) -> None:
    """The second attempt is a pod of its own, and its end is the stage's."""
    request = one_stage('[ "$OTTO_ATTEMPT" -gt 1 ] || exit 9', retry_policy=RetryPolicy(max_attempts=1))
    async with asyncio.timeout(120):
        account = await Clients(installation).run(request)
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 2)


@pytest.mark.parametrize(("code", "outcome"), [(9, ("STAGE_COMPLETED", 2)), (8, ("STAGE_FAILED", 1))])
async def test_only_what_the_policy_names_is_retried(installation: Installation, code: int, outcome: tuple[str, int]) -> None:
    """By its exit code; another one is the stage's end at once."""
    policy = RetryPolicy(max_attempts=1, retryable_failures=["exit:9"])
    request = one_stage(f'[ "$OTTO_ATTEMPT" -gt 1 ] || exit {code}', retry_policy=policy)
    async with asyncio.timeout(120):
        account = await Clients(installation).run(request)
    assert account.outcome()["only"] == outcome


async def test_ids_in_any_script(installation: Installation) -> None:
    """A pipeline and a stage with Korean names run and are found under them."""
    request = PipelineRequest(
        pipeline_id=f"배포 파이프라인/{secrets.token_hex(3)}",
        stages=[PipelineStage(stage_id="빌드 · 1단계", command=["sh", "-c"], args=script(":", "exit 0"))],
    )
    async with asyncio.timeout(120):
        account = await Clients(installation).run(request)
    check([request], {request.pipeline_id: account})
    assert account.outcome()["빌드 · 1단계"] == ("STAGE_COMPLETED", 1)
