"""A failed pipeline again with ottoctl, against a real standalone with a real checkout; and what waits for room."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ottoscaler.v1.log_pb2 import BuildIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import RerunPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone, ottoctl, serving

pytestmark = pytest.mark.slow

PIPELINE = """
- {name: build, commands: "cat source.txt > built.txt; echo built once"}
- {name: test, dependencies: [build], commands: "cat source.txt built.txt; test -e %s"}
- {name: deploy, dependencies: [test], commands: "echo deploying $(cat built.txt)"}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    (path / "source.txt").write_text("the source\n")
    git = ["git", "-C", str(path), "-c", "user.name=t", "-c", "user.email=t@example.test"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    return path


async def test_failed_only_goes_on_with_the_files_that_kept_stages_left(standalone: Standalone, tmp_path: Path, repository: Path) -> None:
    """Checkout and build don't run again, test and deploy find what they left; whole, everything runs; the logs hold what ran only."""
    repaired = tmp_path / "repaired"
    (tmp_path / "shop.yaml").write_text(PIPELINE % repaired)
    code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "shop.yaml"), "--id", "s1", "--repo", str(repository))
    assert code == 1, output
    repaired.touch()
    code, output = await ottoctl(standalone, "pipeline", "rerun", "s1", "--failed-only", "--id", "s2")
    assert code == 0, output
    assert "repeats s1 and keeps 2 results of it" in output
    assert "build: COMPLETED kept from s1" in output
    assert "deploy | deploying the source" in output
    assert "built once" not in output
    async with asyncio.timeout(45):
        _, lines = await ottoctl(standalone, "logs", "--pipeline", "s2", "-f")
    assert lines.splitlines() == ["test | the source", "test | the source", "deploy | deploying the source"]
    async with standalone.channel() as channel:
        entries = [e async for e in LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="s2"))]
    assert {e.stage_id for e in entries} == {"test", "deploy"}, "a stage that is kept has no marks in a log of which it wrote nothing"
    _, shown = await ottoctl(standalone, "pipeline", "get", "s2")
    assert "repeats s1" in shown
    assert any(line.startswith("build\tcompleted\t1\t1\t") and line.endswith("kept from s1") for line in shown.splitlines()), shown

    code, output = await ottoctl(standalone, "pipeline", "rerun", "s1", "--failed-only")
    assert code == 5
    assert "was taken over by 's2'" in output
    code, output = await ottoctl(standalone, "pipeline", "rerun", "s1", "--detach")
    assert code == 0, output
    whole = output.splitlines()[0]
    assert whole.startswith("s1.rerun-")
    code, output = await ottoctl(standalone, "pipeline", "watch", whole, "--logs")
    assert code == 0, output
    assert "build | built once" in output


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.1, 0.6])
async def test_a_rerun_that_is_killed_at_its_beginning(standalone: Standalone, tmp_path: Path, moment: float) -> None:
    """Killed with -9 around its beginning: repeated with the same id it is there once, runs what failed once, and keeps the rest."""
    marks = tmp_path / "marks"
    note = f'echo "$OTTO_PIPELINE_ID.$OTTO_STAGE_ID.$OTTO_ATTEMPT" >> {marks}'
    scripts = {"a": note, "b": f'{note}; sleep 0.3; test "$OTTO_PIPELINE_ID" = new', "c": f"{note}; sleep 0.3"}
    needs = {"a": [], "b": ["a"], "c": ["b"]}
    stages = [PipelineStage(stage_id=name, command=["sh", "-c"], args=[script], depends_on=needs[name]) for name, script in scripts.items()]
    async with standalone.channel() as channel:
        call = PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="old", stages=stages))
        assert [m async for m in call][-1].status == StageStatus.STAGE_FAILED
        request = RerunPipelineRequest(pipeline_id="old", new_pipeline_id="new", failed_only=True)
        asked = asyncio.create_task(tried(PipelineServiceStub(channel), request), name="rerun")
        await asyncio.sleep(moment)
        await standalone.kill()
        await asked
    await standalone.start()
    async with standalone.channel() as channel:
        stub = PipelineServiceStub(channel)
        assert await tried(stub, request) in {grpc.StatusCode.OK, grpc.StatusCode.ALREADY_EXISTS}
        said = [m async for m in stub.ExecutePipeline(PipelineRequest(pipeline_id="new"))]
        assert said[-1].status == StageStatus.STAGE_COMPLETED
        assert [m.sequence for m in said] == list(range(1, len(said) + 1))
        assert next(m for m in said if m.stage_id == "a").kept_from == "old"
        other = RerunPipelineRequest(pipeline_id="old", new_pipeline_id="other", failed_only=True)
        assert await tried(stub, other) is grpc.StatusCode.FAILED_PRECONDITION
    assert marks.read_text().split() == ["old.a.1", "old.b.1", "new.b.1", "new.c.1"]


async def tried(stub: Any, request: RerunPipelineRequest) -> grpc.StatusCode:
    try:
        await stub.RerunPipeline(request)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
async def crowded(tmp_path: Path) -> AsyncIterator[Standalone]:
    async with serving(tmp_path / "state", OTTO_SCALER_MAX_WORKERS="1") as instance:
        yield instance


async def test_what_waits_for_room_is_shown(crowded: Standalone, tmp_path: Path) -> None:
    """Under a cap of one a stage says that it waits, status shows its worker's place, and it runs when there is room."""
    flag = tmp_path / "flag"
    code, output = await ottoctl(crowded, "scale", "up", "long", "--", "sh", "-c", f"until test -e {flag}; do sleep 0.05; done")
    assert code == 0, output
    (tmp_path / "late.yaml").write_text('- {name: late, worker_count: 2, commands: "echo here"}')
    running = asyncio.create_task(ottoctl(crowded, "pipeline", "run", str(tmp_path / "late.yaml"), "--id", "r"), name="run")
    async with asyncio.timeout(30):
        while json.loads((await ottoctl(crowded, "status", "-o", "json"))[1]).get("waiting_count", 0) != 2:
            await asyncio.sleep(0.05)
    _, shown = await ottoctl(crowded, "status")
    assert "waits for room (cap 1), place 1 of 2" in shown
    assert "2 of them wait for room (cap 1)" in shown
    flag.touch()
    code, output = await running
    assert code == 0, output
    assert "late: PENDING 2 of 2 workers wait for room (cap 1)" in output
    assert "late: COMPLETED" in output
