"""Whatever a client sends, looking at it is bounded in work, and every answer fits into the 4 MiB that clients take."""

import asyncio
import difflib
from collections.abc import Sequence

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otto_executor.approval import Approval, Decision
from otto_executor.progress import MAX_WORDS
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import fresh
from otto_executor.service import MAX_TEXT_BYTES
from otto_executor.settings import Settings
from otto_executor.stage import StageStatus
from otto_executor.stores import StoredRun
from otto_executor.translate import run_message
from otto_executor.translate_request import read
from otto_executor.validation import MAX_STAGE_ID_BYTES, told
from ottoscaler.v1.pipeline_pb2 import APPROVAL_DECISION_REJECT, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import ApproveStageRequest, CancelPipelineRequest, GetPipelineRequest, ValidatePipelineRequest
from ottoscaler.v1.stage_pb2 import STAGE_TYPE_APPROVAL, PipelineStage
from ottoscaler.v1.worker_pb2 import ExtraContainer

from .conftest import Executor

FOUR_MIB = 4 * 1024 * 1024
LIMITS = Settings()


def stages(count: int) -> list[PipelineStage]:
    return [PipelineStage(stage_id=f"stage-{number}") for number in range(count)]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the searches for a near name."""
    counted: list[int] = []
    search = difflib.get_close_matches

    def counting(word: str, possibilities: Sequence[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
        counted.append(len(possibilities))
        return search(word, possibilities, n, cutoff)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    return counted


def test_thousands_of_unknown_dependencies_are_named_with_a_few_hints(searches: list[int]) -> None:
    """Every one is a problem, but near names are looked for only a few times."""
    unknown = [f"stage-x{number}" for number in range(LIMITS.max_dependencies)]
    request = PipelineRequest(pipeline_id="p", stages=[*stages(50), PipelineStage(stage_id="last", depends_on=unknown)])
    problems = read(request, LIMITS, "").problems
    assert len(problems) == len(unknown)
    assert "did you mean stage-" in problems[0].description
    assert len(searches) <= 3


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (PipelineRequest(stages=stages(LIMITS.max_stages + 1)), "there are 501; 500 are the most"),
        (
            PipelineRequest(stages=[PipelineStage(depends_on=["x"] * (LIMITS.max_dependencies + 1))]),
            "they have 20001 dependencies together; 20000 are the most",
        ),
        (PipelineRequest(name="x" * LIMITS.max_request_bytes, stages=[PipelineStage(depends_on=["x"])]), "1048576 are the most"),
    ],
    ids=["stages", "dependencies", "bytes"],
)
def test_what_exceeds_a_limit_is_not_looked_at_any_further(request_: PipelineRequest, words: str) -> None:
    """The limits are named, and the id; not what is wrong with each of thousands of stages."""
    problems = read(request_, LIMITS, "").problems
    assert [problem.field for problem in problems] == ["pipeline_id", "stages"]
    assert words in problems[1].description


def test_extra_containers_are_few(searches: list[int]) -> None:
    """Each name is compared with those before it, so there is a limit to them."""
    many = [ExtraContainer(name=f"c{number}") for number in range(LIMITS.max_extra_containers + 1)]
    stage = PipelineStage(stage_id="a", command=["true"], extra_containers=many)
    (problem,) = read(PipelineRequest(pipeline_id="p", stages=[stage]), LIMITS, "").problems
    assert (problem.field, problem.description) == ("stages[0].extra_containers", "there are 17; 16 are the most")


def test_problems_of_a_stage_share_its_id() -> None:
    """Thousands of them with an id of half a megabyte cost no copies of it."""
    stage = PipelineStage(stage_id="x" * 500_000, config={f"otto.{number}": "" for number in range(1000)})
    problems = read(PipelineRequest(pipeline_id="p", stages=[stage]), LIMITS, "").problems
    assert len(problems) == 1001
    assert len({id(problem.stage_id) for problem in problems}) == 1


@pytest.mark.parametrize("character", ["a", "한", "😀", "\x01"])
def test_an_answer_of_problems_fits(character: str) -> None:
    """However many they are and whatever they quote; how many are left out is the last one."""
    config = {f"otto.{number}{character * 20}": "" for number in range(8000)}
    quoting = PipelineStage(stage_id=character * 20_000, depends_on=[character * 20_000], config=config)
    problems = read(PipelineRequest(pipeline_id=character * 300, stages=[quoting]), Settings(), "").problems
    assert len(problems) > 8000
    shown = told(problems)
    assert sum(len(f"{p.field}{p.stage_id}{p.description}".encode()) for p in shown) < FOUR_MIB / 2
    assert shown[-1].description == f"{len(problems) - len(shown) + 1} more problems are not shown"


@pytest.mark.slow
async def test_a_client_can_take_every_answer(executor: Executor) -> None:
    """With gRPC's own limit: thousands of problems, and 400 approvals that were cancelled with as many words as are allowed."""
    flood = PipelineRequest(pipeline_id="p", stages=[PipelineStage(stage_id="a" * 1024, depends_on=["한" * 30] * 1)])
    flood.stages[0].config.update({f"otto.{number}": "" for number in range(20_000)})
    answer = await executor.client.ValidatePipeline(ValidatePipelineRequest(pipeline=flood))
    assert "more problems are not shown" in answer.problems[-1].description

    approvals = [PipelineStage(stage_id=f"{'한' * 300}{n}", type=STAGE_TYPE_APPROVAL, name="한" * 50) for n in range(400)]
    call = executor.client.ExecutePipeline(PipelineRequest(pipeline_id="p", stages=approvals))
    async for message in call:
        if message.stage_id == approvals[-1].stage_id:
            break
    words = "한" * (MAX_TEXT_BYTES // 3)
    for stage in approvals[:20]:
        decided = ApproveStageRequest(
            pipeline_id="p", stage_id=stage.stage_id, user=words, comment=words, decision=APPROVAL_DECISION_REJECT
        )
        await executor.client.ApproveStage(decided)
    await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p", reason=words, cancelled_by=words))
    async with asyncio.timeout(30):
        async for message in call:
            assert message.ByteSize() < FOUR_MIB
    found = await executor.client.GetPipeline(GetPipelineRequest(pipeline_id="p"))
    assert len(found.stages) == 400
    assert found.stages[-1].error_message.startswith("cancelled by 한")
    assert found.request.stages[0] == approvals[0]


@pytest.mark.parametrize("field", ["reason", "cancelled_by"])
async def test_words_have_a_limit(executor: Executor, field: str) -> None:
    """One byte more than allowed is INVALID_ARGUMENT, and names the field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await executor.client.CancelPipeline(CancelPipelineRequest(pipeline_id="p", **{field: "x" * (MAX_TEXT_BYTES + 1)}))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"{field}: has 4097 bytes; 4096 are the most"


CHARACTERS = st.sampled_from(["a", "한", "😀"])


@st.composite
def largest_runs(draw: st.DrawFn) -> StoredRun:
    """Runs at the limits of what requests, people and workers can bring in."""
    count = draw(st.sampled_from([1, 100, LIMITS.max_stages]))
    character = draw(CHARACTERS)
    room = draw(st.integers(10, MAX_STAGE_ID_BYTES - 24))
    ids = [f"{number}{character * (room // len(character.encode()))}" for number in range(count)]
    named = draw(st.booleans())
    request = PipelineRequest(pipeline_id="한" * 84, triggered_by=character)
    for stage_id in ids:
        request.stages.add(stage_id=stage_id, type=STAGE_TYPE_APPROVAL, command=["true"], name="" if named else "n")
        request.stages[-1].config["otto.workspace"] = "own"
        request.stages[-1].worker_count = min(LIMITS.max_workers // count, LIMITS.max_stage_workers)
    rest = max(0, LIMITS.max_request_bytes - request.ByteSize() - 10_000)
    match draw(st.sampled_from(["name", "triggered_by", "args", "needs"])):
        case "args":
            request.stages[0].args.extend(["x" * 100_000] * (rest // 100_010))
        case "needs":
            for number in range(1, count):
                request.stages[number].depends_on.extend(ids[: min(number, rest // count // (room + 10), 40)])
        case field:
            setattr(request, field, "x" * rest)
    understood = read(request, LIMITS, "")
    assert not understood.problems, understood.problems[:3]
    state = fresh(understood.definition, 1.7e9)
    words = draw(CHARACTERS) * MAX_WORDS
    said = draw(CHARACTERS) * (MAX_TEXT_BYTES // 4)
    for spec in understood.definition.stages:
        stage = state.stages[spec.stage_id]
        stage.status, stage.message = StageStatus.FAILED, words
        stage.failure = Failure(FailureCause.INTERNAL, f"worker 1 of 1: {words}")
        stage.approval = Approval(spec.approvers or (), Decision.REJECT, said, said, 1.7e9)
        stage.names = tuple(f"{'x' * 60}{index:>3}" for index in range(spec.workers))
    state.error = words
    return StoredRun(understood.definition, request.SerializeToString(), state)


@settings(max_examples=12, deadline=None)
@given(largest_runs())
def test_a_run_at_every_limit_fits_into_an_answer(record: StoredRun) -> None:
    """With all its stages and its whole request; where words have to be cut their beginnings stay."""
    answer = run_message(record)
    assert answer.ByteSize() < FOUR_MIB
    assert answer.request.SerializeToString() == record.request
    assert all(len(stage.message) >= 20 for stage in answer.stages)
