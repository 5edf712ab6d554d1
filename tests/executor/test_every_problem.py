"""What is wrong with a request is named at once, also what only shows when other things are right."""

import grpc
import pytest

from otto_executor.graph import find_cycles
from otto_executor.settings import Settings
from otto_executor.translate_request import read
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage

from .conftest import Executor


def problems(*stages: PipelineStage) -> list[tuple[str, str]]:
    found = read(PipelineRequest(pipeline_id="p", stages=stages), Settings(), "").problems
    return [(problem.field, problem.description) for problem in found]


async def test_an_empty_id_hides_nothing(executor: Executor) -> None:
    """With stages the answer names the id and what is wrong with them; without, there is only the id."""
    request = PipelineRequest(stages=[PipelineStage(stage_id="a", worker_count=-1)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(executor.client.ExecutePipeline(request)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "pipeline_id: is empty" in (caught.value.details() or "")
    assert "stages[0].worker_count (stage 'a'): -1 is negative" in (caught.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(executor.client.ExecutePipeline(PipelineRequest())))
    assert caught.value.details() == "pipeline_id: is empty"


def test_each_of_several_cycles_is_named() -> None:
    """Also one that another one leads to."""
    chain = {"a": "b", "b": "a", "c": "d", "d": "e", "e": "c", "f": "a"}
    assert problems(*(PipelineStage(stage_id=stage, depends_on=[need]) for stage, need in chain.items())) == [
        ("stages", "the dependencies form a cycle: a → b → a"),
        ("stages", "the dependencies form a cycle: c → e → d → c"),
    ]


def test_cycles_are_looked_for_a_bounded_number_of_times() -> None:
    """A hundred of them are not all named."""
    pairs = {f"{side}{number}": [f"{'b' if side == 'a' else 'a'}{number}"] for number in range(100) for side in "ab"}
    assert len(find_cycles(pairs, 10)) == 10


def test_a_command_names_a_program() -> None:
    """Arguments alone and an empty program are refused before anything runs, of extra containers too; their arguments alone are fine."""
    alone = PipelineStage(stage_id="a", args=["x"])
    empty = PipelineStage(stage_id="b", command=["", "x"])
    beside = PipelineStage(stage_id="c", command=["true"])
    beside.extra_containers.add(name="db", command=[""])
    beside.extra_containers.add(name="cache", args=["--quiet"])
    assert problems(alone, empty, beside) == [
        ("stages[0].args", "without a command there is nothing to give them to"),
        ("stages[1].command[0]", "is empty; it names the program"),
        ("stages[2].extra_containers[0].command[0]", "is empty; it names the program"),
    ]
