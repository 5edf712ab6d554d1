"""The loop around one program at a time: its output into the log, its limits kept, its end and that of everything it left behind
awaited.
"""

import os
import select
import signal
import time

from . import report
from .child import Child, start
from .control import UnreadableError, read
from .cri import CriLog, LogFailedError
from .kernel import children, descendants, memory_over
from .launch import Launch
from .usage import Meter

READ_BYTES = 65536
CHECK_SECONDS = 1.0
"""How often it is looked whether the worker's directory is still there, and what it uses; DELETED is to be known within 2 s."""
FIRST_CHECK_SECONDS = 0.1
"""Many workers end within a second."""
MEMORY_SECONDS = (0.25, 0.05)
"""How often memory is measured: usually, and when more than half of the limit is used."""
REAP_SECONDS = 10.0
"""How long processes may take to go after SIGKILL; longer means the kernel holds them (a dead network disk), and nobody can help that."""
DRAIN_BYTES = 4 * 1024 * 1024
"""How much is read at the end from a pipe that a process outside of ours still holds."""


class Verdict:
    """Why the worker is being ended."""

    __slots__ = ("cause", "message")

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        self.message = message


class Supervision:
    """Watches over the programs of one worker. The first verdict stays, and no program is started after it."""

    def __init__(self, launch: Launch, log: CriLog, directory: str) -> None:
        """The worker's time runs from here. Installs signal handlers: one per process."""
        self.verdict: Verdict | None = None
        self._launch = launch
        self._log = log
        self._directory = directory
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        now = time.monotonic()
        self._timeout_at = now + launch.timeout
        self.meter = Meter()
        self._check_at = now + FIRST_CHECK_SECONDS
        self._memory_at = now
        self._kill_at = 0.0
        self._given_up_at = 0.0
        self._child: Child | None = None
        self._status: int | None = None
        self._pipes: dict[int, int] = {}
        self._poll = select.poll()
        self._wake, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._poll.register(self._wake, select.POLLIN)
        self._told = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._look_for_stop()

    def say(self, text: str) -> None:
        """Writes a line of Ottoscaler's own into the worker's log."""
        try:
            self._log.feed(0, b"otto: " + text.encode("utf-8", "replace") + b"\n")
        except LogFailedError as error:
            self._judge("INTERNAL", str(error))

    def run(self, argv: list[bytes], env: dict[bytes, bytes], directory: bytes) -> int | None:
        """Runs a program to its end and everything it left behind to theirs; returns its wait status, or None when a verdict came before
        its start.

        Raises child.StartFailedError, OSError.
        """
        if self.verdict is not None:
            return None
        self._status = None
        child = self._child = start(argv, env, directory, self._launch)
        for stream, pipe in enumerate((child.stdout, child.stderr)):
            self._pipes[pipe] = stream
            self._poll.register(pipe, select.POLLIN)
        self._given_up_at = 0.0
        while True:
            self._keep_limits()
            left = self._reap()
            now = time.monotonic()
            if self._status is not None:
                if not left:
                    break
                if self.verdict is None or now >= self._kill_at:
                    self._kill_everything()
            if 0 < self._given_up_at < now:
                self.say(f"{len(children(os.getpid()))} processes could not be ended: the kernel holds them")
                break
            self._turn(0.02 if self._given_up_at else self._patience())
        self._drain()
        self._child = None
        return self._status

    def pause(self, seconds: float) -> bool:
        """Waits while nothing runs; False as soon as there is a verdict."""
        self._keep_limits()
        if self.verdict is None:
            self._turn(seconds)
            self._keep_limits()
        return self.verdict is None

    def _turn(self, seconds: float) -> None:
        for descriptor, _ in self._poll.poll(max(0, seconds * 1000)):
            if descriptor == self._wake:
                try:
                    os.read(self._wake, 512)
                except BlockingIOError:
                    continue
            else:
                self._read(descriptor)
        if self._told:
            self._told = False
            self._look_for_stop()

    def _read(self, pipe: int) -> bool:
        """Takes in what a pipe holds; False when there is nothing more now, or ever."""
        try:
            chunk = os.read(pipe, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._close(pipe)
            return False
        try:
            self._log.feed(self._pipes[pipe], chunk)
        except LogFailedError as error:
            self._judge("INTERNAL", str(error))
        return True

    def _close(self, pipe: int) -> None:
        self._poll.unregister(pipe)
        del self._pipes[pipe]
        os.close(pipe)

    def _drain(self) -> None:
        """All writers have ended, so what is in the pipes now is all."""
        for pipe in list(self._pipes):
            left = DRAIN_BYTES
            while left > 0 and self._read(pipe):
                left -= READ_BYTES
            if pipe in self._pipes:
                self._close(pipe)
        try:
            self._log.finish()
        except LogFailedError as error:
            self._judge("INTERNAL", str(error))

    def _reap(self) -> bool:
        """Collects ended children; whether any are left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if self._child is not None and pid == self._child.pid:
                self._status = status

    def _patience(self) -> float:
        """Seconds until something is due."""
        times = [self._check_at]
        if self.verdict is None:
            times.append(self._timeout_at)
            if self._launch.memory:
                times.append(self._memory_at)
        elif self._kill_at > 0:
            times.append(self._kill_at)
        return max(0.001, min(times) - time.monotonic())

    def _keep_limits(self) -> None:
        now = time.monotonic()
        if self.verdict is None and now >= self._timeout_at:
            self._judge("TIMEOUT", f"ran longer than {self._launch.timeout:g} s")
        if self.verdict is None and self._launch.memory and now >= self._memory_at:
            over, share = memory_over(os.getpid(), self._launch.memory)
            self._memory_at = now + MEMORY_SECONDS[share > 0.5]
            if over:
                self._judge("OOM_KILLED", f"used more than {_size(self._launch.memory)} of memory")
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            self.meter.measure()
            if os.fstat(self._descriptor).st_nlink == 0 or not os.path.isdir(self._directory):
                self._judge("DELETED", "its directory was deleted while it ran")
            elif os.fstat(self._log.descriptor).st_nlink == 0:
                self._judge("DELETED", "its log file was deleted while it ran")
        if self.verdict is not None and self._status is None and self._child is not None and now >= self._kill_at:
            self._kill_at = now + 0.05
            self._kill_everything()

    def _judge(self, cause: str, message: str) -> None:
        """Begins the end, unless it has begun: gently for a timeout or a request, at once for the rest."""
        if self.verdict is not None:
            return
        self.verdict = Verdict(cause, message)
        gentle = cause in {"TIMEOUT", "CANCELLED", "EVICTED"}
        self._kill_at = time.monotonic() + (self._launch.grace if gentle else 0.0)
        if gentle and self._child is not None and self._status is None:
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: int) -> None:
        assert self._child is not None
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return

    def _kill_everything(self) -> None:
        """SIGKILL to the group while its leader is not collected (so the number is still ours), and to all descendants.

        Those below a killed one become children of this process, and go in the next round at the latest.
        """
        self._given_up_at = self._given_up_at or time.monotonic() + REAP_SECONDS
        if self._status is None:
            self._signal_group(signal.SIGKILL)
        mine = set(children(os.getpid()))
        for pid in descendants(os.getpid()) if self._status is None else mine:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _on_term(self, *_: object) -> None:
        self._told = True

    def _look_for_stop(self) -> None:
        """SIGTERM came, or this is the start: the service leaves its reason before it sends the signal."""
        try:
            reason = (read(self._directory, report.STOP) or "").strip()
        except (UnreadableError, OSError):
            reason = ""  # the service knows why, and says it
        if reason:
            self._judge("CANCELLED", reason)
        elif self._child is not None:
            self._check_at = 0.0
            self._keep_limits()
            self._judge("EVICTED", "its supervisor was told to end from outside (SIGTERM)")


def _size(count: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bytes"
