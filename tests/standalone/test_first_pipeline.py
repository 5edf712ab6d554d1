"""The thin path through everything: two stages, their progress, their logs, after the fact and again."""

import urllib.request
from pathlib import Path

from ottoscaler.v1.log_pb2 import BuildIdentifier, BuildLogKind
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from ..ports import HOST
from .conftest import Standalone, ottoctl, serving

HELLO = Path(__file__).resolve().parents[2] / "pipelines/hello.yaml"


def two_stages(pipeline_id: str) -> PipelineRequest:
    return PipelineRequest(
        pipeline_id=pipeline_id,
        stages=[
            PipelineStage(stage_id="build", command=["sh", "-c"], args=["echo built > result; echo building"]),
            PipelineStage(
                stage_id="test",
                command=["sh", "-c"],
                args=["cat result; echo worker $OTTO_WORKER_INDEX of $OTTO_WORKER_COUNT"],
                worker_count=2,
                depends_on=["build"],
            ),
        ],
    )


async def test_two_stages_run_and_their_logs_are_complete(standalone: Standalone) -> None:
    """A pipeline sent to OttoscalerService ends COMPLETED, shares its workspace along the DAG, and every line is there afterwards."""
    async with standalone.channel() as channel:
        seen = [message async for message in OttoscalerServiceStub(channel).ExecutePipeline(two_stages("first"))]
        assert [m.sequence for m in seen] == list(range(1, len(seen) + 1))
        assert (seen[-1].stage_id, seen[-1].status, seen[-1].overall_percentage) == ("", StageStatus.STAGE_COMPLETED, 100)

        entries = [e async for e in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="first"))]
        assert [e.sequence for e in entries] == list(range(1, len(entries) + 1))
        lines = sorted((e.stage_id, e.entry.message) for e in entries if e.kind == BuildLogKind.BUILD_LOG_KIND_LINE)
        assert lines == [("build", "building"), ("test", "built"), ("test", "built"), ("test", "worker 1 of 2"), ("test", "worker 2 of 2")]

        again = [message async for message in OttoscalerServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="first"))]
        assert all(m.replayed for m in again)
        assert [without_replayed(m) for m in again] == [without_replayed(m) for m in seen]


async def test_the_existing_client_finds_everything_on_one_address(standalone: Standalone) -> None:
    """The otto-handler client's habits: a health call with empty strings, and a silent log stream that ends with OK at a stop."""
    async with standalone.channel() as channel:
        answer = await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest(), timeout=5)
        assert answer.total_count == 0
        call = OttoHandlerLogServiceStub(channel).ForwardWorkerLogs()
        await call.initial_metadata()
        assert await standalone.stop() == 0
        assert (await call.code()).name == "OK"


async def test_the_pipeline_that_says_hello_runs_and_is_counted(tmp_path: Path) -> None:
    """`ottoctl pipeline run pipelines/hello.yaml` as the README has it, and /metrics afterwards."""
    async with serving(tmp_path / "state", OTTO_METRICS_LISTEN=f"{HOST}:0") as standalone:
        code, output = await ottoctl(standalone, "pipeline", "run", str(HELLO))
        assert (code, "Hello, world" in output) == (0, True), output
        with urllib.request.urlopen(f"http://{standalone.metrics}/metrics", timeout=30) as answer:
            assert 'otto_executor_pipeline_duration_seconds_count{status="completed"} 1.0' in answer.read().decode()


def without_replayed(message: PipelineProgress) -> PipelineProgress:
    plain = PipelineProgress()
    plain.CopyFrom(message)
    plain.replayed = False
    return plain
