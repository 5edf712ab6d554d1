"""Workers outlive a `kill -9` of the service, and the next one knows them as they are."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otto_scaler.backends.process import environment, finding, processes
from otto_scaler.backends.process.directory import Record, WorkerDirectory
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.opening import process_backend
from otto_scaler.backends.process.own import OwnDirectory
from otto_scaler.backends.process.supervisor import report
from otto_scaler.errors import BackendUnusableError
from otto_scaler.worker import Cause, State, worker_name

from .conftest import Rig, delete, kill_workers, process_rig, processes_of, script, spec, until

pytestmark = pytest.mark.slow


async def service_killed(root: Path, *tasks: str, running: int | None = None) -> None:
    """A service that created these workers and then was killed, after so many (all) of them were running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("service_process.py")), str(root), *tasks, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    wanted = len(tasks) if running is None else running
    seen = 0
    async with asyncio.timeout(15):
        while (line := (await process.stdout.readline()).decode()) != "created\n":
            assert line
        while seen < wanted:
            seen += (await process.stdout.readline()).endswith(b" running\n")
    process.kill()
    await process.wait()


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Path]:
    """State that outlives services; what runs in it is killed after the test."""
    yield tmp_path
    kill_workers(tmp_path)


def name(task: str) -> str:
    return worker_name(task, "", "", 1, 1)


async def test_a_pid_that_is_a_threads_id_by_now_is_nobodys(root: Path) -> None:
    """Numbers come again, also as ids of threads; all workers are known as they are, the one with that pid too."""
    async with process_rig(root) as rig:
        for task in ("one", "other"):
            await rig.run(spec(task))
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert processes.hold(thread.native_id or 0, lambda _: True) is None
        (claim,) = root.glob(f"workers/{name('one')}/supervisor")
        pid, *rest = claim.read_text().split()
        assert pid != str(thread.native_id)
        claim.write_text(" ".join([str(thread.native_id), *rest]))
        async with process_rig(root) as rig:
            assert [(await rig.ends(name(task))).state for task in ("one", "other")] == [State.SUCCEEDED] * 2
    finally:
        over.set()
        thread.join()


async def test_a_running_worker_is_adopted_with_its_true_end(root: Path) -> None:
    """It goes on while no service is there, its whole log is there, and its exit code is its own."""
    await service_killed(root, "task=echo before; while [ ! -e ../../../../go ]; do sleep 0.02; done; echo after; exit 7")
    async with process_rig(root) as rig:
        worker = rig.worker(name("task"))
        assert worker is not None
        assert worker.state is State.RUNNING
        (root / "go").touch()
        ended = await rig.ends(name("task"))
        assert (ended.uid, ended.exit_code, ended.cause) == (worker.uid, 7, Cause.EXIT_CODE)
        assert rig.output(spec("task")) == "before\nafter\n"


async def test_one_that_ended_while_no_service_was_there_is_known(root: Path) -> None:
    """Its end is read from what its supervisor left, to the moment."""
    await service_killed(root, "good=exit 0", "bad=kill -9 $$", running=2)
    await until(lambda: not processes_of(root))
    async with process_rig(root) as rig:
        good, bad = rig.worker(name("good")), rig.worker(name("bad"))
        assert good is not None
        assert bad is not None
        assert (good.state, good.exit_code) == (State.SUCCEEDED, 0)
        assert (bad.state, bad.exit_code, bad.error) == (State.FAILED, 137, "killed by signal 9 (SIGKILL)")
        assert bad.started <= bad.ended


async def test_an_adopted_worker_can_be_stopped(root: Path) -> None:
    """Gently, as any other."""
    await service_killed(root, "task=trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done")
    async with process_rig(root) as rig:
        await until(lambda: "up" in rig.output(spec("task")))
        assert [w.name for w in (await rig.fleet.scale_down("task", 0, "over")).stopping] == [name("task")]
        ended = await rig.ends(name("task"))
        assert (ended.cause, ended.exit_code, ended.error) == (Cause.CANCELLED, 0, "over")
        assert rig.output(spec("task")) == "up\nbye\n"


