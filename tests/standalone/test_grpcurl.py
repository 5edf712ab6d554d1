"""grpcurl, knowing nothing but the address, finds and calls every method of every service by reflection."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from .conftest import Standalone

pytestmark = pytest.mark.slow

GRPCURL = Path(sys.executable).parent / "grpcurl"
STAGES = '[{"stage_id": "s", "command": ["echo", "said"]}]'

CALLS = [
    ("OttoscalerService/ScaleUp", '{"task_id": "t", "worker_count": 1, "build_config": {"otto.command": "echo hi"}}', "worker_pod_names"),
    ("OttoscalerService/GetWorkerStatus", "{}", "{"),
    ("OttoscalerService/ScaleDown", '{"task_id": "t"}', "message"),
    ("OttoscalerService/ReleaseWorkers", "{}", "{"),
    ("OttoscalerService/DeleteWorkspace", '{"workspace": "none"}', "{"),
    ("OttoscalerService/ExecutePipeline", f'{{"pipeline_id": "p", "stages": {STAGES}}}', "STAGE_COMPLETED"),
    ("PipelineService/ExecutePipeline", f'{{"pipeline_id": "q", "stages": {STAGES}}}', "STAGE_COMPLETED"),
    ("PipelineService/ValidatePipeline", '{"pipeline": {"pipeline_id": "p"}}', "problems"),
    ("PipelineService/ListPipelines", "{}", "{"),
    ("LogStreamingService/RegisterWorker", '{"worker_id": "w"}', "session_id"),
    ("LogStreamingService/StreamLogs", '{"worker_id": "w", "message": "one"} {"worker_id": "w", "message": "two"}', '"sequence": "2"'),
    ("OttoHandlerLogService/NotifyWorkerStatus", '{"worker_id": "w", "status": "COMPLETED"}', "{"),
    ("OttoHandlerLogService/ForwardWorkerLogs", '{"worker_id": "v", "message": "one"} {"worker_id": "v"}', '"sequence": "2"'),
]
"""What can be called on its own: method, request, a part of the answer."""
READING = [
    ("PipelineService/GetPipeline", '{"pipeline_id": "r"}', "PIPELINE_STATE_COMPLETED"),
    ("PipelineService/WatchPipeline", '{"pipeline_id": "r"}', "STAGE_COMPLETED"),
    ("PipelineService/RerunPipeline", '{"pipeline_id": "r", "new_pipeline_id": "r2"}', '"r2"'),
    ("PipelineService/CancelPipeline", '{"pipeline_id": "r"}', "PIPELINE_STATE_COMPLETED"),
    ("LogStreamingService/StreamBuildLogs", '{"pipeline_id": "r"}', '"said"'),
    ("LogStreamingService/StreamWorkerLogs", '{"worker_id": "WORKER"}', '"said"'),
    ("LogStreamingService/TailLogs", '{"worker": {"worker_id": "WORKER"}}', '"said"'),
    ("LogStreamingService/TailLogs", '{"build": {"pipeline_id": "r"}}', '"said"'),
]
"""What needs a run that has ended: `r` with the worker WORKER."""
ELSEWHERE = {"OttoscalerService/WatchWorkers", "PipelineService/ApproveStage"}
"""What has a test of its own below."""


async def started(standalone: Standalone, *arguments: str, data: str = "", seconds: int = 10) -> asyncio.subprocess.Process:
    options = ["-plaintext", "-max-time", str(seconds), *(["-d", data] if data else []), standalone.address, *arguments]
    return await asyncio.create_subprocess_exec(str(GRPCURL), *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)


async def grpcurl(standalone: Standalone, *arguments: str, data: str = "") -> tuple[int, str]:
    process = await started(standalone, *arguments, data=data)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def said_meanwhile(standalone: Standalone, *arguments: str, data: str, expected: str) -> str:
    """What a call that does not end by itself has said by the time that `expected` has come; then it is left."""
    process = await started(standalone, *arguments, data=data, seconds=60)
    assert process.stdout is not None
    output = ""
    try:
        async with asyncio.timeout(30):
            while expected not in output:
                chunk = await process.stdout.read(65536)
                assert chunk, output
                output += chunk.decode()
    finally:
        process.kill()
        await process.wait()
    return output


async def test_lists_every_service(standalone: Standalone) -> None:
    """Reflection names our four services, health and itself, and every method of ours is called by a test of this file."""
    code, output = await grpcurl(standalone, "list")
    assert code == 0
    ours = {f"ottoscaler.v1.{name}" for name in ("LogStreamingService", "OttoHandlerLogService", "OttoscalerService", "PipelineService")}
    assert set(output.split()) == ours | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    found = set()
    for service in sorted(ours):
        code, output = await grpcurl(standalone, "list", service)
        assert code == 0, output
        found |= {"/".join(method.removeprefix("ottoscaler.v1.").split(".")) for method in output.split()}
    assert found == {method for method, _, _ in CALLS + READING} | ELSEWHERE


async def test_describes(standalone: Standalone) -> None:
    """Services, messages and enums are described as the protos have them."""
    for symbol, expected in (
        ("OttoscalerService", "( .ottoscaler.v1.PipelineRequest ) returns ( stream .ottoscaler.v1.PipelineProgress );"),
        ("PipelineStage", "map<string, string> config = 6;"),
        ("StageStatus", "STAGE_RETRYING = 6;"),
    ):
        code, output = await grpcurl(standalone, "describe", f"ottoscaler.v1.{symbol}")
        assert code == 0, output
        assert expected in output


async def test_calls(standalone: Standalone) -> None:
    """Each RPC answers a plain grpcurl call with what its contract promises: unary, server-streaming and bidirectional ones."""
    for method, data, expected in CALLS:
        code, output = await grpcurl(standalone, f"ottoscaler.v1.{method}", data=data)
        assert code == 0, (method, output)
        assert expected in output, (method, output)


async def test_a_run_can_be_read_back(standalone: Standalone) -> None:
    """A run that has ended can be read, watched, repeated and cancelled without harm, and its lines be had in every way."""
    code, output = await grpcurl(
        standalone, "ottoscaler.v1.PipelineService/ExecutePipeline", data=f'{{"pipeline_id": "r", "stages": {STAGES}}}'
    )
    assert code == 0, output
    _, output = await grpcurl(standalone, "ottoscaler.v1.PipelineService/GetPipeline", data='{"pipeline_id": "r"}')
    worker = json.loads(output)["stages"][0]["worker_pod_names"][0]
    for method, data, expected in READING:
        code, output = await grpcurl(standalone, f"ottoscaler.v1.{method}", data=data.replace("WORKER", worker))
        assert code == 0, (method, output)
        assert expected in output, (method, output)


async def test_a_stage_is_approved(standalone: Standalone) -> None:
    """A run that waits for its approval, watched by one grpcurl, goes on when another one approves."""
    stages = '[{"stage_id": "ask", "command": ["true"], "config": {"otto.approvers": "[\\"alice\\"]"}}]'
    data = f'{{"pipeline_id": "a", "stages": {stages}}}'
    method = "ottoscaler.v1.PipelineService/ExecutePipeline"
    await said_meanwhile(standalone, method, data=data, expected="alice")
    decision = '{"pipeline_id": "a", "stage_id": "ask", "user": "alice", "decision": "APPROVAL_DECISION_APPROVE"}'
    code, output = await grpcurl(standalone, "ottoscaler.v1.PipelineService/ApproveStage", data=decision)
    assert code == 0, output
    assert json.loads(output)["approval"]["decided_by"] == "alice"
    code, output = await grpcurl(standalone, method, data='{"pipeline_id": "a"}')
    assert (code, output.count("STAGE_COMPLETED")) == (0, 2), output


async def test_streams_that_do_not_end(standalone: Standalone) -> None:
    """WatchWorkers and health's Watch say how things stand at once, and go on."""
    assert "TYPE_SYNCED" in await said_meanwhile(standalone, "ottoscaler.v1.OttoscalerService/WatchWorkers", data="{}", expected="SYNCED")
    for service in ("", "ottoscaler.v1.OttoscalerService", "ottoscaler.v1.PipelineService", "ottoscaler.v1.LogStreamingService"):
        data = json.dumps({"service": service})
        await said_meanwhile(standalone, "grpc.health.v1.Health/Watch", data=data, expected='"SERVING"')
        code, output = await grpcurl(standalone, "grpc.health.v1.Health/Check", data=data)
        assert (code, json.loads(output)) == (0, {"status": "SERVING"})


async def test_errors_say_what_is_wrong(standalone: Standalone) -> None:
    """A request that can't be served gets its code and words, by reflection too."""
    for method, data, *expected in (
        ("PipelineService/GetPipeline", '{"pipeline_id": "none"}', "Code: NotFound", "NOT_FOUND"),
        ("PipelineService/WatchPipeline", '{"pipeline_id": "none"}', "Code: NotFound", "NOT_FOUND"),
        ("PipelineService/RerunPipeline", '{"pipeline_id": "none"}', "Code: NotFound", "NOT_FOUND"),
        ("OttoscalerService/ScaleUp", '{"worker_count": -1}', "Code: InvalidArgument", "task_id", "worker_count"),
        ("OttoscalerService/GetWorkerStatus", '{"status_filter": "odd"}', "Code: InvalidArgument", "status_filter"),
        ("LogStreamingService/StreamWorkerLogs", "{}", "Code: InvalidArgument", "worker_id"),
    ):
        code, output = await grpcurl(standalone, f"ottoscaler.v1.{method}", data=data)
        assert code != 0, (method, output)
        assert "Code: Internal" not in output, (method, output)
        assert [words for words in expected if words not in output] == [], (method, output)
