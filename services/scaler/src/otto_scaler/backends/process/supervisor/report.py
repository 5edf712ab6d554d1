"""The small files in a worker's directory by which a supervisor and any later service understand each other.

    supervisor   who runs this worker: pid, start time, boot; exists from the moment it can't be run by another any more
    started      when it started
    stop         why it is to stop; written by the service
    exit         how it ended; the last thing a supervisor writes

Each appears whole or not at all (written beside, then linked or renamed). Lines of `key=value`, UTF-8. Workers are processes of the same
user and may have written anything there, so nothing is believed before it is checked (`control`).
"""

import os
import stat

from .control import UnreadableError, number, put, read, write_beside
from .usage import Usage

CLAIM = "supervisor"
STARTED = "started"
STOP = "stop"
EXIT = "exit"
CLAIMED_ELSEWHERE = 75
"""Exit code of a supervisor: another one runs this worker (EX_TEMPFAIL)."""
LATEST = 2**63 - 1
"""Nanoseconds since the epoch: a day in the year 2262."""
MOST_PID = 2**22
"""The kernel's PID_MAX_LIMIT."""
MOST_USED = 2**50
"""Bytes, and millionths of a core: more than any machine has."""
_RESERVE_BYTES = 4096


class Ending:
    """How a worker ended. Times are nanoseconds since the epoch."""

    __slots__ = ("cause", "code", "ended", "message", "started", "usage")

    def __init__(self, code: int | None, cause: str, message: str, started: int, ended: int, usage: Usage | None = None) -> None:
        """`code` is None when nothing was run; `cause` is a name of worker.Cause, "" for success; `usage` None when nobody measured it."""
        self.code = code
        self.cause = cause
        self.message = message
        self.started = started
        self.ended = ended
        self.usage = usage


def boot_id() -> str:
    """Identifies this boot of the machine: start times of processes mean nothing in another one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none. With the pid it identifies a process within a boot."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def claim(directory: str) -> bool:
    """Makes this process the one that runs the worker; False if another one is or was."""
    pid = os.getpid()
    mine = write_beside(directory, CLAIM, f"{pid} {start_time(pid)} {boot_id()}\n".encode())
    try:
        os.link(mine, os.path.join(directory, CLAIM))
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)
    return True


def claimed_by_another(directory: str) -> bool:
    """Whether it is another process that runs the worker, or ran it."""
    try:
        found = read_claim(directory)
    except (UnreadableError, OSError):
        return True
    return found is not None and found[0] != os.getpid()


def read_claim(directory: str) -> tuple[int, int, str] | None:
    """Pid, start time and boot of the supervisor that runs or ran the worker; None if none did. Raises UnreadableError, OSError."""
    text = read(directory, CLAIM)
    if text is None:
        return None
    parts = text.split()
    if len(parts) != 3:
        raise UnreadableError(CLAIM)
    return number(parts[0], MOST_PID, CLAIM), number(parts[1], LATEST, CLAIM), parts[2]


def read_started(directory: str) -> int:
    """When it started; 0 if it has not. Raises UnreadableError, OSError."""
    text = read(directory, STARTED)
    return 0 if text is None else number(text.strip(), LATEST, STARTED)


def reserve(directory: str) -> None:
    """Takes the disk space that the report and a stop will need, so that a full disk can't keep them from being written. Done already,
    nothing is.
    """
    for name in (EXIT, STOP):
        path = os.path.join(directory, f".{name}")
        try:
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_size == _RESERVE_BYTES:
                continue
        except FileNotFoundError:
            pass
        os.rename(write_beside(directory, name, b"\0" * _RESERVE_BYTES), path)


def write_ending(directory: str, ending: Ending) -> None:
    """Leaves the report, in the place of whatever is there. Raises OSError when there is nowhere to leave it (the directory is gone)."""
    message = ending.message.replace("\n", " ").encode("utf-8", "replace")[: _RESERVE_BYTES // 2].decode("utf-8", "ignore")
    code = "" if ending.code is None else str(ending.code)
    text = f"code={code}\ncause={ending.cause}\nstarted={ending.started}\nended={ending.ended}\nmessage={message}\n"
    if (used := ending.usage) is not None:
        text += f"usage={used.cpu_average} {used.cpu_peak} {used.memory_average} {used.memory_peak}\n"
    _write_reserved(directory, EXIT, text.encode())


def write_stop(directory: str, reason: str) -> None:
    """Leaves the reason why the worker is to stop, in the place of whatever is there. Raises OSError."""
    _write_reserved(directory, STOP, reason.encode("utf-8", "replace")[:_RESERVE_BYTES])


def _write_reserved(directory: str, name: str, content: bytes) -> None:
    """Writes a file into the space that was reserved for it, or beside that where somebody has taken it away."""
    reserved = os.path.join(directory, f".{name}")
    try:
        descriptor = os.open(reserved, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)
    except OSError:
        reserved = write_beside(directory, name, content)
    put(directory, reserved, name)


def read_ending(directory: str) -> Ending | None:
    """The report; None while there is none. Raises UnreadableError, OSError."""
    text = read(directory, EXIT)
    if text is None:
        return None
    fields = dict(line.partition("=")[::2] for line in text.split("\n"))
    try:
        code = number(fields["code"], 255, EXIT) if fields["code"] else None
        cause, message = fields["cause"], fields["message"]
        started, ended = number(fields["started"], LATEST, EXIT), number(fields["ended"], LATEST, EXIT)
        usage = _usage(fields.get("usage", ""))
    except KeyError:
        raise UnreadableError(EXIT) from None
    if not cause and code != 0:
        raise UnreadableError(EXIT)
    return Ending(code, cause, message, started, max(started, ended), usage)


def _usage(text: str) -> Usage | None:
    """None also for what a supervisor before this one left. Raises UnreadableError."""
    if not text:
        return None
    numbers = [number(part, MOST_USED, EXIT) for part in text.split(" ")]
    if len(numbers) != 4:
        raise UnreadableError(EXIT)
    return Usage(*numbers)


def write_whole(directory: str, name: str, content: str) -> None:
    """Writes a file so that a reader sees it whole or not at all, in the place of whatever is there. Raises OSError."""
    put(directory, write_beside(directory, name, content.encode()), name)
