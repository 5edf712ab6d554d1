"""`ottoctl doctor` in real situations: each is found, said in words, and comes with something to do."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ottoctl.doctor import machine, network, services
from ottoctl.doctor.case import Case, Finding, Level
from ottoctl.doctor.examination import CHECKS, diagnose, healthy
from ottoscaler.v1 import ottoscaler_service_pb2, worker_pb2
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, ScaleResponse, WorkerStatusRequest, WorkerStatusResponse
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceServicer, add_OttoscalerServiceServicer_to_server
from ottoscaler.v1.pipeline_pb2 import PipelineSummary, StageRun
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, GetPipelineResponse, ListPipelinesRequest, ListPipelinesResponse
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceServicer, add_PipelineServiceServicer_to_server
from ottoscaler.v1.stage_pb2 import StageStatus

from ..ports import HOST, free_port
from .conftest import Standalone, ottoctl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # many short processes: on a busy machine each takes seconds to start
Findings = list[tuple[str, Finding]]


async def examined(address: str, **environ: str) -> tuple[Findings, Case]:
    """What doctor finds, with an environment of its own."""
    found: Findings = []
    case = await diagnose(address, {"HOME": "/nonexistent", **environ}, lambda check, finding: found.append((check, finding)))
    return found, case


def bad(findings: Findings, check: str) -> Finding:
    """The one finding of a check that is not ok."""
    (finding,) = [finding for name, finding in findings if name == check and finding.level is not Level.OK]
    assert finding.remedy
    return finding


async def local_case(address: str, **environ: str) -> AsyncIterator[Case]:
    async with grpc.aio.insecure_channel(address) as channel:
        host, port = network.parsed(address)
        yield Case(address, {"HOME": "/nonexistent", **environ}, channel, host, port, local=True)


def test_every_check_is_a_function_of_its_own_with_a_name() -> None:
    """The table has no check twice; each says in its docstring what it wants to be true."""
    assert len({check.name for check in CHECKS}) == len({check.look for check in CHECKS}) == len(CHECKS)
    assert all(check.look.__doc__ for check in CHECKS)


async def test_a_well_installation_is_all_ok(standalone: Standalone) -> None:
    """Every check runs, nothing is bad, the exit code is 0, and programs get the same as JSON."""
    code, output = await ottoctl(standalone, "doctor", "-o", "json")
    answer = json.loads(output)
    assert [f for f in answer["findings"] if f["level"] != "ok"] == [], answer
    assert (code, answer["healthy"]) == (0, True)
    assert {f["check"] for f in answer["findings"]} == {check.name for check in CHECKS}
    assert answer["facts"]["state_directory"] == str(standalone.state)
    assert answer["facts"]["state_holder"] == standalone.process.pid
    assert answer["facts"]["workers"] == {"running": 0, "pending": 0, "cap": 100}
    assert abs(answer["facts"]["clock_difference_s"]) < 2
    assert 0 < answer["facts"]["round_trip_ms"] < 5000


async def test_no_service(tmp_path: Path) -> None:
    """Nothing listens: exit code 1, one line that fails with what to do, and the local checks go on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ottoctl", "--address", f"127.0.0.1:{free_port()}", "doctor",
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "OTTO_STANDALONE_STATE_DIR": ""}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output = (await process.communicate())[0].decode()
    assert process.returncode == 1, output
    assert output.startswith("fail address "), output
    assert "refuses connections: nothing listens there" in output
    assert "make serve" in output or "ottoctl --address 127.0.0.1:" in output
    assert f"state       the state directory {tmp_path}/ottoscaler does not exist yet" in output
    assert "health" not in output


async def test_a_service_elsewhere_is_pointed_to_and_said_to_hold_the_state(standalone: Standalone) -> None:
    """The wrong port is asked: what serves at another port, and who holds the state directory, are named."""
    findings, _ = await examined(f"{HOST}:{free_port()}", OTTO_STANDALONE_STATE_DIR=str(standalone.state))
    assert f"ottoctl --address {HOST}:" in bad(findings, "address").remedy
    assert f"process {standalone.process.pid} " in bad(findings, "state").words


