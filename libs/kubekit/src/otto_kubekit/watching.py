"""Watching objects, in three small layers.

    forever           never ends: what went wrong is told as Interrupted, then it goes on, and tells only what has changed meanwhile
    list_then_watch   lists, then watches from there: 410 lists again, a silent or ended connection is opened again where it stood,
                      and every so often a list finds out whether an event was lost
    connection        one HTTP watch, until the server ends it

Who consumes the first two sees every object Added once, then Modified, then Deleted once, whatever happened to the connection; Synced
says that all that is there has been told. Changes that follow each other fast may be seen as one. Objects are told apart by uid, so one
that was deleted and made again under its name is Deleted and Added.

Cancelling the consumer, or closing the generator (`contextlib.aclosing`), ends the connection.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias

import msgspec

from otto_kubekit import metrics
from otto_kubekit.client import PAGE_SIZE, Client, selection
from otto_kubekit.errors import ApiError, ExpiredError, KubeError, MalformedError, StalledError, UnreachableError, answered
from otto_kubekit.kinds import Kind, O
from otto_kubekit.objects import PartialObject

log = logging.getLogger(__name__)

LASTED = 30.0
"""Seconds after which watching counts as having worked, so that the next failure is a first one."""
Why: TypeAlias = Literal["start", "expired", "reconcile", "interrupted"]


@dataclass(frozen=True, slots=True)
class Added(Generic[O]):
    """This object is new to us."""

    object: O


@dataclass(frozen=True, slots=True)
class Modified(Generic[O]):
    """This object has changed."""

    object: O


@dataclass(frozen=True, slots=True)
class Deleted(Generic[O]):
    """This object is gone or no longer fits the selection. `assumed`: a list lacked it, so `object` is as it was last seen."""

    object: O
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that was there at `resource_version` has been told. `missed` counts what only this list has shown."""

    resource_version: str
    why: Why
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Watching failed and goes on after `delay` seconds; what happens meanwhile is told then."""

    error: KubeError
    delay: float


Seen: TypeAlias = Added[O] | Modified[O] | Deleted[O] | Synced
Decide: TypeAlias = Callable[[KubeError, int], float | None]
"""What to do about an error, given how often in a row watching has failed: seconds until the next try, or None to raise it."""


@dataclass(frozen=True, slots=True)
class Watching:
    """What to watch, and how. Times are seconds.

    The API server sends a bookmark every minute where nothing else happens, so `inactivity` is a minute and some. `reconcile` is how
    often a full list makes sure that no event was lost; 0 is never.
    """

    labels: str = ""
    fields: str = ""
    namespace: str | None = None
    inactivity: float = 90.0
    reconcile: float = 300.0
    page_size: int = PAGE_SIZE


@dataclass(slots=True)
class Memory(Generic[O]):
    """What has been told so far: by it the next list becomes differences. Owned by one watch at a time."""

    objects: dict[str, O] = field(default_factory=dict)
    resource_version: str = ""


def patient(error: KubeError, failures: int) -> float | None:
    """Never gives up: 0.2 to 10 s with jitter, or what the server asked for if that is longer."""
    delay = _pause(failures)
    return max(delay, error.retry_after or 0.0) if isinstance(error, ApiError) else delay


def _pause(failures: int) -> float:
    return random.uniform(0.5, 1.0) * min(10.0, 0.1 * 2.0 ** min(failures, 10))


async def forever(
    client: Client, kind: Kind[O], watching: Watching, decide: Decide = patient
) -> "AsyncGenerator[Seen[O] | Interrupted, None]":
    """Watches until closed. Raises only errors for which `decide` returns None."""
    memory: Memory[O] = Memory()
    clock = asyncio.get_running_loop().time
    failures = 0
    while True:
        begun = clock()
        try:
            async with aclosing(
                _list_then_watch(client, kind, watching, memory, "interrupted" if memory.resource_version else "start")
            ) as told:
                async for seen in told:
                    yield seen
        except KubeError as error:
            # A list that works is no success where the watch after it never does: that would list again and again without a pause.
            failures = 1 if clock() - begun > LASTED else failures + 1
            delay = decide(error, failures)
            if delay is None:
                raise
            yield Interrupted(error, delay)
            await asyncio.sleep(delay)


def list_then_watch(client: Client, kind: Kind[O], watching: Watching, memory: Memory[O]) -> "AsyncGenerator[Seen[O], None]":
    """Tells what is not in `memory` yet, then what happens. Raises what a list raises, and what opening a watch raises but for 410."""
    return _list_then_watch(client, kind, watching, memory, "start")


async def _list_then_watch(
    client: Client, kind: Kind[O], watching: Watching, memory: Memory[O], why: Why
) -> "AsyncGenerator[Seen[O], None]":
    clock = asyncio.get_running_loop().time
    expired = 0
    while True:
        missed = 0
        listing = await client.list(
            kind, labels=watching.labels, fields=watching.fields, namespace=watching.namespace, page_size=watching.page_size
        )
        for change in _differences(memory, listing.items):
            missed += 1
            yield change
        memory.resource_version = listing.resource_version
        missed = 0 if why == "start" else missed
        metrics.WATCH_LISTS.labels(kind.plural, why).inc()
        metrics.WATCH_MISSED.labels(kind.plural).inc(missed)
        yield Synced(listing.resource_version, why, missed)
        listed = clock()
        until = listed + watching.reconcile if watching.reconcile else None
        why = "reconcile"
        try:
            while until is None or clock() < until:
                opened = clock()
                try:
                    async with aclosing(connection(client, kind, watching, memory.resource_version, until)) as events:
                        async for event in events:
                            if event.object is None:
                                memory.resource_version = event.resource_version
                            elif (seen := _told(memory, event.kind, event.object)) is not None:
                                yield seen
                except (StalledError, _BrokenError) as error:
                    log.debug("watch of %s goes on: %s", kind.plural, error)
                # A server that ends every watch at once shall not be asked in a tight loop.
                if clock() - opened < 1.0:
                    await asyncio.sleep(random.uniform(0.1, 0.3))
        except ExpiredError:
            why = "expired"
            expired = expired + 1 if clock() - listed < LASTED else 0
            if expired > 1:
                await asyncio.sleep(_pause(expired))


class _BrokenError(UnreachableError):
    """An open watch broke off."""


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[O]):
    """One event of a connection; a bookmark has no object."""

    kind: str
    object: O | None
    resource_version: str


class _Event(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


_EVENTS = msgspec.json.Decoder(_Event)
_MARKS = msgspec.json.Decoder(PartialObject)


async def connection(
    client: Client, kind: Kind[O], watching: Watching, resource_version: str, until: float | None = None
) -> AsyncGenerator[WatchEvent[O], None]:
    """What happens after `resource_version`, until the server ends the connection or the loop's clock says `until`.

    Raises ExpiredError (410, as answer or as event), StalledError after `inactivity` of silence, UnreachableError when it breaks
    off, MalformedError for what can't be read, and what opening it raises.
    """
    clock = asyncio.get_running_loop().time
    path = client.path(kind, watching.namespace)
    left = 3600.0 if until is None else max(1.0, until - clock())
    query = {
        **selection(watching.labels, watching.fields),
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": resource_version,
        "timeoutSeconds": str(int(left) + 1),
    }
    async with client.transport.stream(path, query) as chunks:
        metrics.WATCH_CONNECTIONS.labels(kind.plural).inc()
        # Lines may be of any length (an object may have a megabyte, and aiohttp's own readline gives up at 4 MiB), so they are cut here.
        rest: list[bytes] = []
        while True:
            silence = watching.inactivity if until is None else min(watching.inactivity, until - clock())
            if silence <= 0:
                return
            try:
                chunk = await chunks.next(silence)
            except StalledError:
                if until is not None and clock() >= until:
                    return
                raise
            except UnreachableError as error:
                raise _BrokenError(str(error)) from error
            if not chunk:
                return
            if b"\n" not in chunk:
                rest.append(chunk)
                continue
            lines = (b"".join(rest) + chunk).split(b"\n")
            rest = [lines.pop()]
            for line in lines:
                if line:
                    yield _event(kind, line, path)


def _event(kind: Kind[O], line: bytes, path: str) -> WatchEvent[O]:
    try:
        event = _EVENTS.decode(line)
        if event.type == "ERROR":
            raise answered(f"watch {path}", 500, bytes(event.object))
        if event.type == "BOOKMARK":
            return WatchEvent("BOOKMARK", None, _MARKS.decode(event.object).metadata.resource_version)
        read = kind.one.decode(event.object)
    except msgspec.MsgspecError as error:
        raise MalformedError(f"watch {path}: {error}: {line[:200]!r}") from error
    return WatchEvent(event.type, read, read.metadata.resource_version)


def _told(memory: Memory[O], kind: str, read: O) -> "Added[O] | Modified[O] | Deleted[O] | None":
    """What an event means to somebody who knows what is in memory; None for what is known already."""
    meta = read.metadata
    memory.resource_version = meta.resource_version
    known = memory.objects.get(meta.uid)
    if kind == "DELETED":
        return None if memory.objects.pop(meta.uid, None) is None else Deleted(read)
    if known is not None and known.metadata.resource_version == meta.resource_version:
        return None
    memory.objects[meta.uid] = read
    return Added(read) if known is None else Modified(read)


def _differences(memory: Memory[O], items: list[O]) -> "list[Added[O] | Modified[O] | Deleted[O]]":
    """What a list shows that was not told before: what is gone first, for something of the same name may have taken its place."""
    there = {item.metadata.uid for item in items}
    changes: list[Added[O] | Modified[O] | Deleted[O]] = [
        Deleted(memory.objects.pop(uid), assumed=True) for uid in [uid for uid in memory.objects if uid not in there]
    ]
    for item in items:
        known = memory.objects.get(item.metadata.uid)
        if known is not None and known.metadata.resource_version == item.metadata.resource_version:
            continue
        memory.objects[item.metadata.uid] = item
        changes.append(Added(item) if known is None else Modified(item))
    return changes
