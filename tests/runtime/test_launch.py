"""A process of ours: how it begins, ends, and what it says when it can't."""

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_runtime.server import bound
from otto_runtime.settings import RuntimeSettings

from .processes import Process, started

RESOLVING = Path(__file__).with_name("resolving.py")
pytestmark = pytest.mark.slow


def stub(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(f"/test.Trial/{method}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_in_stages(tmp_path: Path, number: signal.Signals) -> None:
    """Streams end with OK, the stages are logged in their order, the exit code is 0."""
    async with started(tmp_path) as process:
        await process.serving()
        async with grpc.aio.insecure_channel(process.address) as channel:
            streaming: Any = channel.unary_stream("/test.Trial/hold")
            call = streaming(b"")
            assert await call.read() == b"first"
            process.send(number)
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
        assert await process.ended() == 0
        assert process.names[-3:] == ["runtime.stopping", "runtime.streams_ended", "runtime.stopped"]
        assert len(process.text.splitlines()) == len(process.events), "gRPC's core or a traceback wrote between the events"


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Who does not want to wait for the grace sends a second signal; the exit code tells which."""
    async with started(tmp_path, OTTO_STOP_GRACE="60") as process:
        await process.serving()
        async with grpc.aio.insecure_channel(process.address) as channel:
            call = stub(channel, "stay")(b"")
            async with asyncio.timeout(20):
                while "staying" not in process.text:
                    await asyncio.sleep(0.01)
            process.send(signal.SIGTERM)
            async with asyncio.timeout(20):
                while "runtime.stopping" not in process.names:
                    await asyncio.sleep(0.01)
            process.send(signal.SIGTERM)
            assert await process.ended(timeout=30) == 128 + signal.SIGTERM
            with pytest.raises(grpc.aio.AioRpcError):
                await call


async def test_as_many_files_may_be_open_as_are_allowed(tmp_path: Path) -> None:
    """A shell's soft limit, which is there for programs that use select(), is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        async with started(tmp_path) as process:
            await process.serving()
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    """Exit code 2, every variable named, no traceback."""
    async with started(tmp_path, OTTO_LISTEN="abc", OTTO_UNARY_TIMEOUT="soon", OTTO_LOG_LANGUAGE="fr") as process:
        assert await process.ended() == 2
        assert process.text.startswith("trial: settings can't be used:\n  OTTO_LISTEN='abc' is not HOST:PORT")
        assert "OTTO_UNARY_TIMEOUT='soon'" in process.text
        assert "Traceback" not in process.text


async def test_a_misspelt_variable_is_warned_about(tmp_path: Path) -> None:
    """It starts all the same, and says which variable nobody reads."""
    async with started(tmp_path, OTTO_LISTN="x") as process:
        await process.serving()
        assert [e["variable"] for e in process.events if e["event"] == "runtime.setting_unknown"] == ["OTTO_LISTN"]


async def failing(process: Process) -> str:
    assert await process.ended() == 1
    return process.text


async def test_what_keeps_it_from_starting_is_said_in_a_sentence(tmp_path: Path) -> None:
    """A StartError or a taken port: exit code 1, the sentence, no traceback and no noise of gRPC's core."""
    async with started(tmp_path, TRIAL_MODE="cannot start") as process:
        assert await failing(process) == "trial: the thing is missing; make one\n"
    async with bound(RuntimeSettings(listen="127.0.0.1:0")) as other, started(tmp_path, OTTO_LISTEN=other.address) as process:
        text = await failing(process)
        assert text.startswith(f"trial: OTTO_LISTEN={other.address}: ")
        assert len(text.splitlines()) == 1


async def test_a_failure_of_background_work_is_an_event_with_a_traceback(tmp_path: Path) -> None:
    """An unexpected error ends the process with code 1, after the stages, and the log has all of it."""
    async with started(tmp_path, TRIAL_MODE="fails") as process:
        assert await process.ended() == 1
        assert process.names[-2:] == ["runtime.stopped", "runtime.failed"]
        assert "background work is broken" in process.events[-1]["exception"]


async def test_metrics_are_served(tmp_path: Path) -> None:
    """/metrics has our families in Prometheus' format."""
    async with started(tmp_path, OTTO_METRICS_LISTEN="127.0.0.1:0") as process:
        await process.serving()
        async with grpc.aio.insecure_channel(process.address) as channel:
            await stub(channel, "trace")(b"")
        address = next(e["address"] for e in process.events if e["event"] == "runtime.metrics_serving")
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        assert 'otto_rpc_server_duration_seconds_count{code="OK",method="test.Trial/trace"} 1.0' in text
        assert "process_resident_memory_bytes" in text
        assert re.search(r'^otto_build_info\{python="3[.0-9]+",version="[0-9]+[.][^"]+"\} 1.0$', text, re.MULTILINE)
        assert "otto_event_loop_lag_seconds_count" in text


def test_the_sdk_is_not_imported_without_an_endpoint() -> None:
    """Importing what every service imports loads neither the OpenTelemetry SDK nor an exporter."""
    code = (
        "import sys, otto_runtime.launch; print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["otto_scaler", "otto_executor", "otto_relay", "otto_standalone"])
def test_grpc_is_told_how_to_resolve_names_before_it_is_imported(package: str) -> None:
    """Its core reads the environment then, and never again."""
    code = f"""
import os, sys

class Onlooker:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_DNS_RESOLVER"), os.environ.get("GRPC_VERBOSITY"))

sys.meta_path.insert(0, Onlooker())
import {package}.__main__
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    result = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "native NONE\n"


@pytest.mark.parametrize("program", ["otto-scaler", "otto-executor", "otto-relay", "ottoscaler-standalone"])
def test_help_is_told_and_nothing_is_started(program: str, tmp_path: Path) -> None:
    """Also that an argument which it does not know is refused."""
    command, environ = [Path(sys.executable).with_name(program)], {**os.environ, "HOME": str(tmp_path), "OTTO_LISTEN": "127.0.0.1:0"}
    told = subprocess.run([*command, "--help"], env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.startswith(f"usage: {program} ")
    refused = subprocess.run([*command, "serve"], env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (refused.returncode, "unrecognized arguments: serve" in refused.stderr) == (2, True)


def test_a_service_is_found_by_its_short_name_without_asking_the_world(tmp_path: Path) -> None:
    """A name server that reaches no other one never answers for names that are none of the cluster's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    apart = ("unshare", "--mount", "--net", "--propagation", "private")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces may not be made here")
    command = [*apart, sys.executable, str(RESOLVING)]
    result = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(result.stdout) == ["otto-scaler.team.svc.cluster.local"]
