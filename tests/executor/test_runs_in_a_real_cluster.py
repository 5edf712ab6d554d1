"""PipelineRuns in a real cluster: what its API server makes of the definition, and kubectl beside an executor."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from otto_executor.conductor import Conductor
from otto_executor.retry import Failure, FailureCause
from otto_executor.stage import Phase, StageSpec, StageStatus
from otto_executor.stores.pipelinerun import WHOLE
from otto_executor.testing.cluster import real_cluster, store_over
from otto_executor.testing.fleet import Fate, Fleet
from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.errors import InvalidError

from ..cluster_report import reported
from .test_conductor import fleet, pipeline, process, run  # noqa: F401  the fixture
from .test_large_runs import large, noise
from .test_runs_from_outside import apply, read
from .test_stores import CRD, ended, message

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("OTTO_TEST_KUBECONFIG"), reason="OTTO_TEST_KUBECONFIG names no cluster"),
]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with real_cluster(yaml.safe_load(CRD.read_text())) as made:
        with reported(made.namespace):
            yield made


@pytest.fixture
async def executor(client: Client, fleet: Fleet) -> AsyncIterator[Conductor]:  # noqa: F811  the fixture
    async with store_over(client) as store, process(fleet, store, outside=(store.outside, read)) as conductor:
        yield conductor


async def kubectl(client: Client, *arguments: str) -> str:
    """What kubectl says, in the test's namespace."""
    process = await asyncio.create_subprocess_exec(
        "kubectl", "-n", client.namespace, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return said.decode()


async def columns(client: Client) -> list[list[str]]:
    return [line.split() for line in (await kubectl(client, "get", "plr", "--no-headers")).splitlines()]


async def until_listed(client: Client, *rows: Sequence[str]) -> None:
    """Waits until `kubectl get plr` shows these beginnings of rows."""
    async with asyncio.timeout(60):
        while [row[: len(wanted)] for row, wanted in zip(await columns(client), rows, strict=False)] != [list(row) for row in rows]:
            await asyncio.sleep(0.2)


async def test_kubectl_applies_shows_and_deletes_runs(
    client: Client,
    executor: Conductor,
    fleet: Fleet,  # noqa: F811  the fixture
    tmp_path: Path,
) -> None:
    """The README's file runs; the columns show state, progress and stages; a deletion waits until the workers are stopped."""
    fleet.script = lambda key: Fate(seconds=None if key[1] == "테스트" else 0.0)
    spec = {"stages": [{"stageId": "build", "type": "build"}, {"stageId": "테스트", "dependsOn": ["build"], "workerCount": 2}]}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": "hello"}, "spec": spec}))
    assert "created" in await kubectl(client, "apply", "-f", str(file))
    await until_listed(client, ["hello", "Running", "50%", "1/2"])
    assert "a run never changes" in await kubectl(client, "patch", "plr", "hello", "--type=merge", "-p", '{"spec":{"name":"x"}}')
    assert "unchanged" in await kubectl(client, "apply", "-f", str(file))
    assert "deleted" in await kubectl(client, "delete", "plr", "hello", "--timeout=60s")
    assert await columns(client) in ([], [["No", "resources", "found", "in", client.namespace, "namespace."]])
    assert all(worker.status.ended for worker in fleet.workers.values())


async def test_ended_runs_go_without_an_executor(client: Client, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """What has ended goes at once whoever is there; what has not is held until an executor has stopped it."""
    fleet.script = lambda key: Fate(seconds=None if key[0] == "on" else 0.0)
    async with store_over(client) as store, process(fleet, store, outside=(store.outside, read)) as conductor:
        await conductor.begin(pipeline(StageSpec("a"), pipeline_id="on"), b"")
        await run(conductor, pipeline(StageSpec("a")))
        async with asyncio.timeout(30):
            while (await client.get(WHOLE, "p")).metadata.finalizers:
                await asyncio.sleep(0.1)
    assert "deleted" in await kubectl(client, "delete", "plr", "p", "--timeout=30s")
    await kubectl(client, "delete", "plr", "on", "--wait=false")
    assert [found.metadata.name for found in (await client.list(WHOLE)).items] == ["on"]
    async with store_over(client) as store, process(fleet, store, outside=(store.outside, read)), asyncio.timeout(30):
        while (await client.list(WHOLE)).items:
            await asyncio.sleep(0.1)
    assert all(worker.status.ended for worker in fleet.workers.values())


async def test_an_api_server_prunes_nothing_that_is_kept(client: Client, executor: Conductor) -> None:
    """What was stored is what is read: the definition knows every field, and the record is written once."""
    await run(executor, pipeline(StageSpec("a", approvers=None), StageSpec("빌드", depends_on=("a",)), pipeline_id="내 것"))
    found = (await client.list(WHOLE)).items[0]
    assert found.record
    assert found.status.memory.writer
    assert found.status.memory.journal
    assert found.status.memory.summary
    with pytest.raises(InvalidError, match="record is written once"):
        await client.patch(WHOLE, found.metadata.name, merge({"record": "other"}))


async def test_a_mistake_in_a_spec_is_told_by_either(client: Client, executor: Conductor) -> None:
    """The API server refuses what does not fit the definition; the executor says in the status what fits but can't run."""
    wrong: Any = [{"stageId": "a", "workerCount": "many"}]
    with pytest.raises(InvalidError, match="workerCount"):
        await apply(client, "refused-at-once", wrong)
    await apply(client, "refused-later", [{"stageId": "a", "dependsOn": ["b"]}])
    await until_listed(client, ["refused-later", "Refused"])
    assert "there is no stage 'b'" in await kubectl(client, "get", "plr", "refused-later", "-o", "wide")


async def test_a_run_that_etcd_takes_no_more_of_is_told_in_fewer_words(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has filled the metadata of a large run: the API server refuses a save for that, and takes a shorter one."""
    draw = random.Random(1)
    run = large(draw)
    async with store_over(client) as store:
        await store.create(run, [message(1, stage_id=run.definition.stages[0].stage_id)])
        assert run.owner is not None
        await client.patch(WHOLE, run.owner.name, merge({"metadata": {"annotations": {"note": "x" * 250_000}}}))
        for stage in run.state.stages.values():
            stage.phase, stage.status, stage.attempt, stage.message = Phase.ENDED, StageStatus.FAILED, 1, noise(draw, 2000)
            stage.failure = Failure(FailureCause.EXIT_CODE, stage.message, 1)
        said = [replace(message(number), message=noise(draw, 2000), error=noise(draw, 2000)) for number in range(2, 400)]
        await store.save(run, said, edge=True)
        await store.save(ended(run, 1_700_000_009.0, StageStatus.FAILED), [], edge=True)
    async with store_over(client) as other:
        back = await other.load("large")
    assert back is not None
    assert back.state.ended_at == 1_700_000_009.0
    assert "executor.run.shortened" in {record.message for record in caplog.records}
