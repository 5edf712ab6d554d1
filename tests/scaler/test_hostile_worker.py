"""A worker that turns against what watches over it, as a process of the same user can: it harms nobody but itself, and ends in time."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otto_runtime.times import rfc3339
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.opening import process_backend
from otto_scaler.backends.process.supervisor import report
from otto_scaler.worker import Cause, SecretVariable, State, Worker
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest

from .conftest import DEFAULT_LIMITS, Rig, kill_workers, process_rig, processes_of, script, serving, settings_at, until
from .test_adoption import name, service_killed

pytestmark = pytest.mark.slow

HERE = "D=$OTTO_WORKSPACE/../../../../workers/$OTTO_WORKER_NAME; cd $D || exit 99; "
"""A worker that has found its directory all the same."""
PATIENCE = 1.0


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Rig]:
    """A fleet whose supervisors have little time beyond what they were asked."""
    surroundings = Surroundings(tmp_path / "secrets", os.environ["PATH"], "C.UTF-8", patience=PATIENCE)
    async with process_backend(tmp_path / "workers", tmp_path / "workspaces", surroundings) as backend:
        running = Rig(backend, DEFAULT_LIMITS, tmp_path)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()
    kill_workers(tmp_path)


async def still_works(rig: Rig) -> None:
    """Another worker runs as ever."""
    assert (await rig.run(script("exit 0", task="other"))).state is State.SUCCEEDED


def shown(worker: Worker) -> None:
    """All of it can be told."""
    assert rfc3339(worker.ended)
    assert worker.started == 0 or rfc3339(worker.started)
    assert "codec" not in worker.error
    assert "Errno" not in worker.error


async def test_nothing_that_a_worker_is_told_leads_to_its_directory(rig: Rig) -> None:
    """Neither its variables, nor where it starts, nor what is above its HOME."""
    wanted = script("env; pwd; ls -a $(dirname $HOME); ls -a $(dirname $(dirname $HOME))")
    await rig.run(wanted)
    said = rig.output(wanted)
    assert str(rig.root / "workers") not in said
    assert not {"exit", "supervisor", "stop", "spec", "log"} & set(said.split())


LEFT = [
    "mkfifo exit",
    "mkdir exit",
    "mkdir -p exit/full",
    "ln -s /dev/zero exit",
    "ln -s nowhere exit",
    "printf 'code=0\\ncause=\\nstarted=1\\nended=2\\nmessage=forged\\n' > exit",
    "printf 'code=0\\ncause=\\nstarted=99999999999999999999999999\\nended=999999999999999999999999999\\nmessage=x\\n' > exit",
    "mkfifo .exit",
    "rm -f .exit; mkdir .exit",
    "rm -f .exit; ln -s spec .exit",
    "mkfifo stop",
    "echo 99999999999999999999999999 > started",
    "rm started; mkfifo started",
    "echo 'a b c' > supervisor",
    "rm supervisor; mkdir supervisor",
    "touch held",
    "chmod 0 .",
]


@pytest.mark.parametrize("left", LEFT)
async def test_what_a_worker_leaves_in_its_directory_does_not_change_how_it_ended(rig: Rig, left: str) -> None:
    """Its supervisor has the last word, whatever lies in its way, and others notice nothing."""
    wanted = script(HERE + left + "; exit 7")
    worker = await rig.run(wanted)
    assert (worker.state, worker.exit_code, worker.cause, worker.error) == (State.FAILED, 7, Cause.EXIT_CODE, "exit code 7")
    shown(worker)
    await still_works(rig)
    await rig.stop()
    await rig.start()
    again = rig.worker(wanted.identity.name)
    assert again is not None
    assert (again.exit_code, again.ended) == (7, worker.ended)


SPOILED = [
    "nonsense",
    "code=0\ncause=\nstarted=1\nended=99999999999999999999999999\nmessage=x\n",
    "code=99999999999999\ncause=EXIT_CODE\nstarted=1\nended=2\nmessage=x\n",
    "code=-1\ncause=EXIT_CODE\nstarted=1\nended=2\nmessage=x\n",
    "code=\ncause=\nstarted=1\nended=2\nmessage=x\n",
    "code=1\ncause=NONSENSE\nstarted=1\nended=2\nmessage=x\n",
    "code=1\ncause=EXIT_CODE\nstarted=-1\nended=2\nmessage=x\n",
    "code=1\ncause=EXIT_CODE\nstarted=1_0\nended=2\nmessage=x\n",
    "code=1\ncause=EXIT_CODE\nstarted=1\nended=2\nmessage=\udcff\n",
    "code=1\ncause=EXIT_CODE\nstarted=1\nended=2\nmessage=" + "x" * 100_000,
]


@pytest.mark.parametrize("content", SPOILED, ids=range(len(SPOILED)))
async def test_a_spoiled_report_is_an_internal_failure_in_our_words(tmp_path: Path, content: str) -> None:
    """Found at a start, it is that worker's end alone, can be told to everybody, and stays as it was told first."""
    await service_killed(tmp_path, "task=exit 0")
    await until(lambda: not processes_of(tmp_path))
    (tmp_path / "workers" / name("task") / "exit").write_bytes(os.fsencode(content))
    async with process_rig(tmp_path) as rig:
        worker = rig.worker(name("task"))
        assert worker is not None
        shown(worker)
        assert (worker.state, worker.cause) == (State.FAILED, Cause.INTERNAL)
        assert worker.error == "its end was not recorded well: the file exit in its directory is none of ours"
        await still_works(rig)
    async with process_rig(tmp_path) as rig:
        again = rig.worker(name("task"))
        assert again is not None
        assert (again.cause, again.ended) == (Cause.INTERNAL, worker.ended)


