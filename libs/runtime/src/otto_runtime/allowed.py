"""What a setting may be, in words for whoever sets it: what its type and bounds say, without any word of Python's or msgspec's."""

import re
from pathlib import Path
from typing import Any

from msgspec import inspect

_INSTANCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def instance_name(text: str) -> None:
    """A check of a setting: what may be the name of an installation, a Kubernetes label that is also a part of other names.

    Raises ValueError.
    """
    if not _INSTANCE.fullmatch(text):
        raise ValueError(f"{text!r} has to be of lower-case letters, digits and '-', at most 63, and not to begin or end with '-'")


def allowed(hint: Any) -> str:
    """What has to stand in a variable whose field has this type, e.g. `a whole number from 1 to 100`."""
    return _words(inspect.type_info(hint))


def _words(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            return _words(kind.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _bounds(kind)
        case inspect.FloatType():
            return "a number" + _bounds(kind)
        case inspect.LiteralType():
            return _either([str(value) for value in kind.values])
        case inspect.VarTupleType():
            return f"a list with commas between its items, each of them {_words(kind.item_type)}"
        case inspect.UnionType():
            return _either([_words(part) for part in kind.types if not isinstance(part, inspect.NoneType)])
        case inspect.CustomType() if kind.cls is Path:
            return "a path, in which a ~ names a home directory that there is"
        case inspect.StrType():
            return "a text"
    raise NotImplementedError(kind)


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_number(kind.ge)} to {_number(kind.le)}"
    words = [
        f"{what} {_number(bound)}"
        for what, bound in (("of at least", kind.ge), ("greater than", kind.gt), ("of at most", kind.le), ("less than", kind.lt))
        if bound is not None
    ]
    return " " + " and ".join(words) if words else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
