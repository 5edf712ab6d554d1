"""Standalone is killed again and again at seeded moments, while six real pipelines and a random one of 30 stages run.

What runs is compared with the same pipelines run without any kill: every stage ends as it would have, after as many attempts. What the
workers did is counted by what they themselves wrote, outside the service's state: one note per worker and attempt. Two readers, one of
progress and one of log lines, re-attach behind the last sequence they saw, and must see every sequence once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml

from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogEntry, BuildLogKind, LogSelection
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.pipeline_pb2 import APPROVAL_DECISION_APPROVE, PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import ApproveStageRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, RunCondition, StageStatus

from .conftest import Standalone, serving

PIPELINES = sorted((Path(__file__).parent / "pipelines").glob("*.yaml"))
SEEDS = range(9)
KILLS = 8
"""At most, in one round of a seed: none comes when everything has ended."""
MOMENTS = 6
"""Kills per seed that have to hit something that runs: 54 in all."""
ROUNDS = 4
"""At most, to reach them."""
LINES = 12
FINAL = {StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED}
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED}
"""What a killed server looks like to a client."""


def script(marks: Path, ending: str) -> list[str]:
    """Notes that it runs, writes numbered lines at a small pace, and ends."""
    return [
        f'echo "$OTTO_PIPELINE_ID|$OTTO_STAGE_ID|$OTTO_ATTEMPT|$OTTO_WORKER_INDEX" >> {marks}\n'
        f'i=1; while [ $i -le {LINES} ]; do echo "line $i"; i=$((i+1)); sleep 0.02; done\n{ending}'
    ]


def shared(file: Path, marks: Path) -> PipelineRequest:
    """A real pipeline with only its commands replaced."""
    stages = []
    for job in yaml.safe_load(file.read_text()):
        needs = job.get("dependencies", [])
        config = {key: value if isinstance(value, str) else yaml.safe_dump(value) for key, value in job.get("config", {}).items()}
        stages.append(
            PipelineStage(
                stage_id=job["name"],
                depends_on=[needs] if isinstance(needs, str) else needs,
                worker_count=job.get("worker_count", 1),
                config={key: value for key, value in config.items() if key == "otto.run_if"},
                command=["sh", "-c"],
                args=script(marks, "exit 0"),
            )
        )
    return PipelineRequest(pipeline_id=file.stem, stages=stages)


def drawn(draw: random.Random, marks: Path) -> PipelineRequest:
    """Thirty stages with random dependencies: some fail once and are retried, some for good, some run only after a failure."""
    stages: list[PipelineStage] = []
    for number in range(30):
        needs = draw.sample([s.stage_id for s in stages], min(len(stages), draw.choice([0, 1, 1, 2, 3])))
        ending = draw.choices(["exit 0", '[ "$OTTO_ATTEMPT" -gt 1 ]', "exit 7"], [12, 4, 1])[0]
        stages.append(
            PipelineStage(
                stage_id=f"s{number} 단계",
                depends_on=needs,
                worker_count=draw.choice([1, 1, 1, 2, 3]),
                command=["sh", "-c"],
                args=script(marks, ending),
                retry_policy=RetryPolicy(max_attempts=1),
                run_condition=draw.choices(
                    [RunCondition.RUN_CONDITION_UNSPECIFIED, RunCondition.RUN_CONDITION_ALWAYS, RunCondition.RUN_CONDITION_ON_FAILURE],
                    [10, 2, 1],
                )[0],
                ignore_errors=draw.random() < 0.2,
            )
        )
    return PipelineRequest(pipeline_id="random", stages=stages)


class Account:
    """What two readers saw of a pipeline, across all connections."""

    def __init__(self, pipeline_id: str) -> None:
        self.pipeline_id = pipeline_id
        self.progress: list[PipelineProgress] = []
        self.entries: list[BuildLogEntry] = []

    @property
    def ended(self) -> bool:
        return bool(self.progress) and not self.progress[-1].stage_id and self.progress[-1].status in FINAL

    def outcome(self) -> dict[str, tuple[str, int]]:
        """How each stage ended, and after how many attempts."""
        return {
            m.stage_id: (StageStatus.Name(m.status), m.attempt)
            for m in self.progress
            if m.status in FINAL or m.status == StageStatus.STAGE_SKIPPED
        }


class World:
    """A standalone that comes and goes, and clients that do not give up."""

    def __init__(self, standalone: Standalone) -> None:
        self.standalone = standalone
        self.up = asyncio.Event()
        self.up.set()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        await self.up.wait()
        async with self.standalone.channel() as channel:
            yield channel

    async def insist(self, attempt: Callable[[grpc.aio.Channel], Awaitable[bool]]) -> None:
        """Calls until it says that it is done; a server that dies under it is called again."""
        while True:
            try:
                async with self.channel() as channel:
                    if await attempt(channel):
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() not in AGAIN:
                    raise
            await asyncio.sleep(0.05)

    async def submit(self, request: PipelineRequest) -> None:
        async def once(channel: grpc.aio.Channel) -> bool:
            call = PipelineServiceStub(channel).ExecutePipeline(request)
            try:
                async for _ in call:
                    return True
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return True
                raise
            return False

        await self.insist(once)

    async def follow_progress(self, account: Account) -> None:
        async def once(channel: grpc.aio.Channel) -> bool:
            after = account.progress[-1].sequence if account.progress else 0
            request = WatchPipelineRequest(pipeline_id=account.pipeline_id, after_sequence=after)
            async for message in PipelineServiceStub(channel).WatchPipeline(request):
                account.progress.append(message)
            return account.ended

        await self.insist(once)

    async def follow_lines(self, account: Account) -> None:
        async def once(channel: grpc.aio.Channel) -> bool:
            after = account.entries[-1].sequence if account.entries else 0
            selection = LogSelection(after_sequence=after)
            request = BuildIdentifier(pipeline_id=account.pipeline_id, selection=selection)
            async for entry in LogStreamingServiceStub(channel).StreamBuildLogs(request):
                if entry.kind != BuildLogKind.BUILD_LOG_KIND_HEARTBEAT:
                    account.entries.append(entry)
            return account.ended

        await self.insist(once)

    async def approve(self, pipeline_id: str, stage_id: str) -> None:
        async def once(channel: grpc.aio.Channel) -> bool:
            request = ApproveStageRequest(pipeline_id=pipeline_id, stage_id=stage_id, decision=APPROVAL_DECISION_APPROVE, user="team-leads")
            await PipelineServiceStub(channel).ApproveStage(request)
            return True

        await self.insist(once)

    async def run(self, request: PipelineRequest) -> Account:
        account = Account(request.pipeline_id)
        await self.submit(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follow_progress(account), name="progress")
            group.create_task(self.follow_lines(account), name="lines")
        return account

    async def kill_and_start(self) -> None:
        self.up.clear()
        await self.standalone.kill()
        await self.standalone.start()
        self.up.set()


async def everything(world: World, requests: list[PipelineRequest]) -> dict[str, Account]:
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(world.run(request), name=request.pipeline_id) for request in requests]
    return {account.pipeline_id: account for account in (run.result() for run in runs)}


def check(requests: list[PipelineRequest], accounts: dict[str, Account], marks: Path) -> None:
    """No hole, no repeat, no worker twice, no line lost or doubled."""
    started = Counter(marks.read_text().splitlines())
    assert set(started.values()) == {1}, [mark for mark, count in started.items() if count > 1]
    expected: set[str] = set()
    for request in requests:
        account = accounts[request.pipeline_id]
        assert [m.sequence for m in account.progress] == list(range(1, len(account.progress) + 1))
        assert [e.sequence for e in account.entries] == list(range(1, len(account.entries) + 1))
        lines: dict[tuple[str, int, str], list[str]] = {}
        for entry in account.entries:
            assert entry.kind != BuildLogKind.BUILD_LOG_KIND_GAP
            if entry.kind == BuildLogKind.BUILD_LOG_KIND_LINE:
                lines.setdefault((entry.stage_id, entry.attempt, entry.entry.worker_id), []).append(entry.entry.message)
        counts = {stage.stage_id: stage.worker_count or 1 for stage in request.stages}
        full = [f"line {number}" for number in range(1, LINES + 1)]
        ignored = {stage.stage_id for stage in request.stages if stage.ignore_errors}
        for stage_id, (status, attempts) in account.outcome().items():
            for attempt in range(1, attempts + 1) if stage_id else ():
                count = counts[stage_id]
                found = [said for (stage, number, _), said in lines.items() if (stage, number) == (stage_id, attempt)]
                marks_of = {f"{request.pipeline_id}|{stage_id}|{attempt}|{index + 1}" for index in range(count)}
                expected |= marks_of
                # A worker that is stopped because another one of its attempt failed may end before its last line, or its first.
                if count == 1 or (attempt == attempts and status == "STAGE_COMPLETED" and stage_id not in ignored):
                    assert found == [full] * count, (request.pipeline_id, stage_id, attempt, found)
                    assert marks_of <= set(started), (marks_of, started)
                assert all(said == full[: len(said)] for said in found)
                assert len(found) <= count
    assert set(started) <= expected, set(started) - expected


def requests_for(seed: int, marks: Path) -> list[PipelineRequest]:
    requests = [shared(file, marks) for file in PIPELINES]
    for stage in requests[2].stages:
        if stage.stage_id == "approve-production":
            stage.config["otto.approvers"] = "team-leads"
    return [*requests, drawn(random.Random(seed), marks)]


async def outcome_of(directory: Path, seed: int, moments: list[float]) -> tuple[dict[str, dict[str, tuple[str, int]]], int]:
    """How every pipeline of a seed ended in a state of its own, checked, and how many of the kills hit something that ran.

    `moments` are the seconds before each kill, counted from the start before it.
    """
    directory.mkdir()
    marks = directory / "marks"
    requests = requests_for(seed, marks)
    hit = 0
    async with serving(directory / "state") as standalone, asyncio.timeout(110):
        world = World(standalone)
        running = asyncio.create_task(everything(world, requests), name="everything")
        approving = asyncio.create_task(approve_when_asked(world), name="approve")
        try:
            for moment in moments:
                await asyncio.wait({running}, timeout=moment)
                if running.done():
                    break
                hit += 1
                await world.kill_and_start()
            accounts = await running
        finally:
            for task in (running, approving):
                task.cancel()
            await asyncio.gather(running, approving, return_exceptions=True)
    check(requests, accounts, marks)
    return {pipeline_id: account.outcome() for pipeline_id, account in accounts.items()}, hit


@pytest.mark.long
@pytest.mark.timeout(360)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nobody_notices_but_the_log(tmp_path: Path, seed: int) -> None:
    """Killed with SIGKILL at seeded moments, everything ends as it does without a kill, nothing ran twice, no line is missing."""
    calm, _ = await outcome_of(tmp_path / "calm", seed, [])
    draw = random.Random(f"{seed} moments")
    hits = 0
    # A fast machine has ended everything before enough kills came: then all of it runs and is killed once more.
    for turn in range(ROUNDS):
        moments = [draw.uniform(0.02, 0.8) for _ in range(KILLS)]
        outcome, hit = await outcome_of(tmp_path / f"killed-{turn}", seed, moments)
        assert outcome == calm
        hits += hit
        if hits >= MOMENTS:
            return
    pytest.fail(f"only {hits} kills hit something that ran, in {ROUNDS} rounds")


async def approve_when_asked(world: World) -> None:
    """Somebody who says yes to the third pipeline as soon as it is there; a decision ahead of its turn counts too."""
    while True:
        try:
            await world.approve("3-monorepo-approval", "approve-production")
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            return
        await asyncio.sleep(0.05)
