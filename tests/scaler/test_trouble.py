"""What breaks around the process backend: descriptors, disks, supervisors. One worker's trouble is nobody else's."""

import asyncio
import contextvars
import errno
import os
import resource
import signal
import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from otto_scaler.app import scaler_component
from otto_scaler.backends.process import processes
from otto_scaler.backends.process.directory import WorkerDirectory
from otto_scaler.backends.process.supervisor import entry, launch, report
from otto_scaler.backends.process.supervisor.cri import CriLog, LogFailedError
from otto_scaler.worker import Cause, State, WorkerSpec, task_workspace

from .conftest import DEFAULT_LIMITS, PYTHON, Rig, process_rig, processes_of, script, settings_at, spec, until

pytestmark = pytest.mark.slow


def supervisor_of(rig: Rig, wanted: WorkerSpec) -> int:
    return int((rig.directory(wanted) / "supervisor").read_text().split()[0])


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Within, this process can open no more files, sockets or pidfds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# What can't be read or opened now


async def test_an_end_that_could_not_be_read_is_read_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails once does not lose how a worker ended."""
    wanted = script("while [ ! -e ../go ]; do sleep 0.01; done; exit 3")
    await rig.create(wanted)
    await rig.runs(wanted)
    failed = []

    def broken(_directory: str) -> None:
        failed.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(report, "read_ending", broken)
        (rig.own(wanted) / "go").touch()
        await until(lambda: failed and not processes_of(rig.root))
    worker = await rig.ends(wanted)
    assert (worker.state, worker.exit_code, worker.cause) == (State.FAILED, 3, Cause.EXIT_CODE)


async def test_without_descriptors_ends_are_waited_for_and_starts_are_refused(rig: Rig) -> None:
    """Nothing ends but what was asked for: the fleet goes on when there are descriptors again."""
    runs = script("while [ ! -e ../go ]; do sleep 0.01; done; exit 4", task="runs")
    await rig.create(runs)
    await rig.runs(runs)
    with no_descriptors_left():
        (rig.own(runs) / "go").mkdir()
        refused = (await rig.create(script("true", task="refused"))).refused
        await asyncio.sleep(1.0)  # whatever notices the end now has no descriptor to read it with
    assert [refusal.cause for refusal in refused] == [Cause.INTERNAL]
    assert "Too many open files" in refused[0].why
    ended = await rig.ends(runs)
    assert (ended.exit_code, ended.cause) == (4, Cause.EXIT_CODE)
    assert (await rig.run(script("true", task="after"))).state is State.SUCCEEDED


async def test_a_living_supervisor_that_can_not_be_looked_at_is_not_taken_for_dead(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found at a start without descriptors, a worker is looked at again, not mourned."""
    wanted = script("sleep 300")
    await rig.create(wanted)
    await rig.runs(wanted)
    await rig.stop()
    found = processes.find
    asked = []

    def scarce(claim: tuple[int, int, str], name: str) -> processes.Supervisor | None:
        asked.append(claim)
        if len(asked) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return found(claim, name)

    monkeypatch.setattr(processes, "find", scarce)
    await rig.start()
    await until(lambda: len(asked) == 3)
    worker = rig.worker(wanted.identity.name)
    assert worker is not None
    assert worker.state is State.RUNNING
    await rig.fleet.scale_down("task", 0, "over")
    assert (await rig.ends(wanted)).cause is Cause.CANCELLED


