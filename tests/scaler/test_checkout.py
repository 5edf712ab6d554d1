"""A worker with a repository finds it checked out, before its command runs."""

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from otto_scaler.worker import Cause, State

from .conftest import Rig, process_rig, script, until

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class Repository:
    """Three commits: the first has the tag v1, the second is the head of the branch `topic/x`, the third of main."""

    path: Path
    first: str
    second: str
    third: str


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    path = tmp_path_factory.mktemp("repository")
    git(path, "init", "-q", "-b", "main")
    commits = []
    for number in (1, 2, 3):
        (path / "version").write_text(f"{number}\n")
        git(path, "add", ".")
        git(path, "commit", "-qm", f"commit {number}")
        commits.append(git(path, "rev-parse", "HEAD"))
    git(path, "tag", "-a", "v1", "-m", "one", commits[0])
    git(path, "branch", "topic/x", commits[1])
    return Repository(path, *commits)


@pytest.mark.parametrize(
    ("commit", "version"),
    [("", "3"), ("main", "3"), ("topic/x", "2"), ("v1", "1"), ("first", "1"), ("second", "2"), ("short", "2"), ("refs/tags/v1", "1")],
    ids=["default", "branch", "slashed branch", "tag", "sha", "other sha", "short sha", "full ref"],
)
async def test_what_is_asked_for_is_checked_out(rig: Rig, repository: Repository, commit: str, version: str) -> None:
    """A branch, a tag, a commit in full or short, or nothing: the default branch. Detached, in the working directory."""
    commit = {"first": repository.first, "second": repository.second, "short": repository.second[:9]}.get(commit, commit)
    wanted = script("cat version; git rev-parse --abbrev-ref HEAD", repository=str(repository.path), commit=commit)
    assert (await rig.run(wanted)).state is State.SUCCEEDED
    assert rig.output(wanted).splitlines()[-2:] == [version, "HEAD"]
    assert rig.output(wanted).startswith("otto: checking out ")


async def test_a_file_url_does_it_too(rig: Rig, repository: Repository) -> None:
    """file:// is a repository of this machine."""
    wanted = script("cat version", repository=f"file://{repository.path}", commit=repository.first)
    assert (await rig.run(wanted)).state is State.SUCCEEDED


@pytest.fixture
def plain_http(tmp_path: Path, repository: Repository) -> Iterator[str]:
    """The repository behind a web server that only knows files, so that nothing but whole packs can be fetched from it."""
    bare = tmp_path / "served" / "repo.git"
    bare.parent.mkdir()
    git(tmp_path, "clone", "-q", "--bare", str(repository.path), str(bare))
    git(bare, "update-server-info")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(bare.parent)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/repo.git"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_server_that_does_not_give_a_single_commit_gives_all(rig: Rig, repository: Repository, plain_http: str) -> None:
    """Where a bare commit can't be asked for, everything is fetched and the commit found in it."""
    wanted = script("cat version", repository=plain_http, commit=repository.first)
    assert (await rig.run(wanted)).state is State.SUCCEEDED
    assert rig.output(wanted).splitlines()[-1] == "1"
    assert "fetching all of it" in rig.output(wanted)


@pytest.mark.parametrize(
    ("place", "commit", "words"),
    [("here", "no-such-branch", "no-such-branch"), ("here", "0" * 40, "0" * 40), ("gone", "", "gone"), ("empty", "", "default branch")],
    ids=["no such branch", "no such commit", "no such repository", "empty repository"],
)
async def test_a_failed_checkout_fails_the_worker(rig: Rig, repository: Repository, place: str, commit: str, words: str) -> None:
    """With Git's exit code, words that name what was asked for, and Git's own words in the log; the command does not run."""
    path = {"here": repository.path, "gone": rig.root / "gone", "empty": rig.root / "empty"}[place]
    if place == "empty":
        path.mkdir()
        git(path, "init", "-q")
    wanted = script("echo ran", repository=str(path), commit=commit)
    worker = await rig.run(wanted)
    assert (worker.state, worker.cause, worker.exit_code) == (State.FAILED, Cause.EXIT_CODE, 128)
    assert "checkout" in worker.error
    assert words in worker.error
    assert "fatal: " in rig.output(wanted, "stderr")
    assert "ran" not in rig.output(wanted).splitlines()


async def test_it_works_where_a_checkout_is_already(rig: Rig, repository: Repository) -> None:
    """A second attempt, after a killed one that left its locks and a changed file, gets what it asked for."""
    first = script("echo changed > version; touch .git/index.lock .git/shallow.lock", repository=str(repository.path), workspace="ws")
    await rig.run(first)
    second = script("cat version", repository=str(repository.path), commit=repository.first, workspace="ws", attempt=2)
    assert (await rig.run(second)).state is State.SUCCEEDED
    assert rig.output(second).splitlines()[-1] == "1"
    short = script("cat version", repository=str(repository.path), commit=repository.second[:8], workspace="ws", attempt=3)
    assert (await rig.run(short)).state is State.SUCCEEDED
    assert rig.output(short).splitlines()[-1] == "2"


