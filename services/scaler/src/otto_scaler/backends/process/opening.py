"""Opening a process backend: its directories, held against other instances."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from otto_scaler.backends.process.backend import ProcessBackend
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.errors import BackendUnusableError

LOCK_SECONDS = 1.0


async def _locked(descriptor: int) -> None:
    """Takes the lock. Raises BlockingIOError when another instance has it.

    A supervisor that was being started when the last service was killed holds it for the moments until it is another program:
    that is waited for.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


@asynccontextmanager
async def process_backend(workers_dir: Path, workspaces_dir: Path, surroundings: Surroundings) -> AsyncIterator[ProcessBackend]:
    """A backend that holds its directories against other instances; workers outlive it. Raises BackendUnusableError.

    The lock is the kernel's (flock), so it ends with the process, however that ends.
    """
    lock = -1
    try:
        try:
            for path in (workers_dir, workspaces_dir):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(workers_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            await _locked(lock)
        except BlockingIOError as error:
            raise BackendUnusableError(
                f"{workers_dir} is in use by another scaler. Stop that one, or name another directory in OTTO_SCALER_WORKERS_DIR"
            ) from error
        except OSError as error:
            raise BackendUnusableError(
                f"{error.filename or workers_dir} can't be used: {error.strerror}. "
                "Make it writable, or name other directories in OTTO_SCALER_WORKERS_DIR and OTTO_SCALER_WORKSPACES_DIR"
            ) from error
        yield ProcessBackend(workers_dir, workspaces_dir, surroundings)
    finally:
        if lock >= 0:
            os.close(lock)
