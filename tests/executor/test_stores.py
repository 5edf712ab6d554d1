"""What every RunStore promises, on each of them; and what the SQLite file does when something is wrong with it."""

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from otto_executor.definition import Definition
from otto_executor.errors import (
    PipelineExistsError,
    RunUnreadableError,
    SaveConflictError,
    StoreUnavailableError,
    StoreUnusableError,
    WorkspaceGoneError,
)
from otto_executor.progress import Progress
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import Cancellation, fresh
from otto_executor.stage import ExtraContainer, Secret, StageSpec, StageStatus, Worker, WorkerStatus
from otto_executor.stores import Key, RunStore, StoredRun, Workspace
from otto_executor.stores.sqlite import SqliteStore, open_store
from otto_executor.testing.cluster import fake_cluster, real_cluster, store_in, store_over
from otto_executor.testing.store import MemoryStore

CRD = Path(__file__).parents[2] / "charts/ottoscaler/crds/pipelineruns.yaml"
REAL = pytest.param("cluster", marks=[pytest.mark.cluster, pytest.mark.slow])


@pytest.fixture(params=["memory", "sqlite", "kubernetes", REAL])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunStore]:
    if request.param == "cluster":
        if not os.environ.get("OTTO_TEST_KUBECONFIG"):
            pytest.skip("OTTO_TEST_KUBECONFIG names no cluster")
        from ..cluster_report import reported  # here, as a test has this module imported by itself

        async with real_cluster(yaml.safe_load(CRD.read_text())) as client, store_over(client) as kept:
            with reported(client.namespace):
                yield kept
        return
    if request.param == "kubernetes":
        async with fake_cluster() as cluster, store_in(cluster) as kept:
            yield kept
        return
    made: RunStore = MemoryStore() if request.param == "memory" else await open_store(tmp_path / "runs.sqlite")
    yield made
    await made.close()


def record(pipeline_id: str = "p", created_at: float = 1.5) -> StoredRun:
    stage = StageSpec(
        "빌드 / 1",
        depends_on=("x",),
        env={"A": "é"},
        secrets=(Secret("T", "s", "k"),),
        extra_containers=(ExtraContainer("db", env={"B": "c"}),),
    )
    definition = Definition(pipeline_id, name="N", stages=(StageSpec("x"), stage), repository="r", commit_sha="c", triggered_by="t")
    return StoredRun(definition, b"\x00request\xff", fresh(definition, created_at))


def message(sequence: int, *, stage_id: str = "x") -> Progress:
    return Progress(sequence, stage_id, StageStatus.RUNNING, f"message {sequence}", at=2.25, workers=("w",), cause=FailureCause.TIMEOUT)


def ended(run: StoredRun, at: float, status: StageStatus = StageStatus.COMPLETED) -> StoredRun:
    run.state.ended_at, run.state.status = at, status
    return run


async def test_what_was_saved_comes_back_equal(store: RunStore) -> None:
    """Definition, request, state with all its parts, and messages are the same after loading; the loaded copy is independent."""
    run = record()
    await store.create(run, [message(1)])
    stage = run.state.stages["빌드 / 1"]
    stage.workers[2] = Worker("w-2", WorkerStatus.FAILED, 3.5, 137, FailureCause.OOM_KILLED, "words")
    stage.failure = Failure(FailureCause.EXIT_CODE, "exit code 3", 3)
    run.state.cancellation = Cancellation("by kim", 4.0, after_failure=True)
    run.state.sequence = 3
    await store.save(run, [message(2), message(3)], edge=True)
    loaded = await store.load("p")
    assert loaded is not None
    assert loaded == run
    assert await store.progress("p", 0, 10) == [message(1), message(2), message(3)]
    assert await store.progress("p", 1, 1) == [message(2)]
    assert await store.progress("p", 3, 10) == []
    loaded.state.stages["x"].message = "changed"
    assert await store.load("p") == run


async def test_unknown_ids_are_none(store: RunStore) -> None:
    """Nothing is known of a run that was not created."""
    assert await store.load("none") is None
    assert await store.summary("none") is None
    assert await store.progress("none", 0, 10) == []


