"""Stored lines that are damaged while nobody looks: what is lost is counted, the rest is read, nothing is destroyed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogEntry, BuildLogKind, LogSelection, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone

pytestmark = pytest.mark.slow

LINES = 2000


async def run(standalone: Standalone, pipeline_id: str = "p") -> str:
    """A pipeline of one worker that writes numbered lines; returns the worker's name once all of them are stored."""
    stage = PipelineStage(stage_id="only", command=["sh", "-c"], args=[f"seq 1 {LINES}"])
    worker = ""
    async with standalone.channel() as channel:
        async for message in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id, stages=[stage])):
            worker = message.worker_pod_names[0] if message.worker_pod_names else worker
            last = message
        assert last.status == StageStatus.STAGE_COMPLETED
        assert len(await lines(standalone, pipeline_id)) == LINES
    return worker


async def entries(standalone: Standalone, pipeline_id: str) -> list[BuildLogEntry]:
    async with standalone.channel() as channel, asyncio.timeout(30):
        return [e async for e in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id=pipeline_id))]


async def lines(standalone: Standalone, pipeline_id: str) -> list[str]:
    return [e.entry.message for e in await entries(standalone, pipeline_id) if e.kind == BuildLogKind.BUILD_LOG_KIND_LINE]


def segment(standalone: Standalone) -> Path:
    (found,) = (standalone.state / "spool" / "workers").glob("*/*.seg")
    return found


def events(standalone: Standalone) -> list[dict[str, Any]]:
    return [json.loads(line) for line in standalone.log.read_text().splitlines() if line.startswith("{")]


async def test_bytes_in_the_middle_of_a_segment_cost_the_lines_they_were(standalone: Standalone) -> None:
    """A reader gets every other line, a GAP with the count of those that are gone, and the log names the file.

    Those are the lines that were hit, and all of a block (BLOCK_LINES) whose head was.
    """
    await run(standalone)
    await standalone.stop()
    path = segment(standalone)
    before = path.read_bytes()
    damaged = before[:40_000] + b"\0" * 500 + before[40_500:]
    path.write_bytes(damaged)
    await standalone.start()
    found = await entries(standalone, "p")
    got = [e.entry.message for e in found if e.kind == BuildLogKind.BUILD_LOG_KIND_LINE]
    gaps = [e.dropped for e in found if e.kind == BuildLogKind.BUILD_LOG_KIND_GAP]
    assert len(gaps) == 1
    assert 0 < gaps[0] < 20 + 32
    assert len(got) + gaps[0] == LINES
    assert got == sorted(got, key=int)
    assert [e["path"] for e in events(standalone) if e["event"] == "relay.spool.damaged"] == [str(path)]
    assert path.read_bytes() == damaged


async def test_a_segment_that_was_cut_short_ends_with_a_gap(standalone: Standalone) -> None:
    """What is missing at the end is counted too, and readers come to their end."""
    await run(standalone)
    await standalone.stop()
    path = segment(standalone)
    path.write_bytes(path.read_bytes()[:50_000])
    await standalone.start()
    found = await entries(standalone, "p")
    got = [e.entry.message for e in found if e.kind == BuildLogKind.BUILD_LOG_KIND_LINE]
    assert got == [str(number) for number in range(1, len(got) + 1)]
    assert len(got) + sum(e.dropped for e in found if e.kind == BuildLogKind.BUILD_LOG_KIND_GAP) == LINES


def nothing(log: Path) -> None:
    log.write_bytes(b"")


def spoil_eighth(log: Path) -> None:
    data = log.read_bytes()
    log.write_bytes(data.replace(b"stdout F line 8\n", b"std\0ut F line 8\n"))


@pytest.mark.parametrize(
    ("before", "after", "lost", "at"),
    [(None, spoil_eighth, {"line 8"}, "line 7"), (nothing, None, set(), "line 5")],
    ids=["a damaged record", "cut to nothing"],
)
async def test_a_workers_own_log_that_is_damaged_is_told_and_read_on(
    standalone: Standalone, before: Callable[[Path], None] | None, after: Callable[[Path], None] | None, lost: set[str], at: str
) -> None:
    """Hit while no service runs and the worker goes on: readers and the service's log are told, every other line comes once."""
    count = 'while [ $i -le $last ]; do echo "line $i"; i=$((i+1)); done'
    wait = 'while [ ! -e "$OTTO_WORKSPACE/$1" ]; do sleep 0.02; done'
    script = f'wait_for() {{ {wait}; }}; i=1; last=5; {count}; wait_for on; last=10; {count}; touch "$OTTO_WORKSPACE/done"; wait_for end'
    stage = PipelineStage(stage_id="only", command=["sh", "-c"], args=[script])
    async with standalone.channel() as channel, asyncio.timeout(30):
        await PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage])).read()
        stream = LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="p"))
        async for entry in stream:
            if entry.entry.message == "line 5":
                worker = entry.entry.worker_id
                break
    await standalone.kill()
    log = standalone.state / "workers" / worker / "log"
    (workspace,) = (path for path in (standalone.state / "workspaces").iterdir() if not path.name.startswith("."))
    if before is not None:
        before(log)
    (workspace / "on").touch()
    async with asyncio.timeout(30):
        while not (workspace / "done").exists() or b"line 10" not in log.read_bytes():
            await asyncio.sleep(0.02)
    if after is not None:
        after(log)
    await standalone.start()
    (workspace / "end").touch()
    said = [e.entry for e in await entries(standalone, "p") if e.kind == BuildLogKind.BUILD_LOG_KIND_LINE]
    messages = [line.message for line in said]
    assert [text for text in messages if text.startswith("line")] == [f"line {n}" for n in range(1, 11) if f"line {n}" not in lost]
    (notice,) = [line for line in said if line.metadata.get("otto.notice")]
    assert notice.metadata["otto.notice"] == "log_incomplete"
    assert messages[messages.index(notice.message) - 1] == at
    told = [e for e in events(standalone) if e["event"] == "relay.worker.incomplete"]
    assert [(e["worker"], f"[ottoscaler] {e['reason']}") for e in told] == [(worker, notice.message)]


@pytest.mark.parametrize("left", [b"", b"{", b"\xff\xfe"], ids=["empty", "cut", "garbage"])
async def test_lines_whose_facts_are_damaged_are_collected_again(standalone: Standalone, left: bytes) -> None:
    """As long as the worker is kept, its log is there: nothing is missing, nothing is doubled."""
    worker = await run(standalone)
    await standalone.stop()
    (facts,) = (standalone.state / "spool" / "workers").glob("*/worker.json")
    facts.write_bytes(left)
    await standalone.start()
    async with standalone.channel() as channel, asyncio.timeout(30):
        selection = LogSelection(no_follow=False)
        stream = LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=worker, selection=selection))
        assert [e.message async for e in stream] == [str(number) for number in range(1, LINES + 1)]