async def test_a_waiting_worker_waits_again(root: Path) -> None:
    """One that was queued when the service was killed is held still, and gets its turn."""
    await service_killed(root, "task~echo ran", running=0)
    async with process_rig(root) as rig:
        ended = await rig.ends(name("task"))
        assert ended.state is State.SUCCEEDED
        assert rig.output(spec("task")) == "ran\n"


async def test_a_worker_whose_service_was_killed_before_it_ran_is_run_once(root: Path) -> None:
    """Its directory is all that is there: the next service runs it, and a supervisor that comes late does not."""
    directory = WorkerDirectory(root / "workers" / name("task"))
    (root / "workers").mkdir()
    directory.make(Record(script("echo ran >> ../../../../runs; sleep 0.5"), uid="u1", created=1), held=False)
    async with process_rig(root) as rig:
        await rig.runs(name("task"))
    async with process_rig(root) as rig:
        await rig.ends(name("task"))
    assert (root / "runs").read_text() == "ran\n"


async def test_two_supervisors_of_one_worker_run_it_once(root: Path) -> None:
    """The claim decides: the other one ends without having touched anything."""
    directory = WorkerDirectory(root / "workers" / name("task"))
    (root / "workers").mkdir()
    wanted = script("echo ran >> ../../../../runs")
    record = Record(wanted, uid="u1", created=1)
    directory.make(record, held=False)
    surroundings = Surroundings(root, "/usr/bin:/bin", "C.UTF-8")
    own = OwnDirectory(root / "workspaces", "u1")
    own.make()
    started = []
    for _ in range(2):
        told = environment.launch(record, own, own.work, {}, surroundings)
        started.append(processes.spawn(directory.path, told))
    codes = []
    for supervisor, running in started:
        codes.append(os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, supervisor.pid, 0))[1]))
        os.close(running)
        os.close(supervisor.descriptor)
    assert sorted(codes) == [0, 75]
    assert (root / "runs").read_text() == "ran\n"


async def test_a_supervisor_killed_while_no_service_was_there(root: Path) -> None:
    """It left no report: the worker has failed with INTERNAL, what it left is ended, and it stays so."""
    await service_killed(root, "task=setsid sleep 300 & sleep 301")
    claim = (root / "workers" / name("task") / "supervisor").read_text().split()
    os.kill(int(claim[0]), 9)
    async with process_rig(root) as rig:
        ended = await rig.ends(name("task"))
        assert (ended.state, ended.cause) == (State.FAILED, Cause.INTERNAL)
        await until(lambda: not processes_of(root))
    async with process_rig(root) as rig:
        again = rig.worker(name("task"))
        assert again is not None
        assert (again.cause, again.ended) == (Cause.INTERNAL, ended.ended)


async def test_a_pid_that_is_another_process_now_is_not_taken_for_a_supervisor(root: Path) -> None:
    """Start time and boot have to match too; nothing of that process is touched."""
    await service_killed(root, "task=sleep 300")
    directory = root / "workers" / name("task")
    pid, started, boot = (directory / "supervisor").read_text().split()
    os.kill(int(pid), 9)
    bystander = await asyncio.create_subprocess_exec("sleep", "300")
    (directory / "supervisor").write_text(f"{bystander.pid} {started} {boot}\n")
    async with process_rig(root) as rig:
        assert (await rig.ends(name("task"))).cause is Cause.INTERNAL
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def test_a_restart_of_the_machine_is_a_lost_node(root: Path) -> None:
    """What ran then can't run now, whatever has its pid."""
    await service_killed(root, "task=sleep 300")
    claim = root / "workers" / name("task") / "supervisor"
    pid, started, _ = claim.read_text().split()
    while processes_of(root):  # what is just becoming another program is not seen by the first look
        kill_workers(root)
        await asyncio.sleep(0.02)
    claim.write_text(f"{pid} {started} 00000000-0000-0000-0000-000000000000\n")
    async with process_rig(root) as rig:
        ended = await rig.ends(name("task"))
        assert (ended.cause, ended.error) == (Cause.NODE_LOST, "the machine was restarted while it ran")


