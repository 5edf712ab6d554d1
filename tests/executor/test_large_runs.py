"""Runs that come near to what etcd takes: refused before anything runs, or told in fewer words, but never saved for ever in vain."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from otto_executor.approval import Approval, Decision
from otto_executor.errors import RunTooLargeError, TooLargeToStoreError
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import fresh
from otto_executor.settings import Settings
from otto_executor.stage import Phase, StageStatus, Worker, WorkerStatus
from otto_executor.stores import StoredRun
from otto_executor.stores.kubernetes import KubernetesStore
from otto_executor.stores.pipelinerun import WHOLE
from otto_executor.testing.cluster import store_in
from otto_executor.testing.fleet import Fleet
from otto_executor.translate_spec import understood
from otto_kubekit.testing import FakeCluster
from otto_kubekit.testing.verbs import ETCD_BYTES

from .test_conductor import fleet  # noqa: F401  the fixture
from .test_kubernetes_store import thing, wrote
from .test_runs_from_outside import executor, state, until
from .test_stores import ended, message, record

ETCD_WORDS = "etcdserver: request is too large"


@pytest.fixture
async def store(cluster: FakeCluster) -> AsyncIterator[KubernetesStore]:
    async with store_in(cluster) as made:
        yield made


ALPHABET = "".join(map(chr, range(0x3A, 0x7F))) * 160 + "".join(map(chr, range(0xAC00, 0xD7A3)))


def noise(draw: random.Random, length: int) -> str:
    """Text that hardly compresses and that API servers write longer than it is."""
    return "".join(draw.choices(ALPHABET, k=length))


def large(draw: random.Random, stages: int = 400, script: int = 700) -> StoredRun:
    """A pipeline near the largest that is begun."""
    spec = {"stages": [{"stageId": f"{n} {noise(draw, 40)}", "workerCount": 10, "command": [noise(draw, script)]} for n in range(stages)]}
    definition, request = understood(spec, "large", Settings(), "")
    return StoredRun(definition, request, fresh(definition, 1_700_000_000.5))


def applied(cluster: FakeCluster, body: dict[str, Any]) -> None:
    cluster.verbs.create(cluster.resources.find(WHOLE.group, WHOLE.version, WHOLE.plural), "default", body)


@pytest.mark.timeout(600)  # seconds of packing, many of them where others pack too
async def test_the_largest_run_can_be_saved_whatever_is_said(cluster: FakeCluster, store: KubernetesStore) -> None:
    """With a page of words from each worker, of each stage, and in each message the object stays below etcd's limit, and ends as it did."""
    draw = random.Random(1)
    run = large(draw)
    await store.create(run, [message(1, stage_id=run.definition.stages[0].stage_id)])
    assert len(run.request) > 500_000
    sequence = 1
    for number, (stage_id, stage) in enumerate(run.state.stages.items()):
        stage.phase, stage.status, stage.attempt, stage.message = Phase.ENDED, StageStatus.FAILED, 1, noise(draw, 2000)
        stage.failure = Failure(FailureCause.EXIT_CODE, stage.message, 1)
        stage.names = tuple(f"otto-{draw.getrandbits(64):016x}-{n}" for n in range(1, 11))
        stage.workers = {
            n: Worker(stage.names[n - 1], WorkerStatus.FAILED, 1.0, 1, FailureCause.EXIT_CODE, noise(draw, 100)) for n in range(1, 11)
        }
        if number % 2:
            stage.approval = Approval(("kim",), Decision.REJECT, "kim", noise(draw, 1000), 9.0)
        if not number % 200:
            said = [replace(message(sequence + 1 + n, stage_id=stage_id), message=stage.message, error=stage.message) for n in range(50)]
            sequence += len(said)
            await store.save(run, said, edge=True)
    run.state.error = noise(draw, 2000)
    await store.save(ended(run, 1_700_000_009.0, StageStatus.FAILED), [replace(message(sequence + 1), stage_id="")], edge=True)
    assert len(json.dumps(thing(cluster, "large"), ensure_ascii=False).encode()) < ETCD_BYTES
    async with store_in(cluster) as other:
        back = await other.load("large")
        assert back is not None
        assert back.state.ended_at == 1_700_000_009.0
        assert all(stage.failure is not None and stage.failure.exit_code == 1 for stage in back.state.stages.values())
        assert {stage.approval.decided_by for stage in back.state.stages.values() if stage.approval is not None} == {"kim"}
        assert [said.sequence for said in await other.progress("large", sequence, 9)] == [sequence + 1]


