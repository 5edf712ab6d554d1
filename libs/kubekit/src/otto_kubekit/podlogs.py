"""The lines of a container, followed through the log API: none lost, none twice, whatever happens to the connection.

The API can only be asked for lines since a second, so after a break it is asked for the last seconds again and what was had is dropped,
by its time to the nanosecond. Lines of stdout and stderr may lie in the log in another order than their times say, so all of
the last second are remembered (at most WINDOW), not just the last one.

stdout and stderr can be told apart only by a server with the feature gate PodLogsQuerySplitStreams (alpha); it is asked once, and where
it can't they come as one stream, named "". Lines that containerd had to cut (over 16 KiB) arrive whole.
What was rotated away while nobody followed can't be had; where that may have happened a LogGap says so.
"""

import asyncio
import contextlib
import logging
import random
import re
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from otto_kubekit.client import Client
from otto_kubekit.errors import ApiError, BadRequestError, ForbiddenError, InvalidError, KubeError, NotFoundError, Status
from otto_kubekit.kinds import PODS

log = logging.getLogger(__name__)

WINDOW = 2048
SECOND = 10**9
_SPLIT_SINCE = (1, 32)
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
_MERGED, _STREAMS = ("",), ("stdout", "stderr")
_QUEUED = 256


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line without its newline; `stream` is stdout, stderr, or "" where the server merges them."""

    time_ns: int
    text: bytes
    stream: str


@dataclass(frozen=True, slots=True)
class LogGap:
    """Lines between the one of this time and the next one may have been rotated away."""

    after_ns: int
    stream: str


Entry = LogLine | LogGap


class Had:
    """Which lines one already has: their times, as far back as lines can arrive out of order."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    @classmethod
    def of(cls, lines: Iterable[tuple[int, str]]) -> "Had":
        """From times and streams of the last stored lines, in their order: those of two seconds, or WINDOW of them, are enough."""
        had = cls()
        for time_ns, stream in lines:
            had.note(time_ns, stream)
        for window in had._windows.values():
            window.start = max(window.start, min(window.times))
        return had

    def note(self, time_ns: int, stream: str) -> None:
        """This line is had now."""
        if stream not in self._windows:
            self._windows[stream] = _Window()
        self._windows[stream].note(time_ns)

    def window(self, stream: str) -> "_Window":
        """What is had of a stream. A server that has learnt to tell streams apart, or no longer does, is answered from what fits."""
        fitting = [w for name, w in self._windows.items() if not name or not stream or name == stream]
        window = _Window()
        if fitting:
            window.start = min(w.start for w in fitting)
            for time_ns in sorted(t for w in fitting for t in w.times):
                window.note(time_ns)
        return window


class _Window:
    def __init__(self) -> None:
        self.start = 0
        self.times: deque[int] = deque()
        self.newest = 0

    def note(self, time_ns: int) -> None:
        self.times.append(time_ns)
        self.newest = max(self.newest, time_ns)
        while len(self.times) > WINDOW or self.times[0] < self.newest - SECOND:
            self.start = max(self.start, self.times.popleft() + 1)


class _Sieve:
    """Lets through what is not had yet, on one connection."""

    def __init__(self, window: _Window) -> None:
        self._start = window.start
        self._owed = Counter(t for t in window.times if t >= window.start)
        self.unproven = bool(window.times)
        """Nothing that is had has come yet, so what comes first need not be what follows it."""

    def new(self, time_ns: int) -> bool:
        if time_ns < self._start:
            self.unproven = False
            return False
        if self._owed.get(time_ns, 0) > 0:
            self._owed[time_ns] -= 1
            self.unproven = False
            return False
        return True


