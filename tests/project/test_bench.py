"""What the benchmarks say about figures, without measuring any."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..bench.cluster.figures import CLUSTER_FIGURES
from ..bench.compare import changes
from ..bench.figures import FIGURES, percentile
from ..quick import unless_quick

ROOT = Path(__file__).resolve().parents[2]


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


def test_make_compares_two_results(tmp_path: Path) -> None:
    """`make bench-compare OLD.json NEW.json` says of each figure by how much its median changed, and what of it is more than noise."""
    machine = {"cpu": "a", "cores": 2, "memory_gib": 4}
    old = {"start": [1.0, 1.1, 9.0], "status.rate": [100.0, 110.0, 120.0], "line.p50": [1.0, 2.0, 3.0], "memory.idle": [60.0, 60.1, 60.2]}
    new = {
        "start": [10.0, 11.0, 12.0],
        "status.rate": [200.0, 210.0, 220.0],
        "line.p50": [1.5, 2.5, 3.5],
        "memory.idle": [60.1, 60.2, 60.3],
    }
    for name, values, cores in (("old", old, 2), ("new", new, 4)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": {**machine, "cores": cores}, "size": 1.0, "values": values}))
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    # what is installed is not looked at again
    command = ["make", "--old-file=.venv/.ready", "bench-compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = {name: next(line for line in done.stdout.splitlines() if FIGURES[name].words in line) for name in old}
    assert "1.1 s" in rows["start"]
    assert "+900%" in rows["start"]
    assert {name: [word for word in ("WORSE", "BETTER", "within noise") if word in row] for name, row in rows.items()} == {
        "start": ["WORSE"],
        "status.rate": ["BETTER"],
        "line.p50": ["within noise"],
        "memory.idle": [],
    }
    assert "Not the same machine (cores): 2 and 4" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_run_measures_everything_and_can_be_compared(tmp_path: Path) -> None:
    """The same commands as `make bench` and `make bench-compare`: every measure gives its figures, and a result equals itself."""
    result = tmp_path / "result.json"
    arguments = ["--runs", "1", "--size", "0.02", "--json", str(result)]
    command = [sys.executable, "-m", "bench"]
    tests = Path(__file__).parents[1]
    done = subprocess.run([*command, "run", *arguments], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    # what takes a program, or a right, that is not everywhere
    assert set(found["values"]) | {"status.h2load", "end.disk"} == set(FIGURES)
    assert {"cpu", "cores", "memory_gib", "kernel", "python", "grpcio", "date"} <= found["machine"].keys()
    for name in found["values"]:
        assert FIGURES[name].words in done.stdout
    assert str(found["machine"]["cpu"]) in done.stdout
    # what is a difference of two measures may be anything on a busy machine
    differences = {"memory.running", "memory.finished", "chain.over_bare", "end.time"}
    assert [name for name, values in found["values"].items() if name not in differences and min(values) <= 0] == []
    compared = subprocess.run([*command, "compare", str(result), str(result)], cwd=tests, capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stderr
    assert "WORSE" not in compared.stdout


@pytest.mark.cluster
@pytest.mark.disruptive
@unless_quick
@pytest.mark.timeout(1500)
def test_a_small_run_on_a_cluster_measures_everything(tmp_path: Path) -> None:
    """The same command as in `make bench-cluster`, with fake nodes beside the real ones, of which nothing is left."""
    if shutil.which("go") is None:
        pytest.skip("kwok and Tilt are built by Go, which is not here")
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "tests.bench.cluster", "run", "--runs", "1", "--size", "0.03", "--json", str(result), "--markdown"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert set(found["values"]) == set(CLUSTER_FIGURES)
    assert {"cpu", "kubernetes", "nodes"} <= found["machine"].keys()
    for name, figure in CLUSTER_FIGURES.items():
        assert f"| {figure.words} |" in done.stdout
        assert name == "cluster.requests.other" or min(found["values"][name]) > 0
    assert [change.verdict for change in changes(found["values"], found["values"])] == ["same"] * len(CLUSTER_FIGURES)
    nodes = subprocess.run(["kubectl", "get", "nodes", "--output", "name"], capture_output=True, text=True, check=True).stdout.split()
    assert len(nodes) == found["machine"]["nodes"]
