"""The live view at any size: nothing is wider or higher than the terminal, and what matters is visible."""

from __future__ import annotations  # ValueType exists in the generated stubs only

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions

from ottoctl.live import CLEAR, LiveView, chosen
from ottoctl.progress import Run, Stage
from ottoscaler.v1.pipeline_pb2 import Approval, PipelineProgress, StageRun
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import FailureCause

COMPLETED, RUNNING, FAILED, PENDING = (
    StageStatus.STAGE_COMPLETED,
    StageStatus.STAGE_RUNNING,
    StageStatus.STAGE_FAILED,
    StageStatus.STAGE_PENDING,
)
NAMES = ["우분투 컨테이너 준비 🚀", "a-name-that-is-much-longer-than-any-column-will-ever-be-on-a-small-terminal", "👩‍👩‍👧 family", "plain"]


def drawn(run: Run, width: int, height: int, **options: object) -> list[str]:
    """The picture's lines on a terminal of that size."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False, **options)  # type: ignore[arg-type]  # rich's own options
    console.print(LiveView(run, console).picture())
    return out.getvalue().rstrip("\n").split("\n")


def run_of(count: int) -> Run:
    run = Run("p", started=1000.0, ended=1065.0, percentage=40)
    for n in range(count):
        name = f"{NAMES[n % len(NAMES)]} {n:02d}" if n % len(NAMES) != 1 else f"{n:02d} {NAMES[1]}"
        status = COMPLETED if n < count // 2 else PENDING
        stage = Stage(str(n), name, status=status, started=1000.0, ended=1005.0, last_line="이 줄은 아주 길다 " * 20)
        run.stages[str(n)] = stage
    return run


@pytest.mark.parametrize("size", [(80, 24), (40, 24), (40, 10), (20, 8), (200, 60), (66, 24), (65, 24)], ids=str)
@pytest.mark.parametrize("count", [1, 4, 35], ids=lambda n: f"{n} stages")
def test_the_picture_fits_the_terminal(size: tuple[int, int], count: int) -> None:
    """With Korean, emoji and long names no line is wider than the terminal, and the whole is lower than it."""
    lines = drawn(run_of(count), *size)
    assert [line for line in lines if cell_len(line) > size[0]] == []
    assert len(lines) < size[1]


@pytest.mark.parametrize("size", [(80, 24), (40, 12)], ids=str)
def test_what_failed_and_what_runs_is_visible_among_many(size: tuple[int, int]) -> None:
    """Of 35 stages the failed and running ones are shown wherever they stand, and the rest is counted."""
    run = run_of(35)
    for n, status in ((3, FAILED), (17, RUNNING), (34, RUNNING)):
        run.stages[str(n)].status = status
        run.stages[str(n)].name = f"important {n}"
    text = "\n".join(drawn(run, *size))
    for symbol, n in (("✘", 3), ("▶", 17), ("▶", 34)):
        assert re.search(rf"{symbol} +important {n}\b", text), text
    hidden = re.search(r"… (\d+) more: (.*)", text)
    assert hidden is not None
    assert "completed" in hidden[2]
    shown = sum(line[:1] in "·▶✔✘" for line in text.split("\n"))
    assert shown + int(hidden[1]) == 35


def test_a_narrow_terminal_keeps_names_and_times() -> None:
    """At 40 columns there is the state's symbol, the name, the time and how far it is."""
    text = "\n".join(drawn(run_of(4), 40, 24))
    assert "✔ 우분투 컨테이너 준비 🚀 00" in text
    assert "5.0s" in text
    assert "40%  2 of 4 stages  1m05s" in text


@pytest.mark.parametrize("width", range(66, 82))
def test_no_column_is_lost_on_a_small_terminal(width: int) -> None:
    """The symbol of the state is there, and headers are whole, with long names, attempts and long last lines."""
    run = run_of(8)
    for stage in run.stages.values():
        stage.attempt, stage.worker_count, stage.ended = 12, 100, 1000.0 + 3599
    lines = drawn(run, width, 24)
    assert re.search(r"^ +stage +state +try +done +time +last line", lines[0]), lines[0]
    assert [line[:2] for line in lines[1:9]] == ["✔ "] * 4 + ["· "] * 4
    assert all(" 0/100" in line or "100/100" in line for line in lines[1:9]), lines


