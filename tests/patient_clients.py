"""Clients that do not give up while servers die under them, the work they ask for, and what must hold of what they saw.

The work is the six shared pipelines with their commands replaced and a random one of 30 stages. Two readers of each pipeline, one of
progress and one of log lines, re-attach behind the last sequence they saw, and must see every sequence once.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
import yaml

from otto_runtime.tasks import Backoff
from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogEntry, BuildLogKind, LogSelection
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.pipeline_pb2 import APPROVAL_DECISION_APPROVE, PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import ApproveStageRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, RunCondition, StageStatus

PIPELINES = sorted((Path(__file__).parent / "standalone" / "pipelines").glob("*.yaml"))
LINES = 12
"""Each worker writes."""
FINAL = {StageStatus.STAGE_COMPLETED, StageStatus.STAGE_FAILED, StageStatus.STAGE_CANCELLED}
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED}
"""What a killed server looks like to a client."""


class Server(Protocol):
    """Somewhere to call; it may come and go."""

    def channel(self) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        """A channel to where it is now."""
        ...


def script(note: str, ending: str) -> list[str]:
    """Runs `note`, writes numbered lines at a small pace, and ends."""
    return [f'{note}\ni=1; while [ $i -le {LINES} ]; do echo "line $i"; i=$((i+1)); sleep 0.02; done\n{ending}']


def shared(file: Path, note: str) -> PipelineRequest:
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
                args=script(note, "exit 0"),
            )
        )
    return PipelineRequest(pipeline_id=file.stem, stages=stages)


def drawn(draw: random.Random, note: str, pipeline_id: str = "random", count: int = 30) -> PipelineRequest:
    """So many stages with random dependencies: some fail once and are retried, some for good, some run only after a failure."""
    stages: list[PipelineStage] = []
    for number in range(count):
        needs = draw.sample([s.stage_id for s in stages], min(len(stages), draw.choice([0, 1, 1, 2, 3])))
        ending = draw.choices(["exit 0", '[ "$OTTO_ATTEMPT" -gt 1 ]', "exit 7"], [12, 4, 1])[0]
        stages.append(
            PipelineStage(
                stage_id=f"s{number} 단계",
                depends_on=needs,
                worker_count=draw.choice([1, 1, 1, 2, 3]),
                command=["sh", "-c"],
                args=script(note, ending),
                retry_policy=RetryPolicy(max_attempts=1),
                run_condition=draw.choices(
                    [RunCondition.RUN_CONDITION_UNSPECIFIED, RunCondition.RUN_CONDITION_ALWAYS, RunCondition.RUN_CONDITION_ON_FAILURE],
                    [10, 2, 1],
                )[0],
                ignore_errors=draw.random() < 0.2,
            )
        )
    return PipelineRequest(pipeline_id=pipeline_id, stages=stages)


class Account:
    """What two readers saw of a pipeline, across all connections."""

    def __init__(self, pipeline_id: str) -> None:
        self.pipeline_id = pipeline_id
        self.progress: list[PipelineProgress] = []
        self.notices: list[str] = []
        """That what happens can't be stored: messages without a sequence."""
        self.entries: list[BuildLogEntry] = []

    @property
    def ended(self) -> bool:
        return bool(self.progress) and not self.progress[-1].stage_id and self.progress[-1].status in FINAL

    def told(self) -> list[tuple[object, ...]]:
        """What was said, but for the mark of what was said before the client came."""
        return [
            *((m.sequence, m.stage_id, m.status, m.attempt, m.message, m.timestamp) for m in self.progress),
            *((e.sequence, e.kind, e.stage_id, e.attempt, e.entry.worker_id, e.entry.sequence, e.entry.message) for e in self.entries),
        ]

    def outcome(self) -> dict[str, tuple[str, int]]:
        """How each stage ended, and after how many attempts."""
        return {
            m.stage_id: (StageStatus.Name(m.status), m.attempt)
            for m in self.progress
            if m.status in FINAL or m.status == StageStatus.STAGE_SKIPPED
        }


