"""Objects, versions and history: what etcd and the watch cache are to a real API server.

Versions count up with every write of anything. Writers hand in whole objects; what is stored is never changed afterwards, so readers
may keep it.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from otto_kubekit.testing.refusals import expired
from otto_kubekit.testing.resources import Resource

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A write: what was there before (None for a creation), and after (None for a deletion, then `last` is the object's end)."""

    version: int
    resource: Resource
    namespace: str
    before: Object | None
    after: Object | None
    last: Object


class Storage:
    """All objects of the cluster."""

    def __init__(self) -> None:
        self.version = 1
        self.changes: list[Change] = []
        self.forgotten = 0
        self._objects: dict[Resource, dict[tuple[str, str], Object]] = {}
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[Change], None]] = []

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object as it is now."""
        return self._objects.get(resource, {}).get((namespace, name))

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """The objects of a namespace, "" for all, in the order of their keys."""
        return [item for key, item in sorted(self._objects.get(resource, {}).items()) if not namespace or key[0] == namespace]

    def everything(self) -> Iterator[tuple[Resource, Object]]:
        """All objects of all kinds."""
        for resource, items in list(self._objects.items()):
            for item in list(items.values()):
                yield resource, item

    def put(self, resource: Resource, item: Object) -> Object:
        """Creates or replaces; returns what is stored, with its version."""
        meta = item["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        self.version += 1
        stored = {**item, "metadata": {**meta, "resourceVersion": str(self.version)}}
        before = self.get(resource, *key)
        self._objects.setdefault(resource, {})[key] = stored
        self._note(Change(self.version, resource, key[0], before, stored, stored))
        return stored

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        """Deletes; returns the object's end, with its version."""
        before = self._objects[resource].pop((namespace, name))
        self.version += 1
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
        self._note(Change(self.version, resource, namespace, before, None, last))
        return last

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Calls `listener` with every change from now on; it must not write."""
        self._listeners.append(listener)

    def forget(self) -> None:
        """Compaction: nobody can go on from a version before this one."""
        self.changes.clear()
        self.version += 1
        self.forgotten = self.version

    def since(self, version: int) -> list[Change]:
        """What came after a version. Raises a Refusal (410) if that is forgotten."""
        if version < self.forgotten:
            raise expired(f"too old resource version: {version} ({self.forgotten})")
        first = len(self.changes)
        while first and self.changes[first - 1].version > version:
            first -= 1
        return self.changes[first:]

    async def changed(self, timeout: float) -> None:
        """Waits for the next change, at most `timeout` seconds."""
        event = self._changed
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return

    def _note(self, change: Change) -> None:
        self.changes.append(change)
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in self._listeners:
            listener(change)
