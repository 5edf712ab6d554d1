"""Takes in the lines of workers that are followed: source → secrets masked → level → spool; and knows when a worker's lines are complete.

A worker that the scaler calls finished has written everything, so it is read to the end and then ended here. Trouble with the disk or the
source is retried where it stopped; the source keeps what is not stored yet. What is lost for good is said in the log by a line of our
own.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import repeat
from operator import attrgetter

from otto_relay.encoder import Fresh
from otto_relay.errors import RelayError, SourceLostError, SpoolWriteError
from otto_relay.levels import LEVELS, WARN, levels_of
from otto_relay.masking import PIECE, Masker
from otto_relay.notices import Sighting
from otto_relay.records import LEVEL_SHIFT, STDERR
from otto_relay.registry import Registry
from otto_relay.sources.protocol import Ending, Line, LogSource
from otto_relay.wire import metadata_fields
from otto_relay.worker_log import FOLLOWED, Facts, WorkerLog

log = logging.getLogger(__name__)

PENDING, RUNNING, FINISHED = range(3)
"""Phases of a worker."""
_FLAGS = [[level << LEVEL_SHIFT | bit for level in range(len(LEVELS))] for bit in (0, STDERR)]
"""By whether a line came from stderr, and its level."""
_TEXT = attrgetter("text")
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0
_TRIES_A_SECOND = 20.0
"""Of all workers that can't be read, together: what keeps one from being read mostly keeps all, and is not made better by asking."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A worker as the scaler shows it."""

    worker_id: str
    task_id: str
    pipeline_id: str
    stage_id: str
    attempt: int
    uid: str
    phase: int
    started: bool
    """It ran, so it has a log."""
    sighting: Sighting
    """What otto-handler is told of."""
    traceparent: str = ""
    """W3C's, of its span."""


@dataclass(slots=True)
class _Followed:
    """A worker whose lines are being collected."""

    ending: Ending
    started: bool
    uid: str
    stored: int = 0
    """Lines stored since it is followed."""


@dataclass(slots=True)
class _Later:
    """A new worker that has the name of one that is still being collected."""

    seen: Observed
    gone: bool = False
    """The scaler has it no more either."""


@dataclass(slots=True)
class Taken:
    """What was taken in since the start; metrics read it."""

    lines: int = 0
    bytes: int = 0
    batches: int = 0
    delays: float = 0.0
    """Seconds between the writing of each batch's last line and its storing, added up."""
    incomplete: int = 0
    """Notices that lines may be missing."""
    retries: int = 0
    """Times that lines could not be read or stored, and were tried again within seconds."""


def fresh(lines: list[Line], masker: Masker, position: bytes = b"") -> list[Fresh]:
    """Lines of a source as they are stored: masked, valid UTF-8, with their level. `position` is that before the first."""
    times, stderr, texts, positions, containers, notices = zip(*lines, strict=True)
    whole = b"\n".join(texts)
    # A long line comes alone, and is looked at once.
    if masker and (len(texts) == 1 or masker.suspects(whole)):
        texts = tuple(map(masker.mask, texts))
        whole = b"\n".join(texts)
    if not whole.isascii():
        texts = tuple(map(_text, texts))
    flags = [_FLAGS[error][level] for error, level in zip(stderr, levels_of(texts, stderr, whole), strict=True)]
    fields = map(_container_fields, containers) if any(containers) else repeat(b"")
    # What Fresh(...) does, without the call of its own in between.
    found: list[Fresh] = list(map(partial(tuple.__new__, Fresh), zip(times, flags, texts, positions, repeat(0), fields, strict=False)))
    if not any(notices):
        return found
    told: list[Fresh] = []
    for line, entry, before in zip(lines, found, (position, *positions), strict=False):
        if line.notice:
            told.append(_notice(line.notice, before, line.time, line.container))
        told.append(entry)
    return told


