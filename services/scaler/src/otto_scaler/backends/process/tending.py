"""Workers from their start to their end: run, followed, held to their limits, and their ends found out."""

import asyncio
import logging
import os
import time
from collections import deque
from pathlib import Path

from otto_scaler.backends.process import environment, own, processes
from otto_scaler.backends.process.entry import Entry
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.processes import Supervisor, Trace
from otto_scaler.backends.process.supervisor import report
from otto_scaler.backends.process.supervisor.control import UnreadableError
from otto_scaler.backends.process.supervisor.report import Ending
from otto_scaler.backends.process.threads import Threads
from otto_scaler.backends.process.trash import TRASH, Trash
from otto_scaler.backends.process.watchdog import Step, Watchdog
from otto_scaler.backends.process.workspaces import Workspaces
from otto_scaler.backends.protocol import Gone, Observation, Seen
from otto_scaler.errors import RefusedError
from otto_scaler.worker import Cause

log = logging.getLogger(__name__)
STARTING_AT_ONCE = 2 * (os.cpu_count() or 1)
"""How many supervisors are starting at the same time: as many as the machine is busy with anyhow. More would start none sooner, but keep
calls from being answered, and have the time of those wasted that are stopped before their turn.
"""
PLACE_SECONDS = 1.0
"""After this long another one may start all the same: one that hangs holds up nobody."""


