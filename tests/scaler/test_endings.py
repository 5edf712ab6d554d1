"""Ends that somebody or something else brings about, on real processes: the true code, the right cause, soon, and nothing left running.

What is asserted of times holds on a machine that is five times slower; `-s` shows those that were measured.
"""

import asyncio
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from otto_scaler.backends.process import processes
from otto_scaler.worker import Cause, State, Worker, WorkerSpec, worker_name

from .conftest import DEFAULT_LIMITS, PYTHON, Rig, delete, kill_workers, process_rig, processes_of, script, spec, until

SOON = 10.0
"""Seconds within which an end is known and nothing is left of it, also on a busy machine; on one with nothing else to do it is 2."""


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Path]:
    """State that outlives services; what runs in it is killed after the test."""
    yield tmp_path
    kill_workers(tmp_path)


# The service is killed while workers end


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3, 4))])
@pytest.mark.slow
async def test_exit_codes_are_true_however_often_the_service_is_killed(root: Path, seed: int) -> None:
    """Killed at random moments while 30 workers are made, run and end: each has run once, and ended as it did."""
    draw = random.Random(seed)
    endings = {f"w{n}": draw.choice([0, draw.randrange(1, 126), 137, 143]) for n in range(30)}
    tasks = [
        f"{task}=echo ran >> {root}/{task}; sleep {draw.uniform(0.0, 6.0):.2f}; "
        + (f"kill -{code - 128} $$" if code > 128 else f"exit {code}")
        for task, code in endings.items()
    ]
    kills = 0
    while kills < 5:
        service = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("service_process.py")), str(root), *tasks, stdout=subprocess.PIPE
        )
        assert service.stdout is not None
        async with asyncio.timeout(60):
            for _ in range(draw.randrange(1, 40)):  # so many events, and some time more
                await service.stdout.readline()
            await asyncio.sleep(draw.uniform(0.0, 0.2))
        service.kill()
        await service.communicate()
        kills += 1
    async with process_rig(root) as rig:
        await rig.create(*(spec(task, command=("never",)) for task in endings if rig.worker(name(task)) is None))
        ended = {task: await rig.ends(name(task)) for task in endings}
    assert {task: worker.exit_code for task, worker in ended.items()} == endings
    assert {task: (root / task).read_text() for task in endings} == dict.fromkeys(endings, "ran\n")
    await until(lambda: not processes_of(root))


def name(task: str) -> str:
    return worker_name(task, "", "", 1, 1)


# What happens to one worker


async def _worker_killed(rig: Rig, wanted: WorkerSpec) -> None:
    os.kill(int((rig.own(wanted) / "work" / "pid").read_text()), signal.SIGKILL)


async def _supervisor_killed(rig: Rig, wanted: WorkerSpec) -> None:
    os.kill(int((rig.directory(wanted) / "supervisor").read_text().split()[0]), signal.SIGKILL)


async def _told(rig: Rig, wanted: WorkerSpec) -> None:
    (rig.own(wanted) / "work" / "go").touch()


async def _directory_deleted(rig: Rig, wanted: WorkerSpec) -> None:
    delete(rig.directory(wanted))


RUNS = "setsid sleep 301 & sleep 302 & echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; "
HOG = f"exec {PYTHON} -c \"x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(60)\""


@pytest.mark.parametrize(
    ("what", "wanted", "cause", "code", "words"),
    [
        (_worker_killed, script(RUNS), Cause.EXIT_CODE, 137, "killed by signal 9 (SIGKILL)"),
        (_supervisor_killed, script(RUNS), Cause.INTERNAL, None, "its supervisor was killed or failed"),
        (_told, script(RUNS + HOG, memory_bytes=100 << 20), Cause.OOM_KILLED, 137, "used more than 100 MiB of memory"),
        (_directory_deleted, script(RUNS), Cause.DELETED, None, "it was deleted from outside"),
    ],
    ids=["killed", "supervisor killed", "out of memory", "directory deleted"],
)
async def test_what_happens_to_a_worker_is_told_by_its_cause(
    rig: Rig, what: Callable[[Rig, WorkerSpec], Awaitable[None]], wanted: WorkerSpec, cause: Cause, code: int | None, words: str
) -> None:
    """Soon, in words, and with everything it has started gone."""
    await rig.create(wanted)
    await rig.runs(wanted)
    await until(lambda: (rig.own(wanted) / "work" / "pid").exists() and (rig.own(wanted) / "work" / "pid").read_text())
    began = time.monotonic()
    await what(rig, wanted)
    worker = await rig.ends(wanted)
    _soon(f"{words}: known after", began)
    assert (worker.state, worker.cause, worker.exit_code, worker.error) == (State.FAILED, cause, code, words)
    await until(lambda: not processes_of(rig.root))
    _soon(f"{words}: nothing left after", began)


async def test_a_worker_over_its_time_is_told_soon_after_it(rig: Rig) -> None:
    """With all that ignores a gentle stop, when its grace is over."""
    wanted = script("trap '' TERM; setsid sleep 301 & while :; do sleep 0.05; done", timeout=0.5, stop_grace=0.1)
    worker = await rig.run(wanted)
    assert (worker.cause, worker.error) == (Cause.TIMEOUT, "ran longer than 0.5 s")
    began = time.monotonic()
    await until(lambda: not processes_of(rig.root))
    _soon(f"timeout of 0.5 s: ended after {(worker.ended - worker.started) / 1e9:.2f} s, nothing left after", began)