@pytest.mark.parametrize("name_of_file", ["exit", "stop", "started", "supervisor", "spec", "held", "supervisor.err", ".exit"])
async def test_a_pipe_in_the_place_of_any_file_holds_nobody(tmp_path: Path, name_of_file: str) -> None:
    """A service that starts does not wait for a writer, and stops when it is told to."""
    await service_killed(tmp_path, "task=exit 3")
    await until(lambda: not processes_of(tmp_path))
    file = tmp_path / "workers" / name("task") / name_of_file
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    async with asyncio.timeout(15), process_rig(tmp_path) as rig:
        await still_works(rig)


async def test_a_forged_report_of_a_killed_supervisor_is_not_believed(rig: Rig) -> None:
    """Who kills the supervisor can't say how the worker ended."""
    worker = await rig.run(
        script(HERE + "printf 'code=0\\ncause=\\nstarted=1\\nended=2\\nmessage=forged\\n' > exit; kill -9 $PPID; sleep 100")
    )
    assert (worker.state, worker.cause, worker.error) == (State.FAILED, Cause.INTERNAL, "its supervisor was killed or failed")
    await until(lambda: not processes_of(rig.root))


@pytest.mark.parametrize("claim", ["a b c", "1 2 3", "99999999999999999999999 1 x", "1 1 00000000-0000-0000-0000-000000000000", ""])
async def test_a_forged_claim_leaves_nothing_running(rig: Rig, claim: str) -> None:
    """A supervisor that is killed is lost, whatever its worker has written about it, and what is left of the worker is ended."""
    wanted = script(HERE + f"echo '{claim}' > supervisor; (setsid sleep 302 &) ; kill -9 $PPID; sleep 100")
    worker = await rig.run(wanted)
    assert (worker.state, worker.cause) == (State.FAILED, Cause.INTERNAL)
    await until(lambda: not processes_of(rig.root))


@pytest.mark.parametrize("spoil", ["rm supervisor", "echo 1 1 00000000-0000-0000-0000-000000000000 > supervisor", "rm started supervisor"])
async def test_a_worker_without_its_claim_is_adopted_by_its_supervisor_and_not_run_twice(tmp_path: Path, spoil: str) -> None:
    """That the supervisor lives says more than the files do."""
    await service_killed(tmp_path, f"task={HERE} {spoil}; echo ran >> ../../runs; while [ ! -e ../../go ]; do sleep 0.02; done; exit 7")
    await until((tmp_path / "runs").exists)
    async with process_rig(tmp_path) as rig:
        await rig.runs(name("task"))
        (tmp_path / "go").touch()
        assert (await rig.ends(name("task"))).exit_code == 7
    assert (tmp_path / "runs").read_text() == "ran\n"


async def test_a_stopped_supervisor_does_not_stop_the_timeout(impatient: Rig) -> None:
    """The service lets it go on, and it ends its worker."""
    worker = await impatient.run(script("kill -STOP $PPID; sleep 211", timeout=1.0, stop_grace=5.0))
    assert (worker.cause, worker.error) == (Cause.TIMEOUT, "ran longer than 1 s")
    assert worker.exit_code == 143
    await until(lambda: not processes_of(impatient.root))


async def test_a_supervisor_that_is_kept_stopped_is_killed(impatient: Rig) -> None:
    """Then the service ends what is left of the worker, and says why."""
    loop = "trap '' TERM; while :; do kill -STOP $PPID; done"
    worker = await impatient.run(script(loop, timeout=0.5, stop_grace=0.1))
    assert (worker.cause, worker.error, worker.exit_code) == (Cause.TIMEOUT, "ran longer than 0.5 s", None)
    await until(lambda: not processes_of(impatient.root))
    await still_works(impatient)


@pytest.mark.parametrize("obstacle", ["mkdir stop", "mkdir -p stop/full", "mkfifo stop", "ln -s / stop", "chmod 0 .", "kill -STOP $PPID"])
async def test_nothing_keeps_a_worker_from_being_stopped(impatient: Rig, obstacle: str) -> None:
    """It ends as cancelled, for the reason that was given."""
    wanted = script(HERE + obstacle + "; echo up >&2; sleep 211", stop_grace=5.0)
    await impatient.create(wanted)
    await until(lambda: any("up" in p.read_text() for p in impatient.root.glob("workers/*/log")) or "STOP" in obstacle)
    await impatient.runs(wanted)
    await impatient.fleet.scale_down("task", 0, "enough")
    worker = await impatient.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough")
    await until(lambda: not processes_of(impatient.root))