async def test_more_workers_than_files_are_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With what to do, before the first of them fails."""
    async with scaler_component(settings_at(tmp_path, max_workers=100), "127.0.0.1:1"):
        assert not [record for record in caplog.records if record.message == "scaler.descriptors_few"]
    async with scaler_component(settings_at(tmp_path, max_workers=100_000), "127.0.0.1:1"):
        [few] = [record for record in caplog.records if record.message == "scaler.descriptors_few"]
    assert vars(few)["limit"] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


# Supervisors that are lost


async def test_what_hides_from_its_environment_and_session_is_ended_too(rig: Rig) -> None:
    """Before anybody hears that the worker has failed: an empty environment, a session of its own, no parent."""
    hidden = "env -i setsid sh -c 'echo $$ >> pids; while :; do sleep 0.05; done'"
    wanted = script(f"{hidden} & (env -i {hidden} &); echo $$ >> pids; sleep 300")
    await rig.create(wanted)
    await rig.runs(wanted)
    pids = rig.own(wanted) / "work" / "pids"
    await until(lambda: pids.exists() and len(pids.read_text().split()) == 3)
    os.kill(supervisor_of(rig, wanted), signal.SIGKILL)
    worker = await rig.ends(wanted)
    alive = [
        pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists() and b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    ]
    assert alive == []
    assert (worker.cause, worker.error) == (Cause.INTERNAL, "its supervisor was killed or failed")


async def test_many_lost_supervisors_cost_one_look_at_the_machine(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that look is taken in a thread: calls are answered meanwhile."""
    specs = [script("sleep 300", task="many", index=n, count=20) for n in range(1, 21)]
    await rig.create(*specs)
    for wanted in specs:
        await rig.runs(wanted)
    looks: list[int] = []
    look = processes.end_leftovers

    def counted(traces: Collection[processes.Trace]) -> object:
        assert threading.current_thread() is not threading.main_thread()
        looks.append(len(traces))
        return look(traces)

    monkeypatch.setattr(processes, "end_leftovers", counted)
    supervisors = [supervisor_of(rig, wanted) for wanted in specs]
    for pid in supervisors:
        os.kill(pid, signal.SIGSTOP)
    for pid in supervisors:
        os.kill(pid, signal.SIGKILL)
    for wanted in specs:
        assert (await rig.ends(wanted)).cause is Cause.INTERNAL
    assert sum(looks) == 20
    assert len(looks) < 10
    await until(lambda: not processes_of(rig.root))


async def test_what_is_left_is_looked_for_again_when_that_failed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is not said to have ended before."""
    wanted = script("sleep 300")
    await rig.create(wanted)
    await rig.runs(wanted)
    look = processes.end_leftovers
    fails: list[int] = []

    def failing(traces: Collection[processes.Trace]) -> object:
        if len(fails) < 2:
            fails.append(1)
            raise OSError(errno.EMFILE, "Too many open files")
        return look(traces)

    monkeypatch.setattr(processes, "end_leftovers", failing)
    os.kill(supervisor_of(rig, wanted), signal.SIGKILL)
    assert (await rig.ends(wanted)).cause is Cause.INTERNAL
    assert len(fails) == 2


async def test_what_a_supervisor_raised_is_told_in_our_log_only(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients get the cause; an error of the system in the system's words."""
    full, broken = script("true", task="full"), script("true", task="broken")
    await rig.backend.create(full, held=True)
    await rig.reaches(full, lambda w: w.held)
    (rig.directory(full) / "log").mkdir()
    await rig.backend.start(full.identity.name)
    ended = await rig.ends(full)
    assert (ended.cause, ended.error) == (Cause.INTERNAL, "its supervisor failed: Is a directory")
    monkeypatch.setattr(launch, "encode", lambda _: b"private=1\0")
    ended = await rig.run(broken)
    assert (ended.cause, ended.error) == (Cause.INTERNAL, "its supervisor was killed or failed")
    told = {record.message: vars(record) for record in caplog.records}
    assert "Is a directory" in told["scaler.worker.supervisor_failed"]["last_words"]
    assert "KeyError" in told["scaler.worker.supervisor_lost"]["last_words"]


def test_what_a_supervisor_does_not_understand_has_an_id(capsys: pytest.CaptureFixture[str]) -> None:
    """By which what happened is found in what it left, and by nobody else."""
    words = entry._failed(KeyError("private"))
    error_id = words.removeprefix("its supervisor failed: the service's log has it under id ")
    assert len(error_id) == 8
    assert f"error id {error_id}: KeyError: 'private'" in capsys.readouterr().err


# Full disks


