"""Deleting and threads of the process backend: whatever fails or hangs there keeps nobody else."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otto_scaler.backends.process.threads import Threads
from otto_scaler.backends.process.trash import Trash, delete_tree
from otto_scaler.worker import Cause, State

from .conftest import Rig, script, until

pytestmark = pytest.mark.slow


def test_a_tree_of_any_depth_is_deleted(tmp_path: Path) -> None:
    """Deeper than a path can be long and a stack can be high, read-only on every level, with links that are not followed."""
    top, outside = tmp_path / "top", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    opened = [here]
    for _ in range(1200):
        os.mkdir("d" * 20, dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.symlink(outside, "link", dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.fchmod(here, 0o500)
        os.close(here)
        here = below
    os.close(here)
    opened.clear()
    delete_tree(top)
    assert not top.exists()
    assert (outside / "kept").exists()


def test_what_can_not_be_deleted_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest goes, and the error is raised."""
    for name in ("a", "b", "c"):
        (tmp_path / "top" / name / "deep").mkdir(parents=True)
    rmdir = Path.rmdir

    def held(path: Path) -> None:
        if path.name == "b":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", held)
    with pytest.raises(OSError, match="busy"):
        delete_tree(tmp_path / "top")
    assert [path.name for path in (tmp_path / "top").iterdir()] == ["b"]


async def test_deleting_goes_on_after_any_error_and_stops_between_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one tree brings about, the next is deleted; a stop does not wait for a large one."""
    trash = Trash()
    for name in ("bad", "good", "large"):
        (tmp_path / name).mkdir()
    for n in range(200):
        (tmp_path / "large" / str(n)).touch()
    unlink, chmodded, slow = Path.unlink, Path.chmod, threading.Event()

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        slow.set()
        time.sleep(0.05)
        unlink(path, missing_ok)

    def chmod(path: Path, mode: int) -> None:
        if path.name == "bad":
            raise RecursionError("maximum recursion depth exceeded")
        chmodded(path, mode)

    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(Path, "chmod", chmod)
    running = asyncio.create_task(trash.run())
    for name in ("bad", "good", "large"):
        trash.put(tmp_path / name)
    await until(slow.is_set)
    assert not (tmp_path / "good").exists()
    running.cancel()
    await asyncio.wait({running})
    await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("delete")])
    assert len(list((tmp_path / "large").iterdir())) > 100


async def test_a_thread_that_hangs_holds_nobody_up() -> None:
    """It is given up by who waits for it, the others work on, and the process could end: it is a daemon."""
    threads = Threads("test", 2)
    hang = threading.Event()
    hanging = asyncio.create_task(threads.run(hang.wait))
    await until(lambda: any(t.name == "test 1" and t.daemon for t in threading.enumerate()))
    assert [await threads.run(int, str(n)) for n in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="invalid literal"):
        await threads.run(int, "x")
    hanging.cancel()
    await asyncio.wait({hanging})
    hang.set()


async def test_threads_that_can_not_be_started_are_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that failed: who asks then is told so as of a file that can't be opened, and what they asked for is not done later."""
    threads = Threads("test", 2)
    done: list[str] = []

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        for _ in range(3):
            with pytest.raises(OSError, match="no thread can be started") as failed:
                await threads.run(done.append, "refused")
            assert failed.value.errno == errno.EAGAIN
    async with asyncio.timeout(10):
        await threads.run(done.append, "done")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        await asyncio.gather(*(threads.run(done.append, "by the one there is") for _ in range(3)))
    assert done == ["done"] + ["by the one there is"] * 3


async def test_work_does_not_wait_behind_a_thread_that_has_just_taken_some() -> None:
    """A thread that is about to begin is not free: what comes next gets one of its own."""
    threads, hang = Threads("test", 2), threading.Event()
    queue, asked, got = threads._work, [], threading.Event()

    def slowly(*args: Any, **kwargs: Any) -> Callable[[], None]:
        asked.append(1)
        work = queue.get(*args, **kwargs)
        got.set()
        time.sleep(0.2)  # the scheduler gives the time to others just here
        return work

    threads._work = SimpleNamespace(get=slowly, put=queue.put, empty=queue.empty, qsize=queue.qsize)  # type: ignore[assignment]
    await threads.run(int)
    await until(lambda: len(asked) == 2)
    got.clear()
    hanging = asyncio.create_task(threads.run(hang.wait))
    await until(got.is_set)
    async with asyncio.timeout(10):
        assert await threads.run(int, "7") == 7
    hang.set()
    await hanging


async def test_without_threads_a_worker_is_refused_and_the_service_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without descriptors."""
    await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("files")])

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        [refused] = (await rig.create(script("true", task="refused"))).refused
    assert (refused.cause, refused.why) == (Cause.INTERNAL, "its directory could not be made: no thread can be started")
    assert (await rig.run(script("true", task="after"))).state is State.SUCCEEDED
