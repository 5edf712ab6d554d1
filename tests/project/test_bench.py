"""What the benchmarks say about figures, without measuring any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..bench.compare import changes
from ..bench.figures import FIGURES, percentile


@pytest.mark.parametrize(
    ("name", "old", "new", "verdict"),
    [
        ("start", [1.0, 1.1, 1.2], [1.01, 1.1, 1.19], "same"),
        ("start", [1.0, 1.1, 1.2], [1.3, 1.4, 1.5], "worse"),
        ("start", [1.3, 1.4, 1.5], [1.0, 1.1, 1.2], "better"),
        ("start", [1.0, 1.1, 1.6], [1.3, 1.4, 1.5], "unsure"),
        ("start", [1.0], [2.0], "unsure"),
        ("status.rate", [100.0, 110.0, 120.0], [130.0, 140.0, 150.0], "better"),
        ("status.rate", [130.0, 140.0, 150.0], [100.0, 110.0, 120.0], "worse"),
    ],
)
def test_a_change_is_called_one_only_beyond_noise(name: str, old: list[float], new: list[float], verdict: str) -> None:
    """Medians apart and no run of one side within the runs of the other; which way is better depends on the figure."""
    assert [change.verdict for change in changes({name: old}, {name: new})] == [verdict]


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: no value is made up between two."""
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 2.0, 3.0, 3.0]


def test_targets_say_which_way(capsys: pytest.CaptureFixture[str]) -> None:
    """A target is met on its good side, and a figure without one is neither good nor bad."""
    assert FIGURES["start"].good(1.9) is True
    assert FIGURES["start"].good(2.1) is False
    assert FIGURES["lines.single.ratio"].good(71.0) is True
    assert FIGURES["chain.bare"].good(1e9) is None


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_small_run_measures_everything_and_can_be_compared(tmp_path: Path) -> None:
    """The same commands as `make bench` and `make bench-compare`: every measure gives its figures, and a result equals itself."""
    result = tmp_path / "result.json"
    arguments = ["--runs", "1", "--size", "0.02", "--json", str(result)]
    command = [sys.executable, "-m", "bench"]
    tests = Path(__file__).parents[1]
    done = subprocess.run([*command, "run", *arguments], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert set(found["values"]) | {"status.h2load"} == set(FIGURES)
    assert all(value > 0 for name, values in found["values"].items() for value in values if not name.startswith("memory."))
    compared = subprocess.run([*command, "compare", str(result), str(result)], cwd=tests, capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stderr
    assert "WORSE" not in compared.stdout
