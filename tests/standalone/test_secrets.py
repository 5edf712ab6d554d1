"""A real worker that is given secrets and prints them in every way: nothing that is stored, streamed or pushed holds a value."""

import base64
import json
import stat
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otto_relay.testing import FakeHandler, handling
from ottoscaler.v1.log_pb2 import BuildIdentifier, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, StageStatus

from .conftest import Standalone, ottoctl, serving
from .test_push import until

pytestmark = pytest.mark.slow

TOKEN = "s3cr3t/tök&n with spaces"
KEY = "-----BEGIN KEY-----\nMIIabcdefghijklmnop0123456789\nQRSTUVWXYZabcdefghij98765432\n-----END KEY-----"
LONG = "long" + "0123456789abcdef!" * 300
ENTRY = 1092
"""Bytes after which a line goes on in another entry: the fifteenth ends within a value of which only the beginning has come by then."""
FORMS = [
    TOKEN.encode(),
    *(line.encode() for line in KEY.splitlines()),
    KEY.replace("\n", "\\n").encode(),
    LONG.encode(),
    LONG[200:260].encode(),
    base64.b64encode(TOKEN.encode())[:-3],
    base64.b64encode(KEY.encode())[:40],
    urllib.parse.quote(TOKEN, safe="").encode(),
    json.dumps(TOKEN)[1:-1].encode(),
]
SCRIPT = r"""
import base64, json, os, sys, time, urllib.parse
token, key, long = os.environ["TOKEN"], os.environ["KEY"], os.environ["LONG"]
say = lambda text: (sys.stdout.write(text), sys.stdout.flush())
print("begin")
for character in token:
    say(character); time.sleep(0.002)
say("\n")
print("as an argument:", "--token=" + token, file=sys.stderr)
print(key)
print(json.dumps({"token": token, "key": key}))
print("https://example.com/?token=" + urllib.parse.quote(token, safe=""), urllib.parse.quote_plus(token))
for shift in range(3):
    print("Basic", base64.b64encode(b"user:x"[:shift + 4] + token.encode() + b"!").decode())
    print("Basic", base64.b64encode(b"user:x"[:shift + 4] + key.encode() + b"!").decode())
print("x" * 16376 + token + "y" * 20000 + long + "z" * 1020 + token)
print(long * 3)
say("no line end " + token)
os.execlp("sh", "sh", "-c", 'echo; echo "$TOKEN" >&2; exit 3')
"""


@pytest.fixture
async def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
async def keeping(tmp_path: Path, handler: FakeHandler) -> AsyncIterator[Standalone]:
    """A standalone with secrets, short entries and a push."""
    directory = tmp_path / "secrets" / "app"
    directory.mkdir(parents=True)
    for name, value in {"token": TOKEN + "\n", "key": KEY, "long": LONG}.items():
        (directory / name).write_text(value)
    async with handling(handler) as address:
        async with serving(
            tmp_path / "state",
            OTTO_SCALER_SECRETS_DIR=str(tmp_path / "secrets"),
            OTTO_RELAY_HANDLER_ADDRESS=address,
            OTTO_RELAY_MAX_LINE_BYTES=str(ENTRY),
            OTTO_LOG_LEVEL="debug",
        ) as instance:
            yield instance


def leaks(data: bytes) -> list[bytes]:
    return [form for form in FORMS if form in data]


async def test_no_value_of_a_secret_is_stored_streamed_told_or_pushed(keeping: Standalone, handler: FakeHandler) -> None:
    """Every way to a line, a notice, a progress message, a status and our own log shows masks where the worker printed values."""
    secrets = json.dumps({"TOKEN": "app/token", "KEY": "app/key", "LONG": "app/long"})
    stage = PipelineStage(stage_id="leaky", command=["python3", "-c", SCRIPT], config={"otto.secrets": secrets})
    seen: list[bytes] = []
    async with keeping.channel() as channel:
        progress = [m async for m in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage]))]
        assert progress[-1].status == StageStatus.STAGE_FAILED
        worker = next(name for message in progress for name in message.worker_pod_names)
        seen += [message.SerializeToString() for message in progress]
        status = await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
        seen.append(status.SerializeToString())
        logs = LogStreamingServiceStub(channel)
        lines = [e async for e in logs.StreamWorkerLogs(WorkerIdentifier(worker_id=worker))]
        seen += [entry.SerializeToString() for entry in lines]
        seen += [e.SerializeToString() async for e in logs.StreamBuildLogs(BuildIdentifier(pipeline_id="p"))]
        seen += [b.SerializeToString() async for b in logs.TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id=worker)))]
        await until(lambda: len(handler.taken) == len(lines) and handler.told(worker)[-1:] == ["FAILED"])
    messages = [entry.message for entry in lines]
    assert messages[:2] == ["begin", "***"]
    assert "as an argument: --token=***" in messages
    assert '{"token": "***", "key": "***"}' in messages
    assert messages.count("***") >= 6
    whole = "".join(messages)
    assert "x" * 16376 + "***" + "y" * 20000 + "***" + "z" * 1020 + "***" in whole
    seen += [one.SerializeToString() for one in [*handler.got, *handler.notices]]
    seen += [path.read_bytes() for path in (keeping.state / "spool").rglob("*") if path.is_file()]
    seen.append((keeping.state / "runs.sqlite").read_bytes())
    seen.append(keeping.log.read_bytes())
    _, printed = await ottoctl(keeping, "pipeline", "watch", "p")
    seen.append(printed.encode())
    for data in seen:
        # Entries of a long line follow each other, so that what is split over two of them is looked for as well.
        assert leaks(data) == []
    assert leaks("".join(messages).encode()) == []


async def test_what_holds_values_is_readable_by_its_owner_only(keeping: Standalone) -> None:
    """The worker's own log, which is as it was written, and the values to mask have mode 0600 in directories of mode 0700."""
    stage = PipelineStage(
        stage_id="a", command=["sh", "-c"], args=['echo "$TOKEN"'], config={"otto.secrets": json.dumps({"TOKEN": "app/token"})}
    )
    async with keeping.channel() as channel:
        progress = [m async for m in PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="p", stages=[stage]))]
    worker = keeping.state / "workers" / next(name for message in progress for name in message.worker_pod_names)
    assert TOKEN.encode() in (worker / "log").read_bytes()
    for path in (worker / "log", worker / "secrets", *(keeping.state / "spool").rglob("*.seg")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for directory in (keeping.state, worker, keeping.state / "spool"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory
