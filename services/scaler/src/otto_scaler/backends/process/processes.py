"""Supervisor processes: starting them, recognising them again, following them to their end, and ending what a killed one left behind."""

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from otto_scaler.backends.process.supervisor import kernel
from otto_scaler.backends.process.supervisor import launch as launch_format
from otto_scaler.backends.process.supervisor.report import boot_id, start_time

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from supervisor.entry import main; sys.exit(main(sys.argv[2]))"
_KEPT = ("LD_LIBRARY_PATH",)
"""What the interpreter itself may need; a worker's variables come with its launch."""


_QUIET_ROUNDS, _ROUND_SECONDS = 3, 0.02
"""A process that is just becoming another program has no variables for a moment, so that one look that finds nothing proves nothing."""
_ERR_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
"""A pipe that somebody left there must not hold the service, which waits until the supervisor has opened it."""


class Supervisor:
    """A living supervisor, held by a pidfd, which no later process can take over."""

    def __init__(self, pid: int, descriptor: int, *, child: bool) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self._child = child

    def tell(self) -> None:
        """Sends SIGTERM: it looks for what is left for it to read. Harmless if it has ended."""
        self._signal(signal.SIGTERM)

    def works(self) -> bool:
        """Whether it runs a program: then its worker has started, whatever the files say."""
        return bool(kernel.children(self.pid))

    def nudge(self) -> None:
        """Lets it go on if it was stopped (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once."""
        self._signal(signal.SIGKILL)

    def let_go(self) -> int | None:
        """Follows it no longer; if it has ended, nothing of it is left. Returns its wait status if it has, and was a child of ours."""
        os.close(self.descriptor)
        if self._child:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                return status if pid else None
        return None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)


def spawn(directory: Path, launch: launch_format.Launch) -> tuple[Supervisor, int]:
    """Starts a supervisor in a session of its own; returns it, and the descriptor on which it says that the worker runs.

    SIGTERM stays blocked until the supervisor is ready for it, so a stop is never too early. Raises OSError. Takes about 1 ms.
    """
    source = os.memfd_create("launch", os.MFD_CLOEXEC)
    try:
        with open(source, "wb", closefd=False) as file:
            file.write(launch_format.encode(launch))
        os.lseek(source, 0, os.SEEK_SET)
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parent), str(directory)],
                {name: os.environ[name] for name in _KEPT if name in os.environ},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, source, 0),
                    (os.POSIX_SPAWN_DUP2, write, 1),
                    (os.POSIX_SPAWN_OPEN, 2, str(directory / "supervisor.err"), _ERR_FLAGS, 0o600),
                ],
                setsid=True,
                setsigmask=[signal.SIGTERM],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD],
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
    finally:
        os.close(source)
    return Supervisor(pid, os.pidfd_open(pid), child=True), read


def find(claim: tuple[int, int, str], name: str) -> Supervisor | None:
    """The supervisor of that pid, start time and boot, if it still lives and is one of the worker of that name."""
    pid, started, boot = claim
    if boot != boot_id():
        return None
    found = hold(pid, lambda directory: os.path.basename(directory) == os.fsencode(name))  # noqa: PTH119 - bytes
    if found is not None and start_time(pid) != started:
        found.let_go()
        return None
    return found


def living(workers_dir: Path) -> dict[str, int]:
    """Every supervisor that lives on workers below a directory: name and pid. Looks at every process of the machine (some ms)."""
    found: dict[str, set[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - Path objects for a thousand processes cost ten times as much
        if entry.isdigit() and (directory := _supervises(int(entry))) is not None:
            parent, _, name = os.fsdecode(directory).rpartition("/")
            if parent == str(workers_dir):
                found.setdefault(name, set()).add(int(entry))
    # A child that is not yet another program looks like its supervisor.
    return {name: next((pid for pid in pids if _parent(pid) not in pids), 0) for name, pids in found.items()}


def hold(pid: int, supervises: Callable[[bytes], bool]) -> Supervisor | None:
    """The supervisor of that pid, if it lives and supervises such a directory."""
    if pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    directory = _supervises(pid)
    if directory is not None and supervises(directory):
        return Supervisor(pid, descriptor, child=False)
    os.close(descriptor)
    return None


def _supervises(pid: int) -> bytes | None:
    """The directory of which a process is the supervisor, by its arguments; None if it is none, or has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - see living
            arguments = file.read(8192).split(b"\0")[:-1]
    except OSError:
        return None
    return arguments[6] if len(arguments) == 7 and arguments[1:4] == [b"-I", b"-S", b"-c"] and b"supervisor.entry" in arguments[4] else None


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - see living
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def same_boot(claim: tuple[int, int, str]) -> bool:
    """Whether a supervisor began since this machine last started."""
    return claim[2] == boot_id()


def end_leftovers(workers: Collection[tuple[str, Path]]) -> Counter[str]:
    """Kills the processes of workers whose supervisors were killed; returns how many there were, by name.

    Each worker is given by its name and its workspace. Its processes are known by two variables that nobody but us sets; those of another
    installation's worker of that name differ in the second. Looks at every process of the machine again and again (a tenth of a second),
    so it is for this rare case only, and for a thread.
    """
    wanted = {(b"OTTO_WORKER_NAME=" + name.encode(), b"OTTO_WORKSPACE=" + os.fsencode(workspace)): name for name, workspace in workers}

    def whose(environment: bytes) -> str | None:
        marks = [v for v in environment.split(b"\0") if v.startswith((b"OTTO_WORKER_NAME=", b"OTTO_WORKSPACE="))]
        return next((name for (mark, place), name in wanted.items() if mark in marks and place in marks), None) if marks else None

    killed: dict[int, str] = {}
    quiet = 0
    for _ in range(20):
        fresh = 0
        for entry in os.listdir("/proc"):  # noqa: PTH208 - see living
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(int(entry))
                try:
                    if (name := whose(Path(f"/proc/{entry}/environ").read_bytes())) is not None:
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        fresh += int(entry) not in killed
                        killed[int(entry)] = name
                finally:
                    os.close(descriptor)
        quiet = 0 if fresh else quiet + 1
        if quiet == _QUIET_ROUNDS:
            break
        time.sleep(_ROUND_SECONDS)
    return Counter(killed.values())
