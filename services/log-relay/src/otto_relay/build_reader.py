"""What readers of a pipeline get: its entries in their order, the lines fetched from the spools of its workers."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from otto_relay.build_log import FINISHED, LINE, STARTED, BuildLog, Member, Part
from otto_relay.errors import UnknownLogError
from otto_relay.lanes import CHUNK, Batch, Filter, Limits
from otto_relay.readers import passed, patience
from otto_relay.records import Record
from otto_relay.registry import Registry
from otto_relay.selection import Selection
from otto_relay.spool import Cursor
from otto_relay.wire import GAP, HEARTBEAT, REPLAYED, STAGE_FINISHED, STAGE_STARTED, build_line, build_mark, dropped_field, stage_fields

_ENTRIES = 1024
"""Entries per look into the order: 16 KiB, and some milliseconds of work."""
_GONE = "gone"
"""In place of a record: it is not kept any more, or damaged."""


class _Fetch:
    """The lines of one worker, asked for in ascending sequence."""

    def __init__(self, registry: Registry, member: Member) -> None:
        self._registry = registry
        self._member = member
        self._cursor: Cursor | None = None
        self._records: deque[Record] = deque()
        self.fields = b""
        """What its LogEntries begin with."""

    def get(self, sequence: int, chunk: int) -> Record | str | None:
        """The record; _GONE if it can't be had any more; None if it is not there yet."""
        known = self._registry.workers.get(self._member.worker_id)
        if known is None:
            return _GONE
        records = self._records
        if self._cursor is None:
            self._cursor = Cursor(known.spool, sequence)
            self.fields = known.fields
        while True:
            while records and records[0].sequence < sequence:
                records.popleft()
            if records:
                return records.popleft() if records[0].sequence == sequence else _GONE
            if self._cursor.next > sequence:
                return _GONE
            if self._cursor.caught_up:
                return _GONE if known.ended or known.spool.last >= sequence else None
            if self._cursor.next < sequence:
                self._cursor.skip_to(sequence)
            records.extend(self._cursor.read(chunk))


