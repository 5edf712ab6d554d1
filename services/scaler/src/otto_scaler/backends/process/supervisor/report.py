"""The small files in a worker's directory by which a supervisor and any later service understand each other.

    supervisor   who runs this worker: pid, start time, boot; exists from the moment it can't be run by another any more
    started      when it started
    stop         why it is to stop; written by the service
    exit         how it ended; the last thing a supervisor writes

Each appears whole or not at all (written beside, then linked or renamed). Lines of `key=value`, UTF-8.
"""

import os

CLAIM = "supervisor"
STARTED = "started"
STOP = "stop"
EXIT = "exit"
_RESERVE_BYTES = 4096


class Ending:
    """How a worker ended. Times are nanoseconds since the epoch."""

    __slots__ = ("cause", "code", "ended", "message", "started")

    def __init__(self, code: int | None, cause: str, message: str, started: int, ended: int) -> None:
        """`code` is None when nothing was run; `cause` is a name of worker.Cause, "" for success."""
        self.code = code
        self.cause = cause
        self.message = message
        self.started = started
        self.ended = ended


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
    mine = os.path.join(directory, f".{CLAIM}.{pid}")
    _write(mine, f"{pid} {start_time(pid)} {boot_id()}\n".encode())
    try:
        os.link(mine, os.path.join(directory, CLAIM))
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)
    return True


def reserve(directory: str) -> None:
    """Takes the disk space that the report will need, so that a full disk can't keep it from being written."""
    descriptor = os.open(os.path.join(directory, f".{EXIT}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
    finally:
        os.close(descriptor)


def write_ending(directory: str, ending: Ending) -> None:
    """Leaves the report; the first one stays. Raises OSError when there is nowhere to leave it (the directory is gone)."""
    message = ending.message.replace("\n", " ").encode("utf-8", "replace")[: _RESERVE_BYTES // 2].decode("utf-8", "ignore")
    code = "" if ending.code is None else str(ending.code)
    text = f"code={code}\ncause={ending.cause}\nstarted={ending.started}\nended={ending.ended}\nmessage={message}\n".encode()
    beside = os.path.join(directory, f".{EXIT}")
    final = os.path.join(directory, EXIT)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
    finally:
        os.close(descriptor)
    try:
        os.link(beside, final)
    except FileExistsError:
        return
    finally:
        os.unlink(beside)


def read_ending(directory: str) -> Ending | None:
    """The report; None while there is none. Raises ValueError for one that makes no sense."""
    try:
        with open(os.path.join(directory, EXIT), encoding="utf-8") as file:
            fields = dict(line.rstrip("\n").partition("=")[::2] for line in file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        code = int(fields["code"]) if fields["code"] else None
        return Ending(code, fields["cause"], fields["message"], int(fields["started"]), int(fields["ended"]))
    except KeyError as error:
        raise ValueError(f"the report in {directory} has no {error}") from error


def write_whole(directory: str, name: str, content: str) -> None:
    """Writes a file so that a reader sees it whole or not at all."""
    beside = os.path.join(directory, f".{name}.{os.getpid()}")
    _write(beside, content.encode())
    os.rename(beside, os.path.join(directory, name))


def read(directory: str, name: str) -> str:
    """What a file holds; "" if it isn't there."""
    try:
        with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
