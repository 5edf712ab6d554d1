"""The order of a pipeline's lines and stage marks: one entry of fixed size each, so that an entry's sequence is its place in the file.

The workers' spools are the truth about lines; an entry only refers to one. What was not entered when the process was killed is entered
when the build is opened again, and never twice, because a worker's lines are entered in their order. Names stand in a journal of JSON
lines beside it.
"""

import json
import logging
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from otto_relay.bell import Bell
from otto_relay.errors import SpoolWriteError
from otto_relay.files import Files, remove_directory

log = logging.getLogger(__name__)

LINE, STARTED, FINISHED = 1, 2, 3
"""Kinds of entries; the numbers of BuildLogKind."""
RETRYING = 6
"""StageStatus of an attempt that is followed by another."""
_ENTRY = struct.Struct("<BBHIQ")
ENTRY_BYTES = _ENTRY.size
_ORDER = "order"
_JOURNAL = "journal"


@dataclass(slots=True)
class Member:
    """A worker of the pipeline."""

    worker_id: str
    stage_id: str
    attempt: int
    entered: int = 0
    """Its last line that has an entry."""


@dataclass(slots=True)
class Stage:
    """A stage as readers see it."""

    stage_id: str
    name: str = ""
    type: int = 0
    """StageType."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a build; empty fields do not narrow it."""

    stage_id: str = ""
    attempt: int = 0
    worker_id: str = ""


def _check(kind: int, status: int, index: int, value: int) -> int:
    """Two bytes that tell an entry from garbage."""
    return (value * 40503 ^ index * 52711 ^ kind << 8 ^ status ^ 0x5A5A) & 0xFFFF


def _entry(kind: int, status: int, index: int, value: int) -> bytes:
    return _ENTRY.pack(kind, status, _check(kind, status, index, value), index, value)


