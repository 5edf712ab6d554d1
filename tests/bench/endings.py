"""How soon a worker's end is told when somebody else brings it about."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WatchWorkersRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import (
    FAILURE_CAUSE_DELETED,
    FAILURE_CAUSE_EXIT_CODE,
    FAILURE_CAUSE_INTERNAL,
    FAILURE_CAUSE_OOM_KILLED,
    FAILURE_CAUSE_TIMEOUT,
    Resources,
    WorkerSpec,
)

from .service import Service, serving

EATER = "import time\nheld = bytearray(300_000_000)\nprint(time.time_ns(), flush=True)\ntime.sleep(600)"


async def endings(service: Service, _: float) -> dict[str, float]:
    """Each trouble once; from the moment it happens to the moment a watcher of the scaler has the cause.

    A full disk takes one that can be filled: without the right to mount one that figure is left out.
    """
    sleeping = WorkerSpec(command=["sh", "-c", "echo $$ > pid; exec sleep 600"], workspace="bench")
    eating = WorkerSpec(command=[sys.executable, "-c", EATER], resources=Resources(memory="128Mi"))
    short = WorkerSpec(command=["sleep", "600"], timeout=Duration(seconds=1), stop_grace_period=Duration(seconds=1))
    found = {
        "end.killed": await _told(service, "killed", sleeping, FAILURE_CAUSE_EXIT_CODE, lambda _: _kill(service)),
        "end.memory": await _told(service, "memory", eating, FAILURE_CAUSE_OOM_KILLED, lambda _: None),
        "end.time": await _told(service, "time", short, FAILURE_CAUSE_TIMEOUT, lambda _: None) - 1.0,
        "end.deleted": await _told(
            service, "deleted", WorkerSpec(command=["sleep", "600"]), FAILURE_CAUSE_DELETED, lambda name: _delete(service, name)
        ),
    }
    with _small_disk() as disk:
        if disk is not None:
            async with serving(disk) as cramped:
                found["end.disk"] = await _on_a_full_disk(cramped, disk)
    return found


@contextmanager
def _small_disk() -> Iterator[Path | None]:
    """A file system of its own in memory; None where none may be mounted."""
    with tempfile.TemporaryDirectory(prefix="ottoscaler-bench-disk-") as directory:
        mount = shutil.which("mount")
        command = [mount or "", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory]
        if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


async def _on_a_full_disk(service: Service, disk: Path) -> float:
    """From when a worker writes on a disk without any room."""
    with tempfile.TemporaryDirectory(prefix="ottoscaler-bench-go-") as directory:
        go = Path(directory) / "go"
        writes = WorkerSpec(command=["sh", "-c", f"until test -e {go}; do sleep 0.01; done; head -c 100000 /dev/zero; sleep 600"])

        def fill(_: str) -> None:
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
            go.touch()

        seconds = await _told(service, "disk", writes, FAILURE_CAUSE_INTERNAL, fill)
        (disk / "filler").unlink()
        return seconds


async def _told(service: Service, task: str, spec: WorkerSpec, cause: int, trouble: Callable[[str], Any]) -> float:
    """Seconds from the trouble to its cause, counted from the worker's start where it brings the trouble along."""
    async with service.channel() as channel:
        stub = OttoscalerServiceStub(channel)
        await stub.ScaleUp(ScaleRequest(task_id=task, worker_count=1, worker=spec))
        begun = 0.0
        async for event in stub.WatchWorkers(WatchWorkersRequest(task_id=task)):
            if event.worker.status == "running" and not begun:
                if task in {"killed", "deleted", "disk"}:
                    await asyncio.sleep(0.5)
                begun = time.perf_counter()
                trouble(event.worker.pod_name)
            elif event.worker.status == "failed":
                if event.worker.failure_cause != cause:
                    raise RuntimeError(f"{task}: {event.worker}")
                return time.perf_counter() - begun
    raise RuntimeError(f"{task}: its end was never told")


def _kill(service: Service) -> None:
    (pid,) = (service.state / "workspaces" / "bench").glob("pid")
    os.kill(int(Path(pid).read_text()), signal.SIGKILL)


def _delete(service: Service, name: str) -> None:
    shutil.rmtree(service.state / "workers" / name)
