"""Standalone's state is out of reach, full, damaged or somebody else's, or the clock jumps: what it says, and what goes on."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest

from ottoscaler.v1.pipeline_pb2 import ApprovalDecision, PipelineProgress, PipelineRequest, PipelineState
from ottoscaler.v1.pipeline_service_pb2 import (
    ApproveStageRequest,
    ApproveStageResponse,
    CancelPipelineRequest,
    GetPipelineRequest,
    RerunPipelineRequest,
    WatchPipelineRequest,
)
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus, StageType
from ottoscaler.v1.worker_pb2 import FailureCause

from .conftest import Standalone, end_workers, ottoctl

pytestmark = pytest.mark.slow

WAIT_SECONDS = 40.0
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """A file system in memory at `directory`; skips the test where none can be mounted."""
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system in memory can't be mounted, which only root may: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def refused(state: Path, **environ: str) -> str:
    """What standalone says when it does not start: exit code 1, no traceback."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "otto_standalone",
        env={**os.environ, "OTTO_STANDALONE_STATE_DIR": str(state), "OTTO_METRICS_LISTEN": "off", "OTTO_LISTEN": "127.0.0.1:0", **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = errors.decode()
    assert process.returncode == 1, said
    assert "Traceback" not in said
    return said


@pytest.fixture
async def instances(tmp_path: Path) -> AsyncIterator[list[Standalone]]:
    """Instances that are stopped after the test with what is left of their workers."""
    made: list[Standalone] = []
    yield made
    for instance in made:
        if instance._process is not None and instance.process.returncode is None:
            await instance.stop()
        await end_workers(instance.state)


def stage(stage_id: str, script: str, *needs: str) -> PipelineStage:
    return PipelineStage(stage_id=stage_id, command=["sh", "-c"], args=[script], depends_on=needs)


async def begun(channel: grpc.aio.Channel, pipeline_id: str, *stages: PipelineStage) -> None:
    """Returns when the pipeline's first stage has workers."""
    call = PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id=pipeline_id, stages=stages))
    async with asyncio.timeout(WAIT_SECONDS):
        async for message in call:
            if message.stage_id and message.status == StageStatus.STAGE_RUNNING:
                break
    call.cancel()


