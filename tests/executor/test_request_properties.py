"""Whatever a request is, everything that is wrong with it is named, and what is accepted can be stored, loaded and run to its end."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otto_executor.approval import Decision
from otto_executor.conductor import Conductor
from otto_executor.decisions import Kind, Patience
from otto_executor.errors import InvalidRequestError
from otto_executor.orders import Created, WorkerReport
from otto_executor.progress import Progress
from otto_executor.run import Run
from otto_executor.service import PipelineService
from otto_executor.stage import CHECKOUT, StageStatus, WorkerStatus
from otto_executor.stores import StoredRun
from otto_executor.stores.sqlite import open_store
from otto_executor.translate import progress_message, run_message
from otto_executor.translate_request import as_understood, read
from otto_runtime.errors import status_of
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import ValidatePipelineRequest, ValidatePipelineResponse
from ottoscaler.v1.stage_pb2 import PipelineStage

from .requests import LIMITS, REQUEST_MISTAKES, SCRIPTS, STAGE_MISTAKES, right_requests

FOUR_MIB = 4 * 1024 * 1024
DETAILS = 8 * 1024
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDINGS = {StageStatus.COMPLETED, StageStatus.SKIPPED}


class Accepting(Conductor):
    """Takes every run that gets as far as here, and runs none."""

    def __init__(self) -> None:
        self.begun = False

    async def begin(self, definition: object, request: bytes) -> None:
        self.begun = True

    async def follow(self, *_: object, **__: object) -> AsyncIterator[tuple[Progress, bool]]:  # type: ignore[override]
        nothing: list[tuple[Progress, bool]] = []
        for progress in nothing:
            yield progress


def asked(request: PipelineRequest) -> tuple[ValidatePipelineResponse, InvalidRequestError | None]:
    """What ValidatePipeline says of a request, and what ExecutePipeline refuses it with."""

    async def ask() -> tuple[ValidatePipelineResponse, InvalidRequestError | None]:
        conductor = Accepting()
        service = PipelineService(conductor, LIMITS)
        answer = await service.ValidatePipeline(ValidatePipelineRequest(pipeline=request), None)  # type: ignore[arg-type]
        try:
            async with aclosing(service.ExecutePipeline(request, None)) as progress:  # type: ignore[arg-type,type-var]
                async for _ in progress:
                    pass
        except InvalidRequestError as error:
            assert not conductor.begun
            return answer, error
        assert conductor.begun
        return answer, None

    return asyncio.run(ask())


def acyclic(needs: dict[str, list[str]]) -> bool:
    """Takes stages away whose dependencies are gone, until none can be."""
    left = dict(needs)
    while ready := [stage for stage, names in left.items() if not any(name in left for name in names)]:
        for stage in ready:
            del left[stage]
    return not left


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(
    st.lists(st.tuples(st.sampled_from(SCRIPTS[:8]), st.lists(st.sampled_from((*SCRIPTS[:8], "x")), max_size=3)), min_size=1, max_size=8)
)
@example([("a", ["a"])])
@example([("a", ["x", "x"])])
def test_a_graph_is_accepted_exactly_when_it_is_one(shape: list[tuple[str, list[str]]]) -> None:
    """Duplicate ids, unknown and circular dependencies in any mixture: validation and execution say the same, and a plain check agrees."""
    request = PipelineRequest(pipeline_id="p", stages=[PipelineStage(stage_id=name, depends_on=needs) for name, needs in shape])
    known = [name for name, _ in shape]
    right = len(set(known)) == len(known) and all(need in known for _, needs in shape for need in needs) and acyclic(dict(shape))
    answer, refused = asked(request)
    assert (not answer.problems) == (refused is None) == right
    named = {(problem.field, problem.stage_id) for problem in answer.problems}
    for number, (name, needs) in enumerate(shape):
        assert ((f"stages[{number}].stage_id", name) in named) == (known.count(name) > 1)
        for place, need in enumerate(needs):
            assert ((f"stages[{number}].depends_on[{place}]", name) in named) == (need == name or need not in known)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(right_requests(), st.data())
def test_every_mistake_is_named_at_once(request: PipelineRequest, data: st.DataObject) -> None:
    """What is right has no problems; any mistakes put into it are named by their fields, all of them and nothing else."""
    expected: list[str] = []
    taken: set[tuple[int, str]] = set()
    for mistake in data.draw(st.lists(st.sampled_from(STAGE_MISTAKES), max_size=4)):
        at = data.draw(st.integers(0, len(request.stages) - 1))
        place = (at, mistake.field.partition("[")[0] if mistake.field.startswith("command") else mistake.field)
        if place not in taken:
            taken.add(place)
            mistake.make(request.stages[at])
            expected.append(f"stages[{at}].{mistake.field}")
    if name := data.draw(st.sampled_from(("", *REQUEST_MISTAKES))):
        expected += REQUEST_MISTAKES[name](request, data.draw(st.integers(0, len(request.stages) - 1)))
    answer, refused = asked(request)
    assert sorted(problem.field for problem in answer.problems) == sorted(expected)
    assert (refused is None) == (not expected)
    assert answer.ByteSize() < FOUR_MIB
    if refused is not None:
        status = status_of(refused, (InvalidRequestError,))
        assert status.code.name == "INVALID_ARGUMENT"
        assert len(status.details.encode()) < DETAILS
        assert all(words not in status.details for words in ("Traceback", "Exceeds the limit", " object at 0x"))


def all_turns(run: Run, said: list[Progress]) -> Counter[str]:
    """Runs it to its end, every worker succeeding, after what it `said` already; how often each stage's workers were started."""
    turns: Counter[str] = Counter()
    now = 1.0
    for _ in range(1000):
        if (step := run.take()) is not None:
            said += step.progress
        if run.state.ended:
            break
        now += 1.0
        for stage_id in run.state.awaiting_approval():
            approvers = run.state.stages[stage_id].approval.approvers  # type: ignore[union-attr]
            run.approve(stage_id, Decision.APPROVE, approvers[0] if approvers else "kim", "", now)
        for action in run.wanted():
            assert action.kind is Kind.START
            order = run.order(action.stage_id)
            turns[action.stage_id] += 1
            names = tuple(f"w{index}" for index in range(1, order.stage.workers + 1))
            run.started(action.stage_id, action.attempt, Created(names), now, 1)
            reports = [
                WorkerReport(order.pipeline_id, action.stage_id, action.attempt, index, name, WorkerStatus.SUCCEEDED, 0)
                for index, name in enumerate(names, start=1)
            ]
            run.reported(reports, now)
    assert run.state.ended
    for progress in said:
        assert progress_message(run.definition.pipeline_id, progress, replayed=True).ByteSize() < FOUR_MIB
    ended = Counter(p.stage_id for p in said if p.stage_id and p.status in ENDINGS)
    assert ended == Counter(stage.stage_id for stage in run.definition.stages)
    return turns