async def test_an_id_is_used_once(store: RunStore) -> None:
    """A second run of the same id is refused, says whether the first has ended, and changes nothing."""
    run = record()
    await store.create(run, [message(1)])
    with pytest.raises(PipelineExistsError, match="running"):
        await store.create(record(created_at=9.0), [message(1)])
    await store.save(ended(run, 5.0), (), edge=True)
    with pytest.raises(PipelineExistsError, match="ALREADY_COMPLETED"):
        await store.create(record(created_at=9.0), [message(1)])
    assert await store.load("p") == run


async def test_a_stale_save_changes_nothing(store: RunStore) -> None:
    """Who saves a version that somebody else has replaced gets a conflict; neither state nor messages are touched."""
    await store.create(record(), [message(1)])
    mine, other = await store.load("p"), await store.load("p")
    assert mine is not None
    assert other is not None
    await store.save(other, [message(2)], edge=False)
    with pytest.raises(SaveConflictError):
        await store.save(mine, [message(2, stage_id="wrong")], edge=False)
    assert await store.progress("p", 1, 10) == [message(2)]
    with pytest.raises(SaveConflictError):
        await store.save(record("never created"), (), edge=False)


async def test_unfinished_runs_and_workspaces(store: RunStore) -> None:
    """Unfinished runs come oldest first; ended ones are listed with their workspaces until these are deleted."""
    for number, name in enumerate("bac"):
        await store.create(record(name, created_at=float(number)), ())
    run = await store.load("a")
    assert run is not None
    await store.save(ended(run, 7.0), (), edge=True)
    assert await store.unfinished() == ["b", "c"]
    assert await store.workspaces() == [Workspace(7.0, "a", run.definition.workspace)]
    await store.workspace_deleted("a")
    assert await store.workspaces() == []


async def test_a_workspace_is_taken_over_once(store: RunStore) -> None:
    """The new run and the old one's loss of its workspace are kept together, for the first who asks; a run that goes on lends nothing."""
    await store.create(old := record("old"), ())
    taker = replace(record("new").definition, directory=old.definition.workspace, repeats="old")
    new = StoredRun(taker, b"", fresh(taker, 9.0))
    for without in ("old", "never created"):
        with pytest.raises(WorkspaceGoneError):
            await store.create(new, [message(1)], takes_workspace_of=without)
    await store.save(ended(old, 5.0), (), edge=True)
    await store.create(new, [message(1)], takes_workspace_of="old")
    with pytest.raises(WorkspaceGoneError):
        await store.create(record("late"), (), takes_workspace_of="old")
    assert await store.load("late") is None
    assert await store.workspaces() == []
    assert not await store.condemn_workspace("old")
    await store.save(ended(new, 12.0), (), edge=True)
    assert await store.workspaces() == [Workspace(12.0, "new", old.definition.workspace)]
    short = await store.summary("new")
    assert short is not None
    assert short.repeats == "old"


async def test_a_refused_id_takes_no_workspace(store: RunStore) -> None:
    """A run whose id is known is not kept, and the workspace stays with the old run."""
    await store.create(old := record("old"), ())
    await store.save(ended(old, 5.0), (), edge=True)
    await store.create(record("known"), ())
    with pytest.raises(PipelineExistsError):
        await store.create(record("known"), (), takes_workspace_of="old")
    assert await store.workspaces() == [Workspace(5.0, "old", old.definition.workspace)]


async def test_a_condemned_workspace_is_not_taken_over(store: RunStore) -> None:
    """What is about to be deleted stays listed until it is deleted, and nobody gets it; of a run that goes on nothing is condemned."""
    await store.create(old := record("old"), ())
    assert not await store.condemn_workspace("old")
    await store.save(ended(old, 5.0), (), edge=True)
    assert await store.condemn_workspace("old")
    with pytest.raises(WorkspaceGoneError):
        await store.create(record("new"), (), takes_workspace_of="old")
    assert await store.condemn_workspace("old")
    assert len(await store.workspaces()) == 1
    await store.workspace_deleted("old")
    assert await store.workspaces() == []
    assert not await store.condemn_workspace("old")


