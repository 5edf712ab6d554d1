"""Processes of this machine as /proc shows them: who listens at a port, which instances of Ottoscaler run, what they were given."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
OURS = ("ottoscaler-standalone", "otto_standalone", "otto-scaler", "otto_scaler", "otto_executor", "otto_relay")


@dataclass(frozen=True, slots=True)
class Process:
    """A running process; `command` is empty when it may not be read."""

    pid: int
    command: tuple[str, ...]

    @property
    def ours(self) -> bool:
        """Whether it is a service of Ottoscaler's."""
        return any(Path(word).name.startswith(OURS) for word in self.command[:4])

    def __str__(self) -> str:
        shown = " ".join([Path(self.command[0]).name, *self.command[1:4]]) if self.command else "of another user"
        return f"process {self.pid} ({shown[:80]})"


def process(pid: int) -> Process | None:
    """The process of that number; None if there is none, or only a zombie."""
    try:
        if (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
            return None
        command = (PROC / str(pid) / "cmdline").read_bytes()
    except (OSError, IndexError):
        return None
    return Process(pid, tuple(part.decode("utf-8", "replace") for part in command.split(b"\0") if part))


def environment(pid: int) -> dict[str, str] | None:
    """What it was started with; None when that may not be read."""
    try:
        content = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    pairs = (entry.decode("utf-8", "replace").partition("=") for entry in content.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def listening() -> dict[int, set[int]]:
    """The sockets (inodes) that listen at each TCP port of this network namespace."""
    found: dict[int, set[int]] = {}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if len(fields) > 9 and fields[3] == LISTENING:
                    found.setdefault(int(fields[1].rpartition(":")[2], 16), set()).add(int(fields[9]))
    return found


def holders(port: int) -> list[Process]:
    """Who listens at a port. Empty when nobody does, or when it is another user's and we may not see whose."""
    inodes = listening().get(port, set())
    return [held for pid in _numbers() if inodes & sockets(pid) and (held := process(pid)) is not None] if inodes else []


def instances() -> Iterator[tuple[Process, list[int]]]:
    """The services of Ottoscaler that run here, each with the ports at which it listens."""
    ports = {inode: port for port, inodes in listening().items() for inode in inodes}
    for pid in _numbers():
        found = process(pid)
        if found is not None and found.ours:
            listens = sorted({ports[inode] for inode in sockets(pid) if inode in ports})
            if listens:
                yield found, listens


def sockets(pid: int) -> set[int]:
    """The inodes of a process's sockets; empty when they may not be seen."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError, ValueError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found


def lock_holder(path: Path) -> int:
    """The process that holds a lock on a file; 0 for none (that this process may see).

    /proc/locks names files by number, which is one file on each device, and devices not as stat(2) does on every file system: so the
    holder must have this very file open.
    """
    try:
        wanted = path.stat()
        locks = (PROC / "locks").read_text()
    except OSError:
        return 0
    for line in locks.splitlines():
        fields = line.split()
        if len(fields) > 5 and "->" not in fields and fields[5].rpartition(":")[2] == str(wanted.st_ino):
            pid = max(0, int(fields[4]))
            if _has_open(pid, wanted):
                return pid
    return 0


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none."""
    try:
        return int((PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def _numbers() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
