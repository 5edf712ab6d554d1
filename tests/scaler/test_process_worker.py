"""A worker of the process backend: what it sees, what becomes of its output, and how it ends."""

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from otto_scaler.worker import Cause, SecretVariable, State

from .conftest import PYTHON, Rig, delete, process_rig, processes_of, script, spec, until


async def test_the_environment_is_clean(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH, HOME, LANG, what was given and OTTO_* variables; nothing of the service's; no open descriptor, no terminal, no input."""
    monkeypatch.setenv("SERVICE_SECRET", "leaked")
    code = (
        "import os,sys,json;"
        "print(json.dumps([dict(os.environ), sorted(os.listdir('/proc/self/fd')), sys.stdin.read(), os.getcwd(),"
        "os.getsid(0)==os.getpid()]))"
    )
    wanted = spec(command=(PYTHON, "-I", "-c", code), env={"GIVEN": "yes", "OTTO_TASK_ID": "task"})
    assert (await rig.run(wanted)).state is State.SUCCEEDED
    environment, descriptors, stdin, directory, leads = json.loads(rig.output(wanted))
    home, own = str(rig.own(wanted) / "home"), str(rig.own(wanted) / "work")
    assert environment == {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "LANG": "C.UTF-8",
        "GIVEN": "yes",
        "OTTO_TASK_ID": "task",
        "OTTO_WORKSPACE": own,
        "OTTO_WORKER_NAME": wanted.identity.name,
    }
    assert descriptors == ["0", "1", "2", "3"]
    assert (stdin, directory, leads) == ("", own, True)
    assert Path(home).is_dir()
    assert not [value for value in environment.values() if str(rig.directory(wanted)) in value]


async def test_signals_are_as_a_program_expects_them(rig: Rig) -> None:
    """Nothing is blocked or ignored, whatever the service and the supervisor do with signals."""
    wanted = spec(command=("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"))
    await rig.run(wanted)
    of_the_c_library = 1 << 31 | 1 << 32  # glibc's posix_spawn ignores its own two, and no program can ask for them
    assert [int(line.split()[1], 16) & ~of_the_c_library for line in rig.output(wanted).splitlines()] == [0, 0]


async def test_both_streams_are_kept_apart(rig: Rig) -> None:
    """Each line says its stream, and a last line without an end is a line."""
    wanted = script("echo one; echo two >&2; printf three")
    await rig.run(wanted)
    assert (rig.output(wanted), rig.output(wanted, "stderr")) == ("one\nthree\n", "two\n")


async def test_stamps_only_grow(rig: Rig) -> None:
    """Every record has a time of its own, so that a reader can resume by it."""
    wanted = spec(command=("seq", "5000"))
    await rig.run(wanted)
    stamps = [line.split(b" ", 1)[0] for line in (rig.directory(wanted) / "log").read_bytes().splitlines()]
    assert len(set(stamps)) == 5000
    assert stamps == sorted(stamps)
    assert all(len(s) == len("2026-11-24T02:00:00.123456789Z") for s in stamps)


async def test_a_line_of_ten_megabytes_comes_whole(rig: Rig) -> None:
    """In parts of at most 16 KiB, the last one marked as the end."""
    wanted = spec(command=(PYTHON, "-c", "import sys; sys.stdout.write('x'*10_000_000+'\\nend\\n')"))
    await rig.run(wanted)
    records = rig.log(wanted)
    assert rig.output(wanted) == "x" * 10_000_000 + "\nend\n"
    assert max(len(content) for _, _, content in records) == 16384
    assert [tag for _, tag, _ in records].count("F") == 2


async def test_any_bytes_come_through(rig: Rig) -> None:
    """NUL, invalid UTF-8, carriage returns: nothing is changed, only line ends divide."""
    wanted = spec(command=(PYTHON, "-c", "import sys; sys.stdout.buffer.write(bytes(range(256))*300)"))
    await rig.run(wanted)
    text = b"".join(content + (b"\n" if tag == "F" else b"") for _, tag, content in rig.log(wanted))
    assert text.removesuffix(b"\n") == (bytes(range(256)) * 300).removesuffix(b"\n")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("sh", "-c", "kill -9 $$"), 137, "killed by signal 9 (SIGKILL)"),
        (("sh", "-c", "kill -SEGV $$"), 139, "killed by signal 11 (SIGSEGV)"),
        (("no-such-program",), 127, "can't start 'no-such-program': not found"),
        (("/etc/passwd",), 126, "can't start '/etc/passwd': Permission denied"),
    ],
    ids=["sigkill", "sigsegv", "not-found", "not-executable"],
)
async def test_a_bad_end_says_how(rig: Rig, command: tuple[str, ...], code: int, words: str) -> None:
    """Signals count as 128 and their number, programs that can't be started as a shell counts them; the words say it."""
    worker = await rig.run(spec(command=command))
    assert (worker.state, worker.cause, worker.exit_code) == (State.FAILED, Cause.EXIT_CODE, code)
    assert worker.error.startswith(words)


