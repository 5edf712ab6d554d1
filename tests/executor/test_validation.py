"""What can be wrong with a pipeline: ids, sizes, arguments, sources and the graph; every problem is named, with its field."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_executor.definition import Definition
from otto_executor.graph import find_cycle
from otto_executor.stage import CHECKOUT, RunCondition, StageSpec
from otto_executor.validation import (
    MAX_ARGUMENT_BYTES,
    MAX_STAGE_ID_BYTES,
    Problem,
    command_problems,
    control_problem,
    graph_problems,
    hints,
    id_problem,
    in_words,
    source_problems,
)


def found(*stages: StageSpec, checkout: bool = False) -> dict[str, str]:
    return {problem.field: problem.description for problem in graph_problems(stages, checkout=checkout)}


def needs(stage_id: str, *others: str) -> StageSpec:
    return StageSpec(stage_id, depends_on=others)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \u3000", "white space only"),
        ("x" * 254, "has 254 bytes; 253 are the most"),
        ("빌" * 85, "has 255 bytes"),
        ("a\nb", "control character"),
        ("a\x00", "control character"),
    ],
)
def test_bad_ids(text: str, words: str) -> None:
    """Empty, blank, too long in bytes, or with control characters."""
    assert words in id_problem(text, 253)


@pytest.mark.parametrize("text", ["a", " a b ", "빌드/1.2_3", "x" * 253, "🙂", "e\u0301", "\u202ertl"])
def test_good_ids(text: str) -> None:
    """Any script, any other characters."""
    assert id_problem(text, 253) == ""


def test_every_problem_of_the_graph_is_named() -> None:
    """Duplicates, unknown dependencies with the nearest name, itself, the reserved id, and the cycle, all at once."""
    problems = found(
        needs("build"), needs("build"), needs("test", "biuld"), needs("self", "self"), needs(CHECKOUT), needs("x", "y"), needs("y", "x")
    )
    assert problems["stages[0].stage_id"] == problems["stages[1].stage_id"] == "is used by 2 stages; ids are unique"
    assert problems["stages[2].depends_on[0]"] == "there is no stage 'biuld'; did you mean build?"
    assert problems["stages[3].depends_on[0]"] == "the stage depends on itself"
    assert "reserved" in problems["stages[4].stage_id"]
    assert problems["stages"] == "the dependencies form a cycle: x → y → x"
    assert len(problems) == 6


def test_a_stage_may_wait_for_the_checkout_only_where_there_is_one() -> None:
    """Its id is known exactly if the request names a repository."""
    assert found(needs("a", CHECKOUT), checkout=True) == {}
    assert "there is no stage" in found(needs("a", CHECKOUT))["stages[0].depends_on[0]"]


def test_a_stage_id_has_a_limit() -> None:
    """1,024 bytes."""
    assert found(needs("x" * MAX_STAGE_ID_BYTES)) == {}
    assert "are the most" in found(needs("x" * (MAX_STAGE_ID_BYTES + 1)))["stages[0].stage_id"]


@given(st.integers(2, 30), st.randoms())
def test_a_cycle_is_found_with_its_path(length: int, random: object) -> None:
    """Wherever it lies in a larger graph, the path goes along dependencies and comes back to its first stage."""
    ring = [f"r{number}" for number in range(length)]
    graph = {name: [ring[number - 1]] for number, name in enumerate(ring)}
    graph |= {f"free{number}": ring[:number] for number in range(5)}
    names = list(graph)
    random.shuffle(names)  # type: ignore[attr-defined]  # a random.Random
    cycle = find_cycle({name: graph[name] for name in names})
    assert cycle[0] == cycle[-1]
    assert set(cycle) == set(ring)
    assert len(cycle) == length + 1
    for before, after in pairwise(cycle):
        assert before in graph[after], "the work goes from a stage to one that waits for it"


@given(st.integers(0, 30))
def test_no_cycle_no_path(length: int) -> None:
    """A chain of any length has none."""
    assert find_cycle({f"s{n}": [f"s{n - 1}"] if n else [] for n in range(length)}) == ()


def test_arguments_that_no_program_can_be_given() -> None:
    """No program, NUL, and more than Linux takes, each at its place."""
    problems = command_problems("stages[0]", "a", ["", "-x"], ["fine", "nul\0", "x" * MAX_ARGUMENT_BYTES, "x" * (MAX_ARGUMENT_BYTES + 1)])
    assert [p.field for p in problems] == ["stages[0].command[0]", "stages[0].args[1]", "stages[0].args[3]"]


def test_sources_that_look_like_options() -> None:
    """A repository or commit that begins with '-' would be an option of git."""
    assert [p.field for p in source_problems("--upload-pack=evil", "-x")] == ["repository", "commit_sha"]
    assert source_problems("", "") == []
    assert source_problems("https://example.test/r.git", "main") == []
    assert [p.field for p in source_problems("a\nb", "x" * 5000)] == ["repository", "commit_sha"]


def test_control_characters() -> None:
    """A line break or an escape is named; other scripts are not."""
    assert "'\\x1b'" in control_problem("a\x1b[31m")
    assert control_problem("빌드 – é") == ""


def test_problems_in_words_are_bounded() -> None:
    """All of them one a line, or as many as fit and how many more there are."""
    one = Problem("stages[0].x", "a", "is wrong")
    assert in_words([one]) == "the pipeline can't run\nstages[0].x (stage 'a'): is wrong"
    many = in_words([one] * 1000)
    assert len(many.encode()) < 6000
    assert many.startswith("the pipeline can't run, 1000 problems\n")
    shown = many.count("is wrong")
    assert f"… and {1000 - shown} more" in many


def test_a_stage_that_can_never_run_is_hinted_at() -> None:
    """on_failure without anything before it is allowed, and most likely not meant."""
    alarm = StageSpec("alarm", run_if=RunCondition.ON_FAILURE)
    assert "will always be skipped" in hints(Definition("p", stages=(alarm,)))[0]
    assert hints(Definition("p", stages=(StageSpec("a"), StageSpec("alarm", run_if=RunCondition.ON_FAILURE, depends_on=("a",))))) == []
