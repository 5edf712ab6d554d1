"""Streams that outlast their connection: attached to again after a break, said to the user, with a limit on patience."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from ottoctl.words import LostError, broken, in_words, never_sent, said_by_service, short

PATIENCE_SECONDS = 120.0
"""How long ottoctl tries to reach a service that it has lost, unless told otherwise: long enough for a restart or a change of network."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
STEADY_SECONDS = 5.0
"""A stream that was open this long has worked, even if nothing was said on it: the next pause is a short one again."""
OPEN_SECONDS = 0.5
"""A stream that was open this long was taken, though nothing was said on it: a refusal comes right behind what opens it."""
T = TypeVar("T")


class Contact:
    """The contact with one address. Several streams share it, so that a break is told once, and its end once."""

    def __init__(self, address: str, tell: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> None:
        """`tell` hears of breaks; `patience` is how many seconds without contact a stream is tried again."""
        self.address = address
        self.tell = tell
        self.patience = patience
        self._lost: set[object] = set()
        self._quiet: set[object] = set()
        """Lines that were cut by a break which was told and has ended already: they only noticed it late."""
        self._broke_at = float("-inf")
        """When the last break was told."""

    async def lasting(
        self,
        attach: Callable[[], Any],
        is_last: Callable[[T], bool],
        *,
        ends_with_ok: bool = False,
        settle: Callable[[grpc.aio.AioRpcError], Awaitable[bool]] | None = None,
    ) -> AsyncIterator[T]:
        """Yields the messages of the stream that `attach` opens, opened again after each break: until `is_last`, or with `ends_with_ok`
        until it ends with OK.

        `settle` is asked about every error first: True means that the next `attach` goes on from there. Raises ServiceError for an error
        that is no break, at once if there never was any contact, and LostError when patience is over. A break needs one failed call to
        show; a connection that merely stalls shows after the keepalive times of `client.connect`. A service that answers, and refuses,
        is no contact.
        """
        loop = asyncio.get_running_loop()
        line = object()
        lost_at: float | None = None
        known, delay = False, FIRST_PAUSE
        try:
            while True:
                began = steady_since = loop.time()
                before, heard = (known, lost_at), False
                call = attach()
                opening: asyncio.TimerHandle | None = None

                def opened(call: Any = call) -> None:
                    nonlocal known, lost_at, steady_since
                    if not call.done():
                        known, lost_at, steady_since = True, None, loop.time()
                        self._made(line)

                try:
                    await call.initial_metadata()
                    opening = loop.call_later(OPEN_SECONDS, opened)
                    async for message in call:
                        known, lost_at, delay, heard = True, None, FIRST_PAUSE, True
                        self._made(line)
                        yield message
                        if is_last(message):
                            return
                    if ends_with_ok:
                        return
                    why, refused = "it is stopping", False
                except grpc.aio.AioRpcError as error:
                    if settle is not None and await settle(error):
                        known = True
                        await asyncio.sleep(FIRST_PAUSE)
                        continue
                    refused = said_by_service(error) and not heard
                    if refused:
                        known, lost_at = before
                    if not broken(error) or (not known and (never_sent(error) or refused)):
                        raise in_words(error, self.address) from None
                    known, why = True, short(error)
                finally:
                    if opening is not None:
                        opening.cancel()
                    call.cancel()
                now = loop.time()
                lost_at = now if lost_at is None else lost_at
                left = lost_at + self.patience - now
                if left <= 0:
                    raise LostError(self.address, self.patience, why)
                self._break(line, why, steady_since, refused=refused)
                delay = FIRST_PAUSE if now - began > STEADY_SECONDS else delay
                await asyncio.sleep(min(left, random.uniform(delay / 2, delay)))
                delay = min(delay * 2, LONGEST_PAUSE)
        finally:
            self._forget(line)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a harmless question, asked again after breaks. Raises ServiceError, and LostError when patience is over."""
        loop = asyncio.get_running_loop()
        line = object()
        gives_up_at, delay = loop.time() + self.patience, FIRST_PAUSE
        try:
            while True:
                began = loop.time()
                try:
                    answer = await call()
                except grpc.aio.AioRpcError as error:
                    if not broken(error) and error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                        raise in_words(error, self.address) from None
                    if loop.time() >= gives_up_at:
                        raise LostError(self.address, self.patience, short(error)) from None
                    self._break(line, short(error), began)
                else:
                    self._made(line)
                    return answer
                await asyncio.sleep(random.uniform(delay / 2, delay))
                delay = min(delay * 2, LONGEST_PAUSE)
        finally:
            self._forget(line)

    def _break(self, line: object, why: str, since: float, *, refused: bool = False) -> None:
        """`since`: when the line that broke was made; `refused`: by a service that was reached."""
        if not self._lost and since < self._broke_at and line not in self._quiet:
            self._quiet.add(line)
            return
        self._quiet.discard(line)
        if not self._lost:
            self._broke_at = asyncio.get_running_loop().time()
            what = f"Ottoscaler at {self.address} can't do that at the moment" if refused else f"lost the connection to {self.address}"
            self.tell(f"{what} ({why}); what runs goes on; trying again for {self.patience:g} s")
        self._lost.add(line)

    def _made(self, line: object) -> None:
        self._quiet.discard(line)
        if line in self._lost:
            self._lost.discard(line)
            if not self._lost:
                self.tell("connected again")

    def _forget(self, line: object) -> None:
        self._lost.discard(line)
        self._quiet.discard(line)
