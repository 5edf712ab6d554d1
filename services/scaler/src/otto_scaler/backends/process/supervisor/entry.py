"""What the supervisor does from its start to its end."""

import os
import signal
import sys
import time

from . import report
from .child import CheckoutFailedError, StartFailedError
from .cri import CriLog
from .kernel import adopt_orphans
from .launch import Launch, decode
from .report import Ending
from .supervision import Supervision

DELETING_SECONDS = 0.4
"""How long a deletion may still go on when its first part, the log, is gone."""


def main(directory: str) -> int:
    """Runs the worker whose directory it is; standard input holds its launch. Returns the exit code: 0 when a report was left."""
    launch = decode(_standard_input())
    _close_inherited()
    adopt_orphans()
    started = time.time_ns()
    try:
        if not report.claim(directory):
            return report.CLAIMED_ELSEWHERE
        report.reserve(directory)
        path = os.path.join(directory, "log")
        log = CriLog(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        ending = _supervise(directory, launch, log, started)
        os.close(log.descriptor)
    except Exception as error:
        words = _failed(error)
        if report.claimed_by_another(directory):
            return 1
        ending = Ending(None, "INTERNAL", words, started, time.time_ns())
    # The end stands. On its way out Python gives signals their default back: a stop that comes too late would kill us, and the end be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if ending.cause == "DELETED":
        _let_it_go(directory)
    try:
        report.write_ending(directory, ending)
    except OSError as error:
        _failed(error)
        return 1
    return 0


def _supervise(directory: str, launch: Launch, log: CriLog, started: int) -> Ending:
    supervision = Supervision(launch, log, directory)
    report.write_whole(directory, report.STARTED, f"{started}\n")
    _tell_running(started)
    status: int | None = None
    code: int | None = None
    cause = message = ""
    try:
        if launch.repository:
            from .checkout import checkout  # most workers need none, and its regular expressions cost 5 ms

            checkout(supervision, launch)
        status = supervision.run(launch.argv, launch.env, os.path.join(launch.workspace, launch.working_directory))
        code, cause, message = meaning(status)
    except StartFailedError as error:
        supervision.say(str(error))
        code, cause, message = error.code, "EXIT_CODE", str(error)
    except CheckoutFailedError as error:
        code, cause, how = meaning(error.status)
        message = f"{error} ({how})" if how else str(error)
        supervision.say(message)
    if supervision.verdict is not None:
        cause, message = supervision.verdict.cause, supervision.verdict.message
    return Ending(code, cause, message, started, time.time_ns(), supervision.meter.usage())


def meaning(status: int | None) -> tuple[int | None, str, str]:
    """Exit code, cause and words of a wait status; a signal counts as 128 and its number, as shells and Kubernetes have it."""
    if status is None:
        return None, "", ""
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return 0, "", ""
    if code > 0:
        return code, "EXIT_CODE", f"exit code {code}"
    return 128 - code, "EXIT_CODE", f"killed by signal {-code} ({_signal_name(-code)})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number >= signal.SIGRTMIN else "unknown"


def _standard_input() -> bytes:
    """Everything from standard input, which is /dev/null from then on: also the worker's."""
    with os.fdopen(0, "rb", closefd=False) as file:
        data = file.read()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return data


def _close_inherited() -> None:
    """A descriptor that slipped through from the service (a listening socket, a lock) would be held for as long as the worker runs."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                continue


def _failed(error: Exception) -> str:
    """Writes down what happened for whoever keeps the service; returns what clients are told: the system's words, or an id."""
    import traceback  # only after a failure: it costs 5 ms

    error_id = os.urandom(4).hex()
    traceback.print_exc()
    sys.stderr.write(f"error id {error_id}: {type(error).__name__}: {error}\n")
    why = error.strerror if isinstance(error, OSError) and error.strerror else f"the service's log has it under id {error_id}"
    return f"its supervisor failed: {why}"


def _let_it_go(directory: str) -> None:
    """Gives whoever deletes the directory the time to come to its end: a report written in the middle would keep it from that."""
    until = time.monotonic() + DELETING_SECONDS
    while os.path.isdir(directory) and time.monotonic() < until:
        time.sleep(0.02)


def _tell_running(started: int) -> None:
    """Tells the service when it started, unless it is gone. Standard output stays open, and at its end shows the same as this process's."""
    try:
        os.write(1, b"%d\n" % started)
    except OSError:
        sys.stderr.write("the service that started this worker is gone; the next one finds it\n")