async def test_a_working_directory_that_is_not_there_fails(rig: Rig) -> None:
    """It is said, in the status and in the log, instead of starting somewhere else."""
    wanted = spec(working_directory="nowhere")
    worker = await rig.run(wanted)
    assert (worker.exit_code, worker.cause) == (126, Cause.EXIT_CODE)
    assert "nowhere" in worker.error
    assert "nowhere" in rig.output(wanted)


async def test_a_timeout_is_gentle_then_not(rig: Rig) -> None:
    """SIGTERM first; what ends by it has a timeout all the same; what ignores it is killed after its grace."""
    polite = script("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done", task="polite", timeout=0.5, stop_grace=5.0)
    deaf = script("trap '' TERM; echo up; while :; do sleep 0.02; done", task="deaf", timeout=0.5, stop_grace=0.4)
    await rig.create(polite, deaf)
    ended = await rig.ends(polite)
    assert (ended.cause, ended.exit_code, ended.error) == (Cause.TIMEOUT, 0, "ran longer than 0.5 s")
    assert ended.state is State.FAILED
    assert "bye" in rig.output(polite)
    killed = await rig.ends(deaf)
    assert (killed.cause, killed.exit_code) == (Cause.TIMEOUT, 137)
    assert 0.85 <= (killed.ended - killed.started) / 1e9 < 3


async def test_a_stop_lets_the_whole_group_end_within_the_grace(rig: Rig) -> None:
    """`sh -c` dies of SIGTERM at once; the program below it still has its grace to tidy up."""
    # os.write: the signal may come while the main program is still inside its print, and print is not reentrant
    tidy = "time.sleep(0.3), os.write(1, b'tidied\\n'), sys.exit()"
    child = f"import os,signal,sys,time; signal.signal(15, lambda *_: ({tidy})); print('up', flush=True); time.sleep(60)"
    wanted = script(f'{PYTHON} -c "{child}"; true', stop_grace=10.0)
    await rig.create(wanted)
    await until(lambda: (rig.directory(wanted) / "log").exists() and "up" in rig.output(wanted))
    await rig.fleet.scale_down("task", 0, "done")
    ended = await rig.ends(wanted)
    assert (ended.cause, ended.error) == (Cause.CANCELLED, "done")
    assert "tidied" in rig.output(wanted)


async def test_memory_over_the_limit_ends_the_worker(rig: Rig) -> None:
    """The sum over all its processes counts, and it is told as OOM_KILLED."""
    hog = "x = bytearray(60<<20); x[::4096] = b'x'*len(x[::4096]); import time; time.sleep(30)"
    wanted = script(f'{PYTHON} -c "{hog}" & {PYTHON} -c "{hog}" & wait', memory_bytes=100 << 20)
    worker = await rig.run(wanted)
    assert (worker.cause, worker.exit_code, worker.error) == (Cause.OOM_KILLED, 137, "used more than 100 MiB of memory")


async def test_shared_memory_counts_once(rig: Rig) -> None:
    """Forked processes share what they have not written to: together they are far below the limit that their resident sizes add up to."""
    code = (
        "import os,time\nx = bytearray(60<<20); x[::4096] = b'x'*len(x[::4096])\n"
        "for _ in range(3):\n  if os.fork() == 0: time.sleep(1.2); os._exit(0)\n"
        "for _ in range(3): os.wait()"
    )
    worker = await rig.run(spec(command=(PYTHON, "-c", code), memory_bytes=150 << 20))
    assert worker.state is State.SUCCEEDED