def test_an_ignored_failure_has_a_mark_of_its_own() -> None:
    """It is neither a success nor a failure of the run, and says why."""
    run = run_of(1)
    stage = run.stages["0"]
    stage.status, stage.cause = COMPLETED, FailureCause.FAILURE_CAUSE_EXIT_CODE
    stage.message = "failed, which is ignored as asked: exit code 2"
    (_, row, *_) = drawn(run, 120, 24)
    assert row.startswith("! ")
    assert "which is ignored as asked: exit code 2" in row


@pytest.mark.parametrize("final", [COMPLETED, None], ids=["ended", "left"])
def test_at_the_end_every_stage_is_shown(final: StageStatus.ValueType | None) -> None:
    """The last picture stays, so it may be higher than the terminal; that of a run that is left early may not."""
    out = io.StringIO()
    run = run_of(35)
    console = Console(file=out, width=80, height=24, force_terminal=True, color_system=None, legacy_windows=False)
    with LiveView(run, console):
        run.final = final
        out.seek(0)
        out.truncate()
    ended = final is not None
    assert all(f"{n:02d}" in out.getvalue() for n in range(35)) == ended
    assert ("more:" in out.getvalue()) != ended


def test_the_order_of_stages_is_kept() -> None:
    """Hiding some does not move others about; the next to start and the last that ended stay."""
    stages = list(run_of(10).stages.values())
    shown, hidden = chosen(stages, 7)
    assert [s.stage_id for s in shown] == ["4", "5", "6", "7", "8", "9"]
    assert [s.stage_id for s in hidden] == ["0", "1", "2", "3"]


def test_no_color_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR no colour is written, and states still differ by their symbols."""
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, color_system="truecolor")
    console.print(LiveView(run_of(4), console).picture())
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38;)[0-9;]*m", out.getvalue())
    assert "✔" in out.getvalue()
    assert "·" in out.getvalue()


def test_a_new_size_begins_a_new_picture() -> None:
    """A terminal that changes its size breaks the old lines anew, so the screen is cleared once, and the picture fits the new size."""
    out = io.StringIO()
    console = Console(file=out, width=100, height=30, force_terminal=True, color_system=None)
    view = LiveView(run_of(35), console)
    console.print(view.picture())
    assert CLEAR not in out.getvalue()
    console.size = ConsoleDimensions(40, 14)
    out.truncate(0)
    for _ in range(2):
        console.print(view.picture())
    assert out.getvalue().count(CLEAR) == 1
    lines = out.getvalue().rpartition("stage")[2].rstrip("\n").split("\n")
    assert all(cell_len(line) <= 40 for line in lines)
    assert len(lines) < 14


def waiting_run(*, workers: int) -> Run:
    """A run whose gate waits for an approval since 1,000 s, as messages told it; `workers` run once it has one."""
    run = Run("p", started=900.0)
    gate = StageRun(stage_id="gate", worker_count=workers, approval=Approval(approvers=["kim"]))
    run.know(GetPipelineResponse(stages=[gate]))
    run.hear(PipelineProgress(stage_id="gate", status=PENDING, message="waits for approval by kim", timestamp="1970-01-01T00:16:40.000Z"))
    return run


def test_a_gate_shows_how_long_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its turn on, while it waits and once it is decided either way; it runs nothing, so its start and end are the same moment."""
    run = waiting_run(workers=0)
    monkeypatch.setattr("time.time", lambda: 1065.0)
    assert "1m05s" in next(line for line in drawn(run, 80, 24) if "gate" in line)
    end = "1970-01-01T00:18:20.000Z"
    run.hear(PipelineProgress(stage_id="gate", status=COMPLETED, started_at=end, completed_at=end))
    assert "1m40s" in next(line for line in drawn(run, 80, 24) if "gate" in line)
    run = waiting_run(workers=0)
    run.hear(PipelineProgress(stage_id="gate", status=FAILED, completed_at=end))
    assert "1m40s" in next(line for line in drawn(run, 80, 24) if "gate" in line)


def test_a_gate_with_work_shows_how_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is approved and its workers run, the time is theirs."""
    run = waiting_run(workers=1)
    monkeypatch.setattr("time.time", lambda: 1065.0)
    run.hear(PipelineProgress(stage_id="gate", status=RUNNING, attempt=1, started_at="1970-01-01T00:17:40.000Z"))
    assert " 5.0s" in next(line for line in drawn(run, 80, 24) if "gate" in line)