async def test_a_crashed_instance_s_workers_are_found(standalone: Standalone) -> None:
    """After kill -9 workers run on with nobody to look after them: doctor says how many, and that a start finds them again."""
    await ottoctl(standalone, "scale", "up", "t", "--", "sleep", "300")
    async with asyncio.timeout(90):
        while '"running_count": 1' not in (await ottoctl(standalone, "status", "-o", "json"))[1]:
            await asyncio.sleep(0.1)
    address = standalone.address
    await standalone.kill()
    findings, _ = await examined(address, OTTO_STANDALONE_STATE_DIR=str(standalone.state))
    finding = bad(findings, "leftovers")
    assert "1 workers of an instance that is gone still run: otto-t-" in finding.words
    assert "finds them again" in finding.remedy
    assert "state" not in [check for check, f in findings if f.level is Level.FAIL]


async def test_what_waits_is_named(standalone: Standalone, tmp_path: Path) -> None:
    """An approval that nobody gave: who may, and the command; it is a warning, so the exit code stays 0."""
    (tmp_path / "a.yaml").write_text("- {name: go live, type: approval, config: {otto.approvers: [kim, lee]}}")
    await ottoctl(standalone, "pipeline", "run", str(tmp_path / "a.yaml"), "--id", "it waits", "--detach")
    async with asyncio.timeout(90):
        while "waits for approval" not in (await ottoctl(standalone, "pipeline", "list"))[1]:
            await asyncio.sleep(0.1)
    findings, _ = await examined(standalone.address)
    finding = bad(findings, "pipelines")
    assert finding.words == "it waits: go live waits for an approval by kim, lee"
    assert finding.remedy.startswith("ottoctl pipeline approve 'it waits' 'go live' --as NAME")
    assert healthy(findings)


@pytest.mark.slow
async def test_no_room_and_workers_that_wait(tmp_path: Path) -> None:
    """Under a cap of 1 that is taken: no room, and why the second waits."""
    instance = Standalone(tmp_path / "state", OTTO_SCALER_MAX_WORKERS="1", OTTO_SCALER_MAX_WORKER="7")
    await instance.start()
    try:
        for task in ("first", "second"):
            await ottoctl(instance, "scale", "up", task, "--queue", "--", "sleep", "300")
        async with asyncio.timeout(90):
            while '"running_count": 1' not in (await ottoctl(instance, "status", "-o", "json"))[1]:
                await asyncio.sleep(0.1)
        findings, _ = await examined(instance.address)
        assert "no room: 1 workers run and 1 wait, under a cap of 1" in bad(findings, "room").words
        assert "OTTO_SCALER_MAX_WORKERS" in bad(findings, "room").remedy
        assert "otto-second-" in bad(findings, "workers").words
        assert "OTTO_SCALER_MAX_WORKER " in bad(findings, "variables").words
        assert bad(findings, "variables").remedy == "did you mean OTTO_SCALER_MAX_WORKERS?"
    finally:
        for task in ("first", "second"):
            await ottoctl(instance, "scale", "down", task)
        await instance.stop()