async def test_a_cpu_limit_is_whole_cores(rig: Rig) -> None:
    """Half a core is one core; more than there are is all."""
    one = spec("one", command=("nproc",), cpu_cores=0.5)
    many = spec("many", command=("nproc",), cpu_cores=500.0)
    await rig.create(one, many)
    await rig.ends(one)
    await rig.ends(many)
    assert (rig.output(one), rig.output(many)) == ("1\n", f"{len(os.sched_getaffinity(0))}\n")


async def test_nothing_a_worker_starts_outlives_it(rig: Rig) -> None:
    """Background processes, those in sessions of their own, those that lost their parents: all end with the worker."""
    wanted = script("sleep 301 & setsid sleep 302 & (setsid sh -c 'sleep 303 & sleep 304' &) ; sleep 0.3; echo done")
    await rig.run(wanted)
    assert processes_of(rig.root) == []


async def test_a_background_process_that_holds_the_output_does_not_hold_the_worker(rig: Rig) -> None:
    """The worker ends when its command does."""
    began = time.monotonic()
    await rig.run(script("sleep 60 & echo started"))
    assert time.monotonic() - began < 10


async def test_closed_output_is_no_end(rig: Rig) -> None:
    """A program that closes its output runs on, and its code counts."""
    worker = await rig.run(script("exec >&- 2>&-; sleep 0.3; exit 4"))
    assert worker.exit_code == 4


async def test_secrets_reach_the_worker_and_nobody_else(rig: Rig) -> None:
    """As variables, without the newline that editors add; to be masked; private on disk; not in the spec."""
    file = rig.root / "secrets" / "deploy" / "token"
    file.parent.mkdir(parents=True)
    file.write_text("s3cr3t value\n")
    wanted = script('printf %s "$TOKEN" | wc -c', secrets=(SecretVariable("TOKEN", "deploy", "token"),))
    worker = await rig.run(wanted)
    assert worker.state is State.SUCCEEDED
    assert rig.output(wanted).strip() == str(len("s3cr3t value"))
    kept = rig.directory(wanted) / "secrets"
    assert json.loads(kept.read_text()) == ["s3cr3t value"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(rig.directory(wanted).stat().st_mode) == 0o700
    others = [p for p in rig.directory(wanted).iterdir() if p.is_file() and p.name != "secrets"]
    assert not [p.name for p in others if b"s3cr3t" in p.read_bytes()]


async def test_workers_share_a_workspace_by_its_name(rig: Rig) -> None:
    """One writes, the other reads, each starting in it, or below it."""
    first = script("mkdir sub; echo hello > sub/file; pwd", task="first", workspace="ws-1")
    second = script("cat file; echo $OTTO_WORKSPACE", task="second", workspace="ws-1", working_directory="sub")
    await rig.run(first)
    await rig.run(second)
    shared = rig.root / "workspaces" / "ws-1"
    assert rig.output(first) == f"{shared}\n"
    assert rig.output(second) == f"hello\n{shared}\n"


async def test_a_deleted_directory_is_a_deleted_worker(rig: Rig) -> None:
    """Its processes are gone, and it has failed with DELETED."""
    wanted = script("sleep 300")
    await rig.create(wanted)
    await rig.runs(wanted)
    delete(rig.directory(wanted))
    worker = await rig.ends(wanted)
    assert (worker.state, worker.cause) == (State.FAILED, Cause.DELETED)
    await until(lambda: not processes_of(rig.root))


async def test_a_deleted_log_is_a_deleted_worker(rig: Rig) -> None:
    """Nobody could read what it says any more, so it does not go on."""
    wanted = script("sleep 300")
    await rig.create(wanted)
    await rig.runs(wanted)
    (rig.directory(wanted) / "log").unlink()
    worker = await rig.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.DELETED, "its log file was deleted while it ran")