class BuildLog:
    """The order of one pipeline."""

    def __init__(self, pipeline_id: str, directory: Path, files: Files) -> None:
        """Made by the registry, which calls `open` or `create`."""
        self.pipeline_id = pipeline_id
        self.bell = Bell()
        self.count = 0
        """How many entries there are; the last one's sequence."""
        self.members: list[Member] = []
        self.stages: list[Stage] = []
        self.ended = False
        """Everything of the pipeline is in."""
        self.described = False
        """The executor has been asked for the names of the stages."""
        self.removed = False
        self._directory = directory
        self._files = files
        self._journal_size = 0
        self._member_index: dict[str, int] = {}
        self._stage_index: dict[str, int] = {}
        self._started: set[tuple[str, int]] = set()
        self._finished: dict[tuple[str, int], int] = {}
        self._over: set[str] = set()
        self._known = True
        """What is entered is known; of one that had ended when it was opened it is read when somebody enters more."""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.count * ENTRY_BYTES + self._journal_size

    def create(self) -> None:
        """Makes it on disk, in place of one whose names can't be read. Raises SpoolWriteError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for name in (_ORDER, _JOURNAL):
                self._files.delete(self._directory / name)
        except OSError as error:
            raise SpoolWriteError(f"{self._directory}: {error.strerror}") from error
        self._note({"pipeline": self.pipeline_id})

    def open(self) -> None:
        """Reads it from disk and cuts torn ends; blocks. Of one that has ended only the size, as nearly all stay as they are."""
        order = self._directory / _ORDER
        size = order.stat().st_size if order.exists() else 0
        self.count = size // ENTRY_BYTES
        self._known = not self.ended
        if self._known:
            self._read_order(order, size)

    def _read_order(self, order: Path, size: int) -> None:
        entries = self.entries(0, self.count)
        while entries and not entries[-1][0]:
            entries.pop()
        if len(entries) * ENTRY_BYTES != size:
            log.warning("relay.order.cut", extra={"pipeline": self.pipeline_id, "cut_bytes": size - len(entries) * ENTRY_BYTES})
            with order.open("r+b") as file:
                file.truncate(len(entries) * ENTRY_BYTES)
        self.count = len(entries)
        for kind, status, index, value in entries:
            if kind == LINE and index < len(self.members):
                self.members[index].entered = value
            elif kind in {STARTED, FINISHED} and index < len(self.stages):
                place = self.stages[index].stage_id, value
                if kind == STARTED:
                    self._started.add(place)
                else:
                    self._finished[place] = status

    def _know(self) -> None:
        """Before anything is entered: what is entered already. Raises SpoolWriteError."""
        if self._known:
            return
        order = self._directory / _ORDER
        try:
            self._read_order(order, order.stat().st_size if order.exists() else 0)
        except OSError as error:
            raise SpoolWriteError(f"{order}: {error.strerror}") from error
        self._known = True

    def entries(self, start: int, count: int) -> list[tuple[int, int, int, int]]:
        """At most `count` entries from index `start` (sequence - 1): kind, status, index, value. A damaged one has kind 0."""
        count = min(count, self.count - start)
        if count <= 0:
            return []
        data = self._files.read(self._directory / _ORDER, start * ENTRY_BYTES, count * ENTRY_BYTES)
        whole = data[: len(data) - len(data) % ENTRY_BYTES]
        return [
            (kind, status, index, value)
            if check == (value * 40503 ^ index * 52711 ^ kind << 8 ^ status ^ 0x5A5A) & 0xFFFF
            else (0, 0, 0, 0)
            for kind, status, check, index, value in _ENTRY.iter_unpack(whole)
        ]

    # What is known of it.

    def join(self, worker_id: str, stage_id: str, attempt: int) -> None:
        """A worker belongs to the pipeline. Raises SpoolWriteError; repeating it is harmless."""
        if worker_id in self._member_index:
            return
        self.reopen()
        if stage_id:
            self._stage(stage_id)
        self._note({"index": len(self.members), "worker": worker_id, "stage": stage_id, "attempt": attempt})
        self._put_member(len(self.members), Member(worker_id, stage_id, attempt))
        self.bell.ring()

    def reopen(self) -> None:
        """Lines will follow though it had ended. Raises SpoolWriteError; repeating it is harmless."""
        if self.ended:
            self._know()
            self._note({"ended": False})
            self.ended = False
            self._over.clear()

    def describe(self, stages: Iterable[Stage]) -> None:
        """Names and types of stages, for display. Raises SpoolWriteError."""
        for stage in stages:
            index = self._stage_index.get(stage.stage_id)
            if index is None or self.stages[index] != stage:
                index = len(self.stages) if index is None else index
                self._note({"index": index, "stage": stage.stage_id, "name": stage.name, "type": stage.type})
                self._put_stage(index, stage)

    def stage(self, stage_id: str) -> Stage:
        """A stage; one whose name was damaged has only its id."""
        index = self._stage_index.get(stage_id)
        return Stage(stage_id) if index is None else self.stages[index]

    def has_stage(self, stage_id: str) -> bool:
        """Whether it is a stage that was heard of."""
        return stage_id in self._stage_index

    def has_member(self, worker_id: str) -> bool:
        """Whether it is a worker of this pipeline."""
        return worker_id in self._member_index

    def members_of(self, stage_id: str, attempt: int) -> list[str]:
        """The workers of an attempt that are known."""
        return [member.worker_id for member in self.members if member.stage_id == stage_id and member.attempt == attempt]

    def open_attempts(self, stage_id: str) -> list[int]:
        """Attempts of a stage that have a first mark but no last."""
        return sorted(attempt for stage, attempt in self._started if stage == stage_id and (stage, attempt) not in self._finished)

    def finished(self, stage_id: str, attempt: int) -> bool:
        """Whether the attempt has its last mark."""
        return (stage_id, attempt) in self._finished

    def is_over(self, part: Part) -> bool:
        """Whether nothing of that part, worker aside, will come any more."""
        if self.ended or (part.stage_id and part.stage_id in self._over):
            return True
        return bool(part.stage_id and part.attempt) and (part.stage_id, part.attempt) in self._finished

    # What happens in it.

    def take_lines(self, worker_id: str, last: int) -> None:
        """Enters a member's lines up to `last` that have no entry. Raises SpoolWriteError; then none of them is entered."""
        self._know()
        index = self._member_index[worker_id]
        member = self.members[index]
        if member.entered >= last:
            return
        if member.attempt and member.stage_id:
            self.start(member.stage_id, member.attempt)
        base = index * 52711 ^ LINE << 8 ^ 0x5A5A
        pack = _ENTRY.pack
        data = b"".join([pack(LINE, 0, (value * 40503 ^ base) & 0xFFFF, index, value) for value in range(member.entered + 1, last + 1)])
        self._append(data)
        member.entered = last
        self.bell.ring()

    def wake(self) -> None:
        """A worker of it has changed."""
        self.bell.ring()

    def start(self, stage_id: str, attempt: int) -> None:
        """An attempt has started; only its first mark counts. Raises SpoolWriteError."""
        self._know()
        if (stage_id, attempt) not in self._started:
            self._append(_entry(STARTED, 0, self._stage(stage_id), attempt))
            self._started.add((stage_id, attempt))
            self.bell.ring()

    def finish(self, stage_id: str, attempt: int, status: int) -> None:
        """An attempt has ended and all its lines are entered; only the first such mark counts. Raises SpoolWriteError."""
        self._know()
        if (stage_id, attempt) not in self._finished:
            self.start(stage_id, attempt)
            self._append(_entry(FINISHED, status, self._stage(stage_id), attempt))
            self._finished[stage_id, attempt] = status
            self.bell.ring()

    def close_stage(self, stage_id: str) -> None:
        """No attempt of the stage will follow."""
        self._over.add(stage_id)
        self.bell.ring()

    def end(self) -> None:
        """Nothing will follow. Raises SpoolWriteError."""
        if not self.ended:
            self._note({"ended": True})
            self.ended = True
            self.bell.ring()

    def written(self) -> float:
        """When it was last written to; seconds since 1970."""
        try:
            return (self._directory / _JOURNAL).stat().st_mtime
        except OSError:
            return 0.0

    def delete(self) -> None:
        """Removes it from the disk. Raises SpoolWriteError; then something of it is left, and it may be tried again."""
        for name in (_ORDER, _JOURNAL):
            self._files.forget(self._directory / name)
        remove_directory(self._directory)
        self.removed = True
        self.bell.ring()

    def read_journal(self) -> bool:
        """Reads the names from disk and cuts a torn end; whether there is one that can be used. Blocks."""
        path = self._directory / _JOURNAL
        try:
            data = path.read_bytes()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self._journal_size = len(whole)
        for line in whole.splitlines():
            try:
                note = json.loads(line)
            except ValueError:
                continue
            if "pipeline" in note:
                self.pipeline_id = note["pipeline"]
            elif "worker" in note:
                self._put_member(note["index"], Member(note["worker"], note["stage"], note["attempt"]))
            elif "stage" in note:
                self._put_stage(note["index"], Stage(note["stage"], note["name"], note["type"]))
            elif "ended" in note:
                self.ended = note["ended"]
        return bool(self.pipeline_id)

    def _stage(self, stage_id: str) -> int:
        index = self._stage_index.get(stage_id)
        if index is None:
            index = len(self.stages)
            self._note({"index": index, "stage": stage_id, "name": "", "type": 0})
            self._put_stage(index, Stage(stage_id))
        return index

    # Entries refer to names by their index, so a name that was damaged leaves its place empty.

    def _put_stage(self, index: int, stage: Stage) -> None:
        self.stages += [Stage("") for _ in range(index + 1 - len(self.stages))]
        self.stages[index] = stage
        self._stage_index[stage.stage_id] = index

    def _put_member(self, index: int, member: Member) -> None:
        self.members += [Member("", "", 0) for _ in range(index + 1 - len(self.members))]
        self.members[index] = member
        self._member_index[member.worker_id] = index

    def _append(self, data: bytes) -> None:
        self._files.write(self._directory / _ORDER, data, self.count * ENTRY_BYTES)
        self.count += len(data) // ENTRY_BYTES

    def _note(self, note: dict[str, object]) -> None:
        data = json.dumps(note, ensure_ascii=False).encode() + b"\n"
        self._files.write(self._directory / _JOURNAL, data, self._journal_size)
        self._journal_size += len(data)
