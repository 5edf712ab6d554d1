"""The push without a port: registry, outboxes, forwarder and notifier over a directory, and an otto-handler that is called directly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from otto_relay.answer import Answer
from otto_relay.files import Files
from otto_relay.forwarder import Forwarder
from otto_relay.handler import HandlerLostError, HandlerStumbledError, Reach, Receipt, Reply, Tally
from otto_relay.notices import Notice
from otto_relay.notifier import Notifier
from otto_relay.outbox import Outbox, Outboxes
from otto_relay.outgoing import Outgoing
from otto_relay.registry import Registry, directory_name
from otto_relay.translate import forwarded

from .conftest import until as within


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition; generous, because the machine may be busy."""
    await within(condition, seconds)


class Stream:
    """An open stream of a Handler."""

    def __init__(self, handler: "Handler") -> None:
        self._handler = handler
        self._sent: asyncio.Queue[Any] = asyncio.Queue()

    async def send(self, outbox: Outbox, entry: bytes, sequence: int, dropped: int) -> None:
        self._sent.put_nowait(forwarded(entry, outbox.facts, outbox.created_at, sequence, dropped))

    async def receive(self, _timeout: float) -> Reply:
        entry = await self._sent.get()
        await self._handler.open.wait()
        if entry.message in self._handler.poison:
            raise HandlerStumbledError("UNKNOWN: it threw")
        if self._handler.retries:
            self._handler.retries -= 1
            return Reply(Answer.AGAIN)
        self._handler.taken.append(entry)
        return Reply(Answer.STORED)


class Handler:
    """otto-handler: takes everything, unless a test says otherwise."""

    def __init__(self) -> None:
        self.away = False
        self.open = asyncio.Event()
        """Answers are given while this is set."""
        self.open.set()
        self.poison: set[str] = set()
        """Lines at which it ends the stream."""
        self.retries = 0
        """Answers that are still to be RETRY."""
        self.hated: set[str] = set()
        """Workers of which it can't bear a notice."""
        self.taken: list[Any] = []
        self.notices: list[tuple[str, str]] = []
        self.streams = 0

    def messages(self, worker_id: str) -> list[str]:
        return [entry.message for entry in self.taken if entry.worker_id == worker_id]

    @asynccontextmanager
    async def lines(self) -> AsyncIterator[Stream]:
        if self.away:
            raise HandlerLostError("it is away")
        self.streams += 1
        yield Stream(self)

    async def notify(self, outbox: Outbox, notice: Notice) -> tuple[Receipt, str]:
        if self.away:
            raise HandlerLostError("UNAVAILABLE: it is away")
        if outbox.worker_id in self.hated:
            raise HandlerStumbledError("INTERNAL: it threw")
        self.notices.append((outbox.worker_id, notice.kind))
        return Receipt.TAKEN, ""


class Rig:
    """What a process of the relay is for the push; another one over the same directory is what comes after a kill."""

    def __init__(
        self, directory: Path, files: Files, handler: Handler | None = None, most_removed: int = 1000, longest_notice_wait: float = 0.1
    ) -> None:
        self.handler = handler or Handler()
        self.tally = Tally()
        self.registry = Registry(directory / "spool", files, 4096)
        self.registry.load()
        self.outboxes = Outboxes(directory / "spool" / "handler", files, most_removed)
        reach = Reach("test:1", lambda: 0)
        self.forwarder = Forwarder(self.outboxes, self.handler, self.tally, reach, window=8, timeout=30.0, longest_wait=0.1)
        self.notifier = Notifier(self.outboxes, self.handler, self.tally, reach, longest_notice_wait)
        self.outgoing = Outgoing(self.outboxes, self.forwarder, self.notifier, directory_name)
        self.outboxes.load()
        self.outgoing.resume(self.registry.workers.values())
        self.registry.observer = self.outgoing

    @asynccontextmanager
    async def pushing(self) -> AsyncIterator[None]:
        """Pushes while this is entered; a push that ends by itself fails the test."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.forwarder.run()), group.create_task(self.notifier.run())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
