"""The four ways to change an object by a patch, in a simple form."""

import copy
from typing import Any

from otto_kubekit.testing.refusals import Refusal, bad_request

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "conditions": "type",
    "ownerReferences": "uid",
    "schedulingGates": "name",
    "imagePullSecrets": "name",
}
_SETS = {"finalizers"}


def merge(there: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    result = dict(there) if isinstance(there, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(there: Any, change: Any, key: str = "") -> Any:
    """Objects are merged, lists by their merge key if they have one; `$patch: delete|replace` inside."""
    if isinstance(change, dict):
        if change.get("$patch") == "replace":
            return {k: copy.deepcopy(v) for k, v in change.items() if k != "$patch"}
        result = dict(there) if isinstance(there, dict) else {}
        for name, value in change.items():
            if name.startswith("$"):
                continue
            if value is None:
                result.pop(name, None)
            else:
                result[name] = strategic(result.get(name), value, name)
        return result
    if isinstance(change, list) and key in _MERGE_KEYS and all(isinstance(c, dict) for c in change):
        return _merged_list(there if isinstance(there, list) else [], change, _MERGE_KEYS[key])
    if isinstance(change, list) and key in _SETS:
        return [*(there or []), *(c for c in change if c not in (there or []))]
    return copy.deepcopy(change)


def _merged_list(there: list[Any], change: list[dict[str, Any]], by: str) -> list[Any]:
    if any(c.get("$patch") == "replace" for c in change):
        return [copy.deepcopy(c) for c in change if "$patch" not in c]
    result = [dict(item) for item in there]
    for element in change:
        found = next((i for i, item in enumerate(result) if item.get(by) == element.get(by)), None)
        if element.get("$patch") == "delete":
            if found is not None:
                del result[found]
        elif found is None:
            result.append(strategic({}, element))
        else:
            result[found] = strategic(result[found], element)
    return result


def json_patch(there: Any, operations: Any) -> Any:
    """RFC 6902: add, remove, replace, test, move, copy."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    result = copy.deepcopy(there)
    for operation in operations:
        kind, path = operation.get("op"), operation.get("path", "")
        if kind in {"move", "copy"}:
            value = _resolve(result, operation["from"])
            if kind == "move":
                _edit(result, "remove", operation["from"], None)
            _edit(result, "add", path, copy.deepcopy(value))
        elif kind == "test":
            if _resolve(result, path) != operation.get("value"):
                raise _rejected(f"testing path {path} failed")
        elif kind in {"add", "remove", "replace"}:
            _edit(result, kind, path, copy.deepcopy(operation.get("value")))
        else:
            raise _rejected(f"unexpected kind: {kind}")
    return result


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _resolve(document: Any, path: str) -> Any:
    for step in _steps(path):
        try:
            document = document[int(step)] if isinstance(document, list) else document[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _rejected(f"path {path} does not exist") from None
    return document


def _edit(document: Any, kind: str, path: str, value: Any) -> None:
    *parents, last = _steps(path)
    for step in parents:
        try:
            document = document[int(step)] if isinstance(document, list) else document[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _rejected(f"{kind} operation does not apply: doc is missing path: {path}") from None
    if isinstance(document, list):
        index = len(document) if last == "-" else int(last)
        if kind != "add" and not 0 <= index < len(document):
            raise _rejected(f"{kind} operation does not apply: doc is missing key: {path}")
        if kind == "add":
            document.insert(index, value)
        elif kind == "remove":
            del document[index]
        else:
            document[index] = value
        return
    if kind != "add" and last not in document:
        raise _rejected(f"{kind} operation does not apply: doc is missing key: {path}")
    if kind == "remove":
        del document[last]
    else:
        document[last] = value


def _rejected(why: str) -> Refusal:
    return Refusal(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")


def leaves(value: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The fields of an object that can belong to somebody: everything but maps."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[tuple[str, ...], Any] = {}
    for key, inner in value.items():
        found.update(leaves(inner, (*prefix, key)) if inner != {} else {(*prefix, key): {}})
    return found


def without(item: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The object without one field."""
    head, *rest = path
    if head not in item:
        return item
    copied = dict(item)
    if rest and isinstance(copied[head], dict):
        copied[head] = without(copied[head], tuple(rest))
        if not copied[head]:
            del copied[head]
    else:
        del copied[head]
    return copied
