"""Reads what one request at a time gives of a container, to its end: follows it, goes on where a connection broke off, reads the rest."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING

from otto_kubekit.errors import BadRequestError, InvalidError, KubeError, NotFoundError, StalledError, UnreachableError
from otto_kubekit.kinds import PODS
from otto_relay.errors import SourceError, SourceLostError
from otto_relay.sources.kubernetes_lines import Answer, Entry, Place
from otto_relay.sources.kubernetes_pod import WorkerPod, begun, over
from otto_relay.sources.protocol import Ending, Split
from otto_runtime.tasks import Backoff
from otto_runtime.times import rfc3339

if TYPE_CHECKING:
    from otto_kubekit.client import Client
    from otto_kubekit.transport import Chunks

log = logging.getLogger(__name__)

FOLLOW_SILENCE = 300.0
"""Seconds without a line after which a followed log is asked for anew: a connection whose other end is gone tells nothing."""
READ_SILENCE = 30.0
"""Seconds within which a log that is only read has to go on."""
_END_PATIENCE = 1.0
"""Seconds that the scaler has to say that the worker is over, after a log has ended, before the pod is asked."""
GONE_SECONDS = 5.0
"""How long a node may say that it can't read the log of a container that has ended, before it counts as gone."""
_SECOND = 1_000_000_000


class ApartRefusedError(SourceError):
    """The server can't give stdout and stderr apart."""


class Lane:
    """One request's worth of a container."""

    def __init__(self, client: "Client", worker: WorkerPod, container: str, stream: str, place: Place) -> None:
        """`stream` is Stdout or Stderr, or "" for both merged; `place` is moved along."""
        self._client = client
        self._worker = worker
        self.container = container
        """Its name."""
        self._stream = stream
        self._place = place
        self.lost = False
        """The last line that was had is not in the log any more and none came after it, or the node has no log any more."""
        self._unread_since = inf
        """When the node said first that it can't read it, in the event loop's time."""

    async def run(self, ended: Ending, split: Split, longest: int, deliver: Callable[[list[Entry]], Awaitable[None]]) -> None:
        """Delivers the entries behind the place as they come, until the container has ended and all is read; then `place` is its end.

        Raises SourceLostError, SourceError when the log can't be asked for now, ApartRefusedError before it delivers anything.
        """
        backoff = Backoff(0.05, 1.0)
        last = False
        while True:
            last = last or ended.is_set()
            answer = Answer(self._place, split, longest)
            try:
                whole = await self._read(answer, ended, deliver, backoff, follow=not last)
            except _NothingYetError as error:
                if not last:
                    await waited(ended, backoff.next_delay())
                    continue
                if not begun(await self._worker.newer(), self.container):
                    return
                if not error.said:
                    raise SourceError(str(error)) from error
                answer.words += error.said.encode()
                whole = True
            if last and whole:
                await deliver(answer.close())
                self.lost = answer.lost
                if not answer.words:
                    return
                if self._gone(answer.words.decode("utf-8", "replace")):
                    self.lost = True
                    return
                await asyncio.sleep(backoff.next_delay())
                continue
            if whole and not await waited(ended, _END_PATIENCE):
                last = over(await self._worker.newer(), self.container)
            if not last and not ended.is_set():
                await waited(ended, backoff.next_delay())

    def _gone(self, words: str) -> bool:
        now = asyncio.get_running_loop().time()
        self._unread_since = min(self._unread_since, now)
        if now - self._unread_since < GONE_SECONDS:
            return False
        log.warning("relay.source.gone", extra={"worker": self._worker.name, "container": self.container, "reason": words})
        return True

    async def _read(
        self, answer: Answer, ended: Ending, deliver: Callable[[list[Entry]], Awaitable[None]], backoff: Backoff, *, follow: bool
    ) -> bool:
        """One request: whether the answer came to its end, and was not broken off or given up because the worker has ended."""
        path = self._client.path(PODS, None, self._worker.name, "log")
        opened = False
        try:
            async with self._client.transport.stream(path, self._query(follow=follow)) as chunks:
                opened = True
                while True:
                    data = await _next(chunks, ended) if follow else await chunks.next(READ_SILENCE)
                    if data is None:
                        return False
                    if not data:
                        return True
                    backoff.reset()
                    if found := answer.feed(data):
                        await deliver(found)
        except (StalledError, UnreachableError) as error:
            if not follow or not opened:
                raise SourceError(str(error)) from error
            if isinstance(error, UnreachableError):
                log.debug("relay.source.broken_off", extra={"worker": self._worker.name, "reason": str(error)})
            return False
        except InvalidError as error:
            raise self._refusal(error) from error
        except (BadRequestError, NotFoundError) as error:
            raise await self._nothing(error) from error
        except KubeError as error:
            raise SourceError(str(error)) from error

    def _query(self, *, follow: bool) -> dict[str, str]:
        query = {"container": self.container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        if self._stream:
            query["stream"] = self._stream
        if since := self._place.since:
            # The API server passes on whole seconds, whatever it is given.
            query["sinceTime"] = rfc3339(since * _SECOND)[:19] + "Z"
        return query

    def _refusal(self, error: KubeError) -> SourceError:
        return ApartRefusedError(str(error)) if self._stream else SourceError(str(error))

    async def _nothing(self, error: BadRequestError | NotFoundError) -> SourceError:
        """What it means that the container's log was refused."""
        # What a node answers with 400 the API server hands on as a cause of its own answer.
        said = next((cause.message for cause in error.details.causes if cause.message), error.message)
        if self._stream and "PodLogsQuerySplitStreams" in f"{error.message} {said}":
            return ApartRefusedError(str(error))
        if isinstance(error, NotFoundError):
            # Also said by a kubelet that has not heard of the pod yet; of one that is gone asking for it tells.
            try:
                await self._worker.newer()
            except SourceLostError as lost:
                return lost
        return _NothingYetError(str(error), said if isinstance(error, BadRequestError) else "")


class _NothingYetError(SourceError):
    """The container has no log, or none yet; `said`: so says its node."""

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        self.said = said


async def _next(chunks: "Chunks", ended: Ending) -> bytes | None:
    """What comes next, empty at the end of the answer; None when the worker has ended before anything came."""
    if ended.is_set():
        return None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:
            unsubscribe = ended.subscribe(lambda: limit.reschedule(loop.time()))
            try:
                return await chunks.next(FOLLOW_SILENCE)
            finally:
                unsubscribe()
    except TimeoutError:
        return None


async def waited(ended: Ending, seconds: float) -> bool:
    """Waits for the worker's end, at most so many seconds: whether it has come."""
    woken = asyncio.Event()
    unsubscribe = ended.subscribe(woken.set)
    try:
        if not ended.is_set():
            async with asyncio.timeout(seconds):
                await woken.wait()
    except TimeoutError:
        pass
    finally:
        unsubscribe()
    return ended.is_set()