async def test_pages_are_newest_first_and_undisturbed(store: RunStore) -> None:
    """Paging by key gives each run once, also those of the same moment, though runs are created meanwhile; a filter selects by status."""
    for number in range(7):
        run = record(f"p{number}", created_at=float(number // 2))
        await store.create(run, ())
        if number % 3 == 0:
            await store.save(ended(run, 50.0, StageStatus.FAILED), (), edge=True)
    seen: list[str] = []
    after: Key | None = None
    while page := await store.page((), after, 2):
        seen += [short.pipeline_id for short in page]
        after = Key(page[-1].created_at, page[-1].pipeline_id)
        await store.create(record(f"new{len(seen)}", created_at=100.0), ())
    assert seen == ["p6", "p5", "p4", "p3", "p2", "p1", "p0"]
    assert [short.pipeline_id for short in await store.page((StageStatus.FAILED,), None, 10)] == ["p6", "p3", "p0"]
    assert await store.page((StageStatus.CANCELLED,), None, 10) == []


async def test_old_runs_are_forgotten_but_not_their_workspaces(store: RunStore) -> None:
    """By age and by number, the oldest first; unfinished ones and those with a workspace stay."""
    for number in range(5):
        run = record(f"p{number}", created_at=float(number))
        await store.create(run, [message(1)])
        await store.save(ended(run, float(number)), (), edge=True)
        if number != 0:
            await store.workspace_deleted(f"p{number}")
    await store.create(record("running", created_at=0.0), ())
    assert await store.forget(0.0, 10) == 0
    assert await store.forget(2.0, 10) == 1
    assert await store.forget(0.0, 2) == 1
    assert await store.forget(0.0, 2) == 0
    assert {short.pipeline_id for short in await store.page((), None, 10)} == {"p0", "p3", "p4", "running"}
    assert await store.progress("p1", 0, 10) == []


async def test_a_file_that_is_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second executor on the same file is told so and harms nothing."""
    path = tmp_path / "runs.sqlite"
    first = await open_store(path)
    await first.create(record(), ())
    imports = "import asyncio, pathlib, sys; from otto_executor.stores.sqlite import open_store"
    script = f"{imports}; asyncio.run(open_store(pathlib.Path(sys.argv[1])))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path), stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"is in use by another process" in errors
    await first.workspace_deleted("p")
    await first.close()


async def test_a_killed_process_leaves_everything_it_saved(tmp_path: Path) -> None:
    """After `kill -9` in the middle of writing, the file opens, and what had been answered is there without holes."""
    path = tmp_path / "runs.sqlite"
    script = """
import asyncio, pathlib, sys
sys.path.append(sys.argv[2])  # at the end: requests.py beside it is not the package
from test_stores import message, record
from otto_executor.stores.sqlite import open_store

async def main():
    store = await open_store(pathlib.Path(sys.argv[1]))
    run = record()
    await store.create(run, [message(1)])
    for number in range(2, 100000):
        run.state.sequence = number
        await store.save(run, [message(number)], edge=number % 10 == 0)
        print(number, flush=True)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), str(Path(__file__).parent), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    answered = 0
    while answered < 200:
        answered = int(await process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    answered = int(((await process.stdout.read()).split() or [b"%d" % answered])[-1])
    await process.wait()
    store = await open_store(path)
    run = await store.load("p")
    assert run is not None
    kept = await store.progress("p", 0, 1_000_000)
    assert [p.sequence for p in kept] == list(range(1, run.state.sequence + 1))
    assert run.state.sequence >= answered
    await store.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no database at all, " * 100, "no database of runs"),
        ("CREATE TABLE t (a)", "not one of runs"),
        ("PRAGMA application_id = 1330926671; PRAGMA user_version = 99; CREATE TABLE t (a)", "newer version"),
    ],
    ids=["not a database", "foreign", "newer"],
)
async def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes | str, words: str) -> None:
    """It is refused with what is wrong and what to do, and not a byte of it changes."""
    path = tmp_path / "runs.sqlite"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.executescript(content)
        connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusableError, match=words) as raised:
        await open_store(path)
    assert "OTTO_EXECUTOR_DATABASE" in str(raised.value)
    assert path.read_bytes() == before


