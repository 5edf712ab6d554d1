"""A connection to the cluster that kubectl would take, for reading."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from otto_kubekit.bodies import encode
from otto_kubekit.client import Client, selection
from otto_kubekit.connecting import connect
from otto_kubekit.errors import ApiError, KubeError
from otto_kubekit.settings import KubeSettings
from ottoctl.cluster.place import Place

CALL_SECONDS = 10.0
PAGE_SIZE = 100
"""Objects per page; a PipelineRun may have hundreds of kilobytes."""
Object = dict[str, Any]


class ClusterError(Exception):
    """The cluster did not give what was asked for. `code` is the HTTP status, 0 if there was no answer."""

    def __init__(self, words: str, code: int = 0) -> None:
        super().__init__(words)
        self.code = code

    @property
    def may_not(self) -> bool:
        """Whether it is the right to ask that is missing, and not, for instance, room in a quota."""
        return self.code == 403 and "is forbidden: User " in str(self)


class Cluster:
    """An API server, seen from one namespace. All calls raise ClusterError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.namespace = client.namespace

    def path(self, group: str, plural: str, name: str = "", version: str = "v1") -> str:
        """The URL path of a kind's objects in this namespace, or of one."""
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        """A JSON object."""
        return _read(path, await self._call("GET", path, query))

    async def text(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """Whatever is there: a log, metrics."""
        return await self._call("GET", path, query)

    async def post(self, path: str, body: Object, query: Mapping[str, str] | None = None) -> Object:
        """What the server says to a question that has a body: a review, a dry run."""
        return _read(path, await self._call("POST", path, query, encode(body)))

    async def each(self, path: str, labels: str = "", fields: str = "", page_size: int = PAGE_SIZE) -> AsyncIterator[Object]:
        """The objects of a kind, a page in memory at a time."""
        query = {**selection(labels, fields), "limit": str(page_size)}
        while True:
            page = await self.get(path, query)
            for item in page.get("items") or []:
                yield item
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following

    async def all(self, path: str, labels: str = "", fields: str = "") -> list[Object]:
        """The same, together."""
        return [item async for item in self.each(path, labels, fields)]

    async def _call(self, method: str, path: str, query: Mapping[str, str] | None, body: bytes | None = None) -> bytes:
        try:
            return await self._client.transport.call(method, path, query or {}, body, "application/json" if body else "")
        except ApiError as error:
            raise ClusterError(f"{error.code} {error.message or error.reason}", error.code) from error
        except KubeError as error:
            raise ClusterError(str(error)) from error


def _read(path: str, answer: bytes) -> Object:
    try:
        found = json.loads(answer)
    except ValueError as error:
        raise ClusterError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ClusterError(f"{path}: no object")
    return found


@asynccontextmanager
async def connected(place: Place, environ: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """The cluster of a place. Raises ClusterError when no kubeconfig or service account can be used; whether it answers is not asked."""
    settings = KubeSettings(config=place.kubeconfig, context=place.context, timeout=CALL_SECONDS)
    try:
        async with connect(settings, place.namespace, environ) as client:
            yield Cluster(client)
    except KubeError as error:
        raise ClusterError(str(error)) from error
