"""The process backend: WorkerBackend over directories and supervisors."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from otto_scaler.backends.process import environment, processes
from otto_scaler.backends.process.directory import NEW, TRASH, Record, WorkerDirectory, delete_tree
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.processes import Supervisor
from otto_scaler.backends.process.supervisor import report
from otto_scaler.backends.process.supervisor.report import Ending
from otto_scaler.backends.process.workspaces import Workspaces
from otto_scaler.backends.protocol import Gone, Observation, Seen, Synced
from otto_scaler.errors import RefusedError
from otto_scaler.worker import Cause, Worker, WorkerSpec

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often it is looked whether directories have vanished, and whether a worker found in its first milliseconds has started."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A worker of ours, and what we hold of it."""

    record: Record
    directory: WorkerDirectory
    worker: Worker
    supervisor: Supervisor | None = None
    running: int = -1
    """The descriptor on which its supervisor says that it runs; -1: none."""
    announced: bool = False
    """The observer knows of it: from now on changes are events."""
    vanished: bool = False
    """Its directory is gone, and its supervisor was told to look."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Orders start, stop and removal."""


class ProcessBackend:
    """Runs workers as process groups of this machine. Made by `opening.process_backend`."""

    def __init__(self, workers_dir: Path, workspaces_dir: Path, surroundings: Surroundings) -> None:
        """Both directories are absolute and exist."""
        self._root = workers_dir
        self._workspaces = Workspaces(workspaces_dir)
        self._surroundings = surroundings
        self._node = socket.gethostname()
        self._entries: dict[str, _Entry] = {}
        # Bounded by the number of workers: each gives a handful of events in its life, and the fleet takes them without waiting for
        # anybody.
        self._events: deque[Observation] = deque()
        self._more = asyncio.Event()
        self._trash: asyncio.Queue[Path] = asyncio.Queue()

    # The Protocol

    def unsupported(self, spec: WorkerSpec) -> list[tuple[str, str]]:
        """See WorkerBackend."""
        asked = {
            "priority_class_name": spec.priority_class,
            "service_account_name": spec.service_account,
            "extra_containers": spec.extra_containers,
        }
        return [(name, "needs Kubernetes; here workers are processes of one machine") for name, value in asked.items() if value]

    async def observe(self) -> AsyncIterator[Observation]:
        """See WorkerBackend. What runs is adopted; what was created but never run is run now."""
        self._let_go()
        try:
            for record, directory, worker in await asyncio.to_thread(self._found):
                entry = self._entries[worker.name] = _Entry(record, directory, worker)
                await self._adopt(entry)
                entry.announced = True
                yield Seen(entry.worker)
            yield Synced()
            self._sweep_workspaces()
            due = time.monotonic()
            while True:
                while self._events:
                    yield self._events.popleft()
                self._more.clear()
                if time.monotonic() >= due:
                    self._look()
                    due = time.monotonic() + LOOK_SECONDS
                elif not self._events:
                    try:
                        async with asyncio.timeout(due - time.monotonic()):
                            await self._more.wait()
                    except TimeoutError:
                        continue
        finally:
            self._let_go()

    async def create(self, spec: WorkerSpec, *, held: bool) -> None:
        """See WorkerBackend."""
        name = spec.identity.name
        if name in self._entries:
            return
        record = Record(spec, uid=secrets.token_hex(8), created=time.time_ns())
        directory = WorkerDirectory(self._root / name)
        try:
            await asyncio.to_thread(environment.secret_values, spec, self._surroundings.secrets_dir)
            if not await asyncio.to_thread(directory.make, record, held=held):
                record = directory.load()
        except (OSError, ValueError) as error:
            log.exception("scaler.worker.create_failed", extra={"worker": name})
            why = error.strerror if isinstance(error, OSError) else "something else lies in its place"
            raise RefusedError(f"its directory could not be made: {why}", Cause.INTERNAL) from error
        entry = self._entries[name] = _Entry(record, directory, directory.worker(record, self._node), announced=True)
        self._emit(Seen(entry.worker), entry)
        await self._adopt(entry)

    async def start(self, name: str) -> None:
        """See WorkerBackend."""
        entry = self._entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if not entry.worker.held or entry.worker.finished:
                return
            try:
                entry.directory.unhold()
            except OSError as error:
                self._fail(entry, Cause.INTERNAL, f"it could not be started: {error.strerror}")
                return
            await self._run(entry)

    async def stop(self, name: str, reason: str) -> None:
        """See WorkerBackend."""
        entry = self._entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if entry.worker.finished or entry.worker.stopping:
                return
            reason = " ".join(reason.split())[:1000] or "stopped on request"
            if entry.supervisor is None:
                self._fail(entry, Cause.CANCELLED, reason)
                return
            try:
                report.write_whole(str(entry.directory.path), report.STOP, reason)
            except FileNotFoundError:
                log.debug("scaler.worker.vanished", extra={"worker": name})
            entry.supervisor.tell()
            self._refresh(entry)

    async def remove(self, name: str) -> None:
        """See WorkerBackend. What takes time is done after it has returned."""
        entry = self._entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if not entry.worker.finished:
                raise ValueError(f"{name} has not ended")
            try:
                self._trash.put_nowait(entry.directory.discard())
            except FileNotFoundError:
                log.debug("scaler.worker.vanished", extra={"worker": name})
            self._forget(entry)

    async def delete_workspace(self, workspace: str) -> None:
        """See WorkerBackend."""
        if self._workspaces.mark(workspace):
            self._sweep_workspaces()

    async def tidy(self) -> None:
        """Deletes what was taken away, for ever, one tree at a time, in a thread."""
        for root in (self._root, self._workspaces.path("")):
            for path in root.iterdir():
                if path.name.startswith((TRASH, NEW)):
                    self._trash.put_nowait(path)
        while True:
            path = await self._trash.get()
            try:
                await asyncio.to_thread(delete_tree, path)
            except OSError as error:
                log.warning("scaler.tidy_failed", extra={"path": str(path), "why": str(error)})

    # Finding

    def _found(self) -> list[tuple[Record, WorkerDirectory, Worker]]:
        found = []
        for path in self._root.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            directory = WorkerDirectory(path)
            try:
                record = directory.load()
                found.append((record, directory, directory.worker(record, self._node)))
            except (OSError, ValueError) as error:
                log.warning("scaler.worker.unreadable", extra={"worker": path.name, "why": str(error)})
        found.sort(key=lambda f: (f[0].created, f[0].spec.identity.index))
        return found

    async def _adopt(self, entry: _Entry) -> None:
        """Takes up a worker as its directory tells: to be run, running, or without the supervisor it should have."""
        async with entry.lock:
            if entry.worker.finished:
                return
            claim = entry.directory.claim()
            if claim is None:
                if entry.worker.stopping:
                    self._fail(entry, Cause.CANCELLED, entry.directory.stop_reason())
                elif not entry.worker.held:
                    await self._run(entry)
                return
            supervisor = processes.find(claim)
            self._refresh(entry)
            if supervisor is None:
                if not entry.worker.finished:
                    self._mourn(entry, claim)
                return
            self._follow(entry, supervisor)
            if entry.worker.stopping:
                supervisor.tell()
            log.info("scaler.worker.adopted", extra={"worker": entry.worker.name})

    def _look(self) -> None:
        """Notices directories that were taken away, and workers that were adopted before they had started."""
        try:
            there = set(os.listdir(self._root))  # noqa: PTH208 - names are what is compared
        except FileNotFoundError:
            there = set()
        for name, entry in list(self._entries.items()):
            if name in there:
                if entry.supervisor is not None and entry.running < 0 and not entry.worker.started:
                    self._refresh(entry)
            elif entry.supervisor is None:
                if not entry.lock.locked():
                    self._forget(entry)
            elif not entry.vanished:
                entry.vanished = True
                entry.supervisor.tell()

    # Running and ending

    async def _run(self, entry: _Entry) -> None:
        """Starts the supervisor of a worker that none has claimed."""
        spec, directory = entry.record.spec, entry.directory
        try:
            values = await asyncio.to_thread(environment.secret_values, spec, self._surroundings.secrets_dir)
            directory.keep_secrets(environment.to_mask(spec, values))
            workspace = self._workspace(entry)
            workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
            launch = environment.launch(spec, directory, workspace, values, self._surroundings)
            supervisor, running = processes.spawn(directory.path, launch)
        except RefusedError as error:
            self._fail(entry, error.cause, str(error))
            return
        except OSError as error:
            log.exception("scaler.worker.create_failed", extra={"worker": entry.worker.name})
            self._fail(entry, Cause.INTERNAL, f"it could not be started: {error.strerror}")
            return
        self._follow(entry, supervisor)
        entry.running = running
        asyncio.get_running_loop().add_reader(running, self._on_running, entry)
        self._refresh(entry)

    def _follow(self, entry: _Entry, supervisor: Supervisor) -> None:
        entry.supervisor = supervisor
        asyncio.get_running_loop().add_reader(supervisor.descriptor, self._on_end, entry)

    def _unfollow(self, entry: _Entry) -> None:
        loop = asyncio.get_running_loop()
        if entry.running >= 0:
            loop.remove_reader(entry.running)
            os.close(entry.running)
            entry.running = -1
        if entry.supervisor is not None:
            loop.remove_reader(entry.supervisor.descriptor)
            entry.supervisor.let_go()
            entry.supervisor = None

    def _on_running(self, entry: _Entry) -> None:
        """The supervisor has said that the worker runs, or has ended without a word."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(entry.running)
        said = os.read(entry.running, 16)
        os.close(entry.running)
        entry.running = -1
        if said:
            self._refresh(entry)

    def _on_end(self, entry: _Entry) -> None:
        """The supervisor has ended."""
        assert entry.supervisor is not None
        pid = entry.supervisor.pid
        self._unfollow(entry)
        if not entry.directory.path.exists():
            self._forget(entry)
            return
        self._refresh(entry)
        if entry.worker.finished:
            return
        claim = entry.directory.claim()
        other = processes.find(claim) if claim is not None and claim[0] != pid else None
        if other is not None:
            self._follow(entry, other)
        else:
            self._mourn(entry, claim)

    def _mourn(self, entry: _Entry, claim: tuple[int, int, str] | None) -> None:
        """Its supervisor is gone and left no report: what is left of the worker must not run on unwatched."""
        if claim is not None and not processes.same_boot(claim):
            self._fail(entry, Cause.NODE_LOST, "the machine was restarted while it ran")
            return
        killed = processes.end_leftovers(entry.worker.name, self._workspace(entry))
        words = entry.directory.last_words()
        log.error("scaler.worker.supervisor_lost", extra={"worker": entry.worker.name, "killed": killed, "last_words": words})
        self._fail(entry, Cause.INTERNAL, "its supervisor was killed or failed" + (f": {words}" if words else ""))

    def _fail(self, entry: _Entry, cause: Cause, message: str) -> None:
        """Notes the end of a worker that no supervisor runs."""
        ending = Ending(None, cause.name, message, entry.directory.started(), time.time_ns())
        try:
            report.write_ending(str(entry.directory.path), ending)
        except OSError as error:
            log.warning("scaler.worker.unreadable", extra={"worker": entry.worker.name, "why": str(error)})
        self._refresh(entry, ending)

    def _refresh(self, entry: _Entry, ending: Ending | None = None) -> None:
        """Takes over what the directory (or `ending`, which could perhaps not be written) says."""
        before, now = entry.worker, entry.directory.worker(entry.record, self._node, ending)
        if before.finished or (now.state, now.held, now.stopping, now.pending_reason) == (
            before.state,
            before.held,
            before.stopping,
            before.pending_reason,
        ):
            return
        entry.worker = now
        self._emit(Seen(now), entry)
        if now.finished and now.identity.workspace:
            self._sweep_workspaces()

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get(entry.worker.name) is entry:
            del self._entries[entry.worker.name]
            self._emit(Gone(entry.worker.name), entry)

    def _emit(self, observation: Observation, entry: _Entry) -> None:
        if entry.announced:
            self._events.append(observation)
            self._more.set()

    def _workspace(self, entry: _Entry) -> Path:
        shared = entry.record.spec.identity.workspace
        return self._workspaces.path(shared) if shared else entry.directory.work

    def _sweep_workspaces(self) -> None:
        """Takes away the workspaces that are to be deleted and that nobody uses any more."""
        marked = self._workspaces.marked()
        if not marked:
            return
        used = {entry.worker.identity.workspace for entry in self._entries.values() if not entry.worker.finished}
        for name in marked:
            if name not in used and (trash := self._workspaces.discard(name)) is not None:
                self._trash.put_nowait(trash)

    def _let_go(self) -> None:
        """Nothing is watched any more; workers run on."""
        for entry in self._entries.values():
            self._unfollow(entry)
        self._entries.clear()
        self._events.clear()
