"""A config map, read: environment variables, `otto.*` options, and what is wrong with it, all at once."""

import json
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from otto_options.quantities import cpu_cores, memory_bytes
from otto_options.suggestions import Suggestions

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_RESERVED_PREFIX = "OTTO_"
_RESERVED_VARIABLES = frozenset({"TRACEPARENT", "TRACESTATE"})
_NOT_ACTED_ON = ("otto.artifacts", "otto.cache")
_ACCESS_MODES = ("ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany")
MAX_VARIABLE_BYTES = 32_768
"""Bytes of one variable's value; Linux refuses to start a program with a single string over 128 KiB."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The environment variable `name` has the value that `key` has in the secret `secret`."""

    name: str
    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What the workspace that a run's workers share is to be where it is a volume; "" is the installation's."""

    storage_class: str = ""
    size: str = ""
    access_mode: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one key, in words for the client."""

    key: str
    description: str


@dataclass(frozen=True, slots=True)
class Options:
    """What a config map says. Text options are "" and others empty or None where the key is absent."""

    env: dict[str, str] = field(default_factory=dict)
    run_if: str = ""
    ignore_errors: bool | None = None
    working_dir: str = ""
    artifacts: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    cpu: str = ""
    memory: str = ""
    secrets: tuple[Secret, ...] = ()
    approvers: tuple[str, ...] | None = None
    workspace: str = ""
    """shared, own, or "" if nothing is said."""
    claim: Claim | None = None
    """What the shared workspace is to be, where that is said; `workspace` is shared then."""
    image: str = ""
    command: str = ""
    problems: tuple[Problem, ...] = ()
    unused: tuple[str, ...] = ()
    """Keys that were checked but nothing acts on yet; to be told to the user."""


def variable_problem(name: str) -> str:
    """Why `name` can't be set as an environment variable of a worker; "" if it can."""
    if not _VARIABLE.fullmatch(name):
        return f"{name!r} is no environment variable name (letters, digits and _, not beginning with a digit)"
    if name.startswith(_RESERVED_PREFIX) or name in _RESERVED_VARIABLES:
        return f"{name} is set by Ottoscaler itself and can't be given"
    return ""


def value_problem(value: str) -> str:
    """Why `value` can't be the value of an environment variable; "" if it can."""
    if "\0" in value:
        return "holds a NUL character, which no environment variable can"
    if len(value.encode()) > MAX_VARIABLE_BYTES:
        return f"is longer than {MAX_VARIABLE_BYTES} bytes"
    return ""


def path_problem(path: str) -> str:
    """Why `path` can't be a directory in the workspace; "" if it can."""
    if path.startswith("/") or "\0" in path:
        return f"{path!r} has to be a relative path inside the workspace"
    if posixpath.normpath(path).split("/")[0] == "..":
        return f"{path!r} leads out of the workspace"
    return ""


def secret_problem(secret: str, key: str) -> str:
    """Why there can't be such a secret or key; "" if there can."""
    for part, what in ((secret, "secret"), (key, "key")):
        if not _SECRET_PART.fullmatch(part):
            return f"{part!r} is no {what} name (letters, digits, '-', '_' and '.', at most 253)"
    return ""


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


def _boolean(value: str) -> bool:
    if value.strip().lower() not in {"true", "false"}:
        raise ValueError(f"{value!r} is neither true nor false")
    return value.strip().lower() == "true"


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        word = value.strip().lower()
        if word not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return word

    return read


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("is not valid JSON") from None


def _list(value: str) -> tuple[str, ...]:
    items = _json(value) if value.lstrip().startswith("[") else [value]
    if not isinstance(items, list) or not all(isinstance(i, str) and i.strip() for i in items):
        raise ValueError('is neither a text nor a JSON list of texts like ["a", "b"]')
    return tuple(i.strip() for i in items)


def _people(value: str) -> tuple[str, ...]:
    """Who may approve. Nobody's name is JSON, so what looks like an object or null is a mistake; waiting for it would never end."""
    if value.strip() == "null" or value.lstrip().startswith("{"):
        raise ValueError('is neither a name nor a JSON list of names like ["team-leads", "kim"]')
    found = _list(value)
    if not found:
        raise ValueError("names nobody; leave it out and give the stage the type APPROVAL if anybody may approve")
    return found


