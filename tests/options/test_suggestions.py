"""Hints are bounded in work, whatever is asked."""

import difflib
from collections.abc import Sequence

import pytest

from otto_options.options import parse
from otto_options.suggestions import LONGEST_NAME, MOST_COMPARISONS, MOST_HINTS, Suggestions


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many names each search for a near one compared."""
    counted: list[int] = []
    search = difflib.get_close_matches

    def counting(word: str, possibilities: Sequence[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
        counted.append(len(possibilities))
        assert max(len(text) for text in (word, *possibilities)) <= LONGEST_NAME
        return search(word, possibilities, n, cutoff)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    return counted


def test_the_first_unknown_names_get_a_hint() -> None:
    """As many as a person may have mistyped."""
    suggestions = Suggestions(["build", "test", "deploy"])
    assert [suggestions.hint(name) for name in ("biuld", "tets", "depoly", "buidl")] == [
        "; did you mean build?",
        "; did you mean test?",
        "; did you mean deploy?",
        "",
    ]


@pytest.mark.parametrize("known", [1, 10, 200, 500, 5000])
def test_a_flood_of_unknown_names_costs_a_bounded_number_of_comparisons(known: int, comparisons: list[int]) -> None:
    """However many names there are on either side."""
    suggestions = Suggestions([f"stage-{number}" for number in range(known)])
    for number in range(2000):
        suggestions.hint(f"stage-x{number}")
    assert 1 <= len(comparisons) <= MOST_HINTS
    assert sum(comparisons) <= MOST_COMPARISONS


def test_long_names_are_not_compared(comparisons: list[int]) -> None:
    """Neither asked for nor known: the time grows with the square of their length."""
    suggestions = Suggestions(["x" * 100_000, "short"])
    assert suggestions.hint("x" * 99_999) == ""
    assert suggestions.hint("shorr") == "; did you mean short?"
    assert comparisons == [1]


def test_a_config_of_unknown_options_costs_a_few_searches(comparisons: list[int]) -> None:
    """Each is named as a problem; only the first are looked up."""
    options = parse({f"otto.run_{number}": "" for number in range(1000)})
    assert len(options.problems) == 1000
    assert len(comparisons) == MOST_HINTS