async def test_a_stop_that_comes_too_late_changes_no_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It meets a supervisor that has written the end down and is on its way out, where Python lets signals kill again."""
    late = "import os, sys; late = type('Late', (), {'__del__': lambda _, kill=os.kill, own=os.getpid(): kill(own, 15)})(); "
    monkeypatch.setattr(processes, "_PROGRAM", late + processes._PROGRAM)
    worker = await rig.run(script("exit 9"))
    assert (worker.cause, worker.exit_code) == (Cause.EXIT_CODE, 9)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk can't be mounted here: that takes root, and mounting to be allowed")
    try:
        yield disk
    finally:
        kill_workers(disk)
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_is_told_by_whom_it_stops_and_takes_nothing_from_the_others(small_disk: Path) -> None:
    """The one that filled it ends as INTERNAL with the reason; others can be stopped, end as they do, and are known after a restart; what
    can't be made is refused as nobody's fault, until there is room.
    """
    fills = script("while :; do echo 0123456789abcdef0123456789abcdef0123456789abcdef; done", task="fills")
    stopped = script("sleep 300", task="stopped", stop_grace=1.0)
    ends = script("while [ ! -e go ]; do sleep 0.01; done; exit 9", task="ends")
    async with process_rig(small_disk) as rig:
        await rig.create(stopped, ends)
        await rig.runs(stopped)
        await rig.runs(ends)
        began = time.monotonic()
        await rig.create(fills)
        full = await rig.ends(fills)
        _soon("disk full: told after", began)
        assert (full.cause, full.error) == (Cause.INTERNAL, "its log could not be written: No space left on device")
        _fill(small_disk / "rest")
        [refused] = (await rig.create(script("true", task="refused"))).refused
        assert (refused.cause, "No space left on device" in refused.why) == (Cause.INTERNAL, True)
        assert [w.name for w in (await rig.fleet.scale_down("stopped", 0, "enough")).stopping] == [stopped.identity.name]
        assert ((await rig.ends(stopped)).cause, (await rig.ends(stopped)).error) == (Cause.CANCELLED, "enough")
        (small_disk / "rest").rename(rig.own(ends) / "work" / "go")  # a name costs nothing where a file would
        assert (await rig.ends(ends)).exit_code == 9
    await until(lambda: not processes_of(small_disk))
    (rig.own(ends) / "work" / "go").unlink()
    async with process_rig(small_disk) as rig:
        again = {task.identity.task_id: rig.worker(task.identity.name) for task in (fills, stopped, ends)}
        assert {task: worker and (worker.cause, worker.exit_code) for task, worker in again.items()} == {
            "fills": (Cause.INTERNAL, full.exit_code),
            "stopped": (Cause.CANCELLED, 143),
            "ends": (Cause.EXIT_CODE, 9),
        }
        await rig.backend.remove(fills.identity.name)
        await until(lambda: [p.name for p in (small_disk / "workers").glob(".trash-*")] == [] and rig.worker(fills.identity.name) is None)
        assert (await rig.run(script("true", task="refused"))).state is State.SUCCEEDED


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def _soon(what: str, began: float) -> None:
    took = time.monotonic() - began
    print(f"{what} {took:.2f} s")
    assert took < SOON, f"{what} {took:.2f} s"


# Nothing is left


@asynccontextmanager
async def short_lived(root: Path) -> AsyncIterator[Rig]:
    async with process_rig(root, replace(DEFAULT_LIMITS, finished_ttl=0.1)) as rig:
        yield rig


async def _live_and_go(rig: Rig, count: int) -> None:
    for start in range(0, count, 10):
        specs = [script("echo $OTTO_WORKSPACE; exit $((RANDOM % 2))", task=f"t{n}") for n in range(start, start + 10)]
        await rig.create(*specs)
        ended: list[Worker] = [await rig.ends(wanted) for wanted in specs]
        assert await rig.fleet.release([worker.name for worker in ended]) == 10
        await until(partial(_gone, rig, ended))
    await until(lambda: not list((rig.root / "workspaces" / ".own").iterdir()) and {p.name for p in rig.root.iterdir()} >= {"workers"})


def _gone(rig: Rig, workers: list[Worker]) -> bool:
    return all(rig.worker(worker.name) is None for worker in workers)


def _zombies() -> set[str]:
    """Children of this process that have ended and that nobody has waited for."""
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "stat=,pid=,comm="], capture_output=True, text=True, check=False)
    return {line for line in children.stdout.splitlines() if line.startswith("Z")}


def _held(rig: Rig, others: set[str]) -> dict[str, object]:
    """What this process and its workers hold, in numbers; `others` are zombies that earlier tests left."""
    return {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "processes": processes_of(rig.root),
        "zombies": sorted(_zombies() - others),
        "workers": sorted(path.name for path in (rig.root / "workers").iterdir()),
        "workspaces": sorted(path.name for path in (rig.root / "workspaces").rglob("*")),
    }


def _clean(held: dict[str, object]) -> bool:
    """Whether nothing is left of any worker on disk or among the processes."""
    return [held[what] for what in ("processes", "zombies", "workers", "workspaces")] == [[], [], [".lock"], [".own"]]


async def _until_clean(rig: Rig, others: set[str]) -> None:
    try:
        await until(lambda: _clean(_held(rig, others)))
    except TimeoutError:
        pytest.fail(f"left: {_held(rig, others)}")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_three_hundred_workers_leave_nothing(root: Path) -> None:
    """No task, descriptor, process, zombie or directory more than before, and no memory that grows with their number."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # supervisors of earlier tests that a second service adopted, which is nobody's parent
    others = _zombies()
    async with short_lived(root) as rig:
        await _live_and_go(rig, 50)
        gc.collect()
        await _until_clean(rig, others)
        before, resident = _held(rig, others), _resident()
        began = time.monotonic()
        await _live_and_go(rig, 300)
        gc.collect()
        await _until_clean(rig, others)
        assert _held(rig, others) == before
        growth = (_resident() - resident) / 2**20
        print(f"300 workers in {time.monotonic() - began:.1f} s; memory grew by {growth:.2f} MiB")
        assert growth < 4
