"""This machine, where Ottoscaler is to run on it: state directory, tools, port, variables, what a crashed instance left."""

import contextlib
import difflib
import errno
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from ottoctl.doctor.case import Case, Finding, fail, ok, warn
from ottoctl.doctor.processes import Process, environment, holders, lock_holder, process, started

LITTLE_BYTES, NO_BYTES = 1 << 30, 32 << 20
"""Below the first a run may fill the disk; below the second hardly anything can be written."""
LITTLE_INODES = 1000
PROBE_BYTES = 64 * 1024
OWN_VARIABLES = re.compile(
    r"OTTO_(ADDRESS|OUTPUT|DEBUG|PIPELINE_ID|STAGE_ID|TASK_ID|REPOSITORY|COMMIT_SHA|WORKER_INDEX|WORKER_COUNT|ATTEMPT|WORKSPACE)"
)
"""Variables that are not the services' settings: ottoctl's own, and what a worker is given."""


def state_directory(environ: Mapping[str, str], instance: Process | None) -> Path:
    """Where an instance keeps its state, or where one started with these variables would."""
    if instance is not None:
        environ = environment(instance.pid) or environ
    home = Path(environ.get("HOME") or Path.home())

    def absolute(text: str) -> Path:
        return Path(re.sub(r"^~(?=/|$)", str(home), text)).absolute()

    if given := environ.get("OTTO_STANDALONE_STATE_DIR"):
        return absolute(given)
    return absolute(environ.get("XDG_STATE_HOME") or "~/.local/state") / "ottoscaler"


async def port(case: Case) -> list[Finding]:
    """The port is held by an instance of Ottoscaler's, or free for one."""
    held = holders(case.port)
    for holder in held:
        if holder.ours:
            case.instance = holder
            return [ok(f"port {case.port} is held by Ottoscaler, {holder}")]
    if held and case.serves:
        return [ok(f"port {case.port} is held by {held[0]}, which passes on to Ottoscaler")]
    if held:
        return [fail(f"port {case.port} is held by {held[0]}", "stop it, or give Ottoscaler another port: OTTO_LISTEN=127.0.0.1:PORT")]
    if case.speaks:
        return [
            warn(f"who holds port {case.port} can't be seen", "it is another user's process; run ottoctl doctor as that user or as root")
        ]
    return [ok(f"port {case.port} is free")]


async def state(case: Case) -> list[Finding]:
    """The state directory can be written and has room; who holds it."""
    directory = state_directory(case.environ, case.instance)
    case.facts["state_directory"] = str(directory)
    remedy = "make it writable, or name another one in OTTO_STANDALONE_STATE_DIR"
    if not directory.is_symlink() and not directory.exists():
        above = next(parent for parent in directory.parents if parent.exists())
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return [ok(f"the state directory {directory} does not exist yet; the first start makes it"), *_space(above)]
        return [fail(f"the state directory {directory} does not exist and can't be made: {above} can't be written", remedy)]
    if not directory.is_dir():
        return [fail(f"the state directory {directory} is no directory", remedy)]
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return [fail(f"the disk of the state directory {directory} is full", "make room; what runs fails or waits until then")]
        return [fail(f"the state directory {directory} can't be written: {error.strerror}", remedy)]
    return [ok(f"the state directory {directory} can be written"), *_space(directory), _holder(case, directory)]


def _space(directory: Path) -> list[Finding]:
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    words = f"{size(free)} are free for state"
    if disk.f_files and disk.f_favail < LITTLE_INODES:
        return [fail(f"only {disk.f_favail} more files fit on the disk of {directory}", "delete files there; each worker needs some")]
    if free < NO_BYTES:
        return [fail(f"only {words} on the disk of {directory}", "make room, or name another directory in OTTO_STANDALONE_STATE_DIR")]
    if free < LITTLE_BYTES:
        return [
            warn(
                f"only {words} on the disk of {directory}", "make room before it is full; OTTO_RELAY_RETENTION_BYTES limits the kept lines"
            )
        ]
    return [ok(words)]


