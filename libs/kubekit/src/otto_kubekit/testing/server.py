"""HTTP: routes, lists in pages, watches."""

import asyncio
import base64
import itertools
import json
from typing import Any

from aiohttp import web

from otto_kubekit.testing.faults import Asked, Faults
from otto_kubekit.testing.kubelet import Kubelet
from otto_kubekit.testing.refusals import Refusal, bad_request, expired
from otto_kubekit.testing.resources import PODS, Resource, Resources
from otto_kubekit.testing.reviewing import reviewed
from otto_kubekit.testing.selectors import Matcher, field_matcher, label_matcher
from otto_kubekit.testing.storage import Change, Object, Storage
from otto_kubekit.testing.verbs import Verbs

_PAGES_KEPT = 64


class Api:
    """The API of a fake cluster, on aiohttp."""

    def __init__(self, storage: Storage, resources: Resources, verbs: Verbs, kubelet: Kubelet, faults: Faults, bookmarks: float) -> None:
        self.requests: list[Asked] = []
        self.tokens: dict[str, dict[str, Any]] = {}
        self.authorization = ""
        self.closing = asyncio.Event()
        self.minor = 37
        self.pages: dict[str, str] = {}
        """What pods answer through the API server, by `namespace/pod:port/path`."""
        self._storage = storage
        self._resources = resources
        self._verbs = verbs
        self._kubelet = kubelet
        self._faults = faults
        self._bookmarks = bookmarks
        self._pages: dict[str, tuple[int, list[Object]]] = {}
        self._numbers = itertools.count(1)

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[self._note, self._faults.middleware], client_max_size=3 * 2**20)
        router = application.router
        router.add_get("/version", self._version)
        router.add_get("/readyz", self._ready)
        router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self._review)
        reviews = "/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews"
        router.add_post(reviews, self._review_access)
        router.add_get("/api/v1/namespaces/{namespace}/pods/{pod}/proxy/{path:.*}", self._proxy)
        for root in ("/api/{version}", "/apis/{group}/{version}"):
            for place in ("/namespaces/{namespace}", ""):
                router.add_route("*", f"{root}{place}/{{plural}}", self._collection)
                router.add_route("*", f"{root}{place}/{{plural}}/{{name}}", self._object)
                router.add_route("*", f"{root}{place}/{{plural}}/{{name}}/{{subresource}}", self._object)
        return application

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(Asked.by(request))
        if self.authorization and request.headers.get("Authorization", "").lower() != self.authorization.lower():
            return web.json_response(Refusal(401, "Unauthorized", "Unauthorized").status(), status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": str(self.minor), "gitVersion": f"v1.{self.minor}.0-fake"})

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _review(self, request: web.Request) -> web.Response:
        body = await _body(request)
        user = self.tokens.get(body.get("spec", {}).get("token", ""))
        audiences = body.get("spec", {}).get("audiences", [])
        if user is None:
            body["status"] = {"user": {}, "error": "invalid bearer token"}
        else:
            body["status"] = {"authenticated": True, "user": user, "audiences": audiences or ["https://kubernetes.default.svc"]}
        return web.json_response(body, status=201)

    async def _review_access(self, request: web.Request) -> web.Response:
        return web.json_response(reviewed(self._storage, request.match_info["namespace"], await _body(request)), status=201)

    async def _proxy(self, request: web.Request) -> web.Response:
        place = "{namespace}/{pod}/{path}".format_map(request.match_info)
        if place not in self.pages:
            raise Refusal(503, "ServiceUnavailable", f"error trying to reach service: nothing answers at {place}")
        return web.Response(text=self.pages[place])

    def _resource(self, request: web.Request) -> tuple[Resource, str]:
        info = request.match_info
        resource = self._resources.find(info.get("group", ""), info["version"], info["plural"])
        return resource, info.get("namespace", "")

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = self._resource(request)
        if request.method == "POST":
            body = await _body(request)
            dry = request.query.get("dryRun") == "All"
            return web.json_response(self._verbs.create(resource, namespace, body, _manager(request), dry), status=201)
        labels = label_matcher(request.query.get("labelSelector", ""))
        fields = field_matcher(request.query.get("fieldSelector", ""))

        def fits(item: Object) -> bool:
            return labels(item) and fields(item)

        if request.method == "DELETE":
            options = await _body(request) if request.can_read_body else {}
            for item in self._storage.all(resource, namespace):
                if fits(item):
                    self._verbs.delete(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"], options)
            return web.json_response({"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": {}, "items": []})
        if request.method != "GET":
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if request.query.get("watch") in {"true", "1"}:
            return await self._watch(request, resource, namespace, fits)
        return web.json_response(self._list(request, resource, namespace, fits))

    def _list(self, request: web.Request, resource: Resource, namespace: str, fits: Matcher) -> dict[str, Any]:
        limit = int(request.query.get("limit", "0"))
        token = request.query.get("continue", "")
        if token:
            found = self._pages.get(token)
            if found is None or found[0] < self._storage.forgotten:
                raise expired("The provided continue parameter is too old to display a consistent list result.")
            version, items = found
        else:
            version, items = self._storage.version, [item for item in self._storage.all(resource, namespace) if fits(item)]
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            following = base64.urlsafe_b64encode(f"{version}:{next(self._numbers)}".encode()).decode()
            self._pages[following] = (version, items[limit:])
            while len(self._pages) > _PAGES_KEPT:
                del self._pages[next(iter(self._pages))]
            meta["continue"] = following
            if not request.query.get("labelSelector") and not request.query.get("fieldSelector"):
                meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        if not resource.custom:
            items = [{k: v for k, v in item.items() if k not in ("apiVersion", "kind")} for item in items]
        return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta, "items": items}

    async def _object(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = self._resource(request)
        name, subresource = request.match_info["name"], request.match_info.get("subresource", "")
        if subresource == "log" and resource is PODS and request.method == "GET":
            pod, asked = self._verbs.get(resource, namespace, name), Asked.by(request)
            return await self._kubelet.serve_log(request, pod, self.closing, lambda: self._faults.pass_stall(asked))
        if subresource not in {"", "status"}:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if request.method == "GET":
            return web.json_response(self._verbs.get(resource, namespace, name))
        if request.method == "PUT":
            return web.json_response(self._verbs.replace(resource, namespace, name, await _body(request), subresource, _manager(request)))
        if request.method == "PATCH":
            body = await _body(request)
            if request.content_type == "application/apply-patch+yaml":
                force = request.query.get("force") == "true"
                manager = request.query.get("fieldManager", "")
                fresh = self._storage.get(resource, namespace, name) is None
                applied = self._verbs.apply(resource, namespace, name, body, manager, force, subresource)
                return web.json_response(applied, status=201 if fresh else 200)
            patched = self._verbs.patch(resource, namespace, name, request.content_type, body, subresource, _manager(request))
            return web.json_response(patched)
        if request.method == "DELETE":
            options = await _body(request) if request.can_read_body else {}
            return web.json_response(self._verbs.delete(resource, namespace, name, options))
        raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    async def _watch(self, request: web.Request, resource: Resource, namespace: str, fits: Matcher) -> web.StreamResponse:
        version = request.query.get("resourceVersion", "")
        seconds = float(request.query.get("timeoutSeconds", "1800"))
        asked = Asked.by(request)
        loop = asyncio.get_running_loop()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        at = int(version or "0")
        if at == 0:
            at = self._storage.version
            for item in self._storage.all(resource, namespace):
                if fits(item):
                    await _send(response, "ADDED", item)
        end, marked = loop.time() + seconds, loop.time()
        while loop.time() < end and not self.closing.is_set():
            await self._faults.pass_stall(asked)
            try:
                changes = self._storage.since(at)
            except Refusal as refusal:
                await _send(response, "ERROR", refusal.status())
                break
            for change in changes:
                at = change.version
                event = _seen(change, resource, namespace, fits)
                if event is not None and not self._faults.loses():
                    await _send(response, *event)
                    marked = loop.time()
            if changes:
                continue
            if request.query.get("allowWatchBookmarks") == "true" and loop.time() - marked >= self._bookmarks:
                marked = loop.time()
                at = max(at, self._storage.version)
                mark = {"kind": resource.kind, "apiVersion": resource.api_version}
                await _send(response, "BOOKMARK", {**mark, "metadata": {"resourceVersion": str(at), "creationTimestamp": None}})
            await self._storage.changed(min(self._bookmarks, 0.5, max(0.01, end - loop.time())))
        await response.write_eof()
        return response


def _seen(change: Change, resource: Resource, namespace: str, fits: Matcher) -> tuple[str, Object] | None:
    """What a watch with this selection tells of a change."""
    if change.resource is not resource or (namespace and change.namespace != namespace):
        return None
    before = change.before is not None and fits(change.before)
    after = change.after is not None and fits(change.after)
    if after:
        return ("MODIFIED" if before else "ADDED"), change.last
    if not before:
        return None
    if change.after is None:
        return "DELETED", change.last
    assert change.before is not None
    meta = {**change.before["metadata"], "resourceVersion": str(change.version)}
    return "DELETED", {**change.before, "metadata": meta}


async def _send(response: web.StreamResponse, kind: str, item: Object) -> None:
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")


async def _body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None


def _manager(request: web.Request) -> str:
    return request.query.get("fieldManager") or request.headers.get("User-Agent", "unknown").split("/")[0]
