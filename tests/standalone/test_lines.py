"""What a worker writes is what readers get: any length, any bytes, any speed, through the real pipe, supervisor, relay and streams."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from ottoscaler.v1.log_pb2 import BuildIdentifier, LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .conftest import Standalone

pytestmark = pytest.mark.slow

WAIT_SECONDS = 120.0
RECORD = 16 * 1024
"""Bytes after which the process backend, as container runtimes do, goes on in another record of its log."""
ENTRY = 1_048_576
"""Bytes after which a line goes on in another entry: OTTO_RELAY_MAX_LINE_BYTES."""


def noise(seed: int, count: int, most: int) -> bytes:
    """Lines of random bytes."""
    source = random.Random(seed)
    return b"".join(source.randbytes(source.randint(0, most)).replace(b"\n", b"") + b"\n" for _ in range(count))


OUTPUTS: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"x",
    "one byte and an end": b"x\n",
    "empty lines": b"\n\n\na\n\n",
    "no final line end": b"first\nlast",
    "carriage returns": b"a\r\nb\r\n\r\n 10%\r 50%\r100%\r\nc\rd",
    "NUL bytes": b"\0\na\0b\n\0\0\0",
    "only NUL bytes, long": b"\0" * (RECORD + 1) + b"\n",
    "ANSI colours": b"\x1b[31mred\x1b[0m\n\x1b]0;title\x07\x1b[2J\x1b[1;1Hhome\n",
    "control characters": bytes(range(1, 10)) + bytes(range(11, 32)) + b"\x7f\n",
    "other line ends of Unicode": "a\u2028b\u2029c\u0085d\x0be\x0cf\n".encode(),
    "Korean": "한글 줄\n그리고 또\n".encode(),
    "all bytes": bytes(byte for byte in range(256) if byte != 10) + b"\n",
    "no UTF-8": b"a\xffb\xc3(\xe2\x82\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80\n\xe2\x82",
    "around a record": b"".join(b"x" * size + b"\n" for size in (RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 2 * RECORD + 1)),
    "characters over the ends of records": b"".join(b"x" * size + "한😀".encode() * 9 + b"\n" for size in range(RECORD - 7, RECORD + 1)),
    "around an entry": b"".join(b"x" * size + b"\n" for size in (ENTRY - 1, ENTRY, ENTRY + 1)),
    "Korean over the ends of entries": b"x" + "한".encode() * ENTRY + b"\nend\n",
    "no UTF-8 over the ends of entries": b"\xff" * (2 * ENTRY + 3) + b"\nend\n",
    "10 MiB": bytes(random.Random(1).choices(range(32, 127), k=10 * ENTRY)) + b"\nend\n",
    "noise": noise(2, 3000, 300),
    "long noise": noise(3, 20, 100_000),
}


async def started(channel: grpc.aio.Channel, task: str, *command: str) -> str:
    """A worker's name."""
    answer = await OttoscalerServiceStub(channel).ScaleUp(ScaleRequest(task_id=task, worker_count=1, worker=WorkerSpec(command=command)))
    (name,) = answer.worker_pod_names
    return str(name)


async def single(channel: grpc.aio.Channel, worker: str) -> list[LogEntry]:
    return [entry async for entry in LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=worker))]


async def batched(channel: grpc.aio.Channel, worker: str) -> AsyncIterator[LogEntry]:
    async for batch in LogStreamingServiceStub(channel).TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id=worker))):
        for entry in batch.entries:
            yield entry


def lines_of(output: bytes) -> list[str]:
    """The rule: only a line feed ends a line, what follows the last one is a line if it is anything, and what is no UTF-8 is replaced."""
    lines = output.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.decode("utf-8", "replace") for line in lines]


def joined(messages: list[str], lines: list[str]) -> list[str]:
    """The messages put together again so that there is one for each line, where their lengths allow it."""
    left = iter(messages)
    found = []
    for line in lines:
        text = next(left, "")
        while len(text) < len(line) and (more := next(left, None)) is not None:
            text += more
        found.append(text)
    return found + list(left)


def alike(got: list[str], expected: list[str]) -> str:
    """Where two lists of texts differ first, in few words; "" if they don't."""
    for number, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one != other:
            return f"line {number}: {one[:80]!r} ({len(one)}) instead of {other[:80]!r} ({len(other)})"
    return "" if len(got) == len(expected) else f"{len(got)} lines instead of {len(expected)}"


