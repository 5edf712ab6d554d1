"""Everyone that is known: workers, the tasks they belong to, pipelines; and where on disk their lines are."""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from otto_relay.bell import Bell
from otto_relay.build_log import BuildLog
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.worker_log import Facts, WorkerLog, read_facts


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

    def load(self) -> None:
        """Reads what is on disk and gives lines without a place in their pipeline's order one; blocks. Raises OSError."""
        for directory in (self._workers_dir, self._builds_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in self._builds_dir.iterdir():
            build = BuildLog("", directory, self._files)
            if build.read_journal():
                build.open()
                self.builds[build.pipeline_id] = build
        for directory in sorted(self._workers_dir.iterdir()):
            facts = read_facts(directory)
            if facts is not None:
                self._put(WorkerLog(facts, directory, self._files, self._segment_bytes))
        for log in self.workers.values():
            if log.order is not None and not self.builds[log.facts.pipeline_id].ended:
                log.place()

    def _put(self, log: WorkerLog) -> None:
        facts = log.facts
        if facts.pipeline_id:
            build = self.build(facts.pipeline_id)
            build.join(facts.worker_id, facts.stage_id, facts.attempt)
            log.order = build
        task = self.tasks.setdefault(facts.task_id, Task())
        log.task_bell = task.bell
        log.changed = self._changed
        task.workers.append(log)
        self.workers[facts.worker_id] = log
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
        log = WorkerLog(facts, self._workers_dir / directory_name(facts.worker_id), self._files, self._segment_bytes)
        log.save()
        self._put(log)
        return log

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
            log = self.workers.get(member.worker_id)
            if log is not None:
                yield log

    def size(self) -> int:
        """Bytes that all kept lines take."""
        return sum(log.size for log in self.workers.values()) + sum(build.size for build in self.builds.values())

    def remove(self, log: WorkerLog) -> int:
        """Deletes a worker's lines; and its pipeline's order when that has ended and no other worker of it is kept.

        Returns the bytes freed.
        """
        freed = log.size
        if self.observer is not None:
            self.observer.leaving(log)
        self.workers.pop(log.worker_id, None)
        task = self.tasks.get(log.facts.task_id)
        if task is not None and log in task.workers:
            task.workers.remove(log)
            if not task.workers:
                del self.tasks[log.facts.task_id]
        try:
            log.delete()
        except OSError as error:
            raise SpoolWriteError(str(error)) from error
        build = self.builds.get(log.facts.pipeline_id)
        if build is not None and build.ended and not any(True for _ in self.workers_of(build)):
            freed += self.remove_build(build)
        return freed

    def remove_build(self, build: BuildLog) -> int:
        """Deletes a pipeline's order. Returns the bytes freed; raises SpoolWriteError."""
        freed = build.size
        self.builds.pop(build.pipeline_id, None)
        try:
            build.delete()
        except OSError as error:
            raise SpoolWriteError(str(error)) from error
        return freed