async def test_files_that_are_there_stay(rig: Rig, repository: Repository) -> None:
    """A workspace that holds something else keeps it beside the checkout."""
    await rig.run(script("echo mine > notes; echo mine > version", task="before", workspace="ws"))
    wanted = script("cat notes version", repository=str(repository.path), workspace="ws")
    await rig.run(wanted)
    assert rig.output(wanted).splitlines()[-2:] == ["mine", "3"]


async def test_workers_that_share_a_workspace_check_out_once(rig: Rig, repository: Repository) -> None:
    """They take turns, and the later ones don't throw away what the first has begun to build."""
    specs = [
        script("echo $OTTO_N >> version; sleep 0.3; wc -l < version", repository=str(repository.path), workspace="ws", index=n)
        for n in (1, 2, 3)
    ]
    await rig.create(*specs)
    for wanted in specs:
        assert (await rig.ends(wanted)).state is State.SUCCEEDED
    assert sum("checking out" in rig.output(wanted) for wanted in specs) == 1
    assert (rig.root / "workspaces" / "ws" / "version").read_text().count("\n") == 4


async def test_the_working_directory_is_in_the_checkout(rig: Rig, repository: Repository, tmp_path: Path) -> None:
    """It need not be there before."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository.path), str(clone))
    (clone / "sub").mkdir()
    (clone / "sub" / "f").write_text("below\n")
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "sub")
    wanted = script("cat f", repository=str(clone), working_directory="sub")
    await rig.run(wanted)
    assert rig.output(wanted).splitlines()[-1] == "below"


async def test_a_checkout_can_be_stopped(rig: Rig, tmp_path: Path) -> None:
    """A stop does not wait for a server that says nothing."""
    silent = await silent_server()
    async with silent[0]:
        wanted = script("echo ran", repository=f"http://127.0.0.1:{silent[1]}/x.git", stop_grace=1.0)
        await rig.create(wanted)
        await until(lambda: (rig.directory(wanted) / "log").exists() and "checking out" in rig.output(wanted))
        await rig.fleet.scale_down("task", 0, "enough")
        worker = await rig.ends(wanted)
        assert (worker.cause, worker.error) == (Cause.CANCELLED, "enough")
        assert "ran" not in rig.output(wanted).splitlines()


async def test_a_timeout_covers_the_checkout(rig: Rig) -> None:
    """A repository that never answers does not hold a worker longer than its timeout."""
    silent = await silent_server()
    async with silent[0]:
        worker = await rig.run(script("echo ran", repository=f"http://127.0.0.1:{silent[1]}/x.git", timeout=0.5, stop_grace=1.0))
        assert worker.cause is Cause.TIMEOUT


async def silent_server() -> tuple["Silent", int]:
    server = Silent()
    return server, server.port


class Silent:
    """A port that takes connections and says nothing."""

    def __init__(self) -> None:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()


async def test_no_helper_program_is_ever_run(rig: Rig, tmp_path: Path) -> None:
    """Even a repository that names one in its configuration is refused by Git itself."""
    wanted = script("echo ran", repository=f"ext::sh -c touch% {tmp_path}/owned")
    worker = await rig.run(wanted)
    assert worker.state is State.FAILED
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("password", ["hunter2word", "p@ss:hunter2word"])
async def test_a_password_in_the_url_is_masked(rig: Rig, password: str) -> None:
    """It is among what the relay masks, and not in our own words, also with an @ in it that nobody has escaped."""
    wanted = script("true", repository=f"http://user:{password}@127.0.0.1:1/x.git")
    worker = await rig.run(wanted)
    assert worker.state is State.FAILED
    assert "hunter2word" not in worker.error
    assert "hunter2word" in (rig.directory(wanted) / "secrets").read_text()
    assert "hunter2word" not in rig.output(wanted)


async def test_no_git_is_said(tmp_path: Path, repository: Repository) -> None:
    """A machine without Git gives clear words."""
    async with process_rig(tmp_path, path="/nonexistent") as rig:
        worker = await rig.run(script("true", repository=str(repository.path)))
        assert (worker.exit_code, worker.cause) == (127, Cause.EXIT_CODE)
        assert "git" in worker.error


@pytest.mark.parametrize("left", ["mkfifo .git/otto-checkout", "mkdir -p .git/otto-checkout/full", "ln -s /dev/zero .git/otto-checkout"])
async def test_what_a_worker_leaves_in_the_workspace_does_not_hold_the_next_checkout(rig: Rig, repository: Repository, left: str) -> None:
    """Nothing there is waited for or believed."""
    first = script(f"rm -rf .git/otto-checkout; {left}", task="first", repository=str(repository.path), workspace="ws")
    assert (await rig.run(first)).state is State.SUCCEEDED
    second = script("cat version", task="second", repository=str(repository.path), workspace="ws")
    assert (await rig.run(second)).state is State.SUCCEEDED
    assert rig.output(second).endswith("3\n")
