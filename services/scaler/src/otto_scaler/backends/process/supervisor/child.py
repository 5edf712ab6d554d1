"""Starting one program as a process of its own session, with nothing of the service's surroundings."""

import os
import signal

from .kernel import brand, die_with_parent, limit_descriptors
from .launch import Launch


class StartFailedError(Exception):
    """The program can't be started; the text is for the user, `code` is what a shell would end with (126 or 127)."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class CheckoutFailedError(Exception):
    """The checkout failed; `status` is the wait status of the Git command that did, or None if none ran."""

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status


class Child:
    """A started program: its pid (and process group and session), and the ends to read its output from."""

    __slots__ = ("pid", "stderr", "stdout")

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr


def start(argv: list[bytes], env: dict[bytes, bytes], directory: bytes, launch: Launch) -> Child:
    """Starts a program in `directory`, with the launch's limits and brand. Raises StartFailedError; OSError for want of processes or
    descriptors.
    """
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(argv, env, directory, launch, parent, out_write, err_write, failed_write)
    for descriptor in (out_write, err_write, failed_write):
        os.close(descriptor)
    said = os.read(failed_read, 64)
    os.close(failed_read)
    os.set_blocking(out_read, False)
    os.set_blocking(err_read, False)
    child = Child(pid, out_read, err_read)
    if said:
        os.waitpid(pid, 0)
        os.close(out_read)
        os.close(err_read)
        stage, _, number = said.partition(b" ")
        raise _failure(stage, int(number), argv, directory.removeprefix(env.get(b"OTTO_WORKSPACE", b"")))
    return child


def _become(
    argv: list[bytes],
    env: dict[bytes, bytes],
    directory: bytes,
    launch: Launch,
    parent: int,
    out_write: int,
    err_write: int,
    failed_write: int,
) -> None:
    """The rest of the new process's life until it is another program; never returns."""
    stage = b"prepare"
    try:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if launch.cores:
            _pin(launch.cores)
        limit_descriptors(launch.descriptors)
        brand(launch.brand)
        _offer_to_oom_killer()
        os.dup2(out_write, 1)
        os.dup2(err_write, 2)
        for number in signal.valid_signals():
            if number not in {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        stage = b"chdir"
        os.chdir(directory)
        stage = b"exec"
        os.execvpe(argv[0], argv, env)  # noqa: S606 - starting programs without a shell is what this is for
    except OSError as error:
        os.write(failed_write, b"%s %d" % (stage, error.errno or 0))
    finally:
        os._exit(127)


def _pin(cores: int) -> None:
    """Keeps to so many of the CPUs this process may use, beginning at one that differs between workers."""
    available = sorted(os.sched_getaffinity(0))
    if cores < len(available):
        first = os.getppid() % len(available)
        os.sched_setaffinity(0, [available[(first + n) % len(available)] for n in range(cores)])


def _offer_to_oom_killer() -> None:
    """When the whole machine is short of memory, workers go before the service and the supervisors do."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, b"500")
        os.close(descriptor)
    except OSError:
        pass  # some sandboxes forbid it, and it is only a preference


def _failure(stage: bytes, number: int, argv: list[bytes], directory: bytes) -> StartFailedError:
    """`directory` in the workspace: where that lies is nothing that a client can do anything with."""
    why = os.strerror(number)
    if stage == b"chdir":
        inside = directory.strip(b"/").decode("utf-8", "replace")
        where = f"the working directory {inside!r} of its workspace" if inside else "its workspace"
        return StartFailedError(f"can't start in {where}: {why}", 126)
    program = argv[0].decode("utf-8", "replace")
    if stage == b"exec":
        if number == 2:
            return StartFailedError(f"can't start {program!r}: not found (neither a path that exists nor on the worker's PATH)", 127)
        return StartFailedError(f"can't start {program!r}: {why}", 126)
    return StartFailedError(f"can't start {program!r}: the process could not be prepared: {why}", 126)
