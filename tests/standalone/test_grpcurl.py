"""grpcurl with reflection finds and calls every service on the one port."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from .conftest import Standalone

GRPCURL = Path(sys.executable).parent / "grpcurl"


async def grpcurl(standalone: Standalone, *arguments: str, data: str = "") -> tuple[int, str]:
    options = ["-plaintext", "-max-time", "10", *(["-d", data] if data else []), standalone.address, *arguments]
    process = await asyncio.create_subprocess_exec(str(GRPCURL), *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_lists_every_service(standalone: Standalone) -> None:
    """Reflection names our four services, health and itself."""
    code, output = await grpcurl(standalone, "list")
    assert code == 0
    assert set(output.split()) >= {
        "grpc.health.v1.Health",
        "ottoscaler.v1.LogStreamingService",
        "ottoscaler.v1.OttoHandlerLogService",
        "ottoscaler.v1.OttoscalerService",
        "ottoscaler.v1.PipelineService",
    }


@pytest.mark.parametrize(
    ("method", "data", "expected"),
    [
        (
            "OttoscalerService/ScaleUp",
            '{"task_id": "t", "worker_count": 1, "build_config": {"otto.command": "echo hi"}}',
            "worker_pod_names",
        ),
        ("OttoscalerService/GetWorkerStatus", "{}", "{"),
        ("OttoscalerService/ScaleDown", '{"task_id": "t"}', "message"),
        ("OttoscalerService/ReleaseWorkers", "{}", "{"),
        ("OttoscalerService/DeleteWorkspace", '{"workspace": "none"}', "{"),
        (
            "OttoscalerService/ExecutePipeline",
            '{"pipeline_id": "p", "stages": [{"stage_id": "s", "command": ["true"]}]}',
            "STAGE_COMPLETED",
        ),
        ("PipelineService/ExecutePipeline", '{"pipeline_id": "q", "stages": [{"stage_id": "s", "command": ["true"]}]}', "STAGE_COMPLETED"),
        ("PipelineService/ValidatePipeline", '{"pipeline": {"pipeline_id": "p"}}', "problems"),
        ("PipelineService/ListPipelines", "{}", "{"),
        ("LogStreamingService/RegisterWorker", '{"worker_id": "w"}', "session_id"),
        ("LogStreamingService/StreamLogs", '{"worker_id": "w", "message": "a line"}', "sequence"),
        ("OttoHandlerLogService/NotifyWorkerStatus", '{"worker_id": "w", "status": "COMPLETED"}', "{"),
        ("OttoHandlerLogService/ForwardWorkerLogs", '{"worker_id": "v", "message": "a line"}', "sequence"),
    ],
    ids=lambda value: value if "/" in str(value) else "",
)
async def test_calls_every_service(standalone: Standalone, method: str, data: str, expected: str) -> None:
    """Each RPC answers a plain grpcurl call with what its contract promises."""
    code, output = await grpcurl(standalone, f"ottoscaler.v1.{method}", data=data)
    assert code == 0, output
    assert expected in output


async def test_a_run_can_be_read_back(standalone: Standalone) -> None:
    """GetPipeline, WatchPipeline, CancelPipeline, StreamBuildLogs, StreamWorkerLogs and TailLogs work on a run that has ended."""
    stages = '[{"stage_id": "s", "command": ["echo", "said"]}]'
    code, output = await grpcurl(
        standalone, "ottoscaler.v1.PipelineService/ExecutePipeline", data=f'{{"pipeline_id": "r", "stages": {stages}}}'
    )
    assert code == 0, output
    code, output = await grpcurl(standalone, "ottoscaler.v1.PipelineService/GetPipeline", data='{"pipeline_id": "r"}')
    assert code == 0, output
    worker = json.loads(output)["stages"][0]["worker_pod_names"][0]
    for method, data, expected in (
        ("PipelineService/WatchPipeline", '{"pipeline_id": "r"}', "STAGE_COMPLETED"),
        ("PipelineService/CancelPipeline", '{"pipeline_id": "r"}', "PIPELINE_STATE_COMPLETED"),
        ("LogStreamingService/StreamBuildLogs", '{"pipeline_id": "r"}', '"said"'),
        ("LogStreamingService/StreamWorkerLogs", f'{{"worker_id": "{worker}"}}', '"said"'),
        ("LogStreamingService/TailLogs", f'{{"worker": {{"worker_id": "{worker}"}}}}', '"said"'),
    ):
        code, output = await grpcurl(standalone, f"ottoscaler.v1.{method}", data=data)
        assert code == 0, (method, output)
        assert expected in output, method