async def test_a_stop_that_was_noted_but_not_sent_is_sent(root: Path) -> None:
    """A service killed between the two leaves a worker that its successor stops."""
    await service_killed(root, "task=sleep 300")
    report.write_whole(str(root / "workers" / name("task")), report.STOP, "asked for")
    async with process_rig(root) as rig:
        ended = await rig.ends(name("task"))
        assert (ended.cause, ended.error) == (Cause.CANCELLED, "asked for")


async def test_a_directory_deleted_while_no_service_was_there(root: Path) -> None:
    """Its supervisor has ended it by itself; nobody knows of it any more, and nothing is left."""
    await service_killed(root, "task=sleep 300")
    delete(root / "workers" / name("task"))
    async with process_rig(root) as rig:
        assert rig.worker(name("task")) is None
        await until(lambda: not processes_of(root))


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b'{"version": 9}'], ids=["empty", "no fields", "bytes", "other version"])
async def test_a_directory_that_makes_no_sense_is_set_aside(root: Path, content: bytes) -> None:
    """It is reported, not destroyed, and keeps nobody from working, not even the worker in whose place it lies."""
    odd = root / "workers" / name("odd")
    odd.mkdir(parents=True)
    (odd / "spec").write_bytes(content)
    async with process_rig(root) as rig:
        assert (await rig.run(script("exit 0"))).state is State.SUCCEEDED
        assert rig.worker(name("odd")) is None
        assert (await rig.run(spec("odd"))).state is State.SUCCEEDED
    [aside] = (root / "workers").glob(".aside-*")
    assert (aside / "spec").read_bytes() == content


async def test_what_nobody_understands_is_deleted_in_the_end(root: Path) -> None:
    """After a week without a change; what is younger stays to be looked at."""
    for kind in (".aside-otto-", "otto-"):
        for age, days in (("old", 8), ("young", 6)):
            (root / "workers" / f"{kind}{age}").mkdir(parents=True)
            changed = time.time() - days * 86_400
            os.utime(root / "workers" / f"{kind}{age}", (changed, changed))
    async with process_rig(root):
        await until(lambda: {p.name for p in (root / "workers").iterdir()} == {".lock", ".aside-otto-young", "otto-young"})


async def test_a_worker_that_did_not_change_for_a_week_is_adopted(root: Path) -> None:
    """Age makes no worker something that nobody understands: what runs is found running, after a week off or a clock put right."""
    await service_killed(root, "runs=sleep 300", "ended=exit 5")
    await until((root / "workers" / name("ended") / "exit").exists)
    changed = time.time() - 30 * 86_400
    (root / "workers" / "nonsense").mkdir()
    for path in (root / "workers").iterdir():
        os.utime(path, (changed, changed))
    async with process_rig(root) as rig:
        await until(lambda: not (root / "workers" / "nonsense").exists())
        runs, ended = rig.worker(name("runs")), rig.worker(name("ended"))
        assert runs is not None
        assert ended is not None
        assert (runs.state, ended.exit_code) == (State.RUNNING, 5)
        assert {p.name for p in (root / "workers").iterdir()} == {".lock", name("runs"), name("ended")}


async def test_a_worker_that_is_not_known_now_is_not_taken_away(root: Path) -> None:
    """A directory that can be read as a worker's stays, also while nobody has found it, and while the disk can't tell."""
    workers = root / "workers"
    workers.mkdir()
    changed = time.time() - 30 * 86_400
    for kind in ("whole", "broken"):
        WorkerDirectory(workers / name(kind)).make(Record(spec(kind), uid="u1", created=1), held=True)
    (workers / name("broken") / "spec").write_bytes(b"{}")
    for path in workers.iterdir():
        os.utime(path, (changed, changed))
    assert finding.not_understood(workers, {}) == [workers / name("broken")]


