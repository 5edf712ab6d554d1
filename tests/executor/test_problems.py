"""What is said of all that is wrong with a request."""

from hypothesis import given
from hypothesis import strategies as st

from otto_executor.validation import Problem, in_words

problems = st.builds(Problem, st.text(max_size=20), st.text(max_size=1000), st.text(min_size=1, max_size=3000))


@given(st.lists(problems, min_size=1, max_size=40))
def test_at_least_one_problem_is_named_and_the_rest_is_counted(found: list[Problem]) -> None:
    """However long they are, the words fit into a status, begin with a problem, and say how many are left out."""
    words = in_words(found)
    assert len(words.encode()) <= 8000
    lines = words.replace("… and", "\0").split("\0")
    assert found[0].field[:100] in words
    if len(lines) == 1:
        assert all(problem.description[-100:] in words for problem in found)


def test_a_long_problem_does_not_hide_the_short_ones_behind_it() -> None:
    """It is cut in its middle; what is wrong and where stays."""
    words = in_words([Problem("stages", "", "cycle: " + "x" * 9000 + " → a"), Problem("name", "", "is too long")])
    assert "stages: cycle: xxx" in words
    assert "→ a" in words
    assert words.endswith("name: is too long")
