"""What the executor accepts the scaler takes too: both are asked, so that no pipeline fails for what could have been said at once."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otto_executor.definition import Definition
from otto_executor.orders import Order
from otto_executor.settings import Settings
from otto_executor.stage import StageSpec
from otto_executor.translate_request import read
from otto_executor.workers import scale_up
from otto_scaler.errors import InvalidRequestError
from otto_scaler.translate.request import Bounds, workers_wanted
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage

from .requests import right_requests

BOUNDS = Bounds(1000, 3600.0, 604800.0, 10.0, 3600.0, "")
IDS = st.one_of(
    st.text(min_size=1, max_size=300),
    st.text("%/ab빌", min_size=1, max_size=400),
    st.builds(lambda c, n: c * n, st.sampled_from("a%/é빌"), st.integers(1, 1030)),
)
SOURCES = st.one_of(
    st.just(""),
    st.sampled_from(
        ["../x", "r", "-x", "ext::sh", "/srv/r.git", "https://h/r", "ftp://h/r", "git@h:r", "https://", "main", "v1..v2", "a b", "@"]
    ),
    st.text(max_size=40),
)


def problems(request: PipelineRequest) -> list[str]:
    return [problem.field for problem in read(request, Settings(), "").problems]


def refused_by_the_scaler(definition: Definition, stage: StageSpec) -> list[tuple[str, str]]:
    try:
        workers_wanted(scale_up(Order.of(definition, stage, 1)), BOUNDS, lambda _: [])
    except InvalidRequestError as error:
        return list(error.problems)
    return []


def request(pipeline_id: str, stage_id: str, repository: str = "", commit: str = "") -> PipelineRequest:
    stage = PipelineStage(stage_id=stage_id, command=["true"])
    return PipelineRequest(pipeline_id=pipeline_id, stages=[stage], repository=repository, commit_sha=commit)


@pytest.mark.parametrize("character", ["a", "%", "/", "é"])
def test_the_longest_ids_are_taken_together(character: str) -> None:
    """Each as long as it may be, also of characters that are escaped in the name of the task of a stage's workers."""
    understood = read(request(character * (253 // len(character.encode())), character * (1024 // len(character.encode()))), Settings(), "")
    assert understood.problems == ()
    assert refused_by_the_scaler(understood.definition, understood.definition.stages[0]) == []


@pytest.mark.parametrize(
    ("repository", "commit", "fields"),
    [("../x", "", ["repository"]), ("https://h/r", "v1..v2", ["commit_sha"]), ("/srv/r.git", "main", [])],
    ids=["relative", "range", "right"],
)
def test_sources_that_git_would_not_be_given_are_named(repository: str, commit: str, fields: list[str]) -> None:
    """A repository or commit that the scaler refuses is refused with the pipeline, not after it has begun."""
    assert problems(request("p", "s", repository, commit)) == fields


@pytest.mark.parametrize(
    ("repository", "config", "named", "optional"),
    [
        ("", {}, True, True),
        ("https://h/r", {}, True, False),
        ("", {"otto.workspace": "shared"}, True, False),
        ("https://h/r", {"otto.workspace": "own"}, False, False),
    ],
    ids=["nothing said", "repository", "shared", "own"],
)
def test_only_who_needs_a_shared_workspace_is_refused_where_there_is_none(
    repository: str, config: dict[str, str], named: bool, optional: bool
) -> None:
    """Stages that work in a checkout, or ask for a shared one; all others can do without, and so a cluster needs no storage for them."""
    asked = request("p", "s", repository)
    asked.stages[0].config.update(config)
    definition = read(asked, Settings(), "").definition
    [stage] = [stage for stage in definition.stages if stage.stage_id == "s"]
    [spec] = workers_wanted(scale_up(Order.of(definition, stage, 1)), BOUNDS, lambda _: []).specs
    assert (bool(spec.identity.workspace), spec.workspace_optional) == (named, optional)


@settings(max_examples=300, deadline=None)
@given(IDS, IDS, SOURCES, SOURCES)
def test_no_accepted_pipeline_is_refused_later(pipeline_id: str, stage_id: str, repository: str, commit: str) -> None:
    """Whatever its ids and its source are: a request without problems becomes orders without problems."""
    try:
        given_request = request(pipeline_id, stage_id, repository, commit)
    except (UnicodeEncodeError, ValueError):
        return  # no message can hold it
    understood = read(given_request, Settings(), "")
    if understood.problems:
        return
    for stage in understood.definition.stages:
        assert refused_by_the_scaler(understood.definition, stage) == []


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(right_requests())
def test_no_stage_of_a_whole_request_is_refused_later(whole: PipelineRequest) -> None:
    """Whatever else it holds, up to its limits."""
    definition = read(whole, Settings(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").definition
    for stage in definition.stages:
        if stage.workers:
            assert refused_by_the_scaler(definition, stage) == []


def test_a_described_workspace_is_that_of_all_stages() -> None:
    """What one stage says of the shared workspace goes along with each that works in it; two that differ are refused."""
    request = PipelineRequest(pipeline_id="p", repository="https://example.org/r.git")
    request.stages.add(stage_id="a", config={"otto.workspace": '{"size": "5Gi", "accessMode": "ReadWriteMany"}'})
    request.stages.add(stage_id="b", config={"otto.workspace": "own"})
    understood = read(request, Settings(), "")
    assert not understood.problems
    claims = [scale_up(Order.of(understood.definition, stage, 1)).worker for stage in understood.definition.stages]
    assert [(worker.claim.size, worker.claim.access_mode) for worker in claims] == [("5Gi", "ReadWriteMany")] * 2 + [("", "")]
    assert [worker.HasField("claim") for worker in claims] == [True, True, False]
    request.stages.add(stage_id="c", config={"otto.workspace": '{"size": "6Gi"}'})
    assert [str(problem) for problem in read(request, Settings(), "").problems] == [
        "stages[2].config[\"otto.workspace\"] (stage 'c'): is not what stage 'a' says; a run has one workspace"
    ]
