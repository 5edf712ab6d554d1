"""What doctor reads from /proc about files and their locks."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ottoctl.doctor import processes
from ottoctl.doctor.processes import lock_holder


def test_who_holds_a_lock_is_known(tmp_path: Path) -> None:
    """As long as it does."""
    with (tmp_path / "lock").open("w") as file:
        assert lock_holder(tmp_path / "lock") == 0
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock_holder(tmp_path / "lock") == os.getpid()
    assert lock_holder(tmp_path / "lock") == 0
    assert lock_holder(tmp_path / "none") == 0


def test_a_file_of_the_same_number_on_another_device_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of files repeat from device to device; who holds that other one's lock is not called the holder of this one's."""
    mine, other = tmp_path / "lock", tmp_path / "other"
    mine.touch()
    other.touch()
    number = mine.stat().st_ino
    for pid, held in (("77", other), ("78", mine)):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd" / "3").symlink_to(held)
    lines = [f"1: FLOCK  ADVISORY  WRITE 77 fd:01:{number} 0 EOF", f"2: FLOCK  ADVISORY  WRITE 78 fd:02:{number} 0 EOF"]
    monkeypatch.setattr(processes, "PROC", tmp_path)
    (tmp_path / "locks").write_text("\n".join(lines))
    assert lock_holder(mine) == 78
    (tmp_path / "locks").write_text(lines[0])
    assert lock_holder(mine) == 0


def test_a_lock_that_another_process_waits_for_has_one_holder(tmp_path: Path) -> None:
    """Who waits has the file open too, and is not named."""
    waits = "import fcntl, sys; f = open(sys.argv[1]); print(flush=True); fcntl.flock(f, fcntl.LOCK_EX)"
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen([sys.executable, "-c", waits, str(tmp_path / "lock")], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert lock_holder(tmp_path / "lock") == os.getpid()
            other.kill()
