"""PipelineService over a real port: running pipelines."""

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Bench, Executor


async def test_two_stages_run_one_after_the_other(bench: Bench, executor: Executor) -> None:
    """Progress is numbered without holes, the second stage's workers are created after the first's have ended, and the last is final."""
    request = PipelineRequest(
        pipeline_id="p",
        stages=[
            PipelineStage(stage_id="b", depends_on=["a"], worker_count=2, command=["true"]),
            PipelineStage(stage_id="a", command=["true"]),
        ],
    )
    seen = [m async for m in executor.client.ExecutePipeline(request)]
    assert [m.sequence for m in seen] == list(range(1, len(seen) + 1))
    assert (seen[-1].stage_id, seen[-1].status, seen[-1].overall_percentage) == ("", StageStatus.STAGE_COMPLETED, 100)
    assert not any(m.replayed for m in seen)
    assert [key[1:] for key in bench.fleet.created] == [("a", 1, 1), ("b", 1, 1), ("b", 1, 2)]
