"""What the fake can be told to do wrong. Each order holds for requests that `when` picks, and `times` of them (None: until `heal`)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from otto_kubekit.testing.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as faults are chosen by it."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    token: str = ""

    @classmethod
    def by(cls, request: web.Request) -> "Asked":
        """What this request asks, and with which bearer token."""
        return cls(request.method, request.path, dict(request.query), request.headers.get("Authorization", "").removeprefix("Bearer "))

    @property
    def watch(self) -> bool:
        """Whether it opens a watch."""
        return self.query.get("watch") in {"true", "1"}

    @property
    def log(self) -> bool:
        """Whether it reads a container's log."""
        return self.path.endswith("/log")


When = Callable[[Asked], bool]


def anything(_: Asked) -> bool:
    """Every request."""
    return True


@dataclass(slots=True)
class _Order:
    kind: str
    when: When
    times: int | None
    refusal: Refusal | None = None
    seconds: float = 0.0
    answered: bool = False

    def takes(self, asked: Asked) -> bool:
        if self.times == 0 or not self.when(asked):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """The faults of one cluster."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []
        self._stalled: When | None = None
        self._moving = asyncio.Event()
        self._moving.set()
        self._losing = 0
        self.stalled = 0
        """Requests that wait because of `stall` now."""
        self._open: dict[asyncio.Transport, Asked] = {}

    def answer(
        self,
        code: int,
        reason: str = "",
        message: str = "told to fail",
        *,
        times: int | None = 1,
        retry_after: int | None = None,
        when: When = anything,
    ) -> None:
        """Refuses requests with this code."""
        words = {404: "NotFound", 409: "Conflict", 410: "Expired", 403: "Forbidden", 429: "TooManyRequests", 503: "ServiceUnavailable"}
        refusal = Refusal(code, reason or words.get(code, "InternalError"), message, retry_after=retry_after)
        self._orders.append(_Order("answer", when, times, refusal))

    def delay(self, seconds: float, *, times: int | None = None, after: bool = False, when: When = anything) -> None:
        """Lets requests wait before they are looked at; with `after` their answers, once they have been carried out."""
        self._orders.append(_Order("delay", when, times, seconds=seconds, answered=after))

    def cut(self, *, times: int | None = 1, after: bool = False, when: When = anything) -> None:
        """Drops the connection instead of answering; with `after`, once the request has been carried out."""
        self._orders.append(_Order("cut", when, times, answered=after))

    def drop_connections(self, when: When = anything) -> int:
        """Cuts what is open now, in the middle of whatever it does; returns how many."""
        hit = [(transport, asked) for transport, asked in self._open.items() if when(asked)]
        for transport, _ in hit:
            transport.abort()
        return len(hit)

    def stall(self, when: When = anything) -> None:
        """From now on nothing is answered and open streams say nothing more, but no connection breaks, until `resume`."""
        self._stalled = when
        self._moving.clear()

    def resume(self) -> None:
        """Ends `stall`."""
        self._stalled = None
        self._moving.set()

    def lose_events(self, count: int) -> None:
        """Leaves out the next events of watches."""
        self._losing += count

    def heal(self) -> None:
        """Forgets all orders."""
        self._orders.clear()
        self._losing = 0
        self.resume()

    # What follows is for the server.

    def loses(self) -> bool:
        """Whether this event is to be left out."""
        if self._losing:
            self._losing -= 1
            return True
        return False

    async def pass_stall(self, asked: Asked) -> None:
        """Waits while such a request is stalled."""
        while self._stalled is not None and self._stalled(asked):
            self.stalled += 1
            try:
                await self._moving.wait()
            finally:
                self.stalled -= 1

    @web.middleware
    async def middleware(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """Stands between the requests and the API."""
        asked = Asked.by(request)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._open[transport] = asked
        try:
            await self.pass_stall(asked)
            for order in list(self._orders):
                if not order.takes(asked):
                    continue
                if order.kind == "delay" and order.answered:
                    response = await handler(request)
                    await asyncio.sleep(order.seconds)
                    return response
                if order.kind == "delay":
                    await asyncio.sleep(order.seconds)
                elif order.kind == "cut":
                    if order.answered:
                        await handler(request)
                    transport.abort()
                    raise asyncio.CancelledError
                elif order.refusal is not None:
                    return refused(order.refusal)
            return await handler(request)
        except Refusal as refusal:
            return refused(refusal)
        except ConnectionResetError:
            # The client has left in the middle of a stream.
            raise asyncio.CancelledError from None
        finally:
            self._open.pop(transport, None)


def refused(refusal: Refusal) -> web.Response:
    """The answer that a refusal is."""
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after is not None else {}
    return web.Response(status=refusal.code, body=json.dumps(refusal.status()), content_type="application/json", headers=headers)
