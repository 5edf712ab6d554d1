"""Doubles for tests of the scaler, and of what uses it. Only tests import this.

`MemoryBackend` passes the same contract tests as the real backends, and loses its connection when it is told to.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from otto_runtime import spans
from otto_scaler.backends import Gone, Observation, Seen, Synced
from otto_scaler.errors import BackendError, RefusedError
from otto_scaler.worker import Cause, State, Worker, WorkerSpec


class DisconnectedError(BackendError):
    """The connection to the backend was lost."""


class MemoryBackend:
    """Workers that are only remembered. `true`, `false` and `sh -c "exit N"` end at once; anything else runs until `finish` or a stop.

    What a test does to it (`begin`, `finish`, `vanish`, `disconnect`) happens at once; like a cluster, it goes on living while nobody
    observes it.
    """

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.specs: dict[str, WorkerSpec] = {}
        self.workspaces: set[str] = set()
        self.secrets: dict[tuple[str, str], str] = {}
        self.refusals: dict[str, str] = {}
        """Why workers of these names are refused."""
        self.faults: dict[str, Exception] = {}
        """What is raised instead of doing anything with workers of these names."""
        self.slow: set[str] = set()
        """Names of workers that are pending until `begin`, even if they have room."""
        self.started: list[str] = []
        """Names in the order in which they began to run."""
        self._marked: set[str] = set()
        self._queue: asyncio.Queue[Observation | None] | None = None
        self._uids = 0

    # For tests

    def begin(self, name: str) -> None:
        """The worker runs."""
        worker = self.workers[name]
        self.started.append(name)
        self._set(replace(worker, state=State.RUNNING, held=False, started=time.time_ns(), pending_reason=""))
        match self.specs[name].command:
            case ("true",):
                self.finish(name, 0)
            case ("false",):
                self.finish(name, 1)
            case ("sh", "-c", script) if script.startswith("exit "):
                self.finish(name, int(script.removeprefix("exit ")))

    def finish(self, name: str, code: int = 0) -> None:
        """The worker's command ends."""
        worker = self.workers[name]
        end = State.SUCCEEDED if code == 0 else State.FAILED
        cause, error = (Cause.UNSPECIFIED, "") if code == 0 else (Cause.EXIT_CODE, f"exit code {code}")
        self._set(replace(worker, state=end, ended=time.time_ns(), exit_code=code, cause=cause, error=error))

    def vanish(self, name: str) -> None:
        """Somebody deletes the worker from outside."""
        del self.workers[name]
        self._tell(Gone(name))

    def disconnect(self) -> None:
        """Whoever observes gets an error, and nothing of what happens until they observe again."""
        self._tell(None)
        self._queue = None

    # The Protocol

    def unsupported(self, spec: WorkerSpec) -> list[tuple[str, str]]:
        """Everything is supported but priority classes."""
        return [("priority_class_name", "is unknown here")] if spec.priority_class else []

    def place(self, worker: Worker) -> Mapping[str, str]:
        """See WorkerBackend."""
        return {spans.HOST_NAME: worker.node}

    async def run(self) -> None:
        """Nothing takes time here."""
        await asyncio.Event().wait()

    async def observe(self) -> AsyncIterator[Observation]:
        """See WorkerBackend."""
        queue = self._queue = asyncio.Queue()
        for worker in list(self.workers.values()):
            yield Seen(worker)
        yield Synced()
        try:
            while (observation := await queue.get()) is not None:
                yield observation
        finally:
            if self._queue is queue:
                self._queue = None
        raise DisconnectedError("the connection was lost")

    async def create(self, spec: WorkerSpec, *, held: bool) -> None:
        """See WorkerBackend."""
        await asyncio.sleep(0)
        name = spec.identity.name
        if name in self.workers:
            return
        if name in self.faults:
            raise self.faults[name]
        if name in self.refusals:
            raise RefusedError(self.refusals[name])
        for secret in spec.secrets:
            if (secret.secret, secret.key) not in self.secrets:
                raise RefusedError(f"the secret {secret.secret}/{secret.key} for the variable {secret.name} does not exist")
        self._uids += 1
        self.specs[name] = spec
        if spec.identity.workspace:
            self.workspaces.add(spec.identity.workspace)
        reason = "waits for room" if held else ""
        self._set(Worker(spec.identity, str(self._uids), State.PENDING, time.time_ns(), held=held, pending_reason=reason, node="memory"))
        if not held:
            self._admit(name)

    async def start(self, name: str) -> None:
        """See WorkerBackend."""
        await asyncio.sleep(0)
        worker = self.workers.get(name)
        if worker is not None and worker.held and not worker.finished:
            self._admit(name)

    async def stop(self, name: str, reason: str) -> None:
        """See WorkerBackend."""
        await asyncio.sleep(0)
        if name in self.faults:
            raise self.faults[name]
        worker = self.workers.get(name)
        if worker is None or worker.finished:
            return
        code = None if worker.state is State.PENDING else 143
        stopping = replace(worker, stopping=True)
        self._set(stopping)
        self._set(
            replace(stopping, state=State.FAILED, held=False, ended=time.time_ns(), exit_code=code, cause=Cause.CANCELLED, error=reason)
        )

    async def remove(self, name: str) -> None:
        """See WorkerBackend."""
        await asyncio.sleep(0)
        worker = self.workers.get(name)
        if worker is None:
            return
        if not worker.finished:
            raise ValueError(f"{name} has not ended")
        self.vanish(name)

    async def delete_workspace(self, workspace: str) -> None:
        """See WorkerBackend."""
        await asyncio.sleep(0)
        self._marked.add(workspace)
        self._sweep()

    def _admit(self, name: str) -> None:
        if name in self.slow:
            self._set(replace(self.workers[name], held=False, pending_reason=""))
        else:
            self.begin(name)

    def _set(self, worker: Worker) -> None:
        self.workers[worker.name] = worker
        self._tell(Seen(worker))
        self._sweep()

    def _sweep(self) -> None:
        used = {worker.identity.workspace for worker in self.workers.values() if not worker.finished}
        for name in self._marked - used:
            self.workspaces.discard(name)
        self._marked &= used

    def _tell(self, observation: Observation | None) -> None:
        if self._queue is not None:
            self._queue.put_nowait(observation)
