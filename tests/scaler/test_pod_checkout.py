"""The script of the checkout container, run by real shells with real Git: what test_checkout.py shows of processes holds for pods too."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from otto_scaler.backends.kubernetes import checkout

from .conftest import spec, until
from .test_checkout import Repository, git, plain_http, repository

__all__ = ["plain_http", "repository"]

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


class Place:
    """What a checkout container finds: a workspace that is a volume, a HOME of its own."""

    def __init__(self, root: Path) -> None:
        self.workspace, self.home, self.words = root / "workspace", root / "home", root / "termination-log"
        self.workspace.mkdir()
        self.home.mkdir()
        self.shell = ["sh"]

    def start(self, where: str, commit: str = "", path: str = os.environ["PATH"], attempt: int = 1, **env: str) -> "subprocess.Popen[str]":
        wanted = spec(repository=where, commit=commit, attempt=attempt)
        told = {"OTTO_REPOSITORY": where, "OTTO_COMMIT_SHA": commit, "OTTO_WORKSPACE": str(self.workspace), "HOME": str(self.home)}
        return subprocess.Popen(
            [*self.shell, *checkout.COMMAND[1:]],
            env={"PATH": path, "OTTO_TERMINATION_LOG": str(self.words), **told, **checkout.variables(wanted), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, where: str, commit: str = "", **more: Any) -> "subprocess.CompletedProcess[str]":
        process = self.start(where, commit, **more)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def version(self) -> str:
        return (self.workspace / "version").read_text().strip()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("commit", "version"),
    [("", "3"), ("main", "3"), ("topic/x", "2"), ("v1", "1"), ("first", "1"), ("second", "2"), ("short", "2"), ("refs/tags/v1", "1")],
    ids=["default", "branch", "slashed branch", "tag", "sha", "other sha", "short sha", "full ref"],
)
def test_what_is_asked_for_is_checked_out(place: Place, repository: Repository, shell: str, commit: str, version: str) -> None:
    """A branch, a tag, a commit in full or short, or nothing: the default branch. In every shell that images have."""
    place.shell = [shell, "sh"] if shell == "busybox" else [shell]
    commit = {"first": repository.first, "second": repository.second, "short": repository.second[:9]}.get(commit, commit)
    ended = place.run(str(repository.path), commit)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("otto: checking out ")
    assert place.version == version
    assert git(place.workspace, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"


def test_a_server_that_does_not_give_a_single_commit_gives_all(place: Place, repository: Repository, plain_http: str) -> None:
    """Where a bare commit can't be asked for, everything is fetched and the commit found in it."""
    ended = place.run(plain_http, repository.first)
    assert ended.returncode == 0
    assert place.version == "1"
    assert "fetching all of it" in ended.stdout


@pytest.mark.parametrize(
    ("where", "commit", "words"),
    [
        ("here", "no-such-branch", "no-such-branch"),
        ("here", "0" * 40, "0" * 40),
        ("gone", "", "gone"),
        ("here", "abcdef12", "no such commit"),
    ],
    ids=["no such branch", "no such commit", "no such repository", "no such short commit"],
)
def test_a_failed_checkout_leaves_its_words(place: Place, repository: Repository, where: str, commit: str, words: str) -> None:
    """Git's exit code, and for the worker's error words that name what was asked for; Git's own are in the log."""
    ended = place.run(str(repository.path) if where == "here" else str(place.home / "gone"), commit)
    assert ended.returncode == 128
    assert "fatal: " in ended.stderr
    left = place.words.read_text()
    assert left.startswith("the checkout of ")
    assert words in left


def test_no_git_is_said(place: Place, repository: Repository, tmp_path: Path) -> None:
    """An image without Git gives clear words, and the code of a program that isn't there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "sed"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    ended = place.run(str(repository.path), path=str(tools))
    assert ended.returncode == 127
    assert "there is no git in the image" in place.words.read_text()


def test_it_works_where_a_checkout_is_already(place: Place, repository: Repository) -> None:
    """A second attempt, after a killed one that left its locks and a changed file, gets what it asked for."""
    assert place.run(str(repository.path)).returncode == 0
    (place.workspace / "version").write_text("changed")
    for lock in ("index.lock", "shallow.lock"):
        (place.workspace / ".git" / lock).touch()
    for attempt, commit, version in ((2, repository.first, "1"), (3, repository.second[:8], "2")):
        ended = place.run(str(repository.path), commit, attempt=attempt)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert place.version == version


def test_workers_that_share_a_workspace_check_out_once(place: Place, repository: Repository) -> None:
    """They take turns, and the later ones don't throw away what the first has begun to build."""
    together = [place.start(str(repository.path)) for _ in range(4)]
    said = [process.communicate(timeout=60)[0] for process in together]
    assert [process.returncode for process in together] == [0] * 4
    assert sum("checking out" in words for words in said) == 1
    (place.workspace / "version").write_text("built")
    assert place.run(str(repository.path)).returncode == 0
    assert place.version == "built"


@pytest.mark.parametrize("left", ["mkfifo .git/otto-checkout", "mkdir -p .git/otto-checkout/full", "ln -s /dev/zero .git/otto-checkout"])
def test_what_a_worker_leaves_does_not_hold_the_next_checkout(place: Place, repository: Repository, left: str) -> None:
    """Nothing in the workspace is waited for or believed."""
    assert place.run(str(repository.path)).returncode == 0
    subprocess.run(["sh", "-c", f"rm -rf .git/otto-checkout; {left}"], cwd=place.workspace, check=True)
    assert place.run(str(repository.path)).returncode == 0
    assert (place.workspace / ".git" / "otto-checkout").is_file()


async def test_a_checkout_can_be_stopped(place: Place) -> None:
    """As process 1 of its container it has to listen to SIGTERM itself; Git is stopped with it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = place.start(f"http://127.0.0.1:{silent.getsockname()[1]}/x.git")
        await until((place.workspace / ".git" / "HEAD").exists)
        time.sleep(0.1)
        process.terminate()
        assert process.wait(20) == 143
        os.killpg(process.pid, signal.SIGKILL)  # with process 1 a container's others end
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    "where", ["$(touch owned)", "`touch owned`", "'; touch owned; '", "--upload-pack=touch owned", "ext::sh -c touch% owned"]
)
def test_what_was_asked_for_never_meets_a_shell(place: Place, where: str) -> None:
    """Whatever the repository and the commit are, nothing of them is run."""
    for repository_, commit in ((where, ""), (str(place.home), where)):
        ended = place.run(repository_, commit)
        assert ended.returncode != 0
        assert [path for root in (place.workspace, place.home) for path in root.rglob("owned")] == []


@pytest.mark.parametrize("password", ["hunter2word", "p@ss:hunter2word"])
def test_a_password_in_the_url_is_in_no_words_of_ours(place: Place, password: str) -> None:
    """Neither in the log nor in what the worker's error is made of."""
    ended = place.run(f"http://user:{password}@127.0.0.1:1/x.git")
    assert ended.returncode != 0
    assert "hunter2word" not in ended.stdout
    assert "hunter2word" not in place.words.read_text()
