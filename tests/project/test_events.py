"""Every event that any package logs has its words in English and Korean, and every entry of the catalogue is logged somewhere."""

import ast
import logging
import re
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from otto_runtime import events
from otto_runtime.events import CATALOG

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
RESERVED = set(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "event", "level", "logger", "timestamp"}
NAME = re.compile(r"[a-z_]+(\.[a-z_]+)+")


@dataclass(frozen=True)
class Logged:
    """One call of a logger."""

    where: str
    name: str | None
    fields: frozenset[str] | None


def sources() -> list[Path]:
    """All modules that run in services; ottoctl speaks to people itself."""
    found = [*ROOT.glob("libs/runtime/src/**/*.py"), *ROOT.glob("libs/options/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]
    return sorted(p for p in found if "testing" not in p.parts)


def literal_keys(node: ast.expr | None, displays: dict[str, list[ast.Dict]]) -> frozenset[str] | None:
    """The keys of a dict display, also of one that was given a name, `**{…}` included; None when the source doesn't tell.

    Of a name that a module gives to several displays, only the keys that all of them have count.
    """
    if node is None:
        return frozenset()
    if isinstance(node, ast.Name) and node.id in displays:
        found = [literal_keys(display, displays) for display in displays[node.id]]
        return frozenset.intersection(*(keys or frozenset() for keys in found))
    if not isinstance(node, ast.Dict):
        return None
    keys: set[str] = set()
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            inner = literal_keys(value, displays)
            if inner is None:
                return None
            keys |= inner
        elif isinstance(key, ast.Constant) and isinstance(key.value, str):
            keys.add(key.value)
        else:
            return None
    return frozenset(keys)


def logged_in(path: Path) -> list[Logged]:
    """Every call `log.<level>(…)`, `logger.…` or `logging.getLogger(…).…` of a module."""
    found = []
    tree = ast.parse(path.read_text())
    displays: dict[str, list[ast.Dict]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    displays.setdefault(target.id, []).append(node.value)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = ast.unparse(node.func.value)
        by_level = node.func.attr in LEVELS
        if not (by_level or node.func.attr == "log") or not re.fullmatch(
            r"_?log|.*\._?log|_?logger|.*\._?logger|logging(\.getLogger\(.*\))?", owner
        ):
            continue
        position = 0 if by_level else 1
        event = node.args[position] if len(node.args) > position else None
        extra = next((keyword.value for keyword in node.keywords if keyword.arg == "extra"), None)
        for name in names_of(event):
            found.append(Logged(f"{path.relative_to(ROOT)}:{node.lineno}", name, literal_keys(extra, displays)))
        assert len(node.args) <= position + 1, f"{path}:{node.lineno}: an event has fields, no positional arguments"
    return found


def names_of(event: ast.expr | None) -> list[str | None]:
    """The names that an event argument can have: a constant, or one of two."""
    if isinstance(event, ast.Constant) and isinstance(event.value, str):
        return [event.value]
    if isinstance(event, ast.IfExp):
        return [*names_of(event.body), *names_of(event.orelse)]
    return [None]


LOGGED = [call for path in sources() for call in logged_in(path)]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_search_finds_something() -> None:
    """The events of the runtime are among what was found; a search that finds nothing would prove nothing."""
    assert {"runtime.serving", "runtime.call_failed", "runtime.setting_unknown"} <= {call.name for call in LOGGED}
    assert len(LOGGED) > 15


def test_names_are_constant_and_well_formed() -> None:
    """An event's name is a literal of dotted lower-case words, so that it can be searched for."""
    assert [call.where for call in LOGGED if call.name is None or not NAME.fullmatch(call.name)] == []
    assert [name for name in CATALOG if not NAME.fullmatch(name)] == []


def test_fields_are_literal() -> None:
    """`extra` can be read from the source, so that the fields can be held against the words."""
    assert [call.where for call in LOGGED if call.fields is None] == []


def test_every_event_has_its_words() -> None:
    """No event is logged that the catalogue does not know, and every field that its words need is given by every call."""
    assert [f"{call.where} {call.name}" for call in LOGGED if call.name not in CATALOG] == []
    missing = [
        f"{call.where} {call.name}: {sorted(needed - call.fields)}"
        for call in LOGGED
        if call.name in CATALOG and call.fields is not None
        for needed in [placeholders(CATALOG[call.name].en) | placeholders(CATALOG[call.name].ko)]
        if needed - call.fields
    ]
    assert missing == []


def test_no_field_clashes_with_a_log_record() -> None:
    """`logging` raises for a field that a LogRecord has; the renderers use some names for themselves."""
    assert [f"{call.where} {sorted(call.fields & RESERVED)}" for call in LOGGED if call.fields and call.fields & RESERVED] == []


def test_nothing_stands_in_the_catalogue_that_nobody_logs() -> None:
    """Words without an event are left over."""
    assert sorted(set(CATALOG) - {call.name for call in LOGGED}) == []


def test_no_event_is_in_two_sections() -> None:
    """Each section of the catalogue has names of its own, with no literal repeated."""
    sections = [events.RUNTIME, events.SCALER, events.EXECUTOR, events.RELAY, events.STANDALONE]
    assert sum(len(section) for section in sections) == len(CATALOG)
    source = (ROOT / "libs/runtime/src/otto_runtime/events.py").read_text()
    names = [
        key.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_both_languages_tell_the_same(name: str) -> None:
    """The English and the Korean words use the same fields, in plain placeholders."""
    words = CATALOG[name]
    assert placeholders(words.en) == placeholders(words.ko)
    for text in words:
        assert text.strip() == text != ""
        assert all(not spec and not conversion for _, field, spec, conversion in string.Formatter().parse(text) if field)


PARTICLES = re.compile(r"\}(은|는|이|가|을|를|과|와|으로|로|아|야)(?![가-힣(])")


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_korean_particles_fit_any_value(name: str) -> None:
    """A particle that depends on the sound before it is written in both forms after a field: `{worker}이(가)`."""
    assert PARTICLES.findall(CATALOG[name].ko) == []
