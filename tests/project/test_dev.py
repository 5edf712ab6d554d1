"""A service that is started anew when its files are saved, as `make tilt` has it in pods."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEN_SECONDS = 60
SERVICE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with pathlib.Path({said!r}).open("a") as file:
    print({word!r}, file=file)
{then}
"""


class Service:
    """One whose every start is a word in a file."""

    def __init__(self, directory: Path) -> None:
        self._said = directory / "said"
        self._said.touch()
        self._code = directory / "code"
        self._code.mkdir()

    def save(self, word: str, then: str = "time.sleep(3600)") -> None:
        """Its file as it is from now on."""
        (self._code / "serving.py").write_text(SERVICE.format(said=str(self._said), word=word, then=then))

    def started(self) -> "subprocess.Popen[bytes]":
        """It runs."""
        command = [sys.executable, str(ROOT / "services/dev.py"), "serving", str(self._code)]
        # Files that are saved within one second and are as long as each other look the same to what was compiled.
        return subprocess.Popen(command, env={"PYTHONPATH": str(self._code), "PYTHONDONTWRITEBYTECODE": "1"})

    def says(self, word: str, times: int = 1) -> None:
        """Back when it has been started with a word, so many times at least: a file that is being written is a change too."""
        deadline = time.monotonic() + SEEN_SECONDS
        while self._said.read_text().split().count(word) < times:
            assert time.monotonic() < deadline, self._said.read_text()
            time.sleep(0.05)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Not started."""
    return Service(tmp_path)


@pytest.fixture
def running(service: Service) -> Iterator["subprocess.Popen[bytes]"]:
    """It runs, as `first`."""
    service.save("first")
    process = service.started()
    try:
        service.says("first")
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_what_is_saved_runs(service: Service, running: "subprocess.Popen[bytes]") -> None:
    """The process stays, so its pod does; a file that does not even start waits for the next one."""
    service.save("second")
    service.says("second")
    service.save("third", then="this is no Python")
    service.save("fourth")
    service.says("fourth")
    assert running.poll() is None


@pytest.mark.slow
def test_what_has_ended_by_itself_runs_again(service: Service, running: "subprocess.Popen[bytes]") -> None:
    """As a replica that has lost its Lease does."""
    service.save("ends", then="")
    service.says("ends", times=2)
    assert running.poll() is None


def test_a_stop_is_handed_on(running: "subprocess.Popen[bytes]") -> None:
    """The service ends as it does alone, and its exit code is the pod's."""
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 7
