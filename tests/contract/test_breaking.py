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
