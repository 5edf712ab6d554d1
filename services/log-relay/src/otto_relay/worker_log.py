"""The lines of one worker: what is known of it, its spool, and the bell that tells readers of new lines.

What is known of it lies beside its lines in `worker.json`, replaced as a whole, so that it is always one version or the other.
"""

import json
import logging
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from otto_relay.bell import Bell
from otto_relay.encoder import Encoder, Fresh
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files, remove_directory, sync_directory
from otto_relay.spool import Spool, open_spool
from otto_relay.wire import worker_fields

log = logging.getLogger(__name__)

FOLLOWED = "followed"
"""Origin: read from a source."""
PUSHED = "pushed"
"""Origin: sent by the worker itself."""
_FILE = "worker.json"


@dataclass(slots=True)
class Facts:
    """What is remembered of a worker."""

    worker_id: str
    task_id: str = ""
    pipeline_id: str = ""
    stage_id: str = ""
    attempt: int = 0
    origin: str = FOLLOWED
    uid: str = ""
    """Tells it from an earlier worker of the same name."""
    position_from: int = 0
    """Positions in records up to this sequence belong to an earlier worker of the same name."""
    created: float = 0.0
    """Seconds since 1970."""
    ended: float = 0.0
    """Seconds since 1970 when all its lines were stored; 0: not yet."""
    durable: bool = False
    """It has ended, and its lines survive a power cut."""
    last: int = 0
    """Its last sequence, once it has ended."""
    size: int = 0
    """Bytes of its lines, once it has ended."""
    traceparent: str = ""
    """W3C's, of its span; empty: it has none."""
    status: str = ""
    """What NotifyWorkerStatus said last, of a pushed worker."""


class Order(Protocol):
    """Where lines of a worker get their place among those of its pipeline."""

    def take_lines(self, worker_id: str, last: int) -> None:
        """Gives a place to every line up to sequence `last` that has none; raises SpoolWriteError."""
        ...

    def wake(self) -> None:
        """Something about a worker has changed: whoever waits looks again."""
        ...

    def reopen(self) -> None:
        """Lines will follow though it had ended; raises SpoolWriteError."""
        ...


