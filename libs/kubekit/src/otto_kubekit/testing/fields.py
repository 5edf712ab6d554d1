"""Which manager owns which field: as much of server-side apply as shows who took what from whom."""

from typing import Any

from otto_kubekit.testing.patching import leaves
from otto_kubekit.testing.storage import Object

Path = tuple[str, ...]
_NOBODYS = ({("apiVersion",), ("kind",)}, {"name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation"})


class Ownership:
    """The owners of fields, by the uid of their object."""

    def __init__(self) -> None:
        self._owned: dict[str, dict[str, set[Path]]] = {}

    def wrote(self, item: Object, manager: str, body: Object, before: Object | None = None) -> None:
        """`manager` wrote this: what has changed is its own now."""
        if not manager:
            return
        old = leaves(before) if before else {}
        fresh = {path for path, value in _fields(body).items() if before is None or old.get(path) != value}
        self._take(item, manager, fresh, keep=True)

    def applied(self, item: Object, manager: str, body: Object) -> None:
        """`manager` applied exactly these fields."""
        self._take(item, manager, set(_fields(body)), keep=False)

    def taken(self, there: Object, manager: str, body: Object) -> list[tuple[Path, str]]:
        """The fields that somebody else owns and that would get another value."""
        now = leaves(there)
        return [
            (path, other)
            for other, paths in self._of(there).items()
            if other != manager
            for path, value in _fields(body).items()
            if path in paths and now.get(path) != value
        ]

    def left_out(self, there: Object, manager: str, body: Object) -> list[Path]:
        """The fields that only `manager` owned and no longer wants."""
        owned = self._of(there)
        others = {path for other, paths in owned.items() if other != manager for path in paths}
        return sorted(owned.get(manager, set()) - set(_fields(body)) - others)

    def _of(self, item: Object) -> dict[str, set[Path]]:
        return self._owned.setdefault(item["metadata"]["uid"], {})

    def _take(self, item: Object, manager: str, paths: set[Path], keep: bool) -> None:
        owned = self._of(item)
        now = leaves(item)
        for other in owned:
            if other != manager and keep:
                owned[other] -= paths
            elif other != manager:
                owned[other] = {p for p in owned[other] if p not in paths or p in now}
        owned[manager] = (owned.get(manager, set()) if keep else set()) | paths


def _fields(body: dict[str, Any]) -> dict[Path, Any]:
    own, meta = _NOBODYS
    return {
        path: value
        for path, value in leaves(body).items()
        if path not in own and not (path[0] == "metadata" and len(path) > 1 and path[1] in meta)
    }
