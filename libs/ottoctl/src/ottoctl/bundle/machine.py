"""What this machine has of a standalone: its process, settings, log, metrics, and what lies in its state directory."""

import asyncio
import os
import platform
import stat
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from ottoctl.bundle.archive import ITEM_BYTES, Item, Missing
from ottoctl.bundle.collecting import Found
from ottoctl.bundle.masking import Masker
from ottoctl.bundle.settings import effective
from ottoctl.doctor.machine import settings, state_directory
from ottoctl.doctor.network import parsed
from ottoctl.doctor.processes import Process, environment, holders

MOST_ENTRIES = 5_000
DEEPEST = 3
"""Levels of the state directory that are listed."""
OWNERS_OWN = ("workspaces", "secrets", "homes")
"""Directories of the state in which users' files lie: how much there is, and no names."""
METRICS_SECONDS = 5.0
_STATUS = ("State", "VmPeak", "VmRSS", "Threads", "FDSize", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")


async def machine(address: str, environ: Mapping[str, str], masker: Masker) -> AsyncIterator[Found]:
    """What belongs to the instance at an address of this machine, or to one that was started from here."""
    instance = _instance(address)
    yield Item("machine/machine.json", "system, Python, disk, and the process of Ottoscaler's", _machine(instance, masker))
    given = dict(environ)
    if instance is not None:
        found = environment(instance.pid)
        if found is None:
            yield Missing("machine/settings.json", f"the environment of {instance} may not be read; here are settings of this shell")
        given = found or given
    yield Item("machine/settings.json", "settings as they are in effect", effective(given, masker))
    directory = state_directory(environ, instance)
    yield Item(
        "machine/state.json", f"what lies in the state directory, {DEEPEST} levels deep: names and sizes, no content", _listing(directory)
    )
    if instance is None:
        yield Missing("machine/service.log", f"no instance of Ottoscaler's was found at {address} on this machine")
        return
    yield _log(instance)
    yield await asyncio.to_thread(_metrics, given)


def _instance(address: str) -> Process | None:
    try:
        _, port = parsed(address)
    except ValueError:
        return None
    return next((holder for holder in holders(port) if holder.ours), None)


def _machine(instance: Process | None, masker: Masker) -> dict[str, Any]:
    told: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "variables": sorted(name for name in os.environ if name.startswith("OTTO_")),
    }
    if instance is not None:
        status = (Path("/proc") / str(instance.pid) / "status").read_text().splitlines()
        fields = {line.partition(":")[0]: line.partition(":")[2].strip() for line in status}
        told["process"] = {"pid": instance.pid, **{name: fields[name] for name in _STATUS if name in fields}}
        told["process"]["command"] = [masker.text(word) for word in instance.command]
    return told


def _log(instance: Process) -> Found:
    """What it wrote to standard error, if that is a file."""
    place = Path("/proc") / str(instance.pid) / "fd/2"
    name = "machine/service.log"
    try:
        if not stat.S_ISREG(place.stat().st_mode):
            return Missing(name, f"{instance} does not log into a file: keep what its terminal or journal has")
        with place.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - ITEM_BYTES))
            text = file.read(ITEM_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return Missing(name, f"the log of {instance} can't be read: {error.strerror}")
    whole = text if size <= ITEM_BYTES else text.partition("\n")[2]
    return Item(name, "the end of what the service logged", whole, log=True)


def _metrics(given: Mapping[str, str]) -> Found:
    name = "machine/metrics.txt"
    listens = given.get("OTTO_METRICS_LISTEN") or settings()["OTTO_METRICS_LISTEN"]
    host, _, port = listens.rpartition(":")
    if not port.isdigit() or port == "0":
        return Missing(name, f"OTTO_METRICS_LISTEN={listens}: there is no port to be asked")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  read, not listened on
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{host}:{port}/metrics", timeout=METRICS_SECONDS) as answer:
            return Item(name, "figures of the service at that moment", answer.read(ITEM_BYTES).decode("utf-8", "replace"))
    except OSError as error:
        return Missing(name, f"http://{host}:{port}/metrics can't be read: {error}")


def _listing(directory: Path) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    told: dict[str, Any] = {"directory": str(directory), "entries": entries}
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return {**told, "error": error.strerror}
    told |= {"disk_bytes": disk.f_blocks * disk.f_frsize, "free_bytes": disk.f_bavail * disk.f_frsize, "free_files": disk.f_favail}
    for path, found, depth in _below(directory, 1):
        if len(entries) >= MOST_ENTRIES:
            told["cut"] = f"there are more than {MOST_ENTRIES}"
            break
        entry = {"name": str(path.relative_to(directory)), "bytes": found.st_size, "mode": stat.filemode(found.st_mode)}
        entry["modified"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
        if stat.S_ISDIR(found.st_mode) and (depth == DEEPEST or path.name in OWNERS_OWN):
            entry |= _sums(path)
        entries.append(entry)
    return told


def _below(directory: Path, depth: int) -> Iterator[tuple[Path, os.stat_result, int]]:
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        try:
            found = path.lstat()
        except OSError:
            continue
        yield path, found, depth
        if stat.S_ISDIR(found.st_mode) and depth < DEEPEST and path.name not in OWNERS_OWN:
            yield from _below(path, depth + 1)


def _sums(directory: Path) -> dict[str, int]:
    files = size = 0
    for place, _, names in os.walk(directory):
        for name in names:
            files += 1
            try:
                size += (Path(place) / name).lstat().st_size
            except OSError:
                continue
        if files >= MOST_ENTRIES:
            break
    return {"files_below": files, "bytes_below": size}
