"""Pushes every stored line to otto-handler, in order per worker, at its pace, and until it has answered for each.

One stream for all workers, who take turns. At first a single line may be unanswered, each good answer allows one more up to the window;
RETRY or a throttle brings it back to a single one until a whole window of good answers has come, so that a receiver in trouble is never
run over. The spool is the queue: a slow receiver costs a place per worker and one chunk of lines, whatever the backlog.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

from otto_relay.answer import Answer
from otto_relay.bell import Bell
from otto_relay.errors import SpoolWriteError
from otto_relay.handler import (
    Handler,
    HandlerLostError,
    HandlerStumbledError,
    LineStream,
    Reach,
    Reply,
    Tally,
    Waits,
    is_milestone,
)
from otto_relay.levels import WARN
from otto_relay.outbox import Outbox, Outboxes
from otto_relay.records import LEVEL_SHIFT, STDERR, Record
from otto_relay.spool import Cursor
from otto_relay.wire import Stamps, line_payload, metadata_fields, worker_fields

log = logging.getLogger(__name__)

_CHUNK = 16384
"""Bytes of lines that a worker sends before the next one's turn."""


class _Line:
    """A line to be sent, or a sentence in place of `missing` lines that can't be."""

    __slots__ = ("dropped", "entry", "missing", "sequence")

    def __init__(self, sequence: int, entry: bytes, dropped: int = 0, missing: int = 0) -> None:
        self.sequence = sequence
        self.entry = entry
        self.dropped = dropped
        self.missing = missing