async def follow(
    client: Client,
    pod: str,
    container: str,
    *,
    after: Had | None = None,
    split: bool | None = None,
    namespace: str | None = None,
    uid: str = "",
    ended: Callable[[], Awaitable[bool]] | None = None,
    trouble: Callable[[KubeError], None] | None = None,
    inactivity: float = 300.0,
) -> AsyncGenerator[Entry, None]:
    """Every line from `after` on, until the container has ended and all of it was read; waits for one that has not started yet.

    `split` asks for stdout and stderr apart (None: where the server can). `uid` makes sure that it is that pod. `ended` says whether
    the container has ended, for callers that know (else the API is asked). A connection that is silent for `inactivity` seconds is
    opened again. What is in the way meanwhile is told to `trouble`. Raises NotFoundError when the pod is gone, ForbiddenError when its log
    may not be read. Close it with `contextlib.aclosing`.
    """
    source = _Source(client, pod, container, namespace, uid, ended, trouble, inactivity)
    had = after or Had()
    if uid:
        await source.check()
    streams = _STREAMS if (split if split is not None else await _splits(client)) else _MERGED
    if streams is _STREAMS and split is None and not await source.splits():
        streams = _MERGED
    if streams is _MERGED:
        async with aclosing(source.lines("", had.window(""))) as lines:
            async for entry in lines:
                yield entry
        return
    async with aclosing(_together([source.lines(stream, had.window(stream)) for stream in streams])) as lines:
        async for entry in lines:
            yield entry


async def _splits(client: Client) -> bool:
    """Whether the server may know streams; older ones ignore the question and would send everything twice."""
    if client.splits_logs is None and await client.server_version() < _SPLIT_SINCE:
        client.splits_logs = False
    return client.splits_logs is not False


