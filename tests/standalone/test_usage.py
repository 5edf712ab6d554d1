"""A pipeline of a standalone tells what its workers used, from the processes to the client."""

import sys

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
BURNS = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
HOLDS = "import time\nheld = b'x' * (96 << 20)\ntime.sleep(2)\n"


async def test_stages_have_cpu_and_memory(standalone: Standalone) -> None:
    """One that burns CPU by its cores, one that holds memory by its megabytes, each of all its workers; the run has both."""
    burns = PipelineStage(stage_id="burns", command=[sys.executable, "-I", "-c"], args=[BURNS], worker_count=2)
    holds = PipelineStage(stage_id="holds", command=[sys.executable, "-I", "-c"], args=[HOLDS])
    told = {}
    async with standalone.channel() as channel:
        async for message in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[burns, holds])):
            told[message.stage_id] = message
    assert {message.status for message in told.values()} == {StageStatus.STAGE_COMPLETED}
    metrics = {name: message.metrics for name, message in told.items()}
    assert [metrics[name].measured_workers for name in ("burns", "holds", "")] == [2, 1, 3]
    assert 0 < metrics["burns"].avg_cpu_usage <= metrics["burns"].peak_cpu_usage < 2
    assert metrics["burns"].avg_cpu_usage * (metrics["burns"].duration_seconds + 1) > 0.35
    assert 96 << 20 <= metrics["holds"].peak_memory_mb * 1e6 <= 250 << 20
    assert metrics["holds"].avg_memory_mb <= metrics["holds"].peak_memory_mb == metrics[""].peak_memory_mb
