"""Supervisor processes: starting them, recognising them again, following them to their end, and ending what a killed one left behind."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from otto_scaler.backends.process.supervisor import launch as launch_format
from otto_scaler.backends.process.supervisor.report import boot_id, start_time

_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from supervisor.entry import main; sys.exit(main(sys.argv[2]))"
_KEPT = ("LD_LIBRARY_PATH",)
"""What the interpreter itself may need; a worker's variables come with its launch."""


class Supervisor:
    """A living supervisor, held by a pidfd, which no later process can take over."""

    def __init__(self, pid: int, descriptor: int, *, child: bool) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self._child = child

    def tell(self) -> None:
        """Sends SIGTERM: it looks for what is left for it to read. Harmless if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGTERM)

    def let_go(self) -> None:
        """Follows it no longer; if it has ended, nothing of it is left."""
        os.close(self.descriptor)
        if self._child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)


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
                    (os.POSIX_SPAWN_OPEN, 2, str(directory / "supervisor.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
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


def find(claim: tuple[int, int, str]) -> Supervisor | None:
    """The supervisor of that pid, start time and boot, if it still lives."""
    pid, started, boot = claim
    if pid <= 0 or boot != boot_id():
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if start_time(pid) == started and not _zombie(pid):
        return Supervisor(pid, descriptor, child=False)
    os.close(descriptor)
    return None


def same_boot(claim: tuple[int, int, str]) -> bool:
    """Whether a supervisor began since this machine last started."""
    return claim[2] == boot_id()


def end_leftovers(name: str, workspace: Path) -> int:
    """Kills the processes of a worker whose supervisor was killed; returns how many there were.

    They are known by two variables that nobody but us sets; the processes of another installation's worker of that name differ in the
    second. Looks at every process of the machine (some ms), so it is for this rare case only.
    """

    def ours(environment: bytes) -> bool:
        variables = environment.split(b"\0")
        return b"OTTO_WORKER_NAME=" + name.encode() in variables and b"OTTO_WORKSPACE=" + os.fsencode(workspace) in variables

    return _kill_where(ours)


def _kill_where(matches: Callable[[bytes], bool]) -> int:
    killed: set[int] = set()
    for _ in range(20):
        fresh = 0
        for entry in os.listdir("/proc"):  # noqa: PTH208 - Path objects for a thousand processes cost ten times as much
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(int(entry))
                try:
                    if matches(Path(f"/proc/{entry}/environ").read_bytes()):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        fresh += int(entry) not in killed
                        killed.add(int(entry))
                finally:
                    os.close(descriptor)
        if not fresh:
            break
    return len(killed)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except OSError:
        return True
