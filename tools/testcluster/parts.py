"""The cache of what takes long to make: a part is a directory, found by the content of everything that makes it."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from testcluster import place
from testcluster.steps import step

UNUSED_DAYS = 30  # after this long an older version of a part is deleted when a newer one is made


def part(name: str, ingredients: Iterable[str | Path], make: Callable[[Path], None]) -> Path:
    """The directory of a part, made by `make` in an empty directory if nothing made of the same ingredients is there.

    `ingredients` are texts, and files and directories whose content counts. Two that want the same part at once make it once; one that is
    killed leaves nothing that is taken for a part.
    """
    home = place.cache()
    home.mkdir(parents=True, exist_ok=True)
    whole = home / f"{name}-{_key(ingredients)}"
    if not whole.exists():
        with locked(home / f".{name}.lock"):
            if not whole.exists():
                with step(f"Making {name}"):
                    making = home / f".{name}.making"
                    shutil.rmtree(making, ignore_errors=True)
                    making.mkdir()
                    make(making)
                    making.rename(whole)
                _forget_older(home, name, whole)
    os.utime(whole)
    return whole


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among all processes that lock `path`; waits for the one that has it. A killed holder holds nothing."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"Waiting for another process that holds {path}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key(ingredients: Iterable[str | Path]) -> str:
    digest = hashlib.sha256()
    for ingredient in ingredients:
        if isinstance(ingredient, str):
            digest.update(f"text {len(ingredient)} {ingredient}".encode())
            continue
        files = sorted(ingredient.rglob("*")) if ingredient.is_dir() else [ingredient]
        for file in (f for f in files if f.is_file()):
            inside = file.relative_to(ingredient) if file != ingredient else Path(file.name)
            content = file.read_bytes()
            digest.update(f"file {inside} {file.stat().st_mode & 0o111} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def _forget_older(home: Path, name: str, current: Path) -> None:
    for other in home.glob(f"{name}-{'[0-9a-f]' * 16}"):
        if other != current and time.time() - other.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(other, ignore_errors=True)
