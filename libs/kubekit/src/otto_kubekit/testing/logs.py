"""The logs of containers, and the API's way to read them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from otto_kubekit.testing.refusals import bad_request, invalid

Pause = Callable[[], Awaitable[None]]
"""Waits while the cluster is told to stall."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a container, without its newline."""

    time_ns: int
    stream: str
    text: bytes


class ContainerLog:
    """What a container has written. `rotate` forgets what is there, as a rotated file can't be had through the API."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.ended = False
        self.rotations = 0
        self.gone = ""
        """The file is not there any more: what the kubelet says then, mostly in the place of the log."""
        self.refused = False
        """It says that with 400."""
        self._changed = asyncio.Event()

    def write(self, text: bytes | str, stream: str = "stdout", time_ns: int | None = None) -> None:
        """Adds a line; times never stand still or go back unless given."""
        stamp = time.time_ns() if time_ns is None else time_ns
        if time_ns is None and self.lines:
            stamp = max(stamp, self.lines[-1].time_ns + 1)
        self.lines.append(Line(stamp, stream, text.encode() if isinstance(text, str) else text))
        self._notify()

    def rotate(self) -> None:
        """Begins a new file; what follows the old one comes to its end."""
        self.lines = []
        self.rotations += 1
        self._notify()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._notify()

    async def changed(self, timeout: float) -> None:
        """Waits for news, at most `timeout` seconds."""
        event = self._changed
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(frozen=True, slots=True)
class Reading:
    """How a log is to be read."""

    follow: bool = False
    timestamps: bool = False
    since_ns: int = 0
    tail: int | None = None
    stream: str = "All"

    def of(self, lines: list[Line]) -> Iterator[bytes]:
        """The lines that fit, as they are sent."""
        for line in lines:
            if line.time_ns >= self.since_ns and self.stream in {"All", line.stream.capitalize()}:
                yield (rfc3339(line.time_ns).encode() + b" " if self.timestamps else b"") + line.text + b"\n"


def reading(request: web.Request, split: bool | None) -> Reading:
    """What the query asks for. Without `split` the server refuses to tell streams apart; None: it does not know the question."""
    query = request.query
    stream = "All" if split is None else query.get("stream", "All")
    since = 0
    if text := query.get("sinceTime"):
        try:
            # The kubelet is asked with whole seconds, whatever the client wrote.
            since = int(datetime.fromisoformat(text).timestamp()) * 10**9
        except ValueError:
            raise bad_request(f'parsing time "{text}" failed') from None
    elif query.get("sinceSeconds"):
        since = time.time_ns() - int(query["sinceSeconds"]) * 10**9
    if "stream" in query and split is False:
        raise invalid("PodLogOptions", "", "stream", "FieldValueForbidden", "Forbidden: may not be specified")
    if stream not in {"All", "Stdout", "Stderr"}:
        raise invalid("PodLogOptions", "", "stream", "FieldValueNotSupported", f'Unsupported value: "{stream}"')
    return Reading(
        follow=query.get("follow") == "true",
        timestamps=query.get("timestamps") == "true",
        since_ns=since,
        tail=int(query["tailLines"]) if "tailLines" in query else None,
        stream=stream,
    )


def rfc3339(time_ns: int) -> str:
    """A timestamp as the log API writes it: to the nanosecond, trailing zeros left out."""
    seconds, nanos = divmod(time_ns, 10**9)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


async def send(request: web.Request, log: ContainerLog, how: Reading, closing: asyncio.Event, pause: Pause) -> web.StreamResponse:
    """The answer that reads a log: to its end so far, or on and on until the container or the file ends."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    rotation, at = log.rotations, 0
    if how.tail is not None:
        at = max(0, len(log.lines) - how.tail)
    while True:
        ended = log.ended
        fresh = log.lines[at:] if log.rotations == rotation else []
        at += len(fresh)
        await pause()
        if data := b"".join(how.of(fresh)):
            await response.write(data)
        if not how.follow or ended or closing.is_set() or log.rotations != rotation:
            break
        if at == len(log.lines):
            await log.changed(0.5)
    await response.write_eof()
    return response