def _directory(value: str) -> str:
    if problem := path_problem(_text(value)):
        raise ValueError(problem)
    return value


def _cpu(value: str) -> str:
    cpu_cores(value)
    return value.strip()


def _memory(value: str) -> str:
    memory_bytes(value)
    return value.strip()


def _secrets(value: str) -> tuple[Secret, ...]:
    given = _json(value)
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise ValueError('is no JSON object of variables and secrets like {"TOKEN": "secret-name/key"}')
    found = []
    for name, reference in given.items():
        secret, slash, key = reference.partition("/")
        problem = variable_problem(name) or (f"{reference!r} is not of the form secret/key" if not slash else secret_problem(secret, key))
        if problem:
            raise ValueError(problem)
        found.append(Secret(name, secret, key))
    return tuple(found)


_CLAIM = {"class": "storage_class", "size": "size", "accessMode": "access_mode"}


def _workspace(value: str) -> str | Claim:
    if not value.lstrip().startswith("{"):
        return _one_of("shared", "own")(value)
    given = _json(value)
    if not isinstance(given, dict) or not given.keys() <= _CLAIM.keys() or not all(isinstance(v, str) and v for v in given.values()):
        raise ValueError('is no JSON object like {"class": "fast", "size": "5Gi", "accessMode": "ReadWriteMany"}')
    claim = Claim(**{_CLAIM[key]: word for key, word in given.items()})
    if problem := claim_problem(claim):
        raise ValueError(problem)
    return claim


def claim_problem(claim: Claim) -> str:
    """Why there can't be such a workspace; "" if there can."""
    if claim.storage_class and not _SECRET_PART.fullmatch(claim.storage_class):
        return f"class: {claim.storage_class!r} is no name of a storage class"
    if claim.access_mode and claim.access_mode not in _ACCESS_MODES:
        return f"accessMode: {claim.access_mode!r} is not one of {', '.join(_ACCESS_MODES)}"
    if claim.size:
        try:
            memory_bytes(claim.size)
        except ValueError as error:
            return f"size: {error}"
    return ""


_READERS: dict[str, Callable[[str], Any]] = {
    "otto.run_if": _one_of("on_success", "on_failure", "always"),
    "otto.ignore_errors": _boolean,
    "otto.working_dir": _directory,
    "otto.artifacts": _list,
    "otto.cache": _list,
    "otto.cpu": _cpu,
    "otto.memory": _memory,
    "otto.secrets": _secrets,
    "otto.approvers": _people,
    "otto.workspace": _workspace,
}
_BUILD_READERS: dict[str, Callable[[str], Any]] = {"otto.image": _text, "otto.command": _text}


def parse(config: Mapping[str, str], *, build: bool = False) -> Options:
    """Reads a config map; never raises for what is in it: `problems` has everything that is wrong.

    With `build` the keys `otto.image` and `otto.command` of ScaleUp's build_config are known too.
    """
    readers = {**_READERS, **_BUILD_READERS} if build else _READERS
    values: dict[str, Any] = {}
    env: dict[str, str] = {}
    origin: dict[str, str] = {}
    problems: list[Problem] = []
    suggestions = Suggestions(readers)
    for key in sorted(config):
        if key.startswith("otto."):
            reader = readers.get(key)
            if reader is None:
                problems.append(Problem(key, "is no option" + suggestions.hint(key)))
                continue
            try:
                values[key.removeprefix("otto.")] = reader(config[key])
            except ValueError as error:
                problems.append(Problem(key, str(error)))
            continue
        name = key if _VARIABLE.fullmatch(key) and key.isupper() else re.sub(r"[^A-Z0-9]", "_", key.upper())
        problem = variable_problem(name) or value_problem(config[key])
        if not problem and name in origin:
            problem = f"becomes the variable {name}, as {origin[name]!r} does"
        if problem:
            problems.append(Problem(key, problem))
            continue
        env[name], origin[name] = config[key], key
    if isinstance(values.get("workspace"), Claim):
        values |= {"workspace": "shared", "claim": values["workspace"]}
    unused = tuple(key for key in _NOT_ACTED_ON if key in config)
    return Options(env=env, problems=tuple(problems), unused=unused, **values)
