"""Label and field selectors, as the API server reads them."""

import re
from collections.abc import Callable
from typing import Any

from otto_kubekit.testing.refusals import bad_request

Matcher = Callable[[dict[str, Any]], bool]
_SET = re.compile(r"(?P<key>[^\s!=]+)\s+(?P<word>in|notin)\s+\((?P<values>[^)]*)\)")
_FIELDS = {"metadata.name", "metadata.namespace", "status.phase", "spec.nodeName", "involvedObject.name", "involvedObject.kind"}
_FIELDS |= {"involvedObject.uid", "reason", "type", "spec.restartPolicy"}


def label_matcher(text: str) -> Matcher:
    """Requirements like `a=b,c!=d,e in (f,g),h,!i`; all have to hold."""
    tests = [_label_test(part.strip()) for part in re.split(r",(?![^(]*\))", text) if part.strip()]
    return lambda item: all(test(item.get("metadata", {}).get("labels") or {}) for test in tests)


def _label_test(part: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.fullmatch(part):
        key, values = found["key"], {v.strip() for v in found["values"].split(",")}
        if found["word"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if "!=" in part:
        key, value = (side.strip() for side in part.split("!=", 1))
        return lambda labels: labels.get(key) != value
    if "=" in part:
        key, value = (side.strip() for side in part.replace("==", "=").split("=", 1))
        return lambda labels: labels.get(key) == value
    if part.startswith("!"):
        return lambda labels: part[1:].strip() not in labels
    if not re.fullmatch(r"[A-Za-z0-9./_-]+", part):
        raise bad_request(f"unable to parse requirement: found '{part}'")
    return lambda labels: part in labels


def field_matcher(text: str) -> Matcher:
    """Requirements like `metadata.name=x,status.phase!=Running`; only some fields can be asked for."""
    tests: list[Matcher] = []
    for part in (p for p in text.split(",") if p):
        negated = "!=" in part
        path, _, value = part.partition("!=") if negated else part.replace("==", "=").partition("=")
        if path not in _FIELDS:
            raise bad_request(f"field label not supported: {path}")
        tests.append(_field_test(path, value, negated))
    return lambda item: all(test(item) for test in tests)


def _field_test(path: str, value: str, negated: bool) -> Matcher:
    def test(item: dict[str, Any]) -> bool:
        there: Any = item
        for step in path.split("."):
            there = there.get(step, "") if isinstance(there, dict) else ""
        return (str(there or "") == value) != negated

    return test