@settings(max_examples=15, deadline=None, suppress_health_check=SLOW)
@given(right_requests())
def test_what_is_accepted_is_kept_and_every_stage_has_its_turn(request: PipelineRequest) -> None:
    """Stored in a file and loaded it is the same; each stage starts once and ends once, after what it depends on; answers are small."""
    understood = read(request, LIMITS, TRACE)
    assert not understood.problems
    run = Run.begun(understood.definition, 1.0, Patience(), lambda: 0.5)
    step = run.take()
    assert step is not None
    kept = StoredRun(understood.definition, as_understood(request).SerializeToString(), run.state)

    async def stored() -> StoredRun | None:
        with tempfile.TemporaryDirectory() as directory:
            store = await open_store(Path(directory) / "runs.sqlite")
            await store.create(kept, step.progress)
            assert await store.progress(request.pipeline_id, 0, 1000) == list(step.progress)
            found = await store.load(request.pipeline_id)
            await store.close()
            return found

    loaded = asyncio.run(stored())
    assert loaded is not None
    assert (loaded.definition, loaded.request) == (kept.definition, kept.request)
    order = loaded.definition.graph().order
    specs = {stage.stage_id: stage for stage in loaded.definition.stages}
    assert sorted(order) == sorted([stage.stage_id for stage in request.stages] + [CHECKOUT] * bool(request.repository))
    assert all(order.index(need) < order.index(stage) for stage in order for need in specs[stage].depends_on)
    resumed = Run(loaded.definition, loaded.state, Patience(), lambda: 0.5)
    turns = all_turns(resumed, list(step.progress))
    assert set(turns.values()) <= {1}
    skipped = {stage for stage, state in resumed.state.stages.items() if state.status is StageStatus.SKIPPED}
    assert set(turns) == {stage for stage in order if specs[stage].workers} - skipped
    answer = run_message(StoredRun(loaded.definition, loaded.request, resumed.state))
    assert answer.ByteSize() < FOUR_MIB
    assert answer.request == as_understood(request)