@pytest.mark.timeout(300)
async def test_every_byte_arrives(standalone: Standalone, tmp_path: Path) -> None:
    """Lines of nothing to 10 MiB, with or without an end, of any bytes: each is read as it was written, at once and again."""
    async with standalone.channel() as channel, asyncio.timeout(WAIT_SECONDS):
        for number, (name, output) in enumerate(OUTPUTS.items()):
            file = tmp_path / str(number)
            file.write_bytes(output)
            worker = await started(channel, name, "cat", str(file))
            live, again = await single(channel, worker), [entry async for entry in batched(channel, worker)]
            expected = lines_of(output)
            messages = [entry.message for entry in live]
            assert not alike(joined(messages, expected), expected), name
            assert [entry.message for entry in again] == messages, name
            assert [entry.sequence for entry in live] == list(range(1, len(live) + 1)), name
            assert {entry.source for entry in live} <= {"stdout"}, name
            # a replaced byte takes three
            assert all(len(message.replace("\ufffd", "?").encode()) <= ENTRY for message in messages), name
            pieces = sum(-(-len(line) // ENTRY) or 1 for line in output.split(b"\n")) - (not output or output.endswith(b"\n"))
            assert len(messages) <= pieces + len(expected), name


PAUSES = r"""
import os, sys, time
for number in range(40):
    for descriptor, text in ((1, f"out {number} 한글 😀"), (2, f"err {number} 글한")):
        data = text.encode()
        for piece in (data[:5], data[5:9], data[9:], b"\n"):
            os.write(descriptor, piece)
            time.sleep(0.001)
"""


async def test_lines_written_in_pieces_to_both_streams_stay_whole(standalone: Standalone) -> None:
    """Pieces that end within a character, now of one stream and now of the other: the lines of each come whole and in order."""
    async with standalone.channel() as channel, asyncio.timeout(WAIT_SECONDS):
        worker = await started(channel, "pieces", sys.executable, "-c", PAUSES)
        entries = await single(channel, worker)
        for source, words in (("stdout", "out {} 한글 😀"), ("stderr", "err {} 글한")):
            assert [entry.message for entry in entries if entry.source == source] == [words.format(number) for number in range(40)]
        assert {entry.level for entry in entries if entry.source == "stderr"} == {"ERROR"}


FLOOD = r"""
import os, time
begin = time.monotonic()
for step in range(300):
    data = b"".join(b"%08d %s\n" % (step * 1000 + number, b"x" * (number % 150)) for number in range(1000))
    while data:
        data = data[os.write(1, data):]
    time.sleep(max(0.0, begin + step / 100 - time.monotonic()))
"""


@pytest.mark.timeout(300)
async def test_a_flood_of_lines_loses_none_and_costs_no_memory(standalone: Standalone) -> None:
    """100,000 lines a second offered for three seconds: all arrive, in order, at a reader that follows, while the service stays as it was.

    Where they can't be stored that fast the worker waits in its pipe: no line is dropped.
    """
    statm = Path(f"/proc/{standalone.process.pid}/statm")
    async with standalone.channel() as channel, asyncio.timeout(WAIT_SECONDS):
        await single(channel, await started(channel, "warm", "true"))
        before = int(statm.read_text().split()[1]) * 4096
        worker = await started(channel, "flood", sys.executable, "-c", FLOOD)
        most = before
        count = 0
        async for entry in batched(channel, worker):
            assert (entry.sequence, entry.dropped_before) == (count + 1, 0)
            assert entry.message == f"{count:08d} " + "x" * (count % 1000 % 150)
            count += 1
            if count % 10_000 == 0:
                most = max(most, int(statm.read_text().split()[1]) * 4096)
        assert count == 300_000
        # 27 MB of lines; what is between the pipe and the reader is bounded by settings
        assert most - before < 30e6


async def test_a_pipeline_gives_the_same_lines(standalone: Standalone, tmp_path: Path) -> None:
    """Through StreamBuildLogs they are what they are through the worker's own log."""
    output = OUTPUTS["all bytes"] + OUTPUTS["no UTF-8"] + b"\n" + OUTPUTS["carriage returns"]
    file = tmp_path / "output"
    file.write_bytes(output)
    async with standalone.channel() as channel, asyncio.timeout(WAIT_SECONDS):
        request = PipelineRequest(pipeline_id="p", stages=[PipelineStage(stage_id="s", command=["cat", str(file)])])
        async for _ in PipelineServiceStub(channel).ExecutePipeline(request):
            pass
        entries = LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="p"))
        assert [entry.entry.message async for entry in entries if entry.HasField("entry")] == lines_of(output)
