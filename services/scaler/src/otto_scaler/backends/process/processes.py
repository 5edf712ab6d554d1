"""Supervisor processes: starting them, recognising them again, following them to their end, and ending what a killed one left behind."""

import contextlib
import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from otto_scaler.backends.process.supervisor import kernel
from otto_scaler.backends.process.supervisor import launch as launch_format
from otto_scaler.backends.process.supervisor.report import boot_id, start_time

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from supervisor.entry import main; sys.exit(main(sys.argv[2]))"
_KEPT = ("LD_LIBRARY_PATH",)
"""What the interpreter itself may need; a worker's variables come with its launch."""


_QUIET_ROUNDS, _ROUND_SECONDS = 3, 0.02
"""A process that is just becoming another program has no variables for a moment, so that one look that finds nothing proves nothing."""
LEFTOVER_SECONDS = 10.0
"""How long killed processes may take to go; longer means the kernel holds them (a dead network disk), and nobody can help that."""
_NOT_THERE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""A process that has ended, or is somebody else's; any other error tells nothing about it."""
_TICKS = os.sysconf("SC_CLK_TCK")
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

    def age(self) -> float:
        """For how many seconds it has run at least, by the clock of its own limits, which nobody sets; 0 if it has ended.

        Its start counts from the boot with all the time that the machine slept, its limits don't: so it may be older, by that time.
        """
        began = start_time(self.pid)
        return max(0.0, time.monotonic() - began / _TICKS) if began else 0.0

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
    # A descriptor was given back before this one is asked for: short of them, it is the start above that fails.
    try:
        return Supervisor(pid, os.pidfd_open(pid), child=True), read
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        raise


def find(claim: tuple[int, int, str], name: str) -> Supervisor | None:
    """The supervisor of that pid, start time and boot, if it still lives and is one of the worker of that name. Raises OSError
    when that can't be told now.
    """
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
    """The supervisor of that pid, if it lives and supervises such a directory. Raises OSError when that can't be told now."""
    if pid <= 0:
        return None
    if (descriptor := _opened(pid)) is None:
        return None
    try:
        directory = _supervises(pid)
    except OSError:
        os.close(descriptor)
        raise
    if directory is not None and supervises(directory):
        return Supervisor(pid, descriptor, child=False)
    os.close(descriptor)
    return None


def _opened(pid: int) -> int | None:
    """A descriptor of that process; None if there is none of that pid. Raises OSError when that can't be told now.

    The pid of one that has ended may by now be the id of a thread, of which Linux says ENOENT, EINVAL before 6.9 (pidfd_open(2)).
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in {errno.ESRCH, errno.ENOENT, errno.EINVAL}:
            return None
        raise


def _supervises(pid: int) -> bytes | None:
    """The directory of which a process is the supervisor, by its arguments; None if it is none, or has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - see living
            arguments = file.read(8192).split(b"\0")[:-1]
    except _NOT_THERE:
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


@dataclass(frozen=True, slots=True)
class Trace:
    """How the processes of a worker are known."""

    name: str
    workspace: Path
    brand: int


def end_leftovers(traces: Collection[Trace]) -> Counter[str]:
    """Kills the processes of workers whose supervisors were killed, and waits until none is left; returns how many there were, by name.

    They are known by the brand that every one of them inherits; where the system keeps none, by two variables that nobody but us sets (the
    processes of another installation's worker of that name differ in the second). What they have started goes with them. Looks at every
    process of the machine again and again (a tenth of a second), however many workers there are, so it is for a thread. Raises OSError.
    """
    deadline = time.monotonic() + LEFTOVER_SECONDS
    killed: dict[tuple[int, int], str] = {}
    quiet = 0
    while quiet < _QUIET_ROUNDS and time.monotonic() < deadline:
        alive = [True for pid, name in _belonging(traces).items() if _killed(pid, name, killed)]
        quiet = 0 if alive else quiet + 1
        time.sleep(_ROUND_SECONDS / 4 if alive else _ROUND_SECONDS)
    return Counter(killed.values())


def _killed(pid: int, name: str, killed: dict[tuple[int, int], str]) -> bool:
    """Whether a process was still there; it gets SIGKILL then, and is noted by its pid and start time."""
    if (descriptor := _opened(pid)) is None:
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] in {b"Z", b"X"}:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except _NOT_THERE:
        return False
    finally:
        os.close(descriptor)
    killed[pid, int(fields[19])] = name
    return True


def _belonging(traces: Collection[Trace]) -> dict[int, str]:
    """The processes of workers, with the worker's name."""
    brands = {trace.brand: trace.name for trace in traces}
    variables = {(b"OTTO_WORKER_NAME=" + t.name.encode(), b"OTTO_WORKSPACE=" + os.fsencode(t.workspace)): t.name for t in traces}
    found: dict[int, str] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - see living
        if entry.isdigit() and (name := brands.get(kernel.brand_of(int(entry))) or _by_variables(int(entry), variables)):
            found[int(entry)] = name
    for pid, name in list(found.items()):
        for below in kernel.descendants(pid):
            found.setdefault(below, name)
    found.pop(os.getpid(), None)
    return found


def _by_variables(pid: int, wanted: Mapping[tuple[bytes, bytes], str]) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except _NOT_THERE:
        return None
    marks = [v for v in environment.split(b"\0") if v.startswith((b"OTTO_WORKER_NAME=", b"OTTO_WORKSPACE="))]
    return next((name for (mark, place), name in wanted.items() if mark in marks and place in marks), None) if marks else None
