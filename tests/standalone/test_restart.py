"""Standalone is killed in the middle of a pipeline and started again."""

import asyncio
import itertools
from pathlib import Path

import grpc
import pytest

from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogKind
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone

pytestmark = pytest.mark.slow


def stages(marks: Path) -> list[PipelineStage]:
    """Three stages in a row and one beside them; each worker notes each of its starts in a file outside the state directory."""
    script = (
        f'echo "$OTTO_STAGE_ID.$OTTO_ATTEMPT.$OTTO_WORKER_INDEX" >> {marks}; for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.1; done'
    )
    return [
        PipelineStage(stage_id=name, command=["sh", "-c"], args=[script], depends_on=needs, worker_count=count)
        for name, needs, count in (("a", [], 2), ("b", ["a"], 2), ("c", ["b"], 1), ("beside", [], 1))
    ]


@pytest.mark.parametrize("moment", [0.05, 0.5, 1.0, 1.7])
async def test_a_pipeline_ends_right_after_kill_9(standalone: Standalone, tmp_path: Path, moment: float) -> None:
    """Killed and started again, it completes; no worker started twice, no progress message and no log line is missing or doubled."""
    marks = tmp_path / "marks"
    seen: list[PipelineProgress] = []
    async with standalone.channel() as channel:
        call = PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="k", stages=stages(marks)))
        seen.append(await anext(aiter(call)))
        killed = asyncio.create_task(kill_later(standalone, moment), name="kill later")
        try:
            async for message in call:
                seen.append(message)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  the kill may also fall after the last message
        await killed
    await standalone.start()
    async with standalone.channel() as channel:
        after = seen[-1].sequence
        seen += [m async for m in PipelineServiceStub(channel).WatchPipeline(WatchPipelineRequest(pipeline_id="k", after_sequence=after))]
        assert [m.sequence for m in seen] == list(range(1, len(seen) + 1))
        assert (seen[-1].stage_id, seen[-1].status) == ("", StageStatus.STAGE_COMPLETED)

        assert sorted(marks.read_text().split()) == ["a.1.1", "a.1.2", "b.1.1", "b.1.2", "beside.1.1", "c.1.1"]
        entries = [e async for e in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="k"))]
        assert [e.sequence for e in entries] == list(range(1, len(entries) + 1))
        lines = [e.entry for e in entries if e.kind == BuildLogKind.BUILD_LOG_KIND_LINE]
        lines.sort(key=lambda e: (e.worker_id, e.sequence))
        by_worker = {worker: [e.message for e in group] for worker, group in itertools.groupby(lines, key=lambda e: e.worker_id)}
        assert len(by_worker) == 6
        assert all(said == [f"line {i}" for i in range(1, 9)] for said in by_worker.values())


async def kill_later(standalone: Standalone, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await standalone.kill()


async def test_a_second_instance_says_who_holds_the_state(standalone: Standalone) -> None:
    """A second process on the same state directory ends with a sentence that names the directory and the holder, and harms nothing."""
    second = Standalone(standalone.state)
    second._starts = 10
    with pytest.raises(AssertionError, match=f"held by another instance \\(process {standalone.process.pid}\\)"):
        await second.start()
    assert standalone.process.returncode is None