async def _together(sources: list[AsyncGenerator[Entry, None]]) -> AsyncGenerator[Entry, None]:
    """The entries of several sources as they come; the first error ends all."""
    queue: asyncio.Queue[Entry | BaseException | None] = asyncio.Queue(_QUEUED)

    async def copy(source: AsyncGenerator[Entry, None]) -> None:
        try:
            async with aclosing(source):
                async for entry in source:
                    await queue.put(entry)
        except KubeError as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(copy(source), name="follow a stream of a log") for source in sources]
    try:
        left = len(tasks)
        while left:
            entry = await queue.get()
            if isinstance(entry, BaseException):
                raise entry
            if entry is None:
                left -= 1
            else:
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Source:
    """One container's log."""

    def __init__(
        self,
        client: Client,
        pod: str,
        container: str,
        namespace: str | None,
        uid: str,
        ended: Callable[[], Awaitable[bool]] | None,
        trouble: Callable[[KubeError], None] | None,
        inactivity: float,
    ) -> None:
        self._client = client
        self._pod = pod
        self._container = container
        self._namespace = namespace
        self._uid = uid
        self._ended = ended or self.check
        self._trouble = trouble
        self._inactivity = inactivity

    async def check(self) -> bool:
        """Whether the container has ended. Raises NotFoundError if the pod, the one of this uid, is gone."""
        pod = await self._client.get(PODS, self._pod, namespace=self._namespace)
        if self._uid and pod.metadata.uid != self._uid:
            message = f'pods "{self._pod}" with uid {self._uid} not found'
            raise NotFoundError(f"log of {self._pod}", Status(message=message, reason="NotFound", code=404))
        if pod.status.phase in {"Succeeded", "Failed"}:
            return True
        statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
        return any(s.name == self._container and s.state.terminated is not None for s in statuses)

    async def splits(self) -> bool:
        """Whether the server tells streams apart: asked once for each client, by asking for one."""
        if self._client.splits_logs is None:
            try:
                async with self._opened("stdout", _Window(), follow=False):
                    self._client.splits_logs = True
            except (InvalidError, BadRequestError) as error:
                if "waiting" not in error.message:
                    self._client.splits_logs = False
                # A container that waits says nothing about streams, but the API server has looked at the question first.
                else:
                    self._client.splits_logs = True
            except KubeError as error:
                log.debug("whether logs can be split is not known: %s", error)
                return False
        return self._client.splits_logs

    def _opened(self, stream: str, window: _Window, follow: bool):  # type: ignore[no-untyped-def] # what Transport.stream gives
        query = {"container": self._container, "timestamps": "true", "follow": "true" if follow else "false"}
        if window.start:
            query["sinceTime"] = datetime.fromtimestamp(window.start // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if stream:
            query["stream"] = stream.capitalize()
        return self._client.transport.stream(self._client.path(PODS, self._namespace, self._pod, "log"), query)

    async def lines(self, stream: str, window: _Window) -> AsyncGenerator[Entry, None]:
        """The entries of one stream, through breaks."""
        ended, failures = False, 0
        while True:
            clean = False
            try:
                async with aclosing(self._connection(stream, window, follow=not ended)) as entries:
                    async for entry in entries:
                        failures = 0
                        yield entry
                clean = True
            except (NotFoundError, ForbiddenError):
                raise
            except KubeError as error:
                if not (isinstance(error, BadRequestError) and "waiting to start" in error.message):
                    log.debug("log of %s goes on: %s", self._pod, error)
                    if self._trouble is not None:
                        self._trouble(error)
                elif ended:
                    return
                wait = error.retry_after if isinstance(error, ApiError) and error.retry_after else 0.0
                failures += 1
                await asyncio.sleep(max(wait, _pause(failures)))
            if clean and ended:
                return
            try:
                ended = ended or await self._ended()
            except NotFoundError:
                raise
            except KubeError as error:
                log.debug("whether %s has ended is not known: %s", self._pod, error)
            if clean and not ended:
                failures += 1
                await asyncio.sleep(_pause(failures))

    async def _connection(self, stream: str, window: _Window, follow: bool) -> AsyncGenerator[Entry, None]:
        sieve, stamps = _Sieve(window), _Stamps()
        strange: list[bytes] = []
        newest = window.newest
        async with self._opened(stream, window, follow) as chunks:
            rest: list[bytes] = []
            while True:
                chunk = await chunks.next(self._inactivity)
                parts = [*rest, chunk]
                if chunk and b"\n" not in chunk:
                    rest = parts
                    continue
                lines = b"".join(parts).split(b"\n")
                rest = [lines.pop()] if chunk else []
                for line in lines:
                    if not line:
                        continue
                    time_ns, text = stamps.read(line)
                    if time_ns < 0:
                        # The last words of a kubelet that gives up have no time; in the middle it would be a line nevertheless.
                        strange.append(line)
                        continue
                    for words in strange:
                        yield LogLine(window.newest, words, stream)
                    strange.clear()
                    if not sieve.new(time_ns):
                        continue
                    if sieve.unproven:
                        sieve.unproven = False
                        yield LogGap(newest, stream)
                    window.note(time_ns)
                    yield LogLine(time_ns, text, stream)
                if not chunk:
                    break
        if strange:
            log.debug("log of %s ended with: %s", self._pod, strange[-1][:500])


class _Stamps:
    """Reads the times at the beginning of lines; most lines share their second with the one before."""

    def __init__(self) -> None:
        self._second: tuple[bytes, bytes] = (b"", b"")
        self._base = 0

    def read(self, line: bytes) -> tuple[int, bytes]:
        """Time and text, or -1 for a line without a time."""
        found = _STAMP.match(line)
        if found is None:
            return -1, line
        second, fraction, zone = found.groups()
        if (second, zone) != self._second:
            with contextlib.suppress(ValueError):
                self._base = int(datetime.fromisoformat((second + zone).decode()).timestamp()) * SECOND
                self._second = (second, zone)
        return self._base + (int(fraction.ljust(9, b"0")) if fraction else 0), line[found.end() :]


def _pause(failures: int) -> float:
    return random.uniform(0.5, 1.0) * min(2.0, 0.1 * 2.0 ** min(failures, 6))