@pytest.mark.parametrize(("answer", "code"), [(ETCD_WORDS, 500), ("Request entity too large: limit is 3145728", 413)])
async def test_a_cluster_that_takes_less_is_told_less(
    cluster: FakeCluster, store: KubernetesStore, caplog: pytest.LogCaptureFixture, answer: str, code: int
) -> None:
    """Somebody has put much into the object's metadata, or etcd's limit is low: a save refused for that is made with fewer words."""
    draw, run = random.Random(2), record()
    await store.create(run, [message(1)])
    for stage in run.state.stages.values():
        stage.workers = {n: Worker(f"w-{n}", WorkerStatus.FAILED, words=noise(draw, 500)) for n in range(1, 200)}
    cluster.faults.answer(code, times=3, when=wrote("PATCH"), message=answer)
    await store.save(run, [replace(message(2), message=noise(draw, 2000))], edge=True)
    assert [r.message for r in caplog.records].count("executor.run.shortened") == 3
    again = await store.load("p")
    assert again is not None
    assert all(worker.words for stage in again.state.stages.values() for worker in stage.workers.values())
    assert [said.sequence for said in await store.progress("p", 0, 9)] == [1, 2]


async def test_what_no_words_less_would_mend_is_told_as_such(cluster: FakeCluster, store: KubernetesStore) -> None:
    """Nothing was done, and the words say what to look at; when that is mended it goes on."""
    run = record()
    await store.create(run, [message(1)])
    cluster.faults.answer(500, times=None, when=wrote("PATCH"), message=ETCD_WORDS)
    with pytest.raises(TooLargeToStoreError, match="max-request-bytes"):
        await store.save(run, [message(2)], edge=True)
    cluster.faults.heal()
    await store.save(run, [message(2)], edge=True)
    assert await store.load("p") == run


async def test_a_run_that_leaves_no_room_for_its_status_is_refused(store: KubernetesStore) -> None:
    """Before anything is stored, with the sizes and the stage that takes most."""
    draw = random.Random(3)
    stages: list[dict[str, Any]] = [{"stageId": noise(draw, 300), "command": ["true"]} for _ in range(480)]
    definition, request = understood({"stages": [*stages, {"stageId": "big", "command": ["x" * 9000]}]}, "wide", Settings(), "")
    with pytest.raises(
        RunTooLargeError, match=r"takes \d+ bytes, and \d+ more .* its 481 stages stand; .*Largest is stages\[480\] \(stage 'big'\)"
    ):
        await store.create(StoredRun(definition, request, fresh(definition, 1.5)), [message(1)])
    assert await store.load("wide") is None


@pytest.mark.parametrize("stages", [7, 1], ids=["too large for us", "too large for etcd"])
async def test_an_applied_run_that_is_too_large_is_refused(cluster: FakeCluster, fleet: Fleet, stages: int) -> None:  # noqa: F811  the fixture
    """Its spec is the user's and is not cut: where record and status don't fit beside it, it is told so and nobody tries for ever."""
    script = "".join(f"cat <{n} >{n}\n" for n in range(7000))
    spec = {"stages": [{"stageId": f"s{n}", "command": ["sh", "-c", script]} for n in range(stages)]}
    if stages == 1:
        cluster.faults.answer(500, times=None, when=lambda asked: wrote("PATCH")(asked) and asked.path.endswith("/big"), message=ETCD_WORDS)
    async with executor(cluster, fleet):
        applied(cluster, {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": "big"}, "spec": spec})
        await until(lambda: state(cluster, "big") == "Refused")
        assert "files of the repository" in thing(cluster, "big")["status"]["message"]
        assert not fleet.created


async def test_words_that_do_not_fit_are_told_in_short(cluster: FakeCluster, fleet: Fleet) -> None:  # noqa: F811  the fixture
    """An object that is full to the brim, and wrong in many places, is refused all the same."""
    stages = [{"stageId": "", "command": ["x" * 140_000]} for _ in range(7)] + [
        {"stageId": f"{n}", "dependsOn": ["no"]} for n in range(400)
    ]
    head: dict[str, Any] = {"apiVersion": WHOLE.api_version, "kind": WHOLE.name, "metadata": {"name": "big", "annotations": {"note": ""}}}
    body = {**head, "spec": {"stages": stages}}
    head["metadata"]["annotations"]["note"] = "x" * (ETCD_BYTES - len(json.dumps(body)) - 1000)
    async with executor(cluster, fleet):
        applied(cluster, body)
        async with asyncio.timeout(20):
            await until(lambda: state(cluster, "big") == "Refused")
        assert 0 < len(thing(cluster, "big")["status"]["message"]) <= 200