@asynccontextmanager
async def listener(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **options: Any) -> AsyncIterator[str]:
    """A TCP server that is not Ottoscaler; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(100):
        pass


async def rudeness(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def http_1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("answer", "words"),
    [(silence, "says nothing within"), (rudeness, "closes the connection"), (http_1, "answers 'HTTP/1.1 400"), (ssh, "answers 'SSH-2.0")],
    ids=["plain listener", "closes", "HTTP/1", "SSH"],
)
async def test_something_else_listens_there(answer: Callable[..., Awaitable[None]], words: str) -> None:
    """What it does is said, and which process it is; the port check fails too, since Ottoscaler can't have that port."""
    async with listener(answer) as address:
        findings, case = await examined(address)
    assert words in bad(findings, "address").words
    assert f"process {os.getpid()} (" in bad(findings, "address").words
    assert f"held by process {os.getpid()}" in bad(findings, "port").words
    assert "OTTO_LISTEN" in bad(findings, "port").remedy
    assert not case.speaks


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
async def test_a_tls_port_is_recognised(tmp_path: Path) -> None:
    """TLS is spoken there: that is said, whatever its certificate."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with listener(silence, ssl=context) as address:
        findings, _ = await examined(address)
    assert "TLS is spoken at" in bad(findings, "address").words


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere", "is no address"),
        ("127.0.0.1:http", "is no address"),
        ("127.0.0.1:99999", "is no address"),
        ("no-such-host.invalid:9090", "can't be resolved"),
    ],
)
async def test_an_address_that_is_none(address: str, words: str) -> None:
    """A misspelt address or name is said; nothing else is guessed about it."""
    findings, case = await examined(address)
    assert words in bad(findings, "address").words
    assert not case.local
    assert len(findings) == 1


class _Scaler(OttoscalerServiceServicer):
    """The two calls that doctor makes, by a clock that goes wrong."""

    async def GetWorkerStatus(self, request: WorkerStatusRequest, context: Any) -> WorkerStatusResponse:  # noqa: N802  the RPC's name
        if not request.status_filter:
            return WorkerStatusResponse(running_count=3)
        worker = worker_pb2.WorkerPodStatus(pod_name="w", status="failed", error_message="no such image")
        worker.failure_cause = worker_pb2.FailureCause.FAILURE_CAUSE_IMAGE_PULL
        return WorkerStatusResponse(workers=[worker] if request.status_filter == "failed" else [])

    async def ScaleDown(self, request: ScaleRequest, context: Any) -> ScaleResponse:  # noqa: N802  the RPC's name
        return ScaleResponse(completed_at="2001-01-01T00:00:00.000Z")


class _Executor(PipelineServiceServicer):
    """One run that stands still, and why."""

    async def ListPipelines(self, request: ListPipelinesRequest, context: Any) -> ListPipelinesResponse:  # noqa: N802  the RPC's name
        return ListPipelinesResponse(pipelines=[PipelineSummary(pipeline_id="night")])

    async def GetPipeline(self, request: GetPipelineRequest, context: Any) -> GetPipelineResponse:  # noqa: N802  the RPC's name
        stage = StageRun(stage_id="test", status=StageStatus.STAGE_RUNNING, message="waits for the scaler, which can't do it now: no")
        return GetPipelineResponse(summary=PipelineSummary(pipeline_id="night"), held_up="the disk is full", stages=[stage])


class _Reflection(reflection_pb2_grpc.ServerReflectionServicer):  # type: ignore[misc]  # grpc_reflection has no types
    """Tells of another version of the contract."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802  the RPC's name
        async for _ in requests:
            content = reflection_pb2.FileDescriptorResponse(file_descriptor_proto=[self._file.SerializeToString()])
            yield reflection_pb2.ServerReflectionResponse(file_descriptor_response=content)