async def test_a_clock_that_was_set_ends_no_adopted_worker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set forward while no service was there, by twice what a worker may run, it makes that no older than it is."""
    await service_killed(root, "task=sleep 300")
    limit = json.loads((root / "workers" / name("task") / "spec").read_text())["spec"]["timeout"]
    day = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: day() + int(2 * limit * 10**9))
    async with process_rig(root) as rig:
        watchdog = rig.backend._tending.entries[name("task")].watchdog  # type: ignore[attr-defined]
        assert watchdog.verdict(time.monotonic()) is None
        assert watchdog.verdict(time.monotonic() + limit) == (Cause.TIMEOUT, f"ran longer than {limit:g} s")


async def test_a_supervisor_has_an_age(root: Path) -> None:
    """It is that of its process, which a new service can tell as well as the one that started it."""
    async with process_rig(root) as rig:
        wanted = script("sleep 300")
        before = time.monotonic()
        await rig.create(wanted)
        await rig.runs(wanted)
        supervisor = rig.backend._tending.entries[wanted.identity.name].supervisor  # type: ignore[attr-defined]
        first = supervisor.age()
        await until(lambda: supervisor.age() > first)
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        assert slept > 1 or 0 < supervisor.age() <= time.monotonic() - before + 0.02  # start times are counted in hundredths
        await rig.fleet.scale_down("task", 0, "over")
        await rig.ends(wanted)
        assert supervisor.age() == 0


async def test_an_unreadable_report_is_an_internal_failure(root: Path) -> None:
    """A torn or foreign exit file does not keep the service from starting."""
    await service_killed(root, "task=exit 0")
    await until(lambda: not processes_of(root))
    (root / "workers" / name("task") / "exit").write_text("nonsense")
    async with process_rig(root) as rig:
        worker = rig.worker(name("task"))
        assert worker is not None
        assert (worker.state, worker.cause) == (State.FAILED, Cause.INTERNAL)


async def test_one_scaler_per_directory(root: Path) -> None:
    """A second one is told who is in the way and what to do."""
    async with process_rig(root):
        with pytest.raises(BackendUnusableError, match="in use by another scaler"):
            async with process_backend(root / "workers", root / "workspaces", Surroundings(root, "/bin", "C")):
                pass


async def test_a_place_that_can_not_be_used_is_said(root: Path) -> None:
    """With what to do about it."""
    (root / "file").touch()
    with pytest.raises(BackendUnusableError, match="OTTO_SCALER_WORKERS_DIR"):
        async with process_backend(root / "file" / "workers", root / "workspaces", Surroundings(root, "/bin", "C")):
            pass


async def test_what_was_half_deleted_is_deleted_on(root: Path) -> None:
    """Deleting goes on where the last service was killed."""
    for half in (root / "workers" / ".trash-otto-x", root / "workers" / ".new-otto-y", root / "workspaces" / ".trash-ws"):
        (half / "deep").mkdir(parents=True)
    (root / "workspaces" / ".delete").mkdir()
    (root / "workspaces" / ".delete" / "old").touch()
    (root / "workspaces" / "old").mkdir()
    async with process_rig(root):
        await until(lambda: [p.name for p in (root / "workers").iterdir()] == [".lock"])
        await until(lambda: [p.name for p in (root / "workspaces").iterdir()] == [".delete"])
    assert not list((root / "workspaces" / ".delete").iterdir())


async def test_the_log_of_an_adopted_worker_is_complete(root: Path) -> None:
    """No line is lost or doubled when the service is killed while the worker writes."""
    await service_killed(root, "task=i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; exit 0", running=0)
    async with process_rig(root) as rig:
        await rig.ends(name("task"))
        assert rig.output(spec("task")) == "".join(f"line {n}\n" for n in range(1, 3001))


async def test_the_layout_is_what_the_relay_reads(rig: Rig) -> None:
    """`log` in a directory of the worker's name; no `secrets` where there are none."""
    wanted = script("echo x")
    await rig.run(wanted)
    files = {p.name for p in rig.directory(wanted).iterdir()}
    assert {"log", "spec", "exit", "started", "supervisor"} <= files
    assert "secrets" not in files
    assert json.loads((rig.directory(wanted) / "spec").read_text())["version"] == 1
