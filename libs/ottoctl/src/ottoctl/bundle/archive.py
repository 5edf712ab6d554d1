"""One archive, written whole or not at all, for its owner's eyes."""

import io
import json
import os
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ottoctl.bundle.masking import Masker

ITEM_BYTES = 2 << 20
"""Of each text; of a log the end is kept, of anything else the beginning."""
CUT = "… cut here by ottoctl support-bundle …\n"


@dataclass(frozen=True, slots=True)
class Item:
    """A file of the archive: `content` is text, or what JSON can say."""

    name: str
    about: str
    content: Any
    log: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not in the archive, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of a file."""

    name: str
    bytes: int
    about: str
    cut: bool


def masked(items: Sequence[Item], missing: list[Missing], masker: Masker, most: int) -> list[tuple[Entry, bytes]]:
    """The items as they are written, at most so many bytes together; what finds no room is added to `missing`.

    Twice: what the last item teaches is masked in the first one too.
    """
    for item in items:
        masker.learn_from(item.content if isinstance(item.content, str) else json.dumps(item.content, ensure_ascii=False))
        if not isinstance(item.content, str):
            masker.data(item.content)
    written: list[tuple[Entry, bytes]] = []
    left = most
    for item in items:
        content, cut = _rendered(item, masker)
        if len(content) > left:
            missing.append(Missing(item.name, f"it found no room in the {most >> 20} MiB that the bundle may have (--max-size)"))
            continue
        left -= len(content)
        written.append((Entry(item.name, len(content), item.about, cut), content))
    return written


def _rendered(item: Item, masker: Masker) -> tuple[bytes, bool]:
    if not isinstance(item.content, str):
        text = json.dumps(masker.data(item.content), ensure_ascii=False, indent=1) + "\n"
        content = text.encode("utf-8", "replace")
        return (content, False) if len(content) <= ITEM_BYTES else (_start(content), True)
    # What is left by a cut may be a part of a secret that no form shows any more: masked first, cut afterwards.
    content = masker.text(item.content).encode("utf-8", "replace")
    if len(content) <= ITEM_BYTES:
        return content, False
    if not item.log:
        return _start(content), True
    end = content[-ITEM_BYTES:]
    return CUT.encode() + end[end.find(b"\n") + 1 :], True


def _start(content: bytes) -> bytes:
    return content[:ITEM_BYTES].decode("utf-8", "ignore").encode() + b"\n" + CUT.encode()


def write(path: Path, files: Sequence[tuple[Entry, bytes]], manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the archive (tar.gz, mode 0600) in the place of whatever is there, and returns its manifest. Raises OSError: then nothing is
    there that was not before.
    """
    whole = {**manifest, "files": [asdict(entry) for entry, _ in files]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                root = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
                _add(archive, f"{root}/MANIFEST.json", (json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode())
                for entry, content in files:
                    _add(archive, f"{root}/{entry.name}", content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return whole


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o600, int(time.time())
    archive.addfile(info, io.BytesIO(content))
