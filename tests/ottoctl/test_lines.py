"""Lines of a run in a pipe: all of them, each below its stage's start and above its end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import ottoctl.lines
from ottoctl.lines import Lines
from ottoctl.progress import Run, said
from ottoctl.views import PlainView
from ottoscaler.v1.log_pb2 import BuildLogEntry, BuildLogKind, LogBatch, LogEntry
from ottoscaler.v1.pipeline_pb2 import PipelineProgress
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse
from ottoscaler.v1.stage_pb2 import StageStatus
from ottoscaler.v1.worker_pb2 import FailureCause

LINE, STARTED, FINISHED = (
    BuildLogKind.BUILD_LOG_KIND_LINE,
    BuildLogKind.BUILD_LOG_KIND_STAGE_STARTED,
    BuildLogKind.BUILD_LOG_KIND_STAGE_FINISHED,
)


def entry(kind: BuildLogKind.ValueType, stage: str, text: str = "") -> BuildLogEntry:
    return BuildLogEntry(kind=kind, stage_id=stage, attempt=1, entry=LogEntry(worker_id=f"w-{stage}-1", message=text))


def message(stage: str, status: StageStatus.ValueType) -> PipelineProgress:
    return PipelineProgress(stage_id=stage, status=status, attempt=1, message="words", timestamp="2026-11-24T01:02:03.000Z")


async def test_the_end_of_a_stage_stands_below_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said of stages comes first, the lines come later and in one piece: the order is the one of the work."""
    run = Run("r")
    view = PlainView(run, logs=True)
    lines = Lines(run, view)
    come = asyncio.Event()

    async def batches() -> AsyncIterator[LogBatch]:
        await come.wait()
        first = [entry(STARTED, "a"), entry(LINE, "a", "1"), entry(LINE, "a", "2"), entry(FINISHED, "a")]
        yield LogBatch(build_entries=[*first, entry(STARTED, "b"), entry(LINE, "b", "3"), entry(FINISHED, "b")])

    lines.read(batches())

    async def messages() -> None:
        for stage in "ab":
            for status in (StageStatus.STAGE_RUNNING, StageStatus.STAGE_COMPLETED):
                one = message(stage, status)
                await lines.before(one)
                run.hear(one)
                view.heard(one)
                lines.heard()

    task = asyncio.create_task(messages(), name="messages")
    await asyncio.sleep(0.05)
    assert "COMPLETED" not in capsys.readouterr().out
    come.set()
    await task
    await lines.rest(view.patience)
    await lines.close()
    assert capsys.readouterr().out.splitlines() == [
        "a | 1",
        "a | 2",
        "01:02:03 a: COMPLETED words",
        "01:02:03 b: RUNNING words",
        "b | 3",
        "01:02:03 b: COMPLETED words",
    ]


async def test_a_slow_flood_is_shown_whole_and_silence_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are waited for as long as they come, however long that takes in all; when none come any more, where the rest is is said."""
    monkeypatch.setattr(ottoctl.lines, "HOLD_SECONDS", 1.0)
    run = Run("r")
    run.hear(message("a", StageStatus.STAGE_RUNNING))
    lines = Lines(run, PlainView(run, logs=True))

    async def batches() -> AsyncIterator[LogBatch]:
        for n in range(30):
            await asyncio.sleep(0.05)
            yield LogBatch(build_entries=[entry(LINE, "a", str(n))])
        await asyncio.Event().wait()

    lines.read(batches())
    await lines.before(message("a", StageStatus.STAGE_COMPLETED))
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"a | {n}" for n in range(30)]
    await lines.rest(0.05)
    await lines.close()
    assert "no more log lines after 30" in capsys.readouterr().err


def test_a_retry_says_which_of_how_many_and_when() -> None:
    """The number comes from the stage's policy; a fault of the infrastructure uses none of them up."""
    answer = GetPipelineResponse()
    answer.request.stages.add(stage_id="a").retry_policy.max_attempts = 2
    answer.stages.add(stage_id="a")
    run = Run("r")
    run.know(answer)
    told = []
    for cause in (FailureCause.FAILURE_CAUSE_NODE_LOST, FailureCause.FAILURE_CAUSE_EXIT_CODE):
        one = PipelineProgress(stage_id="a", status=StageStatus.STAGE_RETRYING, error_message="why", failure_cause=cause)
        one.message = "attempt 1 failed; attempt 2 in 5 s"
        run.hear(one)
        told.append(said(one, run.stages["a"]))
    assert told == ["attempt 1 failed; attempt 2 in 5 s", "attempt 1 failed; attempt 2 in 5 s (retry 1 of 2)"]


def test_an_ignored_failure_is_no_plain_success() -> None:
    """The words say that it failed."""
    one = PipelineProgress(
        stage_id="a", status=StageStatus.STAGE_COMPLETED, message="failed, which is ignored as asked: exit code 2",
        error_message="exit code 2", failure_cause=FailureCause.FAILURE_CAUSE_EXIT_CODE,
    )  # fmt: skip
    run = Run("r")
    run.hear(one)
    assert said(one, run.stages["a"]).startswith("failed, which is ignored")
    assert run.stages["a"].ignored
