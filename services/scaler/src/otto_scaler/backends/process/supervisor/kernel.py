"""What the supervisor asks of Linux: adopt orphans, die with a parent, brand processes, know all descendants and their memory."""

import ctypes
import os
import resource

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
RLIMIT_LOCKS = 10
"""A limit that Linux has not looked at since 2.4, but hands down to every process (setrlimit(2)): it holds the brand."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_prctl.restype = ctypes.c_int


def adopt_orphans() -> None:
    """From now on descendants whose parents end become children of this process, whatever sessions they made."""
    if _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "can't become a subreaper")


def die_with_parent(signal_number: int) -> None:
    """This process gets a signal when its parent ends."""
    if _prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "can't ask for the parent-death signal")


def brand(value: int) -> None:
    """Marks this process and all it will ever start with a number, which neither setsid nor an empty environment takes off. 0: nothing."""
    if value:
        _, most = resource.getrlimit(RLIMIT_LOCKS)
        try:
            resource.setrlimit(RLIMIT_LOCKS, (value, most))
        except (OSError, ValueError):
            pass  # some sandboxes keep no such limit; then the environment has to tell


def brand_of(pid: int) -> int:
    """What a process is branded with; 0 if it isn't there or not ours to ask, or some other number. Opens nothing."""
    try:
        return resource.prlimit(pid, RLIMIT_LOCKS)[0]
    except (OSError, ValueError):
        return 0


def limit_descriptors(count: int) -> None:
    """How many files this process and those it starts may have open; 0: as it is."""
    if count:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))
        except (OSError, ValueError):
            pass  # more than is allowed now: what there is has to do


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads; none if it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass  # a process that ended meanwhile has no children
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one, parents first."""
    found = children(pid)
    for child in found:
        found += children(child)
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; pages that it shares with others count in each. 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def proportional_bytes(pid: int) -> int:
    """Resident memory of a process; of pages shared by n only an nth. Costs some ms for a big process. 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError):
        pass
    return 0


def memory_over(pid: int, limit: int) -> tuple[bool, float]:
    """Whether all descendants of `pid` together use more than `limit` bytes, and about how much of it (1.0: all).

    Resident sizes count what forked workers share many times, so only their sum being over is a reason to count exactly.
    """
    below = descendants(pid)
    share = sum(map(resident_bytes, below)) / limit
    if share <= 1.0:
        return False, share
    exact = sum(map(proportional_bytes, below)) / limit
    return exact > 1.0, exact