class Clients:
    """Clients of a server that comes and goes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.up = asyncio.Event()
        """Cleared while whoever kills the server knows that it is not there."""
        self.up.set()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """To the server, once it may be there."""
        await self.up.wait()
        async with self.server.channel() as channel:
            yield channel

    async def insist(self, attempt: Callable[[grpc.aio.Channel], Awaitable[bool]]) -> None:
        """Calls until it says that it is done; a server that dies under it is called again."""
        backoff = Backoff(0.05, 0.5)
        while True:
            try:
                async with self.channel() as channel:
                    if await attempt(channel):
                        return
                backoff.reset()
            except grpc.aio.AioRpcError as error:
                if error.code() not in AGAIN:
                    raise
            await backoff.wait()

    async def submit(self, request: PipelineRequest) -> None:
        """Has it run; that it is known already is what a lost answer to an earlier try looks like."""

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
        """To its end."""

        async def once(channel: grpc.aio.Channel) -> bool:
            after = account.progress[-1].sequence if account.progress else 0
            request = WatchPipelineRequest(pipeline_id=account.pipeline_id, after_sequence=after)
            async for message in PipelineServiceStub(channel).WatchPipeline(request):
                if message.sequence:
                    account.progress.append(message)
                else:
                    account.notices.append(message.message)
            return account.ended

        await self.insist(once)

    async def follow_lines(self, account: Account) -> None:
        """To its end; until the account has the end of the pipeline too, it attaches again."""

        async def once(channel: grpc.aio.Channel) -> bool:
            after = account.entries[-1].sequence if account.entries else 0
            selection = LogSelection(after_sequence=after)
            request = BuildIdentifier(pipeline_id=account.pipeline_id, selection=selection)
            async for entry in LogStreamingServiceStub(channel).StreamBuildLogs(request):
                if entry.kind != BuildLogKind.BUILD_LOG_KIND_HEARTBEAT:
                    account.entries.append(entry)
            return account.ended

        await self.insist(once)

    async def replayed(self, account: Account) -> bool:
        """Whether a client that comes only now is told the same: every message and every entry, under the same sequences."""
        fresh = Account(account.pipeline_id)
        async with self.channel() as channel:
            async for message in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=account.pipeline_id)):
                fresh.progress.append(message)
            async for entry in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id=account.pipeline_id)):
                fresh.entries.append(entry)
        return fresh.told() == account.told()

    async def approve(self, pipeline_id: str, stage_id: str) -> None:
        """Says yes."""

        async def once(channel: grpc.aio.Channel) -> bool:
            request = ApproveStageRequest(pipeline_id=pipeline_id, stage_id=stage_id, decision=APPROVAL_DECISION_APPROVE, user="team-leads")
            await PipelineServiceStub(channel).ApproveStage(request)
            return True

        await self.insist(once)

    async def run(self, request: PipelineRequest) -> Account:
        """From its submission to its end."""
        account = Account(request.pipeline_id)
        await self.submit(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follow_progress(account), name="progress")
            group.create_task(self.follow_lines(account), name="lines")
        return account


async def everything(clients: Clients, requests: Sequence[PipelineRequest]) -> dict[str, Account]:
    """All at once, by their ids."""
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(clients.run(request), name=request.pipeline_id) for request in requests]
    return {account.pipeline_id: account for account in (run.result() for run in runs)}


def check(requests: Sequence[PipelineRequest], accounts: dict[str, Account]) -> set[str]:
    """No hole, no repeat, no line lost or doubled. Returns the workers there can have been: pipeline|stage|attempt|index."""
    expected: set[str] = set()
    for request in requests:
        account = accounts[request.pipeline_id]
        assert [m.sequence for m in account.progress] == list(range(1, len(account.progress) + 1))
        assert [e.sequence for e in account.entries] == list(range(1, len(account.entries) + 1))
        lines: dict[tuple[str, int, str], list[str]] = {}
        sequences: dict[str, list[int]] = {}
        for entry in account.entries:
            assert entry.kind != BuildLogKind.BUILD_LOG_KIND_GAP
            if entry.kind == BuildLogKind.BUILD_LOG_KIND_LINE:
                lines.setdefault((entry.stage_id, entry.attempt, entry.entry.worker_id), []).append(entry.entry.message)
                sequences.setdefault(entry.entry.worker_id, []).append(entry.entry.sequence)
        assert all(found == list(range(1, len(found) + 1)) for found in sequences.values())
        counts = {stage.stage_id: stage.worker_count or 1 for stage in request.stages}
        full = [f"line {number}" for number in range(1, LINES + 1)]
        ignored = {stage.stage_id for stage in request.stages if stage.ignore_errors}
        for stage_id, (status, attempts) in account.outcome().items():
            for attempt in range(1, attempts + 1) if stage_id else ():
                count = counts[stage_id]
                found = [said for (stage, number, _), said in lines.items() if (stage, number) == (stage_id, attempt)]
                expected |= {f"{request.pipeline_id}|{stage_id}|{attempt}|{index + 1}" for index in range(count)}
                if whole(count, last=attempt == attempts, status=status, ignored=stage_id in ignored):
                    assert found == [full] * count, (request.pipeline_id, stage_id, attempt, found)
                assert all(said == full[: len(said)] for said in found)
                assert len(found) <= count
    return expected


def must_have_run(requests: Sequence[PipelineRequest], accounts: dict[str, Account]) -> set[str]:
    """The workers that must have begun: pipeline|stage|attempt|index."""
    workers: set[str] = set()
    for request in requests:
        stages = {stage.stage_id: stage for stage in request.stages}
        for stage_id, (status, attempts) in accounts[request.pipeline_id].outcome().items():
            for attempt in range(1, attempts + 1) if stage_id else ():
                count = stages[stage_id].worker_count or 1
                if whole(count, last=attempt == attempts, status=status, ignored=stages[stage_id].ignore_errors):
                    workers |= {f"{request.pipeline_id}|{stage_id}|{attempt}|{index + 1}" for index in range(count)}
    return workers


def whole(count: int, *, last: bool, status: str, ignored: bool) -> bool:
    """Whether all workers of an attempt reached their end: one that is stopped because another of its attempt failed may not have."""
    return count == 1 or (last and status == "STAGE_COMPLETED" and not ignored)


def requests_for(seed: int, note: str) -> list[PipelineRequest]:
    """The six shared pipelines and a random one. Each worker runs `note` first."""
    requests = [shared(file, note) for file in PIPELINES]
    for stage in requests[2].stages:
        if stage.stage_id == "approve-production":
            stage.config["otto.approvers"] = "team-leads"
    return [*requests, drawn(random.Random(seed), note)]


async def approve_when_asked(clients: Clients, pipeline_id: str = "3-monorepo-approval") -> None:
    """Somebody who says yes to the third pipeline as soon as it is there; a decision ahead of its turn counts too."""
    while True:
        try:
            await clients.approve(pipeline_id, "approve-production")
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            return
        await asyncio.sleep(0.05)
