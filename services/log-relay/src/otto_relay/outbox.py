"""What otto-handler is owed of each worker, on disk: its notices, and how far its lines have been answered for.

It lies beside the spool and not in it, so that a worker whose lines were deleted before they could be sent is still told of: as a count
of what is missing, and with its notices.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files
from otto_relay.notices import Notice, Sighting, due, vanished
from otto_relay.positions import Position, unpack
from otto_relay.spool import Cursor, Spool
from otto_relay.worker_log import PUSHED, Facts, WorkerLog
from otto_runtime.times import rfc3339

log = logging.getLogger(__name__)

_IDENTITY = ("worker_id", "task_id", "pipeline_id", "stage_id", "attempt", "traceparent")


class Outbox:
    """One worker's."""

    def __init__(self, facts: Facts, path: Path, files: Files, generation: int = 0) -> None:
        """`path` has no suffix: two files are made from it. `generation` counts the workers of one name that are owed lines together."""
        self.facts = facts
        self.generation = generation
        self.earlier: Outbox | None = None
        """Of the last worker of the same name, while that is owed lines: they come first."""
        self.later: Outbox | None = None
        self.known: WorkerLog | None = None
        """Its lines, once it has any that are kept."""
        self.gone = False
        """The worker is not kept any more: what is owed of it is all that is left."""
        self.position = Position()
        self.notices: list[Notice] = []
        """Those to be sent, the first one next."""
        self.newest = 0
        """Its last sequence as far as it is known here."""
        self.unmeasured = False
        """Its lines could not be read yet, so `newest` may be too low."""
        self.dropped = 0
        """Lines that were given up since this process began."""
        self.retries = 0
        """Times in a row that a line was to be sent again."""
        self.losses = 0
        """Times in a row that the stream ended while a line of it was the first without an answer."""
        self.stumbles = 0
        """Times in a row that something in otto-handler failed at its next notice."""
        self.unread = 0
        """Times in a row that its lines could not be read."""
        self.sent = 0
        """The last sequence that was sent on the stream that is open now."""
        self.waiting = False
        """A line was sent that has to be answered before anything follows it."""
        self.place: tuple[Spool, Cursor] | None = None
        self.uid = ""
        self.told: list[str] = []
        """Kinds of notices of the worker with this uid, each once."""
        self.number = 0
        """Of the last notice."""
        self.created_at = ""
        self.began = 0.0
        """When this process began to send its lines, in seconds since the epoch; 0: it has not."""
        self._json = path.with_suffix(".json")
        self._at = path.with_suffix(".at")
        self._files = files
        self._deleted = False

    @property
    def worker_id(self) -> str:
        """The worker's name."""
        return self.facts.worker_id

    @property
    def owed(self) -> int:
        """How many lines are still to be sent."""
        return self.position.owed(self.newest)

    @property
    def blocked(self) -> bool:
        """Whether lines of an earlier worker of the same name come first."""
        earlier = self.earlier
        return earlier is not None and (earlier.owed > 0 or earlier.blocked)

    def measure(self) -> None:
        """Looks which is the last line. Raises SpoolWriteError; then it is to be done again."""
        known = self.known
        if known is not None:
            self.unmeasured = True
            self.newest = known.facts.last if known.ended else known.spool.last
            if known.facts.origin == PUSHED and self.position.answered > self.newest:
                # A power cut took lines whose sequences others will get.
                self.position = Position(self.newest, (number for number in self.position.again if number <= self.newest))
        self.unmeasured = False

    def read(self) -> None:
        """Takes up what an earlier process wrote; blocks. Raises OSError or ValueError."""
        found: dict[str, Any] = json.loads(self._json.read_text("utf-8"))
        for name in _IDENTITY:
            setattr(self.facts, name, found.get(name, "") if name == "traceparent" else found[name])  # earlier versions wrote none
        self.uid, self.told, self.number, self.newest = found["uid"], found["told"], found["number"], found["last"]
        self.created_at, self.generation = found["created_at"], found.get("generation", 0)
        self.notices = [Notice(**notice) for notice in found["notices"]]
        try:
            position = unpack(self._at.read_bytes())
        except FileNotFoundError:
            return
        if position is None:
            log.warning("relay.handler.position_lost", extra={"worker": self.worker_id})
        else:
            self.position = position

    def save(self, *, leaving: bool = False) -> None:
        """Writes down everything but the position; `leaving`: as of a worker that is not kept any more. Raises SpoolWriteError."""
        if self._deleted:
            return
        state = {name: getattr(self.facts, name) for name in _IDENTITY} | {
            "uid": self.uid,
            "told": self.told,
            "number": self.number,
            "created_at": self.created_at,
            "generation": self.generation,
            "last": self.newest if self.gone or leaving else 0,
            "notices": [asdict(notice) for notice in self.notices],
        }
        try:
            fresh = self._json.with_suffix(".new")
            fresh.write_text(json.dumps(state, ensure_ascii=False), "utf-8")
            os.replace(fresh, self._json)  # noqa: PTH105 - one system call, which is what makes it whole
        except OSError as error:
            raise SpoolWriteError(f"{self._json}: {error.strerror}") from error

    def keep(self) -> None:
        """Writes down the position. A disk that does not take it costs repeated lines after a restart, and nothing else."""
        if self._deleted:
            return
        try:
            self._files.overwrite(self._at, self.position.pack())
        except OSError as error:
            log.warning("relay.handler.unsaved", extra={"worker": self.worker_id, "reason": str(error)})

    def note(self, uid: str, found: Iterable[Notice]) -> bool:
        """Adds notices of the worker with this uid; whether there were any. Raises SpoolWriteError; then nothing was added."""
        fresh = list(found)
        if not fresh:
            return False
        before = self.uid, self.told, self.number, self.notices
        told = self.told if uid == self.uid else []
        self.uid, self.told = uid, list(dict.fromkeys([*told, *(notice.kind for notice in fresh)]))
        self.number, self.notices = fresh[-1].number, [*self.notices, *fresh]
        try:
            self.save()
        except SpoolWriteError:
            self.uid, self.told, self.number, self.notices = before
            raise
        return True

    def create(self) -> None:
        """Writes down a new one, which has nothing to do with a position that was left there. Raises SpoolWriteError."""
        try:
            self._files.delete(self._at)
        except OSError as error:
            raise SpoolWriteError(f"{self._at}: {error.strerror}") from error
        self.save()

    def delete(self) -> None:
        """Nothing is owed any more, nor ever will be."""
        if self._deleted:
            return
        self._deleted = True
        with suppress(OSError):
            # In this order: without its position it would be owed everything.
            self._json.unlink(missing_ok=True)
            self._files.delete(self._at)