async def watched(channel: grpc.aio.Channel, pipeline_id: str) -> list[PipelineProgress]:
    async with asyncio.timeout(WAIT_SECONDS):
        return [m async for m in PipelineServiceStub(channel).WatchPipeline(WatchPipelineRequest(pipeline_id=pipeline_id))]


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """It says which address is taken and by which setting another one is chosen; the state is not touched."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        said = await refused(tmp_path / "state", OTTO_LISTEN=address)
    assert address in said
    assert "OTTO_LISTEN" in said
    assert not (tmp_path / "state").exists()


async def test_a_directory_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    """On a file system that is read-only it says which directory and what to do."""
    with mounted(tmp_path / "ro", "size=1m,ro") as directory:
        said = await refused(directory / "state")
    assert str(directory / "state") in said
    assert "OTTO_STANDALONE_STATE_DIR" in said


async def test_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    """Where there is no room for the state it says so and ends, and starts once there is room."""
    with mounted(tmp_path / "full", "size=8m") as directory:
        state = directory / "state"
        state.mkdir()
        fill(directory)
        said = await refused(state)
        assert "full" in said
        assert str(state) in said
        (directory / "filler").unlink()
        instance = Standalone(state)
        instance._environ["TMPDIR"] = str(tmp_path)
        try:
            await instance.start()
        finally:
            await instance.stop()


async def refusal(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    """How new pipelines are refused once SQLite has used up the room that its files have."""
    large = [stage(f"s{number}", "true " * 900) for number in range(40)]
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await begun(channel, f"q{os.urandom(4).hex()}", *large)
            except grpc.aio.AioRpcError as error:
                return error


def fill(directory: Path) -> None:
    """Takes all the room there is."""
    with (directory / "filler").open("ab", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def test_a_disk_that_gets_full_holds_up_but_loses_nothing(tmp_path: Path, instances: list[Standalone]) -> None:
    """The service lives on, new pipelines are refused in words, and what ran ends as it would have once there is room."""
    with mounted(tmp_path / "disk", "size=24m") as directory:
        instance = Standalone(directory / "state")
        instances.append(instance)
        await instance.start()
        go = tmp_path / "go"
        async with instance.channel() as channel:
            await begun(channel, "p", stage("a", f"while [ ! -e {go} ]; do sleep 0.05; done"), stage("b", "echo done", "a"))
            fill(directory)
            error = await refusal(channel)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "the disk is full" in (error.details() or "")
            go.touch()
            await asyncio.sleep(1.0)
            assert instance.process.returncode is None
            (directory / "filler").unlink()
            said = await watched(channel, "p")
        assert (said[-1].stage_id, said[-1].status) == ("", StageStatus.STAGE_COMPLETED)
        await instance.stop()
        await end_workers(instance.state)


async def test_what_changes_a_run_is_refused_on_a_full_disk(tmp_path: Path, instances: list[Standalone]) -> None:
    """Cancelling, approving and repeating are UNAVAILABLE at once with what to do, in ottoctl too; nothing of it happens, and with room
    again the same calls work.
    """
    with mounted(tmp_path / "disk", "size=24m") as directory:
        instance = Standalone(directory / "state")
        instances.append(instance)
        await instance.start()
        async with instance.channel() as channel:
            stub = PipelineServiceStub(channel)
            await begun(channel, "old", stage("a", "true"))
            await watched(channel, "old")
            gates = [PipelineStage(stage_id=f"g{n}", type=StageType.STAGE_TYPE_APPROVAL) for n in range(100)]
            await begun(channel, "p", stage("a", "sleep 300"), *gates)
            fill(directory)
            await refusal(channel)

            def approve(number: int) -> Awaitable[ApproveStageResponse]:
                decision = ApprovalDecision.APPROVAL_DECISION_APPROVE
                return stub.ApproveStage(
                    ApproveStageRequest(pipeline_id="p", stage_id=f"g{number}", user="kim", decision=decision), timeout=WAIT_SECONDS
                )

            number, error = 0, None
            while error is None:
                try:
                    await approve(number)
                    number += 1
                except grpc.aio.AioRpcError as refused_with:
                    error = refused_with
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "approve": lambda: approve(number),
                "cancel": lambda: stub.CancelPipeline(CancelPipelineRequest(pipeline_id="p"), timeout=WAIT_SECONDS),
                "rerun": lambda: stub.RerunPipeline(RerunPipelineRequest(pipeline_id="old", new_pipeline_id="new"), timeout=WAIT_SECONDS),
            }
            for call in calls.values():
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call()
                assert raised.value.code() is error.code() is grpc.StatusCode.UNAVAILABLE
                assert "the disk is full. Make room on its disk, and repeat the call" in (raised.value.details() or "")
            code, said = await ottoctl(instance, "pipeline", "cancel", "p")
            assert code == 5, said
            assert "Make room on its disk" in said
            (directory / "filler").unlink()
            found = await stub.GetPipeline(GetPipelineRequest(pipeline_id="p"))
            assert found.summary.state == PipelineState.PIPELINE_STATE_RUNNING
            assert f"g{number}" in found.summary.awaiting_approval
            await approve(number)
            await calls["rerun"]()
            await calls["cancel"]()
            assert (await watched(channel, "p"))[-1].status == StageStatus.STAGE_CANCELLED
            assert (await watched(channel, "new"))[-1].status == StageStatus.STAGE_COMPLETED
        await instance.stop()
        await end_workers(instance.state)


async def test_who_watches_a_run_on_a_full_disk_is_told(tmp_path: Path, instances: list[Standalone]) -> None:
    """A worker that fills the disk: who is attached, attaches, or asks hears why nothing follows and what to do, ottoctl says it; nothing
    unstored has a sequence, and with room again the run ends as it would have, told without holes to the same readers.
    """
    with mounted(tmp_path / "disk", "size=12m") as directory:
        instance = Standalone(directory / "state")
        instances.append(instance)
        await instance.start()
        go = tmp_path / "go"
        flood = stage(
            "flood", f"[ $OTTO_ATTEMPT = 1 ] || exit 0; while [ ! -e {go} ]; do sleep 0.05; done; while :; do echo {'x' * 200}; done"
        )
        async with instance.channel() as channel:
            stub = PipelineServiceStub(channel)
            call = aiter(stub.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[flood, stage("last", "true", "flood")])))
            heard: list[PipelineProgress] = []
            shown = asyncio.create_task(ottoctl(instance, "pipeline", "watch", "p"), name="ottoctl")
            async with asyncio.timeout(WAIT_SECONDS):
                while not heard or heard[-1].status != StageStatus.STAGE_RUNNING or not heard[-1].stage_id:
                    heard.append(await anext(call))
                go.touch()
                while not is_note(heard[-1]):
                    heard.append(await anext(call))
                async for message in stub.ExecutePipeline(PipelineRequest(pipeline_id="p")):
                    if is_note(message):
                        break
            assert "the disk is full. Make room" in heard[-1].message
            assert "the disk is full. Make room" in (await stub.GetPipeline(GetPipelineRequest(pipeline_id="p"))).held_up
            assert "the disk is full. Make room" in (await ottoctl(instance, "pipeline", "get", "p"))[1]
            give_room(directory)
            async with asyncio.timeout(WAIT_SECONDS):
                heard += [message async for message in call]
            assert not (await stub.GetPipeline(GetPipelineRequest(pipeline_id="p"))).held_up
            replayed = await watched(channel, "p")
        code, said = await shown
        assert code == 0, said
        assert "the disk is full. Make room" in said
        stored = [message for message in heard if not is_note(message)]
        assert [message.sequence for message in stored] == list(range(1, len(stored) + 1))
        assert [(m.sequence, m.message) for m in stored] == [(m.sequence, m.message) for m in replayed]
        again = next(m for m in stored if m.status == StageStatus.STAGE_RETRYING)
        assert (again.stage_id, again.failure_cause) == ("flood", FailureCause.FAILURE_CAUSE_INTERNAL)
        assert (stored[-1].stage_id, stored[-1].status) == ("", StageStatus.STAGE_COMPLETED)
        assert await instance.stop() == 0
        await end_workers(instance.state)


def is_note(message: PipelineProgress) -> bool:
    """Whether it tells, unstored, that nothing can be stored."""
    return not message.sequence and not message.stage_id


def give_room(directory: Path) -> None:
    """Makes the disk as large as it takes."""
    subprocess.run(["mount", "-o", "remount,size=200m", str(directory)], check=True)


async def damaged(state: Path, instances: list[Standalone]) -> Path:
    """The file of runs of a standalone that was killed while a pipeline ran."""
    instance = Standalone(state)
    instances.append(instance)
    await instance.start()
    async with instance.channel() as channel:
        await begun(channel, "old", stage("a", "sleep 300"))
    await instance.kill()
    return state / "runs.sqlite"


async def test_a_damaged_file_of_runs_costs_its_runs_only(tmp_path: Path, instances: list[Standalone]) -> None:
    """It starts, says in its log what became of the file, keeps all of it, and runs new pipelines, also under the old ids."""
    runs = await damaged(tmp_path / "state", instances)
    os.truncate(runs, runs.stat().st_size // 2)
    log = runs.with_name("runs.sqlite-wal").read_bytes()
    await instances[0].start()
    assert "executor.store.moved_aside" in instances[0].log.read_text()
    assert log in [file.read_bytes() for file in runs.parent.glob("runs.sqlite.damaged-*-wal")]
    async with instances[0].channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id="old"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        await begun(channel, "new", stage("a", "true"))
        assert (await watched(channel, "new"))[-1].status == StageStatus.STAGE_COMPLETED


async def test_a_newer_file_of_runs_is_refused(tmp_path: Path, instances: list[Standalone]) -> None:
    """It says that a newer version wrote it and what to do, and leaves it as it is."""
    runs = await damaged(tmp_path / "state", instances)
    connection = sqlite3.connect(runs)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = runs.read_bytes()
    said = await refused(tmp_path / "state")
    assert "newer version" in said
    assert str(runs) in said
    assert runs.read_bytes() == before


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not here (Debian, Ubuntu: apt-get install libfaketime)")
@pytest.mark.parametrize("step", ["+1d", "-1d", "+1h", "-1h"])
async def test_a_clock_that_jumps_changes_no_outcome(tmp_path: Path, instances: list[Standalone], step: str) -> None:
    """The whole service under a clock that is set: what runs goes on, a retry comes in seconds, every line is there, new pipelines run."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    instance = Standalone(tmp_path / "state", **fake)
    instances.append(instance)
    await instance.start()
    go = tmp_path / "go"
    repeated = stage("repeated", f'[ "$OTTO_ATTEMPT" = 2 ] || {{ sleep 1; exit 3; }}; touch {go}')
    repeated.retry_policy.max_attempts = 1
    repeated.retry_policy.retry_delay_seconds = 2
    async with instance.channel() as channel:
        await begun(
            channel, "p", stage("long", f"while [ ! -e {go} ]; do sleep 0.05; done; echo went on"), repeated, stage("last", "true", "long")
        )
        clock.write_text(step)
        said = await watched(channel, "p")
        assert (said[-1].stage_id, said[-1].status) == ("", StageStatus.STAGE_COMPLETED), said[-1]
        assert {(m.stage_id, m.attempt) for m in said if m.stage_id and m.attempt} == {
            ("long", 1),
            ("repeated", 1),
            ("repeated", 2),
            ("last", 1),
        }
        assert said[-1].metrics.duration_seconds < WAIT_SECONDS
        await begun(channel, "q", stage("a", "true"))
        assert (await watched(channel, "q"))[-1].status == StageStatus.STAGE_COMPLETED