class Forwarder:
    """The push of lines."""

    def __init__(
        self,
        outboxes: Outboxes,
        handler: Handler,
        tally: Tally,
        reach: Reach,
        *,
        window: int,
        timeout: float,
        longest_wait: float,
        settled: Callable[[Outbox], None] = lambda _: None,
    ) -> None:
        """`window` lines may be unanswered; `timeout` seconds for an answer; `longest_wait` seconds between attempts.

        `settled` is called with each that owes no line any more.
        """
        self._outboxes = outboxes
        self._handler = handler
        self._tally = tally
        self._reach = reach
        self._window = window
        self._settled = settled
        self._timeout = timeout
        self._waits = Waits(longest_wait)
        self._bell = Bell()
        self._turns: dict[Outbox, None] = {}
        """Whose turn comes, in this order."""
        self._held: dict[Outbox, asyncio.TimerHandle] = {}
        """Whose line was to be sent again, until when."""
        self._flight: deque[tuple[Outbox, _Line]] = deque()
        self._allowed = 1
        self._good = 0
        """Good answers in a row."""
        self._careful = False
        self._resume_at = 0.0

    def wake(self, outbox: Outbox) -> None:
        """There is something to send for this worker."""
        if outbox not in self._turns and outbox not in self._held:
            self._turns[outbox] = None
            self._bell.ring()

    def wake_later(self, outbox: Outbox) -> None:
        """Nothing is owed of it any more that would come before what is owed of later workers of its name."""
        later = outbox.later
        while later is not None:
            self.wake(later)
            later = later.later

    async def run(self) -> None:
        """Pushes, for ever. What is unanswered when it is cancelled is sent again by the next process."""
        try:
            while True:
                while not self._turns:
                    await self._bell.wait()
                try:
                    async with self._handler.lines() as stream:
                        await self._talk(stream)
                except HandlerLostError as error:
                    if isinstance(error, HandlerStumbledError) and self._flight:
                        self._stumbled(*self._flight[0], str(error))
                    else:
                        self._reach.failed(str(error))
                self._start_again()
                await asyncio.sleep(self._waits.next())
        finally:
            for timer in self._held.values():
                timer.cancel()

    async def _talk(self, stream: LineStream) -> None:
        """Sends and receives until HandlerLostError.

        No TaskGroup: of an error and a cancellation that come at the same moment it would keep the cancellation to itself.
        """
        tasks = [
            asyncio.create_task(self._send(stream), name="send lines"),
            asyncio.create_task(self._receive(stream), name="receive answers"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    def _stumbled(self, outbox: Outbox, line: _Line, words: str) -> None:
        """It failed, most likely at this line: no outage."""
        if is_milestone(outbox.losses + 1):
            where = {"worker": outbox.worker_id, "sequence": line.sequence}
            log.warning("relay.handler.stumbled", extra={**where, "times": outbox.losses + 1, "reason": words})

    def _start_again(self) -> None:
        """What was unanswered is owed again. The line that waited longest for its answer may be why the stream ended: its worker waits."""
        suspect = self._flight[0][0] if self._flight else None
        self._flight.clear()
        self._tally.unanswered = 0
        self._allowed, self._good = 1, 0
        for outbox in self._outboxes.all():
            outbox.sent = 0
            outbox.waiting = False
            if outbox.owed or outbox.unmeasured:
                self.wake(outbox)
        if suspect is not None and suspect not in self._held:
            suspect.losses += 1
            self._hold(suspect, self._waits.after(suspect.losses))

    async def _send(self, stream: LineStream) -> None:
        while True:
            if not self._turns:
                await self._bell.wait()
                continue
            outbox = next(iter(self._turns))
            try:
                for line in self._lines(outbox):
                    await self._room()
                    if outbox in self._held or (outbox.position.again and line.sequence > outbox.position.answered):
                        break
                    await self._send_line(stream, outbox, line)
                    if outbox.waiting:
                        break
            except (OSError, SpoolWriteError) as error:
                outbox.unread += 1
                if is_milestone(outbox.unread):
                    log.warning("relay.handler.unread", extra={"worker": outbox.worker_id, "reason": str(error)})
                self._hold(outbox, self._waits.after(outbox.unread))
            # Behind the others.
            self._turns.pop(outbox, None)
            if self._has_more(outbox):
                self.wake(outbox)
            await asyncio.sleep(0)

    async def _send_line(self, stream: LineStream, outbox: Outbox, line: _Line) -> None:
        # What is sent again, or stands for others, is answered before anything follows it.
        outbox.waiting = line.missing > 0 or line.sequence <= outbox.position.answered
        outbox.sent = max(outbox.sent, line.sequence)
        outbox.began = outbox.began or time.time()
        outbox.unread = 0
        self._flight.append((outbox, line))
        self._tally.unanswered = len(self._flight)
        self._bell.ring()
        await stream.send(outbox, line.entry, line.sequence, line.dropped)

    def _has_more(self, outbox: Outbox) -> bool:
        return outbox not in self._held and (outbox.unmeasured or self._due(outbox) is not None)

    def _due(self, outbox: Outbox) -> tuple[int, int] | None:
        """The first and the last of the sequences that may be sent next."""
        if outbox.waiting or outbox.blocked:
            return None
        if outbox.position.again:
            again = outbox.position.again[0]
            return (again, again) if again <= outbox.newest or outbox.known is None else None
        first = max(outbox.sent, outbox.position.answered) + 1
        return (first, outbox.newest) if first <= outbox.newest else None

    async def _room(self) -> None:
        """Waits until one more line may be sent."""
        while len(self._flight) >= self._allowed:
            await self._bell.wait()
        while (pause := self._resume_at - time.monotonic()) > 0:
            await self._bell.wait(pause)

    def _lines(self, outbox: Outbox) -> Iterator[_Line]:
        """The next lines of a worker, from about a chunk of bytes."""
        if outbox.unmeasured:
            outbox.measure()
        due = self._due(outbox)
        if due is not None:
            yield from self._read(outbox, *due)

    def _read(self, outbox: Outbox, first: int, last: int) -> Iterator[_Line]:
        known = outbox.known
        if known is None or known.removed:
            yield self._missing(outbox, first, last)
            return
        spool = known.spool
        # A power cut may have taken some; those that are collected again are told of as new.
        outbox.newest = min(outbox.newest, spool.last)
        last = min(last, outbox.newest)
        if first > last:
            return
        cursor = outbox.place[1] if outbox.place is not None and outbox.place[0] is spool else None
        if cursor is None or cursor.next != first:
            cursor = Cursor(spool, first)
        outbox.place = spool, cursor
        records: list[Record] = []
        while not records and not cursor.caught_up:
            records = cursor.read(_CHUNK)
        expected = first
        for record in records:
            if record.sequence > last:
                break
            if record.sequence > expected:
                yield self._missing(outbox, expected, record.sequence - 1)
            yield _Line(record.sequence, known.fields + record.payload, record.dropped)
            expected = record.sequence + 1
        if expected <= last and (first == last or not records):
            yield self._missing(outbox, expected, last)

    def _missing(self, outbox: Outbox, first: int, last: int) -> _Line:
        count = last - first + 1
        words = f"[ottoscaler] {count} lines are missing here: they were deleted before they could be sent"
        metadata = metadata_fields({"otto.notice": "lines_missing", "otto.missing": str(count)})
        payload = line_payload(Stamps().field(time.time_ns()), WARN << LEVEL_SHIFT | STDERR, last, words.encode(), metadata)
        return _Line(last, worker_fields(outbox.worker_id, outbox.facts.task_id) + payload, missing=count)

    async def _receive(self, stream: LineStream) -> None:
        while True:
            while not self._flight:
                await self._bell.wait()
            reply = await stream.receive(self._timeout)
            if not self._flight:
                raise HandlerLostError("it answered more lines than it was sent")
            outbox, line = self._flight.popleft()
            self._tally.unanswered = len(self._flight)
            self._reach.worked()
            self._waits.reset()
            self._pace(reply)
            self._answered(outbox, line, reply)
            self._bell.ring()

    def _pace(self, reply: Reply) -> None:
        if reply.throttle > 0:
            self._resume_at = max(self._resume_at, time.monotonic() + reply.throttle)
        if reply.throttle > 0 or reply.answer is Answer.AGAIN:
            self._allowed, self._good, self._careful = 1, 0, True
            return
        self._good += 1
        if self._careful and self._good < self._window:
            return
        self._careful = False
        self._allowed = min(self._allowed + 1, self._window)

    def _answered(self, outbox: Outbox, line: _Line, reply: Reply) -> None:
        where = {"worker": outbox.worker_id, "sequence": line.sequence}
        if line.missing or line.sequence <= outbox.position.answered:
            outbox.waiting = False
        outbox.losses = 0
        if reply.answer is Answer.AGAIN:
            if not outbox.position.again or line.sequence <= outbox.position.answered:
                outbox.retries += 1
            self._tally.retried += 1
            if line.missing:
                outbox.sent = outbox.position.answered
            else:
                outbox.position.repeat(line.sequence)
            if is_milestone(outbox.retries):
                log.warning("relay.handler.retried", extra={**where, "times": outbox.retries, "reason": reply.message})
            self._hold(outbox, self._waits.after(outbox.retries))
        else:
            outbox.position.settle(line.sequence)
            if not outbox.position.again:
                outbox.retries = 0
            if line.missing:
                self._tally.missing += line.missing
                log.warning("relay.handler.missing", extra={"worker": outbox.worker_id, "lines": line.missing})
            if reply.answer is Answer.NEVER:
                outbox.dropped += 1
                self._tally.dropped += 1
                if is_milestone(outbox.dropped):
                    log.warning("relay.handler.dropped", extra={**where, "lines": outbox.dropped, "reason": reply.message})
            elif not line.missing:
                self._tally.pushed += 1
        outbox.keep()
        if self._has_more(outbox):
            self.wake(outbox)
        elif not outbox.owed:
            outbox.place = None
            self._settled(outbox)
            self._outboxes.drop(outbox)
            self.wake_later(outbox)

    def _hold(self, outbox: Outbox, seconds: float) -> None:
        self._turns.pop(outbox, None)
        if (timer := self._held.pop(outbox, None)) is not None:
            timer.cancel()

        def release() -> None:
            del self._held[outbox]
            self.wake(outbox)

        self._held[outbox] = asyncio.get_running_loop().call_later(seconds, release)
