"""What a support bundle tells of the state directory, whatever workers have left there."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ottoctl.bundle import state
from ottoctl.bundle.collecting import Part, collect
from ottoctl.bundle.machine import machine
from ottoctl.bundle.masking import Masker
from ottoctl.bundle.state import DEEPEST_COUNTED, listed, listing
from ottoctl.doctor.processes import Process


def deep(directory: Path, levels: int, name: str = "a") -> None:
    """Directories in each other, together longer than a path may be."""
    directory.mkdir(parents=True)
    at = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Emptied by a program that goes to any depth: pytest's own tidying up does not."""
    yield tmp_path
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


def sums(directory: Path) -> dict[str, Any]:
    (entry,) = [entry for entry in listing(directory, lambda: False)["entries"] if entry["name"] == "workspaces"]
    return {name: value for name, value in entry.items() if name == "cut" or name.endswith("_below")}


def test_names_and_sizes_are_told_of_what_is_ours_and_sums_of_the_rest(directory: Path) -> None:
    """Three levels of names; of users' directories how many files, directories and bytes. Links are not followed."""
    (directory / "spool" / "a" / "b" / "c").mkdir(parents=True)
    (directory / "spool" / "a" / "b" / "c" / "f").write_text("123")
    (directory / "workspaces" / "p" / "q").mkdir(parents=True)
    (directory / "workspaces" / "p" / "q" / "f").write_text("12345")
    (directory / "workspaces" / "p" / "all").symlink_to("/", target_is_directory=True)
    told = listing(directory, lambda: False)
    assert [entry["name"] for entry in told["entries"]] == ["spool", "spool/a", "spool/a/b", "workspaces"]
    assert (told["entries"][2]["files_below"], told["entries"][2]["bytes_below"]) == (1, 3)
    assert sums(directory) == {"files_below": 2, "directories_below": 2, "bytes_below": 5 + len("/")}


def test_a_tree_of_any_depth_is_told(directory: Path) -> None:
    """Deeper than Python may recurse and than a path may be long: it is counted to a depth, and that it was cut is said."""
    deep(directory / "workspaces" / "p", max(1500, sys.getrecursionlimit() + 500))
    assert sums(directory) == {
        "files_below": 0,
        "directories_below": DEEPEST_COUNTED,
        "bytes_below": 0,
        "cut": f"there are more than {DEEPEST_COUNTED} levels",
    }


@pytest.mark.parametrize("makes", [Path.mkdir, Path.touch], ids=["directories", "files"])
def test_any_number_of_entries_is_cut(directory: Path, makes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories alone too, in the listing and in each sum."""
    monkeypatch.setattr(state, "MOST_ENTRIES", 10)
    for place in ("homes", "spool"):
        (directory / place).mkdir()
        for number in range(20):
            makes(directory / place / f"{number:02}")
    told = listing(directory, lambda: False)
    assert (len(told["entries"]), told["cut"]) == (10, "there are more than 10")
    homes = told["entries"][0]
    assert (homes["files_below"] + homes["directories_below"], homes["cut"]) == (10, "there are more than 10")


def test_what_can_not_be_read_is_said(directory: Path) -> None:
    """Names that are too long together; the rest is counted."""
    deep(directory / "workspaces", 20, "a" * 250)
    (directory / "workspaces" / "f").write_text("12345")
    told = sums(directory)
    assert (told["files_below"], told["bytes_below"], told["cut"]) == (1, 5, "not all of it can be read: File name too long")


def test_what_takes_too_long_is_cut(directory: Path) -> None:
    """What was found by then is told."""
    (directory / "workspaces" / "p").mkdir(parents=True)
    assert listing(directory, lambda: True)["cut"] == "there was no time for more"


async def test_it_stops_when_nobody_waits_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that went on would hold up ottoctl's end."""
    begun, goes_on = threading.Event(), threading.Event()
    given: list[state.Over] = []

    def waits(directory: Path, over: state.Over) -> dict[str, Any]:
        given.append(over)
        begun.set()
        goes_on.wait(60)
        return {}

    monkeypatch.setattr(state, "listing", waits)
    looking = asyncio.create_task(listed(tmp_path))
    assert await asyncio.to_thread(begun.wait, 60)
    assert not given[0]()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert given[0]()
    goes_on.set()


async def test_a_listing_that_fails_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the last, and only it is missing."""

    def fails(directory: Path, over: state.Over) -> dict[str, Any]:
        raise RecursionError

    monkeypatch.setattr(state, "listing", fails)
    environ = {"OTTO_STANDALONE_STATE_DIR": str(tmp_path)}
    items, missing = await collect([Part("machine", machine("127.0.0.1:9", environ, Masker()))], 60)
    assert [item.name for item in items] == ["machine/machine.json", "machine/settings.json"]
    assert [one.name for one in missing] == ["machine/service.log", "machine"]


async def test_metrics_that_are_none_cost_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else answers at that port, with something that is no HTTP."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"what?\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        listens = "{}:{}".format(*server.sockets[0].getsockname())
        monkeypatch.setattr("ottoctl.bundle.machine.holders", lambda port: [Process(os.getpid(), ("otto_standalone",))])
        monkeypatch.setattr("ottoctl.bundle.machine.environment", lambda pid: {"OTTO_METRICS_LISTEN": listens})
        items, missing = await collect([Part("machine", machine("127.0.0.1:9", {"HOME": str(tmp_path)}, Masker()))], 60)
    assert "machine/metrics.txt" in {one.name for one in missing}
    assert "machine/state.json" in {one.name for one in items}
