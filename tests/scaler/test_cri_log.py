"""The supervisor's log file: one record a line, each with a time of its own, however many lines come at once."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otto_scaler.backends.process.supervisor.cri import LINE_BYTES, CriLog

RECORD = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[CriLog]:
    made = CriLog(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    yield made
    os.close(made.descriptor)


def records(tmp_path: Path) -> list[tuple[bytes, bytes, bytes, bytes]]:
    lines = (tmp_path / "log").read_bytes().removesuffix(b"\n").split(b"\n")
    found = [RECORD.fullmatch(line) for line in lines]
    assert None not in found
    return [(match[1], match[2], match[3], match[4]) for match in found if match is not None]


@pytest.mark.parametrize("left", [1, 50, 1000], ids=["a second ends at once", "a second ends among them", "within a second"])
def test_lines_that_come_at_once_have_times_that_ascend(tmp_path: Path, log: CriLog, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """No two records have one time, also when the clock stands still, a second ends or is set back: a reader can resume by it."""
    now = 1_763_949_600 * 10**9 - left
    monkeypatch.setattr(time, "time_ns", lambda: now)
    lines = [b"%d %%s %%d" % number for number in range(300)]
    log.feed(0, b"".join(line + b"\n" for line in lines[:100]))
    now -= 10**9
    log.feed(1, b"".join(line + b"\n" for line in lines[100:200]))
    log.feed(0, b"x" * (LINE_BYTES + 1) + b"\n" + b"".join(line + b"\n" for line in lines[200:]))
    found = records(tmp_path)
    stamps = [stamp for stamp, _, _, _ in found]
    assert stamps == sorted(set(stamps))
    assert [text for _, _, tag, text in found if tag == b"F" and text != b"x"] == lines
    assert [stream for _, stream, _, _ in found] == [b"stdout"] * 100 + [b"stderr"] * 100 + [b"stdout"] * 102
    assert [text for _, _, tag, text in found if tag == b"P"] == [b"x" * LINE_BYTES]