async def test_a_stop_reaches_a_worker_on_a_full_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new has to be written for it, nor for how the worker ends."""
    wanted = script("sleep 300")
    await rig.create(wanted)
    await rig.runs(wanted)
    reserved = (rig.directory(wanted) / ".exit").stat()
    for_a_stop = (rig.directory(wanted) / ".stop").stat()

    def full(_directory: str, _name: str, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_beside", full)
    assert [w.name for w in (await rig.fleet.scale_down("task", 0, "enough")).stopping] == [wanted.identity.name]
    worker = await rig.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough")
    assert reserved.st_blocks > 0
    assert (rig.directory(wanted) / "stop").stat().st_ino == for_a_stop.st_ino
    assert (rig.directory(wanted) / "exit").stat().st_ino == reserved.st_ino


def test_a_log_on_a_full_disk_is_never_shortened(tmp_path: Path) -> None:
    """A reader that has read a torn record finds its rest behind it, and whatever follows after that."""
    path = tmp_path / "log"
    log = CriLog(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    room = [100]

    def write(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(room[0], len(data))
        room[0] -= count
        return real(descriptor, data[:count])

    real = os.write
    lines = [b"x" * 50 + b" %d" % n for n in range(6)]
    os.write = write  # type: ignore[assignment]
    try:
        with pytest.raises(LogFailedError, match="No space left on device"):
            log.feed(0, b"\n".join(lines[:2]) + b"\n")
        seen = path.read_bytes()
        with pytest.raises(LogFailedError):
            log.feed(0, lines[2] + b"\n")
        assert path.read_bytes() == seen
        room[0] = 10_000
        log.feed(1, b"\n".join(lines[3:]) + b"\n")
        log.finish()
    finally:
        os.write = real
        os.close(log.descriptor)
    assert len(seen) == 100
    assert path.read_bytes().startswith(seen)
    assert [line.split(b" ", 3)[3] for line in path.read_bytes().splitlines()] == lines


# What belongs to whom


async def test_a_task_takes_its_shared_workspace_with_it(tmp_path: Path) -> None:
    """With its last worker; one that was named is left to whoever named it."""
    shared = task_workspace("task")
    async with process_rig(tmp_path, replace(DEFAULT_LIMITS, finished_ttl=0.05)) as rig:
        first = script("touch made", index=1, count=2, workspace=shared)
        second = script("while [ ! -e ../../go ]; do sleep 0.01; done", index=2, count=2, workspace=shared)
        named = script("touch made", task="other", workspace="task-named")
        await rig.create(first, second, named)
        await rig.ends(named)
        await rig.ends(first)
        await rig.fleet.release([first.identity.name, named.identity.name])
        await until(lambda: rig.worker(first.identity.name) is None and rig.worker(named.identity.name) is None)
        assert (tmp_path / "workspaces" / shared / "made").exists()
        (tmp_path / "go").touch()
        await rig.ends(second)
        await rig.fleet.release([second.identity.name])
        await until(lambda: not (tmp_path / "workspaces" / shared).exists())
        assert (tmp_path / "workspaces" / "task-named" / "made").exists()


async def test_a_worker_gets_the_descriptors_it_would_have_had(tmp_path: Path) -> None:
    """However many the service allows itself: programs that look at each they might have would take long."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with process_rig(tmp_path) as rig:
        tending = rig.backend._tending  # type: ignore[attr-defined]
        tending._surroundings = replace(tending._surroundings, descriptors=123)
        wanted = spec(command=(PYTHON, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"))
        await rig.run(wanted)
        assert rig.output(wanted) == f"(123, {hard})\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


async def test_what_follows_a_worker_does_not_belong_to_the_call_that_made_it(rig: Rig) -> None:
    """Its end is logged without the call's fields."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("call", default="none")
    heard: list[str] = []
    tending = rig.backend._tending  # type: ignore[attr-defined]
    note_over = tending.note_over

    def listening(ended: object) -> None:
        heard.append(variable.get())
        note_over(ended)

    tending.note_over = listening
    variable.set("ScaleUp")
    await rig.run(script("true"))
    assert heard == ["none"]


async def test_a_directory_is_made_with_the_space_its_end_will_need(tmp_path: Path) -> None:
    """Also that of a worker that will never have a supervisor: noting that it was stopped takes nothing more."""
    async with process_rig(tmp_path) as rig:
        wanted = script("true")
        await rig.backend.create(wanted, held=True)
        await rig.reaches(wanted, lambda w: w.held)
        reserved = (rig.directory(wanted) / ".exit").stat()
        assert reserved.st_blocks > 0
        assert stat.S_IMODE(reserved.st_mode) == 0o600
        await rig.backend.stop(wanted.identity.name, "not needed")
        assert (rig.directory(wanted) / "exit").stat().st_ino == reserved.st_ino
    assert WorkerDirectory(rig.directory(wanted)).ending() is not None
