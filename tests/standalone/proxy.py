"""A TCP proxy that behaves as badly as networks do: cuts, stalls, delays, refuses, loses answers, resets HTTP/2 streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HEADERS, RST_STREAM = 1, 3
END_STREAM = 1
INTERNAL_ERROR = 2


class Proxy:
    """Listens on a free port of loopback and passes bytes on to `target`. Made by `proxy`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece is held back, in both directions."""
        self.flowing = asyncio.Event()
        """Cleared: nothing passes, and nobody is told."""
        self.flowing.set()
        self.answering = asyncio.Event()
        """Cleared: requests pass, answers to them do not; what HTTP/2 says of the connection itself does."""
        self.answering.set()
        self.withheld = asyncio.Event()
        """Set when an answer has been kept back."""

    @property
    def address(self) -> str:
        """Where to dial it."""
        return f"127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Takes connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuses new connections, and cuts those there are."""
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Resets every connection."""
        for connection in list(self._connections):
            connection.abort()

    def reset_streams(self) -> int:
        """Tells clients that their streams ended with an internal error, as a proxy does whose backend was killed; how many."""
        return sum(connection.reset() for connection in self._connections)

    async def close(self) -> None:
        """Ends everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(self, writer, up_writer)
        self._connections.add(connection)
        try:
            await asyncio.gather(connection.requests(reader), connection.answers(up_reader))
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # a cancelled callback of asyncio's server would be logged as an error
        finally:
            connection.abort()
            self._connections.discard(connection)


class _Connection:
    def __init__(self, proxy: Proxy, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._down = down
        self._up = up
        self._open: set[int] = set()

    def abort(self) -> None:
        self._down.transport.abort()
        self._up.transport.abort()

    async def requests(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(65536):
            await self._held()
            self._up.write(chunk)
            await self._up.drain()
        raise EOFError

    async def answers(self, reader: asyncio.StreamReader) -> None:
        """Frame by frame, so that one can be put between."""
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            await self._held()
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big")
            if stream and not self._proxy.answering.is_set():
                self._proxy.withheld.set()
                await self._proxy.answering.wait()
            if kind == HEADERS:
                self._open.add(stream)
            if kind == RST_STREAM or (kind in {0, HEADERS} and flags & END_STREAM):
                self._open.discard(stream)
            self._down.write(head + payload)
            await self._down.drain()

    def reset(self) -> int:
        count = len(self._open)
        for stream in self._open:
            self._down.write(b"\0\0\4" + bytes([RST_STREAM, 0]) + stream.to_bytes(4, "big") + INTERNAL_ERROR.to_bytes(4, "big"))
        self._open.clear()
        return count

    async def _held(self) -> None:
        if self._proxy.delay:
            await asyncio.sleep(self._proxy.delay)
        await self._proxy.flowing.wait()


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[Proxy]:
    """A proxy that listens, before `target` (host:port)."""
    made = Proxy(target)
    await made.listen()
    try:
        yield made
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await made.close()
