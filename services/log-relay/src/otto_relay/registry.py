"""Everyone that is known: workers, the tasks they belong to, pipelines; and where on disk their lines are."""

import hashlib
import logging
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from otto_relay.bell import Bell
from otto_relay.build_log import BuildLog
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files, remove_directory
from otto_relay.wire import worker_fields
from otto_relay.worker_log import FOLLOWED, Facts, WorkerLog, read_facts

log = logging.getLogger(__name__)


def directory_name(name: str) -> str:
    """A directory for any name: readable where it can be, and never another name's, nor a path."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48]
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}".lstrip("-")


class Task:
    """The workers of a task, and the bell for all of them."""

    def __init__(self) -> None:
        self.workers: list[WorkerLog] = []
        self.bell = Bell()


class Observer(Protocol):
    """Whoever has to know of every worker."""

    def joining(self, facts: Facts) -> None:
        """A worker becomes known. Raises SpoolWriteError; then it does not."""
        ...

    def changed(self, known: WorkerLog) -> None:
        """It has new lines."""
        ...

    def leaving(self, known: WorkerLog) -> None:
        """Its lines are about to be deleted. Raises SpoolWriteError; then they are not."""
        ...

    def left(self, known: WorkerLog) -> None:
        """Its lines are deleted, and it is not known any more."""
        ...


class Registry:
    """All that is kept, by name. One writer: the event loop."""

    def __init__(self, directory: Path, files: Files, segment_bytes: int) -> None:
        """`directory` is the spool's; `load` reads it."""
        self.workers: dict[str, WorkerLog] = {}
        self.tasks: dict[str, Task] = {}
        self.builds: dict[str, BuildLog] = {}
        self.bell = Bell()
        """Rung when a worker has become known."""
        self.observer: Observer | None = None
        self._workers_dir = directory / "workers"
        self._builds_dir = directory / "pipelines"
        self._files = files
        self._segment_bytes = segment_bytes
        self._removed: dict[str, str] = {}
        """Workers whose lines were deleted here, by name, and their uids, for as long as the scaler still shows them."""
        self._outside: set[str] = set()
        """Workers that could not be written into their pipeline when they were read, because the disk took nothing."""
        self._strays: list[Path] = []
        """Directories that hold no worker that can be read."""

    def load(self) -> None:
        """Reads what is on disk and gives lines without a place in their pipeline's order one; blocks. Raises OSError.

        On a full disk what could not be placed waits for `mend`.
        """
        for directory in (self._workers_dir, self._builds_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in self._builds_dir.iterdir():
            build = BuildLog("", directory, self._files)
            if build.read_journal():
                build.open()
                self.builds[build.pipeline_id] = build
        for directory in sorted(self._workers_dir.iterdir()):
            facts = read_facts(directory)
            if facts is None:
                self._strays.append(directory)
                continue
            known = WorkerLog(facts, directory, self._files, self._segment_bytes)
            try:
                self._join(known)
            except SpoolWriteError:
                self._outside.add(facts.worker_id)
            self._show(known)
        for known in self.workers.values():
            if known.order is not None and not self.builds[known.facts.pipeline_id].ended:
                try:
                    known.place()
                except SpoolWriteError as error:
                    log.warning("relay.order.delayed", extra={"worker": known.worker_id, "reason": str(error)})
                    self._outside.add(known.worker_id)

    def mend(self) -> None:
        """Gives what could not be placed when it was read its place, if the disk takes it now."""
        for name in list(self._outside):
            known = self.workers.get(name)
            try:
                if known is not None:
                    self._join(known)
                    known.place()
            except SpoolWriteError as error:
                log.warning("relay.order.delayed", extra={"worker": name, "reason": str(error)})
                return
            self._outside.discard(name)

    def remove_strays(self, before: float) -> None:
        """Deletes directories that hold nothing that can be read, and were last written to before a time (seconds since 1970)."""
        for path in list(self._strays):
            try:
                if path.stat().st_mtime < before and read_facts(path) is None:
                    remove_directory(path)
                    self._strays.remove(path)
            except FileNotFoundError:
                self._strays.remove(path)
            except SpoolWriteError as error:
                log.warning("relay.retention.failed", extra={"worker": path.name, "reason": str(error)})

    def _join(self, known: WorkerLog) -> None:
        """Makes the worker one of its pipeline's. Raises SpoolWriteError."""
        facts = known.facts
        if facts.pipeline_id:
            known.order = self._joined(facts.worker_id, facts.pipeline_id, facts.stage_id, facts.attempt)

    def _joined(self, worker_id: str, pipeline_id: str, stage_id: str, attempt: int) -> BuildLog:
        build = self.build(pipeline_id)
        build.join(worker_id, stage_id, attempt)
        return build

    def _show(self, known: WorkerLog) -> None:
        facts = known.facts
        task = self.tasks.setdefault(facts.task_id, Task())
        known.task_bell = task.bell
        known.changed = self._changed
        task.workers.append(known)
        self.workers[facts.worker_id] = known
        task.bell.ring()
        self.bell.ring()

    def _changed(self, log: WorkerLog) -> None:
        if self.observer is not None:
            self.observer.changed(log)

    def add(self, facts: Facts) -> WorkerLog:
        """A new worker, written down. Raises SpoolWriteError."""
        facts.created = time.time()
        if self.observer is not None:
            self.observer.joining(facts)
        known = WorkerLog(facts, self._workers_dir / directory_name(facts.worker_id), self._files, self._segment_bytes)
        known.save()
        self._join(known)
        self._show(known)
        self._removed.pop(facts.worker_id, None)
        return known

    def move(self, known: WorkerLog, task_id: str, pipeline_id: str, stage_id: str, attempt: int) -> None:
        """A worker turns out to be another task's or pipeline's, with all its lines. Raises SpoolWriteError; then it does not."""
        facts = known.facts
        if pipeline_id:
            known.order = self._joined(facts.worker_id, pipeline_id, stage_id, attempt)
        task = self.tasks.get(facts.task_id)
        if task is not None and known in task.workers:
            task.workers.remove(known)
            if not task.workers and task_id != facts.task_id:
                del self.tasks[facts.task_id]
        facts.task_id, facts.pipeline_id, facts.stage_id, facts.attempt = task_id, pipeline_id, stage_id, attempt
        known.fields = worker_fields(facts.worker_id, task_id)
        self._show(known)
        if task is not None:
            task.bell.ring()

    def was_removed(self, worker_id: str, uid: str) -> bool:
        """Whether the lines of this worker were deleted here, so that they are not to be collected again."""
        return bool(uid) and self._removed.get(worker_id) == uid

    def forget_removed(self, worker_id: str) -> None:
        """The scaler has the worker no more."""
        self._removed.pop(worker_id, None)

    def keep_removed(self, shown: Collection[str]) -> None:
        """The scaler has shown all it has."""
        self._removed = {name: uid for name, uid in self._removed.items() if name in shown}

    def build(self, pipeline_id: str) -> BuildLog:
        """The build of a pipeline, made if there is none. Raises SpoolWriteError."""
        build = self.builds.get(pipeline_id)
        if build is None:
            build = BuildLog(pipeline_id, self._builds_dir / directory_name(pipeline_id), self._files)
            build.create()
            self.builds[pipeline_id] = build
        return build

    def workers_of(self, build: BuildLog) -> Iterator[WorkerLog]:
        """The kept workers of a build."""
        for member in build.members:
            known = self.workers.get(member.worker_id)
            if known is not None:
                yield known

    def size(self) -> int:
        """Bytes that all kept lines take; may be asked from any thread."""
        return sum(known.size for known in list(self.workers.values())) + sum(build.size for build in list(self.builds.values()))

    def remove(self, known: WorkerLog) -> int:
        """Deletes a worker's lines; and its pipeline's order when that has ended and no other worker of it is kept.

        Returns the bytes freed. Raises SpoolWriteError; then it is still known, with what is left of it.
        """
        freed = known.size
        if self.observer is not None:
            self.observer.leaving(known)
        known.delete()
        facts = known.facts
        self.workers.pop(facts.worker_id, None)
        if self.observer is not None:
            self.observer.left(known)
        if facts.origin == FOLLOWED and known.shown:
            self._removed[facts.worker_id] = facts.uid
        task = self.tasks.get(facts.task_id)
        if task is not None and known in task.workers:
            task.workers.remove(known)
            if not task.workers:
                del self.tasks[facts.task_id]
        build = self.builds.get(facts.pipeline_id)
        if build is not None and build.ended and not any(True for _ in self.workers_of(build)):
            freed += self.remove_build(build)
        return freed

    def remove_build(self, build: BuildLog) -> int:
        """Deletes a pipeline's order. Returns the bytes freed; raises SpoolWriteError."""
        freed = build.size
        build.delete()
        self.builds.pop(build.pipeline_id, None)
        return freed