def _holder(case: Case, directory: Path) -> Finding:
    pid = lock_holder(directory / "lock")
    holder = process(pid) if pid else None
    if holder is None:
        return ok("no instance holds it")
    case.facts["state_holder"] = pid
    if case.instance is not None and case.instance.pid == pid:
        return ok(f"it is held by the instance at this port, {holder}")
    if case.serves:
        return ok(f"it is held by {holder}")
    return warn(
        f"it is held by {holder}, which does not serve at {case.address}",
        "ask that one (ottoctl --address …), stop it, or name another directory in OTTO_STANDALONE_STATE_DIR",
    )


async def leftovers(case: Case) -> list[Finding]:
    """Nothing waits for an instance that is gone."""
    directory = state_directory(case.environ, case.instance)
    if lock_holder(directory / "lock"):
        return [ok("an instance looks after the state")]
    running: list[str] = []
    unfinished: list[str] = []
    try:
        for worker in sorted((directory / "workers").iterdir()):
            if worker.name.startswith(".") or not (worker / "supervisor").exists() or (worker / "exit").exists():
                continue
            (running if _supervised(worker) else unfinished).append(worker.name)
    except OSError:
        return [ok("no earlier instance left anything")]
    found = []
    start = "start Ottoscaler on the same state directory"
    if running:
        found.append(
            warn(
                f"{len(running)} workers of an instance that is gone still run: {_some(running)}",
                f"{start}: it finds them again and goes on",
            )
        )
    if unfinished:
        found.append(
            warn(
                f"{len(unfinished)} workers of an instance that is gone ended without a report: {_some(unfinished)}",
                f"{start}: their stages fail or are retried",
            )
        )
    journal = directory / "runs.sqlite-wal"
    if not found and journal.exists() and journal.stat().st_size:
        found.append(
            warn(
                "the last instance did not end by itself (its database has a journal)", f"nothing is lost: {start}, it goes on where it was"
            )
        )
    return found or [ok("no earlier instance left anything unfinished")]


def _supervised(worker: Path) -> bool:
    """Whether the supervisor that claimed the worker (pid, start time, boot) is alive."""
    with contextlib.suppress(OSError, ValueError):
        pid, since, boot = (worker / "supervisor").read_text().split()
        this_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot == this_boot and started(int(pid)) == int(since) != 0
    return False


async def tools(case: Case) -> list[Finding]:  # noqa: ARG001  a check takes the case
    """What workers and checkouts need is there."""
    found = [ok(f"Python {platform.python_version()}")]
    path = shutil.which("git")
    if path:
        found.append(ok(f"git is {path}"))
    else:
        found.append(fail("git is not on PATH", "install git: pipelines with a repository can't check it out without"))
    if shutil.which("sh") is None:
        found.append(fail("sh is not on PATH", "commands of pipeline files are scripts for sh"))
    return found


async def variables(case: Case) -> list[Finding]:
    """Every variable that begins with OTTO_ is a setting."""
    known = settings()
    found = []
    places: list[tuple[str, Mapping[str, str]]] = [("here", case.environ)]
    if case.instance is not None:
        places.append((f"of {case.instance}", environment(case.instance.pid) or {}))
    for where, environ in places:
        for name in sorted(environ):
            if name.startswith("OTTO_") and name not in known and not OWN_VARIABLES.fullmatch(name):
                near = difflib.get_close_matches(name, known, n=1)
                remedy = f"did you mean {near[0]}?" if near else "remove it; the README lists the settings"
                found.append(warn(f"the variable {name} ({where}) is no setting and does nothing", remedy))
    return found or [ok("every OTTO_ variable is a setting")]


def settings() -> dict[str, str]:
    """The services' settings: variable and default."""
    lines = files("ottoctl.doctor").joinpath("settings.txt").read_text().splitlines()
    return {name: default for name, _, default in (line.partition("\t") for line in lines)}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