async def test_a_killed_supervisor_is_an_internal_failure(rig: Rig) -> None:
    """What it watched over is ended too, also what had left the group, and the words say so."""
    wanted = script("setsid sleep 301 & sleep 302")
    await rig.create(wanted)
    await rig.runs(wanted)
    await until(lambda: len(processes_of(rig.root)) >= 4)
    pid = int((rig.directory(wanted) / "supervisor").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    worker = await rig.ends(wanted)
    assert (worker.state, worker.cause) == (State.FAILED, Cause.INTERNAL)
    assert "supervisor" in worker.error
    await until(lambda: not processes_of(rig.root))


async def test_a_supervisor_told_to_end_from_outside_ends_its_worker_gently(rig: Rig) -> None:
    """SIGTERM to the supervisor without a request, as a machine that shuts down sends it: EVICTED, which is worth another try elsewhere."""
    wanted = script("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done")
    await rig.create(wanted)
    await until(lambda: (rig.directory(wanted) / "log").exists() and "up" in rig.output(wanted))
    os.kill(int((rig.directory(wanted) / "supervisor").read_text().split()[0]), signal.SIGTERM)
    worker = await rig.ends(wanted)
    assert (worker.cause, worker.exit_code) == (Cause.EVICTED, 0)
    assert rig.output(wanted).endswith("bye\n")


async def test_a_full_disk_ends_the_worker_with_a_cause(rig: Rig) -> None:
    """A log that can't be written is told; the worker does not run on unseen, and nothing hangs."""
    wanted = script("while :; do echo x; done")
    await rig.backend.create(wanted, held=True)
    await rig.reaches(wanted, lambda w: w.held)
    (rig.directory(wanted) / "log").symlink_to("/dev/full")
    await rig.backend.start(wanted.identity.name)
    worker = await rig.ends(wanted)
    assert (worker.state, worker.cause) == (State.FAILED, Cause.INTERNAL)
    assert worker.error == "its log could not be written: No space left on device"


async def test_a_hundred_workers_run_at_once(rig: Rig) -> None:
    """All start, all are stopped, nothing is left of them."""
    specs = [script("sleep 300", task="many", index=n, count=100) for n in range(1, 101)]
    created = await rig.create(*specs)
    assert len(created.created) == 100
    for wanted in specs:
        await rig.runs(wanted)
    await rig.fleet.scale_down("many", 0, "")
    for wanted in specs:
        assert (await rig.ends(wanted)).cause is Cause.CANCELLED
    await until(lambda: not processes_of(rig.root))


async def test_a_stop_right_after_the_start_is_not_lost(rig: Rig) -> None:
    """Whatever the supervisor has come to by then, the worker ends as cancelled."""
    for n in range(8):
        wanted = script("sleep 300", task=f"quick-{n}")
        await rig.create(wanted)
        if n % 2:
            await rig.runs(wanted)
        await rig.fleet.scale_down(f"quick-{n}", 0, "changed my mind")
        worker = await rig.ends(wanted)
        assert (worker.cause, worker.error) == (Cause.CANCELLED, "changed my mind")


async def test_a_removed_worker_leaves_nothing_on_disk(rig: Rig) -> None:
    """Also where it has made its files read-only."""
    wanted = script("mkdir -p d/e && touch d/e/f && chmod 500 d/e d", workspace="")
    await rig.run(wanted)
    await rig.backend.remove(wanted.identity.name)
    await until(lambda: [p.name for p in (rig.root / "workers").iterdir()] == [".lock"])
    workspaces = rig.root / "workspaces"
    await until(lambda: [path.name for path in workspaces.iterdir()] == [".own"] and not any((workspaces / ".own").iterdir()))


async def test_a_request_for_another_path_is_kept(tmp_path: Path) -> None:
    """PATH is the setting's, and what was given wins over it."""
    async with process_rig(tmp_path, path="/usr/bin:/bin") as rig:
        await rig.run(plain := script("echo $PATH", task="plain"))
        await rig.run(given := script("echo $PATH", task="given", env={"PATH": "/bin"}))
        assert (rig.output(plain), rig.output(given)) == ("/usr/bin:/bin\n", "/bin\n")
