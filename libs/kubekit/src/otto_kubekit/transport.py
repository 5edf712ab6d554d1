"""One HTTP request to the API server: deadline, throttling, and every failure as an error of ours.

The server's wish to be asked later (429 or 5xx with Retry-After) is obeyed: it has done nothing, so the request is repeated
when it said, as long as the call's deadline allows. Nothing else is repeated here.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from otto_kubekit import metrics
from otto_kubekit.errors import (
    ApiError,
    DeadlineError,
    FencedError,
    MalformedError,
    StalledError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
    UnsentError,
    UntrustedError,
    answered,
)

Query = Mapping[str, str]
_NOTHING: Query = MappingProxyType({})
_NO_TOTAL = aiohttp.ClientTimeout(total=None)
_HARMLESS = frozenset({"GET"})
MOST_CALLS = 100
"""Under way at once over one transport; the others wait for their turn within their deadlines. A connection costs this process and the
server a TLS handshake and some 100 KB each: 2,000 runs that begin at once made 480 of them. Leases never wait, also where they share a
transport: whoever holds one acts only while it is renewed. Streams have a connection each in any case.
"""
_UNBOUNDED = "/apis/coordination.k8s.io/"
_LEAST_WAIT = 0.1
"""Seconds; a server that says `Retry-After: 0` is not asked again in a tight loop."""


class Identity(Protocol):
    """Who asks, and where: what `credentials.Credentials` gives."""

    host: str
    namespace: str

    def session(self) -> aiohttp.ClientSession:
        """A new session; the caller closes it."""

    def request_options(self) -> dict[str, Any]:
        """What aiohttp has to be told with every request."""

    async def authorization(self) -> str:
        """The value of the Authorization header, "" for none."""

    async def renew(self) -> None:
        """Reads the credentials again."""


class _Fenced(aiohttp.BytesPayload):
    """A body that is written only if the fence still allows it: connecting takes time, and so does a process that was frozen."""

    def __init__(self, body: bytes, fence: Callable[[], bool]) -> None:
        super().__init__(body)
        self._fence = fence

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if not self._fence():
            raise FencedError("not sent, because this replica does not act any more")
        await super().write_with_length(writer, content_length)


class Chunks:
    """The body of an answer that goes on and on."""

    def __init__(self, what: str, response: aiohttp.ClientResponse) -> None:
        self.what = what
        self._content = response.content

    async def next(self, inactivity: float | None) -> bytes:
        """What has come, b"" at the end.

        Raises StalledError after `inactivity` seconds of silence (None: waits for ever) and UnreachableError when it breaks off.
        """
        try:
            async with asyncio.timeout(inactivity):
                return await self._content.readany()
        except TimeoutError:
            raise StalledError(f"{self.what}: silent for {inactivity:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"{self.what}: broke off: {error!r}") from error


class Transport:
    """Requests to one API server over one pool of connections."""

    def __init__(self, identity: Identity, session: aiohttp.ClientSession, timeout: float) -> None:
        """`timeout` are the seconds that a call has when it says nothing else."""
        self.namespace = identity.namespace
        self.timeout = timeout
        self.fence: Callable[[], bool] | None = None
        """Whether anything may be changed at this moment; asked right before each request that changes something is sent."""
        self._identity = identity
        self._session = session
        self._room = asyncio.Semaphore(MOST_CALLS)

    async def call(
        self,
        method: str,
        path: str,
        query: Query = _NOTHING,
        body: bytes | None = None,
        content_type: str = "",
        timeout: float | None = None,
    ) -> bytes:
        """The body of the answer. Raises a KubeError."""
        what = f"{method} {path}"
        limit = self.timeout if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + limit
        room = nullcontext() if path.startswith(_UNBOUNDED) else self._room
        sent = troubled = False  # so that it may have been carried out
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    self._check_fence(what, method)
                    try:
                        async with room:
                            sent = True
                            return await self._answer(what, method, path, query, body, content_type)
                    except ApiError as error:
                        sent = troubled = troubled or error.maybe_done
                        await self._wait_as_told(error, deadline)
        except TimeoutError:
            if not sent:
                raise UnsentError(f"{what}: not sent, because {MOST_CALLS} other calls were under way for {limit:g} s") from None
            raise DeadlineError(f"{what}: no answer within {limit:g} s") from None

    @asynccontextmanager
    async def stream(self, path: str, query: Query, timeout: float | None = None) -> AsyncIterator[Chunks]:
        """An answer to be read as it comes. `timeout` are the seconds until it begins; it may go on for ever."""
        what = f"GET {path}"
        limit = self.timeout if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + limit
        response: aiohttp.ClientResponse | None = None
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    while response is None:
                        try:
                            response = await self._opened(what, "GET", path, query, None, "")
                        except ApiError as error:
                            await self._wait_as_told(error, deadline)
            except TimeoutError:
                raise DeadlineError(f"{what}: no answer within {limit:g} s") from None
            yield Chunks(what, response)
        finally:
            if response is not None:
                response.close()

    async def _wait_as_told(self, error: ApiError, deadline: float) -> None:
        """Sleeps until the server wants to be asked again; raises the error if it wants no repetition, or too late a one."""
        after = error.retry_after
        if after is None or not (isinstance(error, ThrottledError) or error.code >= 500):
            raise error
        if asyncio.get_running_loop().time() + after >= deadline:
            raise error
        wait = max(after, _LEAST_WAIT)
        metrics.THROTTLED_SECONDS.inc(wait)
        await asyncio.sleep(wait)

    async def _answer(self, what: str, method: str, path: str, query: Query, body: bytes | None, content_type: str) -> bytes:
        response = await self._opened(what, method, path, query, body, content_type)
        try:
            with _foreign_errors(what):
                return await response.read()
        finally:
            response.release()

    async def _opened(
        self, what: str, method: str, path: str, query: Query, body: bytes | None, content_type: str
    ) -> aiohttp.ClientResponse:
        """An answer that is no error. A server that does not know us, or whom we don't know (any more), is asked once more with credentials
        that were read again: what a kubelet, or whoever keeps a kubeconfig, has replaced.
        """
        try:
            return await self._sent(what, method, path, query, body, content_type)
        except (UnauthorizedError, UntrustedError):
            await self._identity.renew()
            return await self._sent(what, method, path, query, body, content_type)

    def _check_fence(self, what: str, method: str) -> Callable[[], bool] | None:
        """The fence, if the request changes something. Raises FencedError when nothing may be changed now."""
        fence = self.fence if method not in _HARMLESS else None
        if fence is not None and not fence():
            raise FencedError(f"{what}: not sent, because this replica does not act (any more)")
        return fence

    async def _sent(self, what: str, method: str, path: str, query: Query, body: bytes | None, content_type: str) -> aiohttp.ClientResponse:
        fence = self._check_fence(what, method)
        sent = body if fence is None else _Fenced(body or b"", fence)
        # Compression saves little inside a cluster and costs both sides more than sending.
        headers = {"Accept": "application/json, */*", "Accept-Encoding": "identity", "User-Agent": "ottoscaler"}
        if content_type:
            headers["Content-Type"] = content_type
        if authorization := await self._identity.authorization():
            headers["Authorization"] = authorization
        url = URL(f"{self._identity.host}{path}" + (f"?{urlencode(query)}" if query else ""), encoded=True)
        options = self._identity.request_options()
        asked, code = time.perf_counter(), "none"
        with _foreign_errors(what):
            try:
                response = await self._session.request(
                    method, url, data=sent, headers=headers, timeout=_NO_TOTAL, allow_redirects=False, **options
                )
                code = str(response.status)
            finally:
                metrics.REQUEST_SECONDS.labels(*metrics.labels(method, path, query), code).observe(time.perf_counter() - asked)
            if 200 <= response.status < 300:
                return response
            try:
                raise answered(what, response.status, await response.read(), _seconds(response.headers.get("Retry-After")))
            finally:
                response.release()


class _foreign_errors:  # noqa: N801 - reads as a statement: with _foreign_errors(what)
    """Makes what aiohttp raises ours."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
            raise UntrustedError(f"{self._what}: {error!s} ({type(error).__name__})") from error
        if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | ssl.SSLError | OSError) and not isinstance(
            error, TimeoutError
        ):
            raise UnreachableError(f"{self._what}: {error!s} ({type(error).__name__})") from error
        if isinstance(error, aiohttp.ClientError | ValueError):
            raise MalformedError(f"{self._what}: {error!r}") from error


def _seconds(header: str | None) -> float | None:
    """The seconds of a Retry-After header; a date, which the API server never sends, counts as none."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


@asynccontextmanager
async def transport(identity: Identity, timeout: float) -> AsyncIterator[Transport]:
    """A transport with a pool of connections of its own, closed at the end."""
    _small_tls_buffers()
    session = identity.session()
    try:
        yield Transport(identity, session, timeout)
    finally:
        await session.close()


def _small_tls_buffers() -> None:
    """A TLS connection takes 256 KiB in asyncio, a record has 16, and each followed log has one (measured: 130 MB → 49 for 100)."""
    from asyncio import sslproto

    protocol = sslproto.SSLProtocol
    if getattr(protocol, "max_size", 0) > 16_384:
        protocol.max_size = 16_384