class _ByMetadata(health.aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Health as it is behind a Gateway, whose routes go by metadata: what that does not name is somebody else's."""

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
        if ("otto-service", request.service) not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return await super().Check(request, context)


@asynccontextmanager
async def grpc_server(*, status: int | None = None, file: FileDescriptorProto | None = None) -> AsyncIterator[str]:
    """A gRPC server: with `status` it has health and a scaler, with `file` it tells that contract."""
    server = grpc.aio.server()
    if status is not None:
        checks = _ByMetadata()
        for name in services.FILES:
            await checks.set(f"ottoscaler.v1.{name}", status)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        add_OttoscalerServiceServicer_to_server(_Scaler(), server)  # type: ignore[abstract]  # doctor makes two of its calls
        add_PipelineServiceServicer_to_server(_Executor(), server)  # type: ignore[abstract]  # as above
    if file is not None:
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(file), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_behind_a_gateway_each_service_is_asked() -> None:
    """Metadata says whose health is wanted, so none is missing."""
    async with grpc_server(status=health_pb2.HealthCheckResponse.SERVING) as address:
        async for case in local_case(address):
            assert [finding.words for finding in await services.health(case)] == [f"{name} is SERVING" for name in services.FILES]


async def test_another_grpc_server_is_not_ottoscaler() -> None:
    """HTTP/2 and gRPC, but no health service: that is said once."""
    async with grpc_server() as address:
        findings, case = await examined(address)
    assert "it is not Ottoscaler" in bad(findings, "health").words
    assert (case.speaks, case.serves) == (True, False)


async def test_a_service_that_does_not_serve() -> None:
    """NOT_SERVING is told for each service; what needs a serving one is not asked."""
    async with grpc_server(status=health_pb2.HealthCheckResponse.NOT_SERVING) as address:
        findings, _ = await examined(address)
    words = [f.words for check, f in findings if check == "health"]
    assert words == [f"{name} is NOT_SERVING" for name in services.FILES]
    assert "round trip" not in [check for check, _ in findings]


async def test_pipelines_that_stand_still_are_named() -> None:
    """One that can't be stored, and a stage whose next step does not work, in the executor's words."""
    async with grpc_server(status=health_pb2.HealthCheckResponse.SERVING) as address:
        findings, _ = await examined(address)
    words = [f.words for check, f in findings if check == "pipelines"]
    assert words == ["night stands still: the disk is full", "night: test waits for the scaler, which can't do it now: no"]


async def test_another_version_another_clock_and_unstartable_workers() -> None:
    """By reflection: fields that only one side has, and one that both understand differently. A clock that is 20 years behind. A worker
    whose image is wrong, with the remedy for that.
    """
    file = FileDescriptorProto()
    ottoscaler_service_pb2.DESCRIPTOR.CopyToProto(file)
    request = next(m for m in file.message_type if m.name == "ScaleRequest")
    request.field.add(name="of_the_future", number=150, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL)
    response = next(m for m in file.message_type if m.name == "WorkerStatusResponse")
    response.field.remove(next(f for f in response.field if f.name == "room_limit"))
    next(f for f in request.field if f.name == "worker_count").type = FieldDescriptorProto.TYPE_STRING
    async with grpc_server(status=health_pb2.HealthCheckResponse.SERVING, file=file) as address:
        findings, case = await examined(address)
    told = {finding.level: finding.words for check, finding in findings if check == "contract"}
    assert told[Level.FAIL] == "client and server disagree about ScaleRequest.worker_count (number 4)"
    contract: Any = case.facts["contract"]
    assert "WorkerStatusResponse.room_limit" in contract["client_only"]
    assert contract["server_only"] == ["ScaleRequest.of_the_future"]
    assert "behind this machine's" in bad(findings, "clock").words
    assert bad(findings, "workers").words == "w could not start (IMAGE_PULL): no such image"
    assert "check the image's name" in bad(findings, "workers").remedy
    assert any("does not tell its cap" in f.words for check, f in findings if check == "room")


async def test_a_state_directory_that_can_t_be_used(tmp_path: Path) -> None:
    """No directory, not to be made, not to be written: each is said with its path, and that OTTO_STANDALONE_STATE_DIR names another."""
    (tmp_path / "file").touch()
    # Not even root can write there.
    unwritable = Path("/sys/kernel")
    for directory, words in (
        (tmp_path / "file", "is no directory"),
        (unwritable / "state", "can't be made" if os.geteuid() else ""),
        (unwritable, "can't be written"),
    ):
        async for case in local_case("127.0.0.1:1", OTTO_STANDALONE_STATE_DIR=str(directory)):
            findings = await machine.state(case)
            if words:
                assert words in findings[0].words
                assert str(directory) in findings[0].words
                assert findings[0].level is Level.FAIL
                assert "OTTO_STANDALONE_STATE_DIR" in findings[0].remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
async def test_a_full_disk(tmp_path: Path) -> None:
    """The disk of the state directory has no room left: that is said, and before it is full that little is left."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        async for case in local_case("127.0.0.1:1", OTTO_STANDALONE_STATE_DIR=str(tmp_path)):
            findings = await machine.state(case)
            assert [f.level for f in findings] == [Level.OK, Level.FAIL, Level.OK]
            assert "only 4.0 MiB are free" in findings[1].words
            with (tmp_path / "large").open("wb") as large:
                try:
                    while True:
                        large.write(b"\0" * 65536)
                        large.flush()
                except OSError:
                    pass
            (finding,) = await machine.state(case)
            assert "is full" in finding.words
            assert finding.level is Level.FAIL
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_tools_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git on PATH it says what that costs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    async for case in local_case("127.0.0.1:1"):
        findings = await machine.tools(case)
        assert [f.words for f in findings if f.level is Level.FAIL] == ["git is not on PATH", "sh is not on PATH"]


async def test_variables_that_are_no_settings() -> None:
    """A misspelt one is named with the nearest setting; ottoctl's own and those of workers are left alone."""
    async for case in local_case("127.0.0.1:1", OTTO_LISTE="x", OTTO_ADDRESS="y", OTTO_STAGE_ID="z", OTTO_RELAY_HEARTBEAT="1", PATH="p"):
        (finding,) = await machine.variables(case)
        assert "OTTO_LISTE (here)" in finding.words
        assert finding.remedy == "did you mean OTTO_LISTEN?"