def _text(text: bytes) -> bytes:
    """UTF-8: the same, or with its bad bytes replaced."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return text.decode("utf-8", "replace").encode()
    return text


class Collector:
    """All workers that are followed, a task each."""

    def __init__(
        self,
        registry: Registry,
        source: LogSource,
        max_line_bytes: int,
        patience: float,
        collected: Callable[[WorkerLog], None],
        joined: Callable[[WorkerLog], None],
        noted: Callable[[Observed], None],
        vanished: Callable[[str], None],
        completed: Callable[[WorkerLog], None] = lambda _: None,
    ) -> None:
        """`patience`: seconds that an ended worker's unreadable source is tried.

        `collected` is called with each worker whose lines are complete, again whenever the scaler shows it; `joined` with each new one;
        `completed` with each whose lines have just been completed, once.
        `noted` is called with everything that the scaler shows, `vanished` with the name of a worker that it lost; these raise
        SpoolWriteError.
        """
        self._registry = registry
        self._source = source
        self._max_line_bytes = max_line_bytes
        self._patience = patience
        self._collected = collected
        self._joined = joined
        self._noted = noted
        self._vanished = vanished
        self._completed = completed
        self.taken = Taken()
        self._followed: dict[str, _Followed] = {}
        self._group: asyncio.TaskGroup | None = None
        self._troubled = 0
        """How many wait for another try."""
        self._later: dict[str, _Later] = {}

    def start(self, group: asyncio.TaskGroup) -> None:
        """The group that owns the tasks; before this nothing may be observed."""
        self._group = group

    def observe(self, seen: Observed) -> None:
        """The scaler shows a worker. Raises SpoolWriteError when it can't be written down: show it again."""
        known = self._registry.workers.get(seen.worker_id)
        if known is None and seen.phase == FINISHED and self._registry.was_removed(seen.worker_id, seen.uid):
            return
        if known is None:
            facts = Facts(seen.worker_id, seen.task_id, seen.pipeline_id, seen.stage_id, seen.attempt, FOLLOWED, seen.uid)
            facts.traceparent = seen.traceparent
            known = self._registry.add(facts)
            self._joined(known)
        elif known.facts.origin != FOLLOWED:
            # Somebody sent lines under its name before it was made: from now on it is what the scaler says.
            self._registry.move(known, seen.task_id, seen.pipeline_id, seen.stage_id, seen.attempt)
            known.reopen(seen.uid, FOLLOWED)
            self._joined(known)
        elif seen.uid and known.facts.uid != seen.uid:
            if seen.worker_id in self._followed:
                self._later[seen.worker_id] = _Later(seen)
                self._followed[seen.worker_id].ending.set()
                return
            self._later.pop(seen.worker_id, None)
            known.reopen(seen.uid)
            self._joined(known)
        known.shown = True
        known.facts.traceparent = seen.traceparent or known.facts.traceparent
        self._noted(seen)
        followed = self._followed.get(seen.worker_id)
        if followed is None:
            if known.ended and (seen.phase != FINISHED or known.facts.durable):
                if seen.phase == FINISHED:
                    self._collected(known)
                return
            if known.ended:
                known.check_again()
            if seen.phase == PENDING:
                return
            followed = self._follow(known, started=seen.started)
        followed.started = followed.started or seen.started
        if seen.phase == FINISHED:
            followed.ending.set()

    def gone(self, worker_id: str) -> None:
        """The scaler has the worker no more: what is left of its log is read, then it is over."""
        self._registry.forget_removed(worker_id)
        if (later := self._later.get(worker_id)) is not None:
            later.gone = True
            return
        known = self._registry.workers.get(worker_id)
        if known is not None:
            known.shown = False
        if known is None or known.ended or known.facts.origin != FOLLOWED:
            return
        self._vanished(worker_id)
        followed = self._followed.get(worker_id) or self._follow(known, started=known.spool.last > known.facts.position_from)
        followed.ending.set()

    def synced(self, shown: set[str]) -> None:
        """The scaler has shown all it has: those that we know and it does not are gone."""
        self._registry.keep_removed(shown)
        for worker_id in {*self._registry.workers, *self._later} - shown:
            self.gone(worker_id)

    def _follow(self, known: WorkerLog, *, started: bool) -> _Followed:
        assert self._group is not None
        followed = _Followed(Ending(), started, known.facts.uid)
        self._followed[known.worker_id] = followed
        self._group.create_task(self._run(known, followed), name=f"collect {known.worker_id}")
        return followed

    async def _run(self, known: WorkerLog, followed: _Followed) -> None:
        try:
            await self._to_the_end(known, followed)
        finally:
            del self._followed[known.worker_id]
        if known.worker_id not in self._later:
            if not known.removed:
                self._collected(known)
            return
        while (later := self._later.pop(known.worker_id, None)) is not None:
            try:
                self.observe(later.seen)
                if later.gone:
                    self.gone(known.worker_id)
            except SpoolWriteError as error:
                log.warning("relay.collect.retried", extra={"worker": known.worker_id, "reason": str(error)})
                self._later[known.worker_id] = later
                await asyncio.sleep(_LONGEST_DELAY)

    async def _to_the_end(self, known: WorkerLog, followed: _Followed) -> None:
        delay = _FIRST_DELAY
        give_up: float | None = None
        notice = ""
        while not known.removed:
            stored = followed.stored
            try:
                if known.ended:
                    await self._make_durable(known)
                    return
                if not notice:
                    notice = await self._collect(known, followed)
                if notice:
                    known.append([_notice(notice, known.position)])
                    self.taken.incomplete += 1
                    log.warning("relay.worker.incomplete", extra={"worker": known.worker_id, "reason": notice})
                    notice = ""
                known.end()
                log.info("relay.worker.collected", extra={"worker": known.worker_id, "lines": known.spool.last})
                self._completed(known)
                await self._make_durable(known)
            except Exception as error:
                # Whatever one worker's log does to us, the other workers must not notice.
                self.taken.retries += 1
                if isinstance(error, (RelayError, OSError)):
                    log.warning("relay.collect.retried", extra={"worker": known.worker_id, "reason": str(error)})
                else:
                    log.exception("relay.collect.failed", extra={"worker": known.worker_id})
                if followed.stored > stored:
                    give_up = None
                if not isinstance(error, (SpoolWriteError, OSError)) and followed.ending.is_set():
                    give_up = give_up or time.monotonic() + self._patience
                    if time.monotonic() > give_up:
                        notice = "this worker's log or the values to mask in it can't be read; lines after this one are missing"
            else:
                return
            delay = _FIRST_DELAY if followed.stored > stored else min(delay * 2, _LONGEST_DELAY)
            self._troubled += 1
            try:
                await asyncio.sleep(max(delay, random.uniform(0.5, 1.5) * self._troubled / _TRIES_A_SECOND))
            finally:
                self._troubled -= 1

    def _took(self, batch: list[Line]) -> None:
        taken = self.taken
        taken.lines += len(batch)
        taken.bytes += sum(map(len, map(_TEXT, batch)))
        taken.batches += 1
        taken.delays += max(0.0, time.time() - batch[-1].time / 1e9)

    @property
    def followed(self) -> int:
        """How many workers are followed now."""
        return len(self._followed)

    async def _make_durable(self, known: WorkerLog) -> None:
        """Readers need not wait for it, but the scaler may delete the source after it."""
        await asyncio.to_thread(known.sync)
        known.facts.durable = True
        try:
            await asyncio.to_thread(known.save_durably)
        except SpoolWriteError:
            known.facts.durable = False
            raise

    async def _collect(self, known: WorkerLog, followed: _Followed) -> str:
        """Reads to the worker's end; returns the words of a notice if something is missing."""
        ending = followed.ending
        if not await self._source.available(known.worker_id, ending):
            return "this worker's log is gone; lines after this one are missing" if followed.started else ""
        masker = Masker(await self._source.secrets(known.worker_id))
        split = masker.split(self._max_line_bytes)
        log.debug("relay.worker.following", extra={"worker": known.worker_id, "stored": known.spool.last})
        try:
            async with aclosing(self._source.lines(known.worker_id, known.position, ending, split)) as batches:  # type: ignore[type-var]  # an async generator behind an AsyncIterator
                async for batch in batches:
                    if known.removed:
                        return ""
                    if notices := [line.notice for line in batch if line.notice]:
                        self.taken.incomplete += len(notices)
                        for notice in dict.fromkeys(notices):
                            log.warning("relay.worker.incomplete", extra={"worker": known.worker_id, "reason": notice})
                    if len(batch) == 1 and len(batch[0].text) > PIECE:
                        masked = await asyncio.to_thread(fresh, batch, masker, known.position)
                        if known.removed:
                            return ""
                    else:
                        masked = fresh(batch, masker, known.position)
                    known.append(masked)
                    followed.stored += len(batch)
                    self._took(batch)
        except SourceLostError:
            return "this worker's log is gone; lines after this one are missing"
        return ""


@lru_cache(maxsize=256)
def _container_fields(container: str) -> bytes:
    """What tells the lines of an init container, or of one that runs beside the worker, from the worker's own."""
    return metadata_fields({"otto.container": container}) if container else b""


def _notice(words: str, position: bytes, at: int = 0, container: str = "") -> Fresh:
    """A line of our own in a worker's log."""
    metadata = {"otto.notice": "log_incomplete"} | ({"otto.container": container} if container else {})
    return Fresh(
        at or time.time_ns(),
        WARN << LEVEL_SHIFT | STDERR,
        f"[ottoscaler] {words}".encode(),
        position,
        metadata=metadata_fields(metadata),
    )
