"""What otto-handler is to get, as it comes about: workers that become known, their new lines, what happens to them, and what is deleted."""

import errno
import logging
import time
from collections.abc import Callable, Iterable

from otto_relay.collector import Observed
from otto_relay.errors import SpoolWriteError
from otto_relay.forwarder import Forwarder
from otto_relay.notices import ENDS, Notice, vanished
from otto_relay.notifier import Notifier
from otto_relay.outbox import Outbox, Outboxes, sighted
from otto_relay.push import Notification
from otto_relay.worker_log import Facts, WorkerLog
from otto_runtime.times import rfc3339

log = logging.getLogger(__name__)


class Outgoing:
    """The registry, the collector and the pushed workers tell it; it tells the forwarder and the notifier."""

    def __init__(
        self,
        outboxes: Outboxes,
        forwarder: Forwarder,
        notifier: Notifier,
        name_of: Callable[[str], str],
        settled: Callable[[Outbox], None] = lambda _: None,
    ) -> None:
        """`name_of` makes a file's name of a worker's; `settled` is called with those whose lines are complete and answered for."""
        self._settled = settled
        self._outboxes = outboxes
        self._forwarder = forwarder
        self._notifier = notifier
        self._name_of = name_of

    def resume(self, workers: Iterable[WorkerLog]) -> None:
        """Takes up what is kept; blocks. Workers that ended before anything was owed of them stay untold. Raises SpoolWriteError."""
        outboxes = self._outboxes
        for known in workers:
            outbox = outboxes.by_worker.get(known.worker_id)
            if outbox is None and known.ended:
                continue
            if outbox is None:
                outbox = outboxes.take(known.facts, self._name_of(known.worker_id))
            self._adopt(outbox, known)
        for outbox in list(outboxes.all()):
            if outbox.owed or outbox.unmeasured:
                self._forwarder.wake(outbox)
            if outbox.notices:
                self._notifier.wake(outbox)
            outboxes.drop(outbox)

    def _adopt(self, outbox: Outbox, known: WorkerLog) -> None:
        outbox.known, outbox.facts, outbox.gone = known, known.facts, False
        try:
            outbox.measure()
        except SpoolWriteError as error:
            log.warning("relay.handler.unread", extra={"worker": outbox.worker_id, "reason": str(error)})

    def joining(self, facts: Facts) -> None:
        """A worker becomes known. Raises SpoolWriteError; then it does not."""
        outbox = self._outboxes.take(facts, self._name_of(facts.worker_id))
        if outbox.position.answered or outbox.newest or outbox.sent:
            outbox = self._outboxes.renew(facts, self._name_of(facts.worker_id))
            if outbox.notices:
                self._notifier.wake(outbox)
        outbox.facts, outbox.gone = facts, False

    def changed(self, known: WorkerLog) -> None:
        """It has new lines."""
        outbox = self._outboxes.by_worker.get(known.worker_id)
        if outbox is not None:
            outbox.known = known
            if outbox.unmeasured:
                outbox.measure()
            outbox.newest = known.spool.last
            self._forwarder.wake(outbox)

    def leaving(self, known: WorkerLog) -> None:
        """Its lines are about to be deleted: those that were not sent will be a count. Raises SpoolWriteError; then they are not."""
        outbox = self._outboxes.by_worker.get(known.worker_id)
        if outbox is not None and outbox.unmeasured:
            outbox.measure()
        if outbox is None or not (outbox.owed or outbox.notices):
            return
        try:
            outbox.save(leaving=True)
        except SpoolWriteError as error:
            if not _is_full(error):
                raise
            # The room that its lines give back is enough. Until the count is written down the facts of the worker say the same.
            known.delete_lines()
            outbox.save(leaving=True)

    def left(self, known: WorkerLog) -> None:
        """Its lines are deleted."""
        outbox = self._outboxes.by_worker.get(known.worker_id)
        if outbox is not None:
            outbox.known, outbox.place, outbox.gone = None, None, True
            if outbox.owed:
                self._forwarder.wake(outbox)
            self._outboxes.drop(outbox)
            for given_up, lines, notices in self._outboxes.bound():
                self._forwarder.wake_later(given_up)
                log.warning("relay.handler.given_up", extra={"worker": given_up.worker_id, "lines": lines, "notices": notices})

    def noted(self, seen: Observed) -> None:
        """The scaler shows a worker. Raises SpoolWriteError."""
        outbox = self._outboxes.by_worker.get(seen.worker_id)
        if outbox is None:
            return
        if sighted(outbox, seen.uid, seen.sighting):
            self._notifier.wake(outbox)

    def completed(self, known: WorkerLog) -> None:
        """All its lines are stored."""
        outbox = self._outboxes.by_worker.get(known.worker_id)
        if outbox is not None and not outbox.owed:
            self._settled(outbox)

    def vanished(self, worker_id: str) -> None:
        """Nobody has the worker any more. Raises SpoolWriteError."""
        outbox = self._outboxes.by_worker.get(worker_id)
        if outbox is not None and outbox.note(outbox.uid, vanished(outbox.told, outbox.number, rfc3339(time.time_ns()))):
            self._notifier.wake(outbox)

    def told(self, worker_id: str, said: Notification) -> None:
        """A worker that sends its lines itself says how it stands. Raises SpoolWriteError."""
        outbox = self._outboxes.by_worker.get(worker_id)
        if outbox is None:
            return
        # One that has ended and begins again is told of anew.
        uid = f"{outbox.number}" if ENDS.intersection(outbox.told) and said.status not in ENDS else outbox.uid
        if outbox.note(uid, [Notice(said.status, outbox.number + 1, said.timestamp, said.reason)]):
            self._notifier.wake(outbox)


def _is_full(error: SpoolWriteError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in {errno.ENOSPC, errno.EDQUOT}