class BuildReader:
    """One reader of one build."""

    def __init__(self, registry: Registry, build: BuildLog, part: Part, selection: Selection) -> None:
        self._registry = registry
        self._build = build
        self._part = part
        self._selection = selection
        self._wanted: Filter = selection.line_filter()
        self._snapshot = build.count
        self._place = selection.after_sequence
        """How many entries have been passed."""
        self._lines_from = 0
        """Lines before this place are not wanted (tail_lines)."""
        self._fetches: dict[int, _Fetch] = {}
        self._lost = 0
        self._fields: dict[tuple[str, int], bytes] = {}

    async def entries(self, limits: Limits, heartbeat: float) -> AsyncGenerator[list[bytes]]:
        """Encoded BuildLogEntries in batches; a HEARTBEAT after `heartbeat` seconds of silence.

        Ends when the part has ended and all is delivered. Raises UnknownLogError when the build is deleted meanwhile.
        """
        selection, build = self._selection, self._build
        if selection.tail_lines:
            self._lines_from = await self._tail(selection.tail_lines)
        batch = Batch(limits)
        loop = asyncio.get_running_loop()
        spoken = loop.time()
        while True:
            if build.removed:
                raise UnknownLogError(f"the lines of pipeline {build.pipeline_id!r} are not kept any more")
            over = self._part_is_over()
            replaying = self._place < self._snapshot
            end = build.count if selection.follow else self._snapshot
            before = self._place
            for full in batch.gather(self._next(end)):
                yield full
                spoken = loop.time()
            if self._place >= end and (over or not selection.follow):
                if self._lost:
                    batch.add(self._gap())
                if batch.entries:
                    yield batch.take()
                return
            if self._place > before and self._place < end:
                await asyncio.sleep(0)
                continue
            if batch.entries:
                if not replaying and (wait := batch.wait) > 0:
                    await asyncio.sleep(wait)
                    continue
                yield batch.take()
                spoken = loop.time()
                continue
            if passed(selection):
                return
            quiet = spoken + heartbeat - loop.time()
            if quiet <= 0:
                yield [build_mark(stage_fields(build.pipeline_id, "", "", 0, 0), self._place, HEARTBEAT)]
                spoken = loop.time()
                continue
            rest = patience(selection)
            await build.bell.wait(quiet if rest is None else min(quiet, rest))

    def _part_is_over(self) -> bool:
        if self._build.is_over(self._part):
            return True
        known = self._registry.workers.get(self._part.worker_id) if self._part.worker_id else None
        return known is not None and known.ended

    def _selected(self, stage_id: str, attempt: int, worker_id: str | None) -> bool:
        part = self._part
        if (part.stage_id and part.stage_id != stage_id) or (part.attempt and part.attempt != attempt):
            return False
        if not part.worker_id:
            return True
        if worker_id is not None:
            return worker_id == part.worker_id
        # A mark: of the attempt that the worker belongs to.
        return any(
            member.worker_id == part.worker_id and member.stage_id == stage_id and member.attempt == attempt
            for member in self._build.members
        )

    def _stage_fields(self, stage_id: str, attempt: int) -> bytes:
        if not stage_id:
            return stage_fields(self._build.pipeline_id, "", "", 0, attempt)
        stage = self._build.stage(stage_id)
        return stage_fields(self._build.pipeline_id, stage_id, stage.name or stage_id, stage.type, attempt)

    def _next(self, end: int) -> list[bytes]:
        """The next entries, encoded; moves the place on. Stops early at a line that is not there yet, and after enough bytes."""
        found: list[bytes] = []
        size = 0
        build = self._build
        members, stages = build.members, build.stages
        prefixes: dict[int, bytes | None] = {}
        chunk = max(16384, CHUNK // max(len(self._fetches), 1))
        for kind, status, index, value in build.entries(self._place, min(_ENTRIES, end - self._place)):
            sequence = self._place + 1
            if kind == LINE and index < len(members):
                if index not in prefixes:
                    member = members[index]
                    chosen = self._selected(member.stage_id, member.attempt, member.worker_id)
                    prefixes[index] = self._stage_fields(member.stage_id, member.attempt) if chosen else None
                prefix = prefixes[index]
                if prefix is None or self._place < self._lines_from:
                    self._place = sequence
                    continue
                fetch = self._fetches.get(index)
                if fetch is None:
                    fetch = self._fetches[index] = _Fetch(self._registry, members[index])
                record = fetch.get(value, chunk)
                if record is None:
                    break
                if isinstance(record, str):
                    self._lost += 1
                    self._place = sequence
                    continue
                if self._wanted is not None and not self._wanted(record):
                    self._place = sequence
                    continue
                entry = fetch.fields + record.payload
                if sequence <= self._snapshot:
                    entry += REPLAYED
                if record.dropped:
                    entry += dropped_field(record.dropped)
                encoded = build_line(prefix, sequence, entry)
            elif kind in {STARTED, FINISHED} and index < len(stages):
                stage_id = stages[index].stage_id
                if not self._selected(stage_id, value, None):
                    self._place = sequence
                    continue
                if not stage_id:
                    self._lost += 1
                    self._place = sequence
                    continue
                mark = STAGE_STARTED if kind == STARTED else STAGE_FINISHED
                encoded = build_mark(self._stage_fields(stage_id, value), sequence, mark, status)
            else:
                self._lost += 1
                self._place = sequence
                continue
            if self._lost:
                found.append(self._gap())
            self._place = sequence
            found.append(encoded)
            size += len(encoded)
            if size >= CHUNK * 2:
                break
        return found

    def _gap(self) -> bytes:
        """Says how many lines are missing up to here; its sequence is that of the last of them."""
        lost, self._lost = self._lost, 0
        return build_mark(stage_fields(self._build.pipeline_id, "", "", 0, 0), self._place, GAP, dropped=lost)

    async def _tail(self, count: int) -> int:
        """The place of the last `count`-th stored line that is wanted; 0 if there are not so many."""
        end = self._snapshot
        while end > self._place:
            start = max(end - _ENTRIES, self._place)
            lines: list[tuple[int, int, int]] = []
            for offset, (kind, _, index, value) in enumerate(self._build.entries(start, end - start)):
                if kind == LINE and index < len(self._build.members):
                    member = self._build.members[index]
                    if self._selected(member.stage_id, member.attempt, member.worker_id):
                        lines.append((start + offset, index, value))
            matching = self._matching(lines)
            if len(matching) >= count:
                return matching[-count]
            count -= len(matching)
            end = start
            await asyncio.sleep(0)
        return 0

    def _matching(self, lines: list[tuple[int, int, int]]) -> list[int]:
        """The places of lines that pass the filter."""
        if self._wanted is None:
            return [place for place, _, _ in lines]
        fetches: dict[int, _Fetch] = {}
        found: list[int] = []
        for place, index, value in lines:
            fetch = fetches.setdefault(index, _Fetch(self._registry, self._build.members[index]))
            record = fetch.get(value, CHUNK // 4)
            if isinstance(record, Record) and self._wanted(record):
                found.append(place)
        return found