class Outboxes:
    """All of them, by worker. One writer: the event loop."""

    def __init__(self, directory: Path, files: Files, most_removed: int) -> None:
        """`load` reads what is there. `most_removed` workers that are not kept any more may be owed something."""
        self.by_worker: dict[str, Outbox] = {}
        self.earlier: set[Outbox] = set()
        """Those that are owed lines of a worker whose name another one has now."""
        self._directory = directory
        self._files = files
        self._most_removed = most_removed

    def load(self) -> None:
        """Reads what an earlier process left; blocks. Raises OSError when the directory can't be used."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found: list[Outbox] = []
        for path in self._directory.glob("*.json"):
            outbox = Outbox(Facts(""), path.with_suffix(""), self._files)
            try:
                outbox.read()
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("relay.handler.unreadable", extra={"path": str(path), "reason": str(error)})
            else:
                outbox.gone = True
                found.append(outbox)
        for outbox in sorted(found, key=lambda one: one.generation):
            self._add(outbox)
        for path in self._directory.glob("*.at"):
            if not path.with_suffix(".json").exists():
                path.unlink()

    def all(self) -> Iterator[Outbox]:
        """Every one; of a name the earlier ones first."""
        yield from sorted(self.earlier, key=lambda one: one.generation)
        yield from list(self.by_worker.values())

    def _add(self, outbox: Outbox) -> None:
        earlier = self.by_worker.get(outbox.worker_id)
        if earlier is not None:
            earlier.later, outbox.earlier = outbox, earlier
            self.earlier.add(earlier)
        self.by_worker[outbox.worker_id] = outbox

    def _made(self, facts: Facts, name: str) -> Outbox:
        latest = self.by_worker.get(facts.worker_id)
        generation = latest.generation + 1 if latest is not None else 0
        path = self._directory / (f"{name}-{generation}" if generation else name)
        return Outbox(facts, path, self._files, generation)

    def take(self, facts: Facts, name: str) -> Outbox:
        """The outbox of a worker, written down if it is new; `name` is its file's. Raises SpoolWriteError."""
        outbox = self.by_worker.get(facts.worker_id)
        if outbox is None:
            outbox = self._made(facts, name)
            outbox.create()
            self._add(outbox)
        return outbox

    def renew(self, facts: Facts, name: str) -> Outbox:
        """The outbox of a worker whose name another one had: its lines count from 1 again, its notices follow on those of the other one.

        Raises SpoolWriteError; then nothing has changed.
        """
        before = self.by_worker[facts.worker_id]
        outbox = self._made(facts, name)
        outbox.uid, outbox.told, outbox.number, outbox.notices = before.uid, before.told, before.number, before.notices
        outbox.create()
        before.known, before.place, before.gone, before.notices = None, None, True, []
        self._add(outbox)
        with suppress(SpoolWriteError):
            # Else its notices are told twice after a restart, with the same numbers.
            before.save()
        self.drop(before)
        return outbox

    def bound(self) -> Iterator[tuple[Outbox, int, int]]:
        """Gives up workers that are not kept any more, those known longest first, while there are too many.

        Gives each, with how many lines and notices of it will never be told of.
        """
        if len(self.by_worker) + len(self.earlier) <= self._most_removed:
            return
        gone = [one for one in self.all() if one.gone]
        for outbox in gone[: max(len(gone) - self._most_removed, 0)]:
            lost = outbox.owed, len(outbox.notices)
            outbox.position, outbox.notices = Position(outbox.newest), []
            self.drop(outbox)
            yield outbox, *lost

    def drop(self, outbox: Outbox) -> None:
        """Forgets one that owes nothing and whose worker is not kept any more."""
        if outbox.gone and not outbox.owed and not outbox.notices:
            outbox.delete()
            self.earlier.discard(outbox)
            if outbox.earlier is not None:
                outbox.earlier.later = outbox.later
            if outbox.later is not None:
                outbox.later.earlier = outbox.earlier
            if self.by_worker.get(outbox.worker_id) is outbox:
                del self.by_worker[outbox.worker_id]
                if outbox.earlier is not None:
                    self.earlier.discard(outbox.earlier)
                    self.by_worker[outbox.worker_id] = outbox.earlier


def sighted(outbox: Outbox, uid: str, seen: Sighting) -> bool:
    """Notes what a sighting says that was not told before; whether there was anything. Raises SpoolWriteError."""
    now = rfc3339(time.time_ns())
    outbox.created_at = outbox.created_at or seen.created_at
    replaced = bool(outbox.uid) and uid != outbox.uid and outbox.note(outbox.uid, vanished(outbox.told, outbox.number, now))
    return outbox.note(uid, due(seen, outbox.told if uid == outbox.uid else (), outbox.number, now)) or replaced
