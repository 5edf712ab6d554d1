"""The process backend: WorkerBackend over directories and supervisors."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from otto_runtime import spans
from otto_scaler.backends.process import environment, finding, own, processes
from otto_scaler.backends.process.directory import MOST_REASON_CHARACTERS, Record, WorkerDirectory
from otto_scaler.backends.process.entry import Entry
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.finding import edge
from otto_scaler.backends.process.own import OwnDirectory
from otto_scaler.backends.process.supervisor import report
from otto_scaler.backends.process.supervisor.control import UnreadableError
from otto_scaler.backends.process.tending import Tending
from otto_scaler.backends.process.threads import Threads
from otto_scaler.backends.process.watchdog import Watchdog
from otto_scaler.backends.process.workspaces import Workspaces
from otto_scaler.backends.protocol import Observation, Seen, Synced
from otto_scaler.errors import RefusedError
from otto_scaler.worker import Cause, Worker, WorkerSpec

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often it is looked whether directories have vanished, limits were broken, and workers found just after their start have started."""

ASIDE_LOOK_SECONDS = 3600.0
FILE_THREADS = 4
"""Makes so many directories at once; more would only queue up in the disk."""


class ProcessBackend:
    """Runs workers as process groups of this machine. Made by `opening.process_backend`."""

    def __init__(self, workers_dir: Path, workspaces_dir: Path, surroundings: Surroundings) -> None:
        """Both directories are absolute and exist."""
        self._root = workers_dir
        self._workspaces = Workspaces(workspaces_dir)
        self._surroundings = surroundings
        self._node = socket.gethostname()
        self._files = Threads("files", FILE_THREADS)
        self._tending = Tending(self._workspaces, surroundings, self._files)
        self._tidied = False
        """What belongs to no worker was looked for: once, before any can be created."""
        self._known = asyncio.Event()
        """All workers there are have been found, once at least: what is none can be told from now on."""

    # The Protocol

    def unsupported(self, spec: WorkerSpec) -> list[tuple[str, str]]:
        """See WorkerBackend."""
        asked = {
            "priority_class_name": spec.priority_class,
            "service_account_name": spec.service_account,
            "extra_containers": spec.extra_containers,
        }
        return [(name, "needs Kubernetes; here workers are processes of one machine") for name, value in asked.items() if value]

    def place(self, worker: Worker) -> Mapping[str, str]:
        """See WorkerBackend."""
        return {spans.HOST_NAME: worker.node}

    async def run(self) -> None:
        """See WorkerBackend: starts what is to run, deletes what was taken away."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tending.trash.run(), name="delete what was taken away")
            group.create_task(self._tidy(), name="find what is to be deleted")
            group.create_task(self._tending.run_starts(), name="start workers")

    async def observe(self) -> AsyncIterator[Observation]:
        """See WorkerBackend. What runs is adopted; what was created but never run is run now."""
        self._tending.let_go()
        try:
            with edge("the workers can't be read"):
                found, forgotten = await self._files.run(self._found)
                for entry, pid in found:
                    self._tending.entries[entry.name] = entry
                    await self._adopt(entry, pid)
            if not self._tidied:
                self._tidied = True
                for path in forgotten:
                    self._tending.discard_own(path)
            await self._tending.conclude()
            for entry in list(self._tending.entries.values()):
                entry.announced = True
                yield Seen(entry.worker)
            self._known.set()
            yield Synced()
            self._tending.sweep_workspaces()
            due = time.monotonic()
            while True:
                while self._tending.events:
                    yield self._tending.events.popleft()
                self._tending.more.clear()
                if self._tending.over:
                    await self._tending.conclude()
                elif time.monotonic() >= due:
                    self._look()
                    due = time.monotonic() + LOOK_SECONDS
                elif not self._tending.events:
                    try:
                        async with asyncio.timeout(due - time.monotonic()):
                            await self._tending.more.wait()
                    except TimeoutError:
                        continue
        finally:
            self._tending.let_go()

    async def create(self, spec: WorkerSpec, *, held: bool) -> None:
        """See WorkerBackend."""
        name = spec.identity.name
        if name in self._tending.entries:
            return
        record = Record(spec, uid=secrets.token_hex(8), created=time.time_ns())
        directory = WorkerDirectory(self._root / name)
        try:
            await self._files.run(environment.secret_values, spec, self._surroundings.secrets_dir)
            record = await self._files.run(finding.made, directory, record, held=held)
            entry = self._entry(directory, record)
        except (OSError, ValueError, UnreadableError) as error:
            log.exception("scaler.worker.make_failed", extra={"worker": name})
            why = error.strerror if isinstance(error, OSError) else "something else lies in its place"
            raise RefusedError(f"its directory could not be made: {why}", Cause.INTERNAL) from error
        self._tending.entries[name] = entry
        entry.announced = True
        self._tending.emit(Seen(entry.worker), entry)
        try:
            await self._adopt(entry)
        except OSError as error:
            log.exception("scaler.worker.run_failed", extra={"worker": name})
            self._tending.fail(entry, Cause.INTERNAL, f"it could not be started: {error.strerror}")

    async def start(self, name: str) -> None:
        """See WorkerBackend."""
        entry = self._tending.entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if not entry.worker.held or entry.worker.finished:
                return
            try:
                entry.directory.unhold()
            except OSError as error:
                self._tending.fail(entry, Cause.INTERNAL, f"it could not be started: {error.strerror}")
                return
            entry.held = False
            self._tending.refresh(entry)
            self._tending.starts.put_nowait(entry)

    async def stop(self, name: str, reason: str) -> None:
        """See WorkerBackend."""
        entry = self._tending.entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if entry.worker.finished or entry.reason:
                return
            entry.reason = " ".join(reason.split())[:MOST_REASON_CHARACTERS] or "stopped on request"
            if entry.supervisor is None:
                if not entry.over:
                    self._tending.fail(entry, Cause.CANCELLED, entry.reason)
                return
            try:
                report.write_stop(str(entry.directory.path), entry.reason)
            except FileNotFoundError:
                log.debug("scaler.worker.vanished", extra={"worker": name})
            except OSError as error:
                # Told to end without a reason that it can read, the supervisor ends its worker all the same.
                log.warning("scaler.worker.unwritable", extra={"worker": name, "why": error.strerror})
            self._tending.tell(entry)
            self._tending.refresh(entry)

    async def remove(self, name: str) -> None:
        """See WorkerBackend. What takes time is done after it has returned."""
        entry = self._tending.entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if not entry.worker.finished:
                raise ValueError(f"{name} has not ended")
            with edge("its directory could not be taken away"):
                try:
                    self._tending.trash.put(entry.directory.discard())
                except FileNotFoundError:
                    log.debug("scaler.worker.vanished", extra={"worker": name})
            self._tending.forget(entry)

    async def delete_workspace(self, workspace: str) -> None:
        """See WorkerBackend."""
        with edge("the deletion could not be noted"):
            if self._workspaces.mark(workspace):
                self._tending.sweep_workspaces()

    async def _tidy(self) -> None:
        """Finds what is to be deleted and nobody names: of earlier services, and what nobody understood for a long time."""
        first = True
        while True:
            try:
                if first:
                    self._tending.trash.put_leftovers(self._root)
                    self._tending.trash.put_leftovers(self._workspaces.path(""))
                    first = False
                await self._known.wait()
                for path in await self._files.run(finding.not_understood, self._root, self._tending.entries):
                    self._tending.trash.put(WorkerDirectory(path).discard())
            except OSError as error:
                log.warning("scaler.tidy_failed", extra={"path": str(self._root), "why": str(error)})
            await asyncio.sleep(ASIDE_LOOK_SECONDS)

    # Finding

    def _found(self) -> tuple[list[tuple[Entry, int]], list[Path]]:
        """Every worker there is, oldest first, with the pid of its supervisor if one lives; and own directories that are nobody's."""
        living = processes.living(self._root)
        found, whole = [], True
        for path in self._root.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            directory = WorkerDirectory(path)
            try:
                record = directory.load()
                entry = self._entry(directory, record)
            except (OSError, ValueError, UnreadableError) as error:
                if finding.scarce(error):
                    raise
                whole = False
                log.warning("scaler.worker.unreadable", extra={"worker": path.name, "why": str(error)})
                continue
            found.append((entry, living.get(path.name, 0)))
        found.sort(key=lambda f: (f[0].record.created, f[0].record.spec.identity.index))
        uids = {entry.record.uid for entry, _ in found}
        return found, own.forgotten(self._workspaces.path(""), uids) if whole else []

    async def _adopt(self, entry: Entry, pid: int = 0) -> None:
        """Takes up a worker as it is found: to be run, running, ended, or without the supervisor it should have.

        That a process supervises its directory says more than the files do, which it may have spoiled.
        """
        async with entry.lock:
            path = os.fsencode(entry.directory.path)
            claim = entry.directory.claim()
            supervisor = None if claim is None else processes.find(claim, entry.name)
            if supervisor is None:
                supervisor = processes.hold(pid, lambda directory: directory == path)
            if supervisor is None and (ending := entry.reported()) is not None:
                self._tending.refresh(entry, ending)
                return
            try:
                entry.started = entry.directory.started()
            except UnreadableError:
                entry.started = entry.record.created
            if supervisor is not None:
                spec, patience = entry.record.spec, self._surroundings.patience
                watchdog = Watchdog(spec.timeout, spec.stop_grace, patience, time.monotonic(), supervisor.age())
                self._tending.follow(entry, supervisor, watchdog)
                if entry.reason:
                    self._tending.tell(entry)
                self._tending.refresh(entry)
                log.info("scaler.worker.adopted", extra={"worker": entry.name})
            elif claim is not None or entry.started:
                entry.restarted = claim is not None and not processes.same_boot(claim)
                self._tending.note_over(entry)
            elif entry.reason:
                self._tending.fail(entry, Cause.CANCELLED, entry.reason)
            elif not entry.held:
                self._tending.starts.put_nowait(entry)

    def _look(self) -> None:
        """Notices directories that were taken away, supervisors that do not keep the limits, ends that could not be read, and workers that
        were adopted before they had started.
        """
        now = time.monotonic()
        self._tending.sweep_workspaces()
        try:
            there = set(os.listdir(self._root))  # noqa: PTH208 - names are what is compared
        except FileNotFoundError:
            there = set()
        except OSError as error:
            log.warning("scaler.worker.unreadable", extra={"worker": "", "why": error.strerror})
            there = set(self._tending.entries)
        for name, entry in list(self._tending.entries.items()):
            if entry.over:
                self._tending.note_over(entry)
            elif entry.supervisor is None:
                if name not in there and not entry.lock.locked():
                    self._tending.forget(entry)
            else:
                if name not in there and not entry.vanished:
                    entry.vanished = True
                    self._tending.tell(entry)
                self._tending.watch_over(entry, entry.supervisor, now)

    def _entry(self, directory: WorkerDirectory, record: Record) -> Entry:
        """Raises OSError."""
        own_directory = OwnDirectory(self._workspaces.path(""), record.uid)
        return Entry(record, directory, own_directory, self._node, held=directory.held(), reason=directory.stop_reason())
