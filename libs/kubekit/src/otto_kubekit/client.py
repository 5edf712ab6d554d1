"""The verbs of the API on typed objects. Every call has a deadline and raises only `errors.KubeError`s.

`namespace` is None for the client's own, ALL_NAMESPACES for all (lists and watches only); kinds without namespaces ignore it. `timeout`
are seconds, None for the client's default. Cancelling a call drops its connection; what the server has begun it finishes.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from otto_kubekit.bodies import Body, Patch, encode
from otto_kubekit.errors import ExpiredError, MalformedError
from otto_kubekit.kinds import TOKEN_REVIEWS, Kind, O, Page
from otto_kubekit.objects import TokenReviewStatus
from otto_kubekit.transport import Transport

T = TypeVar("T")
ALL_NAMESPACES = ""
PAGE_SIZE = 500
"""Objects per page; client-go's default."""
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Listing(Generic[O]):
    """All objects that fit, as they were at one moment."""

    items: list[O]
    resource_version: str


class Client:
    """One API server, seen from one namespace."""

    def __init__(self, transport: Transport, namespace: str = "") -> None:
        """`namespace` "" is that of the credentials."""
        self.transport = transport
        self.namespace = namespace or transport.namespace

    def path(self, kind: Kind[O], namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path that `namespace` means, see the module."""
        return kind.path(self.namespace if namespace is None else namespace, name, subresource)

    async def get(self, kind: Kind[O], name: str, *, namespace: str | None = None, timeout: float | None = None) -> O:
        """The object. Raises NotFoundError if there is none."""
        path = self.path(kind, namespace, name)
        return _read(kind.one, await self.transport.call("GET", path, timeout=timeout), path)

    async def pages(
        self,
        kind: Kind[O],
        *,
        labels: str = "",
        fields: str = "",
        namespace: str | None = None,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[Page[O]]:
        """The objects that fit, a page at a time, all as of the same moment; `timeout` is for each page.

        Raises ExpiredError when the server has forgotten that moment before the last page: begin again.
        """
        path = self.path(kind, namespace)
        query = selection(labels, fields)
        if page_size:
            query["limit"] = str(page_size)
        while True:
            page = _read(kind.many, await self.transport.call("GET", path, query, timeout=timeout), path)
            yield page
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def list(
        self,
        kind: Kind[O],
        *,
        labels: str = "",
        fields: str = "",
        namespace: str | None = None,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> Listing[O]:
        """All objects that fit. Asked for page by page, begun again when a page has expired, at last without pages."""
        for attempt in range(_RESTARTS + 1):
            items: list[O] = []
            version = ""
            size = page_size if attempt < _RESTARTS else 0
            try:
                async for page in self.pages(kind, labels=labels, fields=fields, namespace=namespace, page_size=size, timeout=timeout):
                    items += page.items
                    version = page.metadata.resource_version
            except ExpiredError:
                if attempt == _RESTARTS:
                    raise
                continue
            break
        return Listing(items, version)

    async def create(
        self, kind: Kind[O], body: Body, *, namespace: str | None = None, dry_run: bool = False, timeout: float | None = None
    ) -> O:
        """Creates an object and returns it as it is then. Raises AlreadyExistsError, InvalidError, ForbiddenError (`quota`) and so on."""
        path = self.path(kind, namespace)
        query = {"dryRun": "All"} if dry_run else {}
        return _read(kind.one, await self.transport.call("POST", path, query, encode(body), _JSON, timeout), path)

    async def replace(
        self,
        kind: Kind[O],
        name: str,
        body: Body,
        *,
        subresource: str = "",
        namespace: str | None = None,
        timeout: float | None = None,
    ) -> O:
        """Puts a whole object in place of the one there. Raises ConflictError if that is not of the body's resourceVersion any more."""
        path = self.path(kind, namespace, name, subresource)
        return _read(kind.one, await self.transport.call("PUT", path, {}, encode(body), _JSON, timeout), path)

    async def patch(
        self,
        kind: Kind[O],
        name: str,
        change: Patch,
        *,
        subresource: str = "",
        namespace: str | None = None,
        timeout: float | None = None,
    ) -> O:
        """Changes an object, made by `bodies.merge`, `strategic` or `json_patch`. A `metadata.resourceVersion` in it must still be true."""
        path = self.path(kind, namespace, name, subresource)
        return _read(kind.one, await self.transport.call("PATCH", path, {}, change.body, change.content_type, timeout), path)

    async def apply(
        self,
        kind: Kind[O],
        name: str,
        body: Body,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str = "",
        namespace: str | None = None,
        timeout: float | None = None,
    ) -> O:
        """Server-side apply: the object shall have these fields, and they are ours. Creates it if it is not there.

        Raises ConflictError without `force` when a field belongs to another manager.
        """
        path = self.path(kind, namespace, name, subresource)
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return _read(kind.one, await self.transport.call("PATCH", path, query, encode(body), _APPLY, timeout), path)

    async def delete(
        self,
        kind: Kind[O],
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        grace: int | None = None,
        propagation: str = "",
        namespace: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Asks for an object's end: it may linger for its grace (seconds) or finalizers.

        Raises NotFoundError if there is none, ConflictError if it is not the one of this uid or version. `propagation` is
        Background, Foreground or Orphan: what happens to what it owns.
        """
        path = self.path(kind, namespace, name)
        await self.transport.call("DELETE", path, {}, _deletion(uid, resource_version, grace, propagation), _JSON, timeout)

    async def delete_all(
        self,
        kind: Kind[O],
        *,
        labels: str = "",
        fields: str = "",
        grace: int | None = None,
        propagation: str = "",
        namespace: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Asks for the end of all objects of a namespace that fit."""
        path = self.path(kind, namespace)
        await self.transport.call("DELETE", path, selection(labels, fields), _deletion("", "", grace, propagation), _JSON, timeout)

    async def review_token(self, token: str, audiences: Sequence[str] = (), *, timeout: float | None = None) -> TokenReviewStatus:
        """Whose bearer token that is, in the server's view; `authenticated` is false, and `error` may say why, when it is nobody's."""
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        body = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.name, "spec": spec}
        return (await self.create(TOKEN_REVIEWS, body, timeout=timeout)).status

    async def server_version(self, *, timeout: float | None = None) -> tuple[int, int]:
        """Major and minor version of the API server."""
        answer = await self.transport.call("GET", "/version", timeout=timeout)
        try:
            version = msgspec.json.decode(answer, type=dict[str, Any])
            return int(version["major"]), int("".join(c for c in version["minor"] if c.isdigit()))
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as error:
            raise MalformedError(f"GET /version: {error}") from error


def selection(labels: str, fields: str) -> dict[str, str]:
    """The query that selects by labels and fields."""
    query = {}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    return query


def _deletion(uid: str, resource_version: str, grace: int | None, propagation: str) -> bytes:
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
    conditions = {"uid": uid, "resourceVersion": resource_version}
    if any(conditions.values()):
        options["preconditions"] = {key: value for key, value in conditions.items() if value}
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    if propagation:
        options["propagationPolicy"] = propagation
    return encode(options)


def _read(decoder: "msgspec.json.Decoder[T]", answer: bytes, what: str) -> T:
    try:
        return decoder.decode(answer)
    except msgspec.MsgspecError as error:
        raise MalformedError(f"{what}: {error}") from error
