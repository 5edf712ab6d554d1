"""What the programs of one worker use: CPU time and memory, measured now and then.

CPU time is that of all descendants, ended ones included: those that were waited for here the kernel adds up for this process, those that
another descendant waited for it adds up for that one.
"""

import os
import resource
import time

from .kernel import descendants, resident_bytes

TICKS = os.sysconf("SC_CLK_TCK")
MICRO = 1_000_000
LEAST_SECONDS = 0.05
"""The kernel counts in hundredths: a shorter interval says nothing."""


class Usage:
    """Cores in millionths, memory in bytes: averages and the most at a time."""

    __slots__ = ("cpu_average", "cpu_peak", "memory_average", "memory_peak")

    def __init__(self, cpu_average: int, cpu_peak: int, memory_average: int, memory_peak: int) -> None:
        self.cpu_average = cpu_average
        self.cpu_peak = cpu_peak
        self.memory_average = memory_average
        self.memory_peak = memory_peak


class Meter:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._began = self._at = time.monotonic()
        self._first = self._cpu = _ended_seconds()
        self._cpu_peak = 0.0
        self._memory = self._times = self._memory_peak = 0

    def measure(self) -> None:
        """Looks at what runs now."""
        before = time.monotonic()
        below = descendants(os.getpid())
        # A process that ends between these two is missed by the first and not yet in the second: such a sum is only smaller, for once.
        cpu = sum(map(running_seconds, below)) + _ended_seconds()
        self._note(cpu, before)
        memory = sum(map(resident_bytes, below))
        if memory:
            self._memory += memory
            self._times += 1
            self._memory_peak = max(self._memory_peak, memory)

    def _note(self, cpu: float, before: float) -> None:
        """`before`: when it was begun to look. The time in between counts in both intervals, so that a busy machine makes no peaks."""
        elapsed = time.monotonic() - self._at
        if elapsed > LEAST_SECONDS and cpu > self._cpu:
            self._cpu_peak = max(self._cpu_peak, (cpu - self._cpu) / elapsed)
        self._cpu, self._at = max(cpu, self._cpu), before

    def usage(self) -> Usage | None:
        """What was used, once everything has ended; None if nothing ran, or had ended before its memory was looked at: that it was 0 would
        count in averages.
        """
        now = time.monotonic()
        cpu = _ended_seconds()
        self._note(cpu, now)
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        # A child begins as a copy of this process: as long as none was larger, that is what the kernel remembers.
        if largest > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
            self._memory_peak = max(self._memory_peak, largest)
        if not self._memory_peak:
            return None
        average = self._memory // self._times if self._times else self._memory_peak
        cores = max(0.0, cpu - self._first) / max(now - self._began, 0.001)
        return Usage(round(cores * MICRO), round(max(cores, self._cpu_peak) * MICRO), average, self._memory_peak)


def _ended_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def running_seconds(pid: int) -> float:
    """CPU time of a process and of those it has waited for; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return sum(map(int, file.read().rpartition(b")")[2].split()[11:15])) / TICKS
    except (OSError, ValueError):
        return 0.0