class Tending:
    """All workers of a backend. Callbacks of the event loop only take note; what takes a while `conclude` does."""

    def __init__(self, workspaces: Workspaces, surroundings: Surroundings, files: Threads) -> None:
        """`files` does what takes a while."""
        self.entries: dict[str, Entry] = {}
        # Bounded by the number of workers: each gives a handful of events in its life, and the fleet takes them without waiting for
        # anybody.
        self.events: deque[Observation] = deque()
        self.over: list[Entry] = []
        """Those whose supervisors have ended, and it is not known how."""
        self.more = asyncio.Event()
        """There is something in one of the two."""
        self.trash = Trash()
        """What is to be deleted."""
        self.starts: asyncio.Queue[Entry] = asyncio.Queue()
        """Those that are to be run. Bounded by the number of workers."""
        self._places = asyncio.Semaphore(STARTING_AT_ONCE)
        self._files = files
        self._workspaces = workspaces
        self._surroundings = surroundings

    async def run_starts(self) -> None:
        """Starts the supervisors of those that are to be run, a few at a time, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                entry = await self.starts.get()
                group.create_task(self._start(entry), name=f"start {entry.name}")

    async def _start(self, entry: Entry) -> None:
        """Starts the supervisor of a worker that none has claimed, once there is a place, unless it has been asked to stop by then."""
        try:
            values = await self._files.run(environment.secret_values, entry.record.spec, self._surroundings.secrets_dir)
            await self._places.acquire()
            entry.starting = True
            asyncio.get_running_loop().call_later(PLACE_SECONDS, self._leave_place, entry)
            async with entry.lock:
                if self._waits(entry):
                    self._spawn(entry, values)
        except RefusedError as error:
            await self._not_started(entry, error.cause, str(error))
        except Exception as error:  # one worker that can't be started must not end all others
            log.exception("scaler.worker.run_failed", extra={"worker": entry.name})
            why = error.strerror if isinstance(error, OSError) else "what it was asked to be can't be handed to a program"
            await self._not_started(entry, Cause.INTERNAL, f"it could not be started: {why}")
        finally:
            if entry.running < 0:
                self._leave_place(entry)

    async def _not_started(self, entry: Entry, cause: Cause, message: str) -> None:
        async with entry.lock:
            if self._waits(entry):
                self.fail(entry, cause, message)

    def _waits(self, entry: Entry) -> bool:
        """Whether it is still to be started: nobody has stopped it, or found it anew."""
        return self.entries.get(entry.name) is entry and entry.supervisor is None and not (entry.over or entry.worker.finished)

    def _leave_place(self, entry: Entry) -> None:
        """Another one may start: it runs, or has ended, or takes long."""
        if entry.starting:
            entry.starting = False
            self._places.release()

    def _spawn(self, entry: Entry, values: dict[str, str]) -> None:
        spec, directory = entry.record.spec, entry.directory
        entry.own.make()
        directory.keep_secrets(environment.to_mask(spec, values))
        workspace = self._workspace(entry)
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        launch = environment.launch(entry.record, entry.own, workspace, values, self._surroundings)
        supervisor, running = processes.spawn(directory.path, launch)
        self.follow(entry, supervisor, Watchdog(spec.timeout, spec.stop_grace, self._surroundings.patience, time.monotonic()))
        entry.running = running
        entry.when_ready(running, self._on_running)
        self.refresh(entry)

    def follow(self, entry: Entry, supervisor: Supervisor, watchdog: Watchdog) -> None:
        """From now on its end is noticed."""
        entry.supervisor, entry.watchdog, entry.held = supervisor, watchdog, False
        entry.when_ready(supervisor.descriptor, self._on_end)

    def unfollow(self, entry: Entry) -> None:
        """Holds nothing of its supervisor any more."""
        loop = asyncio.get_running_loop()
        self._leave_place(entry)
        if entry.running >= 0:
            loop.remove_reader(entry.running)
            os.close(entry.running)
            entry.running = -1
        if entry.supervisor is not None:
            loop.remove_reader(entry.supervisor.descriptor)
            entry.status = entry.supervisor.let_go()
            entry.supervisor = None

    def tell(self, entry: Entry) -> None:
        """Makes a supervisor look: for a stop, for its directory. From now on its time is over."""
        if entry.supervisor is not None and entry.watchdog is not None:
            entry.watchdog.stop(entry.reason or "its directory was deleted while it ran", time.monotonic())
            entry.supervisor.tell()
            entry.supervisor.nudge()

    def _on_running(self, entry: Entry) -> None:
        """The supervisor has said that the worker runs, and since when, or has ended without a word."""
        asyncio.get_running_loop().remove_reader(entry.running)
        said = os.read(entry.running, 64).strip()
        os.close(entry.running)
        entry.running = -1
        self._leave_place(entry)
        if said:
            entry.started = int(said) if said.isdigit() and len(said) < 20 else time.time_ns()
            self.refresh(entry)

    def _on_end(self, entry: Entry) -> None:
        """The supervisor has ended."""
        self.unfollow(entry)
        self.note_over(entry)

    def note_over(self, entry: Entry) -> None:
        """It is to be found out how it ended: by `observe`, as what a lost supervisor has left takes a while to end."""
        entry.over = True
        if entry not in self.over:
            self.over.append(entry)
            self.more.set()

    async def conclude(self) -> None:
        """Finds out how those ended whose supervisors have. What is left of a worker must not run on unwatched."""
        over, self.over = self.over, []
        lost, gone = [], []
        for entry in over:
            try:
                if not entry.directory.path.is_dir():
                    gone.append(entry)
                elif (ending := entry.reported()) is not None:
                    if ending.cause == Cause.INTERNAL.name and (words := entry.directory.last_words()):
                        log.error(
                            "scaler.worker.supervisor_failed", extra={"worker": entry.name, "why": ending.message, "last_words": words}
                        )
                    self.refresh(entry, ending)
                elif entry.claimed_elsewhere() and (claim := entry.directory.claim()) and (other := processes.find(claim, entry.name)):
                    assert entry.watchdog is not None
                    entry.over = False
                    self.follow(entry, other, entry.watchdog)
                else:
                    lost.append(entry)
            except OSError as error:  # the machine is short of something: it stays `over`, and is looked at again
                log.warning("scaler.worker.unreadable", extra={"worker": entry.name, "why": str(error)})
        if left := [self._trace(entry) for entry in lost + [entry for entry in gone if entry.killed]]:
            try:
                killed = await self._files.run(processes.end_leftovers, left)
            except OSError as error:  # nobody hears of an end before what is left is gone: looked for again
                log.warning("scaler.leftovers_unknown", extra={"why": str(error)})
                return
        for entry in gone:
            self.forget(entry)
        for entry in lost:
            words = entry.directory.last_words()
            log.error("scaler.worker.supervisor_lost", extra={"worker": entry.name, "killed": killed[entry.name], "last_words": words})
            self._end(entry, entry.mourning(killed[entry.name]))

    def fail(self, entry: Entry, cause: Cause, message: str) -> None:
        """Notes the end of a worker that no supervisor runs."""
        self._end(entry, entry.failure(cause, message))

    def _end(self, entry: Entry, ending: Ending) -> None:
        try:
            report.write_ending(str(entry.directory.path), ending)
        except OSError as error:
            log.warning("scaler.worker.unwritable", extra={"worker": entry.name, "why": error.strerror})
        self.refresh(entry, ending)

    def refresh(self, entry: Entry, ending: Ending | None = None) -> None:
        """Takes over how it stands, or ended."""
        before, now = entry.worker, entry.standing(ending)
        if before.finished or (now.state, now.held, now.stopping, now.pending_reason) == (
            before.state,
            before.held,
            before.stopping,
            before.pending_reason,
        ):
            return
        entry.worker = now
        self.emit(Seen(now), entry)
        if now.finished:
            entry.over = False
            if now.identity.workspace:
                self.sweep_workspaces()

    def forget(self, entry: Entry) -> None:
        """It is gone, with what was its own."""
        entry.over = False
        if self.entries.get(entry.name) is entry:
            del self.entries[entry.name]
            self.discard_own(entry.own.path)
            self.emit(Gone(entry.name), entry)

    def discard_own(self, path: Path) -> None:
        """Takes away what was a worker's own."""
        try:
            if (trash := own.discard(path, TRASH)) is not None:
                self.trash.put(trash)
        except OSError as error:
            log.warning("scaler.tidy_failed", extra={"path": str(path), "why": error.strerror})

    def emit(self, observation: Observation, entry: Entry) -> None:
        """Lets it be observed, if the worker has been."""
        if entry.announced:
            self.events.append(observation)
            self.more.set()

    def _trace(self, entry: Entry) -> Trace:
        return Trace(entry.name, self._workspace(entry), environment.brand(entry.record.uid))

    def _workspace(self, entry: Entry) -> Path:
        shared = entry.record.spec.identity.workspace
        return self._workspaces.path(shared) if shared else entry.own.work

    def sweep_workspaces(self) -> None:
        """Takes away the workspaces that are to be deleted and that nobody uses any more."""
        used = {entry.worker.identity.workspace for entry in self.entries.values() if not entry.worker.finished}
        for path in self._workspaces.sweep(used):
            self.trash.put(path)

    def let_go(self) -> None:
        """Nothing is watched any more; workers run on."""
        for entry in self.entries.values():
            self.unfollow(entry)
        self.entries.clear()
        self.over.clear()
        self.events.clear()

    def watch_over(self, entry: Entry, supervisor: Supervisor, now: float) -> None:
        """Looks after a worker whose supervisor lives: whether it keeps the limits, and has told that it runs."""
        step = None if entry.watchdog is None else entry.watchdog.step(now)
        if step is Step.NUDGE:
            supervisor.nudge()
        elif step is Step.KILL:
            log.warning("scaler.worker.supervisor_deaf", extra={"worker": entry.name})
            supervisor.kill()
        if entry.running < 0 and not entry.started:
            try:
                entry.started = entry.directory.started() or (time.time_ns() if supervisor.works() else 0)
            except (UnreadableError, OSError):
                entry.started = time.time_ns()
            self.refresh(entry)
