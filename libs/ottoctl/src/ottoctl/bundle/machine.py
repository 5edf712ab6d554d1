"""What this machine has of a standalone: its process, settings, log, metrics, and what lies in its state directory. Each for itself: what
can't be had of one is no reason to have nothing of the others.
"""

import asyncio
import os
import platform
import stat
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ottoctl.bundle.archive import ITEM_BYTES, Item, Missing
from ottoctl.bundle.collecting import Found
from ottoctl.bundle.masking import Masker
from ottoctl.bundle.settings import effective
from ottoctl.bundle.state import DEEPEST, listed
from ottoctl.doctor.machine import settings, state_directory
from ottoctl.doctor.network import parsed
from ottoctl.doctor.processes import Process, environment, holders

METRICS_SECONDS = 5.0
_STATUS = ("State", "VmPeak", "VmRSS", "Threads", "FDSize", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")


async def machine(address: str, environ: Mapping[str, str], masker: Masker) -> AsyncIterator[Found]:
    """What belongs to the instance at an address of this machine, or to one that was started from here."""
    instance = _instance(address)
    yield _machine(instance, masker)
    given = dict(environ)
    if instance is not None:
        found = environment(instance.pid)
        if found is None:
            yield Missing("machine/settings.json", f"the environment of {instance} may not be read; here are settings of this shell")
        given = found or given
    yield Item("machine/settings.json", "settings as they are in effect", effective(given, masker))
    if instance is None:
        yield Missing("machine/service.log", f"no instance of Ottoscaler's was found at {address} on this machine")
    else:
        yield _log(instance)
        yield await asyncio.to_thread(_metrics, given)
    # Last: what workers have left there may take all the time there is.
    about = f"what lies in the state directory, {DEEPEST} levels deep: names and sizes, no content"
    yield Item("machine/state.json", about, await listed(state_directory(environ, instance)))


def _instance(address: str) -> Process | None:
    try:
        _, port = parsed(address)
    except ValueError:
        return None
    return next((holder for holder in holders(port) if holder.ours), None)


def _machine(instance: Process | None, masker: Masker) -> Found:
    name = "machine/machine.json"
    told: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "variables": sorted(name for name in os.environ if name.startswith("OTTO_")),
    }
    if instance is not None:
        try:
            status = (Path("/proc") / str(instance.pid) / "status").read_text().splitlines()
        except OSError as error:
            return Missing(name, f"{instance} can't be looked at: {error.strerror}")
        fields = {line.partition(":")[0]: line.partition(":")[2].strip() for line in status}
        told["process"] = {"pid": instance.pid, **{name: fields[name] for name in _STATUS if name in fields}}
        told["process"]["command"] = [masker.text(word) for word in instance.command]
    return Item(name, "system, Python, disk, and the process of Ottoscaler's", told)


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
    except (OSError, HTTPException, ValueError) as error:
        return Missing(name, f"http://{host}:{port}/metrics can't be read: {error}")