class WorkerLog:
    """One worker's lines."""

    def __init__(self, facts: Facts, directory: Path, files: Files, segment_bytes: int) -> None:
        """Made by the registry."""
        self.facts = facts
        self.bell = Bell()
        self.task_bell = Bell()
        """Rung as well; the registry puts the task's here."""
        self.changed: Callable[[WorkerLog], None] | None = None
        """Called when it has new lines; the registry's."""
        self.order: Order | None = None
        """The pipeline's, if it belongs to one; the registry puts it here."""
        self.removed = False
        """It is not kept any more."""
        self.shown = True
        """The scaler has it, as far as is known."""
        self.fields = worker_fields(facts.worker_id, facts.task_id)
        """What all its LogEntries begin with."""
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._spool: Spool | None = None
        self._released: Callable[[], Spool | None] = lambda: None
        """The last one, while somebody reads it."""
        self._encoder = Encoder()

    @property
    def worker_id(self) -> str:
        """Its name."""
        return self.facts.worker_id

    @property
    def ended(self) -> bool:
        """Whether all its lines are stored."""
        return self.facts.ended > 0

    @property
    def spool(self) -> Spool:
        """Its lines; opened, and repaired if it had not ended, when first asked for. Raises SpoolWriteError if that can't be done now."""
        if self._spool is None:
            self._spool = self._released()
        if self._spool is None:
            last = self.facts.last if self.ended else None
            refill = self.facts.origin == FOLLOWED
            try:
                self._spool = open_spool(self._directory, self._files, self._segment_bytes, refill=refill, last=last)
            except OSError as error:
                raise SpoolWriteError(f"{self._directory}: {error.strerror}") from error
            repair = self._spool.repair
            if repair.cut or repair.damaged:
                log.warning(
                    "relay.spool.repaired", extra={"worker": self.worker_id, "cut_bytes": repair.cut, "damaged_bytes": repair.damaged}
                )
        return self._spool

    @property
    def size(self) -> int:
        """Bytes on disk, but for the facts; may be asked from any thread."""
        spool = self._spool
        return self.facts.size if spool is None else spool.size

    @property
    def position(self) -> bytes:
        """Where the source goes on."""
        return self.spool.position if self.spool.last > self.facts.position_from else b""

    def append(self, lines: list[Fresh]) -> int:
        """Stores lines, tells readers, and returns the last sequence. Raises SpoolWriteError; then none of them is stored."""
        spool = self.spool
        spool.append(self._encoder.blocks(spool.last + 1, self.fields, lines), len(lines), lines[-1].position)
        try:
            self.place()
        except SpoolWriteError as error:
            # They are stored; the next line or the end of the worker gives them their place.
            log.warning("relay.order.delayed", extra={"worker": self.worker_id, "reason": str(error)})
        self.bell.ring()
        self.task_bell.ring()
        if self.changed is not None:
            self.changed(self)
        return spool.last

    def place(self) -> None:
        """Gives every stored line its place among those of the pipeline; raises SpoolWriteError."""
        if self.order is not None:
            self.order.take_lines(self.worker_id, self.spool.last)

    def end(self) -> None:
        """All its lines are stored. Raises SpoolWriteError; then it has not ended. Repeating it is harmless."""
        self.place()
        facts = self.facts
        before = facts.ended, facts.last, facts.size
        facts.ended, facts.last, facts.size = time.time(), self.spool.last, self.spool.size
        try:
            self.save()
        except SpoolWriteError:
            facts.ended, facts.last, facts.size = before
            raise
        self.ring()

    def ring(self) -> None:
        """Something about it has changed: whoever waits looks again."""
        self.bell.ring()
        self.task_bell.ring()
        if self.order is not None:
            self.order.wake()

    def reopen(self, uid: str, origin: str = "") -> None:
        """A new worker of the same name: its lines follow on those of the last one. Raises SpoolWriteError; then it is the last one still.

        `origin` is where they come from, if not from where the last ones did.
        """
        if self.order is not None:
            self.order.reopen()
        facts = self.facts
        before = facts.position_from, facts.uid, facts.origin, facts.ended, facts.durable
        facts.position_from, facts.uid, facts.origin, facts.ended, facts.durable = self.spool.last, uid, origin or facts.origin, 0.0, False
        try:
            self.save()
        except SpoolWriteError:
            facts.position_from, facts.uid, facts.origin, facts.ended, facts.durable = before
            raise

    def check_again(self) -> None:
        """It ended, but the process did before that was durable: what the disk has is looked at, and the rest collected again."""
        self.facts.ended = 0.0
        self.release_files()
        self._released = lambda: None

    def save(self) -> None:
        """Writes the facts down. Raises SpoolWriteError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise SpoolWriteError(f"{self._directory}: {error.strerror}") from error

    def save_durably(self) -> None:
        """Writes the facts down so that they survive a power cut; blocks for as long as the disk needs. Raises SpoolWriteError.

        It may be deleted meanwhile: what is gone is not made again.
        """
        if self.removed:
            return
        try:
            self._write()
            sync_directory(self._directory)
            sync_directory(self._directory.parent)
        except OSError as error:
            raise SpoolWriteError(f"{self._directory}: {error.strerror}") from error

    def _write(self) -> None:
        path = self._directory / _FILE
        fresh = path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(asdict(self.facts), file, ensure_ascii=False)
            if self.facts.durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(fresh, path)  # noqa: PTH105 - one system call, which is what makes it whole

    def sync(self) -> None:
        """Makes its lines durable; blocks for as long as the disk needs. Raises OSError."""
        self.spool.sync()

    def release_files(self) -> None:
        """Gives back descriptors, and memory unless somebody reads it; it is opened again when needed. Not while lines may be appended.

        Who reads it goes on, and sees what is appended once it is opened again.
        """
        if self._spool is not None:
            self._spool.close()
            self._released = weakref.ref(self._spool)
            self._spool = None

    def delete_lines(self) -> None:
        """Removes its lines from the disk, and leaves what is known of it. Raises SpoolWriteError; then some of them are left."""
        try:
            self.spool.delete()
        except OSError as error:
            raise SpoolWriteError(f"{self._directory}: {error.strerror}") from error

    def delete(self) -> None:
        """Removes everything of it from the disk. Raises SpoolWriteError; then something of it is left, and it may be tried again."""
        self.delete_lines()
        remove_directory(self._directory)
        self.removed = True
        self.ring()


def read_facts(directory: Path) -> Facts | None:
    """The facts that lie in a directory, or None if there are none that can be read."""
    try:
        found = json.loads((directory / _FILE).read_text("utf-8"))
        return Facts(**{name: found[name] for name in Facts.__slots__ if name in found})
    except (OSError, ValueError, TypeError):
        return None
