"""What the chart renders, word by word: a change of it is seen in a review. `make goldens` writes them."""

from pathlib import Path

import pytest

from .rendering import CHART, SETS, flags, helm, text

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("name", SETS)
def test_the_chart_renders_its_golden(name: str, request: pytest.FixtureRequest) -> None:
    """The rendered chart of each value set is the committed one."""
    golden = GOLDENS / f"{name}.yaml"
    fresh = text(name)
    if request.config.getoption("--write-goldens", default=False):
        golden.write_text(fresh)
    assert golden.read_text() == fresh, "the chart renders something else; if that is meant: `make goldens`, and look at the difference"


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    """`helm lint --strict` passes with each value set."""
    helm("lint", "--strict", "--quiet", str(CHART), *flags(name))
