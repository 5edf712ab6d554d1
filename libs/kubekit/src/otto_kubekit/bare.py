"""Importing a module of a package without running what the packages around it import.

`import kubernetes` brings the synchronous client, websockets, informers, pydantic and more: 27 MB and most of a second's start that a
service never uses (measured with `kubernetes` 37.0.2; CONTRIBUTING.md has the figures). Its modules for credentials need none of it.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bare(*packages: str) -> Iterator[None]:
    """While this lasts, these packages are only places where modules are found; afterwards who imports them gets them whole.

    Packages that are imported already stay as they are. Name a package after the one it is in.
    """
    placed = []
    try:
        for name in packages:
            if name in sys.modules:
                continue
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            placed.append(name)
        yield
    finally:
        for name in placed:
            del sys.modules[name]
