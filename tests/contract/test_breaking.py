"""`buf breaking` notices a bent contract."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).parent / "buf"


def copy(target: Path) -> None:
    shutil.copytree(ROOT / "protos", target / "protos")
    shutil.copy(ROOT / "buf.yaml", target)


def breaking(bent: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BUF), "breaking", str(bent), "--against", str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_same_contract_breaks_nothing(tmp_path: Path) -> None:
    """A copy of the protos passes, so that the next test's failure is the bend's."""
    copy(tmp_path)
    result = breaking(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "good", "bent"),
    [
        ("log.proto", "string message = 6;", "bytes message = 6;"),
        ("ottoscaler_service.proto", "PARTIAL_SUCCESS = 2;", "PARTIAL_SUCCESS = 4;"),
        ("stage.proto", "string stage_id = 1;", "string stage_name = 1;"),
        ("ottoscaler_service.proto", "rpc GetWorkerStatus(", "rpc GetWorkers("),
    ],
    ids=["type", "enum number", "field name", "rpc name"],
)
def test_a_bent_contract_is_noticed(tmp_path: Path, file: str, good: str, bent: str) -> None:
    """Another type, number or name is an error."""
    copy(tmp_path)
    path = tmp_path / "protos" / "ottoscaler" / "v1" / file
    text = path.read_text()
    assert good in text
    path.write_text(text.replace(good, bent))
    assert breaking(tmp_path).returncode != 0


def test_the_first_commit_is_what_nothing_may_break() -> None:
    """`make verify` compares with the last release, before the first one with the first commit: that passes today."""
    first = subprocess.run(
        ["git", "rev-list", "--max-parents=0", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    if subprocess.run(["git", "cat-file", "-e", f"{first}:buf.yaml"], cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("the clone is shallow: its first commit is not the first one")
    result = subprocess.run(
        [str(BUF), "breaking", "--against", f".git#ref={first}"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_stale_generated_code_is_noticed(tmp_path: Path) -> None:
    """`generate.py --check` fails, naming the file, when a proto says something else than the committed code."""
    for name in ("protos", "libs/contracts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, str(tmp_path / "libs/contracts/tools/generate.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).returncode == 0
    path = tmp_path / "protos/ottoscaler/v1/log.proto"
    path.write_text(path.read_text().replace("bool replayed = 101;", "bool replayed = 101;\n  // New.\n  bool brand_new = 103;"))
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "ottoscaler/v1/log_pb2.py is not what protos/ says" in result.stderr
