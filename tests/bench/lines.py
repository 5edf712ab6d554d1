"""Log lines: how long one takes, and how many go through."""

import sys
import time
from collections.abc import AsyncIterable
from typing import Any

from ottoscaler.v1.log_pb2 import LogSelection, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2 import TailLogsRequest
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from . import bare
from .figures import percentile
from .service import Service

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
    """Lines of 200 bytes, in, out, and both at once, each beside a bare stream of the same messages."""
    count = round(100_000 * size / 500) * 500
    few = count // 4
    found: dict[str, float] = {}
    async with service.channel() as channel:
        logs = LogStreamingServiceStub(channel)

        begun = time.perf_counter()
        name = await _run(channel, "in", FLOOD, count)
        async for _ in logs.StreamWorkerLogs(WorkerIdentifier(worker_id=name, selection=LogSelection(keywords=["the end"]))):
            pass
        found["lines.in"] = count / (time.perf_counter() - begun)

        stored = WorkerIdentifier(worker_id=name, selection=LogSelection(no_follow=True))
        some = WorkerIdentifier(worker_id=name, selection=LogSelection(no_follow=True, tail_lines=few))
        single, entries = await _counted(logs.StreamWorkerLogs(some))
        batch, batches = await _counted(logs.TailLogs(TailLogsRequest(worker=stored)))
        bare_single, bare_batch = await bare.rates(entries, batches)
        found |= {
            "lines.single": single,
            "lines.single.bare": bare_single,
            "lines.single.ratio": 100 * single / bare_single,
            "lines.batch": batch,
            "lines.batch.bare": bare_batch,
            "lines.batch.ratio": 100 * batch / bare_batch,
        }

        name = await _run(channel, "live-single", FLOOD, few)
        live, _ = await _counted(logs.StreamWorkerLogs(WorkerIdentifier(worker_id=name)))
        found |= {"lines.live.single": live, "lines.live.single.ratio": 100 * live / bare_single}
        name = await _run(channel, "live-batch", FLOOD, count)
        live, _ = await _counted(logs.TailLogs(TailLogsRequest(worker=WorkerIdentifier(worker_id=name))))
        found |= {"lines.live.batch": live, "lines.live.batch.ratio": 100 * live / bare_batch}
    return found


async def _run(channel: Any, task: str, script: str, count: int) -> str:
    answer = await OttoscalerServiceStub(channel).ScaleUp(
        ScaleRequest(task_id=task, worker_count=1, worker=WorkerSpec(command=[sys.executable, "-c", script, str(count)]))
    )
    return str(answer.worker_pod_names[0])


async def _counted(stream: AsyncIterable[Any]) -> tuple[float, list[Any]]:
    """Lines per second, from the call to its end, and the messages."""
    messages = []
    begun = time.perf_counter()
    async for message in stream:
        messages.append(message)
    seconds = time.perf_counter() - begun
    return bare.lines(messages) / seconds, messages
