"""Tells otto-handler of workers: their notices, in order per worker, until it has taken or refused each. They do not wait for lines."""

import asyncio
import logging
from collections import deque

from otto_relay.bell import Bell
from otto_relay.errors import SpoolWriteError
from otto_relay.handler import Handler, HandlerLostError, HandlerStumbledError, Reach, Receipt, Tally, Waits, is_milestone
from otto_relay.outbox import Outbox, Outboxes

log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Notices that are on their way at the same time, of different workers."""


class Notifier:
    """The push of notices."""

    def __init__(self, outboxes: Outboxes, handler: Handler, tally: Tally, reach: Reach, longest_wait: float) -> None:
        """`longest_wait` in seconds between attempts."""
        self._outboxes = outboxes
        self._handler = handler
        self._tally = tally
        self._reach = reach
        self._longest_wait = longest_wait
        self._queue: deque[Outbox] = deque()
        self._queued: set[Outbox] = set()
        """Also those whose notice is on its way."""
        self._waits = Waits(longest_wait)
        self._held: dict[Outbox, asyncio.TimerHandle] = {}
        """At whose notice otto-handler failed, until when."""
        self._bell = Bell()

    def wake(self, outbox: Outbox) -> None:
        """There is something to tell of this worker."""
        if outbox not in self._queued:
            self._queued.add(outbox)
            self._queue.append(outbox)
            self._bell.ring()

    async def run(self) -> None:
        """Tells, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_AT_ONCE):
                    group.create_task(self._tell(), name=f"tell notices {number}")
        finally:
            for timer in self._held.values():
                timer.cancel()

    async def _tell(self) -> None:
        waits = Waits(self._longest_wait)
        while True:
            while not self._queue:
                await self._bell.wait()
            outbox = self._queue.popleft()
            lost = held = False
            while outbox.notices and not (lost or held):
                notice = outbox.notices[0]
                try:
                    receipt, words = await self._handler.notify(outbox, notice)
                except HandlerStumbledError as error:
                    self._hold(outbox, notice.kind, str(error))
                    held = True
                    continue
                except HandlerLostError as error:
                    self._reach.failed(str(error))
                    await asyncio.sleep(waits.next())
                    lost = True
                    continue
                waits.reset()
                outbox.stumbles = 0
                self._reach.worked()
                if receipt is Receipt.REFUSED:
                    self._tally.notices_refused += 1
                    log.warning("relay.handler.refused", extra={"worker": outbox.worker_id, "notice": notice.kind, "reason": words})
                else:
                    self._tally.notices_taken += 1
                outbox.notices = outbox.notices[1:]
                try:
                    outbox.save()
                except SpoolWriteError as error:
                    # It is told once more after a restart; whoever gets it knows its number.
                    log.warning("relay.handler.unsaved", extra={"worker": outbox.worker_id, "reason": str(error)})
            if held:
                continue
            if outbox.notices:
                # Behind the others: it may be this very notice that is the trouble.
                self._queue.append(outbox)
                self._bell.ring()
            else:
                self._queued.discard(outbox)
                self._outboxes.drop(outbox)

    def _hold(self, outbox: Outbox, kind: str, words: str) -> None:
        """Has its next notice tried again later; whoever tells notices goes on with others meanwhile."""
        outbox.stumbles += 1
        if is_milestone(outbox.stumbles):
            log.warning(
                "relay.handler.notice_stumbled",
                extra={"worker": outbox.worker_id, "notice": kind, "times": outbox.stumbles, "reason": words},
            )

        def release() -> None:
            del self._held[outbox]
            self._queue.append(outbox)
            self._bell.ring()

        self._held[outbox] = asyncio.get_running_loop().call_later(self._waits.after(outbox.stumbles), release)
