"""Log lines: how long one takes, and how many go through."""

import asyncio
import sys
import time
from collections.abc import AsyncIterable
from datetime import datetime
from statistics import median
from typing import Any

from ottoscaler.v1.log_pb2 import LogEntry, LogSelection, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from . import bare
from .figures import percentile
from .service import Service

PAIRS = 3
"""Ours and the bare stream take turns so often, as what else the machine does changes within seconds."""
BATCH_PAIRS = 9
"""Those of stored batches, which take a tenth of a second each."""
STAMPS = "import sys, time\nfor _ in range(int(sys.argv[1])):\n print(time.time_ns(), flush=True)\n time.sleep(0.01)\n"
FLOOD = (
    "import sys\nn = int(sys.argv[1])\n"
    "for start in range(0, n, 500):\n sys.stdout.write(''.join(f'{i:010d}'.ljust(199, 'x') + chr(10) for i in range(start, start + 500)))\n"
    "print('the end')\n"
)


async def latency(service: Service, size: float) -> dict[str, float]:
    """From a worker's write to a reader, a line every 10 ms."""
    count = round(1000 * size)
    async with service.channel() as channel:
        name = await _run(channel, "stamps", STAMPS, count)
        taken = []
        async for entry in LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=name)):
            now = time.time_ns()
            if not entry.replayed:
                taken.append((now - int(entry.message)) / 1e6)
    return {"line.p50": percentile(taken, 0.5), "line.p99": percentile(taken, 0.99)}


async def throughput(service: Service, size: float) -> dict[str, float]:
    """Lines of 200 bytes, in, out, and both at once, beside bare streams of the same messages: pairs in turns, medians of them.

    The bare stream is a server of grpc.aio that has the messages as objects, and serializes and sends them; its client is the one that
    reads ours, in the same process, with the same classes. Of ours it is compared with three ways of the same lines:

    - replayed: written by a worker before, read from the spool; the reader's stream from its call to its end;
    - live: from the worker's write to a pipe through its supervisor, its log file, the relay, its masks and the spool to the reader, who
      was there before the first line; from the reader's first message to the end;
    - pushed: sent to the relay over gRPC, one a message and each answered (StreamLogs), stored and read by one reader at the same time.
    """
    count = round(100_000 * size / 500) * 500
    few = count // 4
    found: dict[str, float] = {}
    async with service.channel() as channel:
        await channel.channel_ready()
        logs = LogStreamingServiceStub(channel)
        name = await _run(channel, "in", FLOOD, count)
        stored = WorkerIdentifier(worker_id=name, selection=LogSelection(no_follow=True))
        found["lines.in"] = await _taken_in(logs, name, count)
        some = WorkerIdentifier(worker_id=name, selection=LogSelection(no_follow=True, tail_lines=few))

        async def replayed(kind: str) -> tuple[float, list[Any]]:
            return await _counted(logs.StreamWorkerLogs(some) if kind == "single" else logs.TailLogs(TailLogsRequest(worker=stored)))

        async def live(kind: str, number: int) -> float:
            task = f"live-{kind}-{number}"
            worker = WorkerIdentifier(worker_id=await _run(channel, task, FLOOD, few if kind == "single" else count))
            call = logs.StreamWorkerLogs(worker) if kind == "single" else logs.TailLogs(TailLogsRequest(worker=worker))
            return (await _counted(call, from_first=True))[0]

        async def pushed(number: int) -> float:
            name = f"pushed-{number}"
            call = logs.StreamLogs(LogEntry(worker_id=name, source="stdout", message=f"{i:010d}".ljust(199, "x")) for i in range(few))
            known = asyncio.Event()
            answers = asyncio.create_task(_taken(call, few, known), name="answers")
            await known.wait()
            begun = time.perf_counter()
            await _taken(logs.StreamWorkerLogs(WorkerIdentifier(worker_id=name)), few)
            seconds = time.perf_counter() - begun
            await answers
            return few / seconds

        for kind in ("single", "batch"):
            _, messages = await replayed(kind)
            async with bare.streaming(kind, messages) as bare_rate:
                turns = PAIRS if kind == "single" else BATCH_PAIRS
                rates = [((await replayed(kind))[0], await bare_rate()) for _ in range(turns)]
                lived = [(await live(kind, number), await bare_rate()) for number in range(PAIRS)]
            found |= {
                f"lines.{kind}": median(out for out, _ in rates),
                f"lines.{kind}.bare": median(floor for _, floor in (*rates, *lived)),
                f"lines.{kind}.ratio": median(100 * out / floor for out, floor in rates),
                f"lines.live.{kind}": median(both for both, _ in lived),
                f"lines.live.{kind}.ratio": median(100 * both / floor for both, floor in lived),
            }
        found["lines.pushed"] = median([await pushed(number) for number in range(PAIRS)])
        found["lines.pushed.ratio"] = 100 * found["lines.pushed"] / found["lines.single.bare"]
    return found


async def _taken(call: Any, count: int, first: asyncio.Event | None = None) -> None:
    """Reads so many messages of a stream and leaves it; says when the first has come."""
    async for _ in call:
        if first is not None:
            first.set()
        count -= 1
        if not count:
            break
    call.cancel()


async def _taken_in(logs: Any, name: str, count: int) -> float:
    """Lines a second from the time of the worker's first line to a reader who waits for the last and gets nothing in between."""
    ends = LogSelection(keywords=["0000000000x", "the end"])
    begun = 0.0
    async for entry in logs.StreamWorkerLogs(WorkerIdentifier(worker_id=name, selection=ends)):
        begun = begun or datetime.fromisoformat(entry.timestamp).timestamp()
    return count / (time.time() - begun)


async def _run(channel: Any, task: str, script: str, count: int) -> str:
    answer = await OttoscalerServiceStub(channel).ScaleUp(
        ScaleRequest(task_id=task, worker_count=1, worker=WorkerSpec(command=[sys.executable, "-c", script, str(count)]))
    )
    return str(answer.worker_pod_names[0])


async def _counted(stream: AsyncIterable[Any], *, from_first: bool = False) -> tuple[float, list[Any]]:
    """Lines per second until the end, and the messages; from the call, or from the first message, as a worker has to start first."""
    messages: list[Any] = []
    begun = time.perf_counter()
    async for message in stream:
        if from_first and not messages:
            begun = time.perf_counter()
        messages.append(message)
    seconds = time.perf_counter() - begun
    return bare.lines(messages) / seconds, messages