async def test_a_forged_stop_does_not_keep_a_stop_from_being_sent(rig: Rig) -> None:
    """That it was asked to stop the service knows itself."""
    wanted = script(HERE + "echo forged > stop; touch ../ready; sleep 211")
    await rig.create(wanted)
    await until((rig.root / "workers" / "ready").exists)
    await rig.runs(wanted)
    await rig.fleet.scale_down("task", 0, "enough")
    worker = await rig.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough")


SPECS = [
    (b'"index":1', b'"index":99999999999999999999'),
    (b'"attempt":1', b'"attempt":0'),
    (b'"created":', b'"created":9'),
    (b'"timeout":', b'"timeout":1e300,"x":'),
    (b'"workspace":""', b'"workspace":"../../x"'),
    (b'"uid":"', b'"uid":"../'),
    (b'"stage_id":""', b'"stage_id":"' + b"x" * 300_000 + b'"'),
]


@pytest.mark.parametrize(("old", "new"), SPECS, ids=[old.decode() for old, _ in SPECS])
async def test_a_spoiled_spec_is_left_alone(tmp_path: Path, old: bytes, new: bytes) -> None:
    """What no request could have asked for is no worker of ours, and everybody else is served."""
    await service_killed(tmp_path, "task=exit 0")
    await until(lambda: not processes_of(tmp_path))
    file = tmp_path / "workers" / name("task") / "spec"
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new))
    async with process_rig(tmp_path) as rig:
        assert rig.worker(name("task")) is None
        await still_works(rig)


async def test_everybody_is_told_about_everything_whatever_a_worker_left(tmp_path: Path) -> None:
    """Over the wire, before and after a restart: GetWorkerStatus answers, and the server stops when it is told."""
    forged = "printf 'code=99999999999999\\ncause=\\nstarted=1\\nended=99999999999999999999999\\nmessage=x\\n' > exit"
    for attempt in range(2):
        async with asyncio.timeout(60), serving(settings_at(tmp_path)) as (stub, _, _):
            if not attempt:
                for number, command in enumerate((HERE + "mkfifo exit", HERE + forged)):
                    config = {"otto.command": command}
                    await stub.ScaleUp(ScaleRequest(task_id=f"t{number}", worker_count=1, build_config=config))
            while (answer := await stub.GetWorkerStatus(WorkerStatusRequest())).succeeded_count < 2:
                assert answer.failed_count == 0
                await asyncio.sleep(0.02)
            assert answer.total_count == 2


async def test_a_pipe_planted_for_a_waiting_worker_harms_only_it(rig: Rig) -> None:
    """Another one that runs finds the directory of one that waits: starting that one does not hold the service."""
    wanted = script("exit 0")
    await rig.backend.create(wanted, held=True)
    await rig.reaches(wanted, lambda w: w.held)
    os.mkfifo(rig.directory(wanted) / "supervisor.err")
    async with asyncio.timeout(15):
        await rig.backend.start(wanted.identity.name)
    assert (await rig.ends(wanted)).cause is Cause.INTERNAL
    await still_works(rig)


async def test_a_stop_that_can_not_be_written_down_is_one_all_the_same(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor is told to end without a reason that it can read; the service knows it."""
    wanted = script("sleep 211")
    await rig.create(wanted)
    await rig.runs(wanted)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_whole", full)
    await rig.fleet.scale_down("task", 0, "enough")
    worker = await rig.ends(wanted)
    assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough")


async def test_a_pipe_in_the_place_of_a_secret_is_refused(rig: Rig) -> None:
    """Nobody waits until somebody writes into it."""
    (rig.root / "secrets" / "deploy").mkdir(parents=True)
    os.mkfifo(rig.root / "secrets" / "deploy" / "token")
    wanted = script("true", secrets=(SecretVariable("TOKEN", "deploy", "token"),))
    created = await rig.create(wanted)
    assert "can't be read: it is no file" in created.refused[0][1]
    await still_works(rig)


async def test_a_link_in_the_place_of_a_workspace_is_deleted_and_not_what_it_leads_to(rig: Rig) -> None:
    """What a worker has put there in its stead is its own affair."""
    (rig.root / "precious").mkdir()
    (rig.root / "precious" / "file").touch()
    await rig.run(script("cd ..; rmdir ws; ln -s ../precious ws", workspace="ws"))
    await rig.backend.delete_workspace("ws")
    await until(lambda: not [p.name for p in (rig.root / "workspaces").iterdir() if not p.name.startswith(".") or "trash" in p.name])
    assert (rig.root / "precious" / "file").exists()