async def test_a_directory_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    """The text says which path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusableError, match=r"file/runs\.sqlite can't be opened"):
        await open_store(tmp_path / "file" / "runs.sqlite")


async def test_a_run_that_can_not_be_understood_harms_no_other(tmp_path: Path) -> None:
    """It is told as such; the rest is there."""
    path = tmp_path / "runs.sqlite"
    store = await open_store(path)
    await store.create(record("good"), ())
    await store.create(record("bad"), ())
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE runs SET state = '{\"stages\": 7}' WHERE pipeline_id = 'bad'")
    connection.commit()
    connection.close()
    store = await open_store(path)
    with pytest.raises(RunUnreadableError, match="bad"):
        await store.load("bad")
    assert await store.load("good") is not None
    await store.close()


async def test_a_file_that_is_taken_away_is_told_until_it_is_back(tmp_path: Path) -> None:
    """What is written to a file without a name would be gone with the process, so nothing is, and nobody is told that it was."""
    path = tmp_path / "runs.sqlite"
    store = await open_store(path)
    await store.create(record("before"), [])
    for take_away in (lambda: path.rename(tmp_path / "elsewhere"), lambda: path.write_bytes(b"")):
        take_away()
        with pytest.raises(StoreUnavailableError, match=r"taken away from under the service\. Put its file back where it was, or start"):
            await store.create(record("meanwhile"), [])
    (tmp_path / "elsewhere").replace(path)
    await store.create(record("after"), [])
    await store.close()
    again = await open_store(path)
    assert {one.pipeline_id for one in await again.page((), None, 10)} == {"before", "after"}
    await again.close()


@pytest.mark.parametrize("instead", [None, b"somebody else's"], ids=["nothing", "another file"])
async def test_a_log_that_is_taken_away_costs_nothing(tmp_path: Path, instead: bytes | None) -> None:
    """What only the write-ahead log held, and what is stored after it is gone, is there for the next process after a `kill -9`."""
    path, log = tmp_path / "runs.sqlite", tmp_path / "runs.sqlite-wal"
    store = await open_store(path)
    await store.create(record("before"), [])
    log.rename(tmp_path / "elsewhere")
    if instead is not None:
        log.write_bytes(instead)
    await store.create(record("after"), [])
    await store.create(record("later"), [])
    (tmp_path / "killed").mkdir()
    for file in (path, log):
        shutil.copy(file, tmp_path / "killed" / file.name)
    again = await open_store(tmp_path / "killed" / path.name)
    assert {one.pipeline_id for one in await again.page((), None, 10)} == {"before", "after", "later"}
    await again.close()
    await store.close()


async def test_a_log_that_can_not_be_begun_anew_is_begun_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at that moment makes calls fail as long as it is, and no longer."""

    def refused(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    store = await open_store(tmp_path / "runs.sqlite")
    await store.create(record("before"), [])
    (tmp_path / "runs.sqlite-wal").unlink()
    with monkeypatch.context() as full:
        full.setattr(sqlite3, "connect", refused)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="repeat the call"):
                await store.create(record("meanwhile"), [])
    await store.create(record("after"), [])
    assert {one.pipeline_id for one in await store.page((), None, 10)} == {"before", "after"}
    await store.close()


async def test_a_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    """A write that finds no room raises StoreUnavailableError, changes nothing, and works again when there is room."""
    store = await open_store(tmp_path / "runs.sqlite")
    await store.create(record(), [message(1)])
    run = await store.load("p")
    assert run is not None
    limit(store, 1)
    with pytest.raises(StoreUnavailableError, match=r"the disk is full\. Make room on its disk, and repeat the call") as raised:
        await store.save(run, [message(n, stage_id="x" * 1000) for n in range(2, 60)], edge=True)
    assert "database or disk" not in str(raised.value), "SQLite's words are for our log"
    assert "database or disk" in raised.value.reason
    limit(store, 1_000_000)
    assert await store.progress("p", 1, 10) == []
    await store.save(run, [message(2)], edge=True)
    assert await store.progress("p", 1, 10) == [message(2)]
    await store.close()


def limit(store: SqliteStore, pages: int) -> None:
    """SQLite answers as on a full disk when the file would need more than this many pages (or more than it has)."""
    store._connection.execute(f"PRAGMA max_page_count = {pages}")


async def test_what_is_an_edge_is_on_the_disk_before_it_is_told(tmp_path: Path) -> None:
    """A stage's edges and new runs are synced with each commit, what lies between only when SQLite sees fit."""
    store = await open_store(tmp_path / "runs.sqlite")
    assert isinstance(store, SqliteStore)

    def synchronous() -> str:
        return {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}[store._connection.execute("PRAGMA synchronous").fetchone()[0]]

    run = record()
    await store.create(run, [message(1)])
    assert synchronous() == "FULL"
    await store.save(run, [message(2)], edge=False)
    assert synchronous() == "NORMAL"
    await store.save(run, [message(3)], edge=True)
    assert synchronous() == "FULL"
    await store.close()
