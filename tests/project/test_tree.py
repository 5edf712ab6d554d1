"""What holds for the repository as a whole."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = sorted(p.parent for p in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])
# Put together here, so that this file doesn't hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("golang", "org"), ("deb", "debian"))
]
MACHINE_PATHS = ["/" + "work/", "/" + "root/", "/" + "home/"]


def committed() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_committed_file_names_a_package_registry_or_a_path_of_a_machine() -> None:
    """What is committed works anywhere, and asks whatever registry a user has configured."""
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in committed()
        for word in [*REGISTRY_HOSTS, *MACHINE_PATHS]
        if word in path.read_bytes().decode("utf-8", "replace")
    ]
    assert found == []


def test_every_pin_has_hashes_and_every_dependency_a_pin() -> None:
    """requirements.lock is what `pip install --require-hashes` takes, and leaves out nothing that a distribution needs."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==[^\n]*(\n    --hash=sha256:[0-9a-f]{64}[^\n]*)?", lock, re.MULTILINE)
    assert pins
    assert [name for name, first_hash in pins if not first_hash] == []
    own = {tomllib.loads((d / "pyproject.toml").read_text())["project"]["name"] for d in DISTRIBUTIONS}
    wanted = set()
    for directory in [*DISTRIBUTIONS, ROOT]:
        project = tomllib.loads((directory / "pyproject.toml").read_text())
        for requirement in [*project["project"]["dependencies"], *project.get("dependency-groups", {}).get("dev", [])]:
            wanted.add(re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-"))
    assert wanted - own - {name for name, _ in pins} == set()


@pytest.mark.parametrize("init", sorted(ROOT.glob("*/*/src/*/**/__init__.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_s_init_is_its_charter(init: Path) -> None:
    """A docstring of a sentence or more, and no code beyond re-exports."""
    tree = ast.parse(init.read_text())
    assert ast.get_docstring(tree), f"{init} has no charter"
    assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) or is_all(node) for node in tree.body)


def is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)


def test_modules_stay_small() -> None:
    """No module of ours is longer than 400 lines: then it is two."""
    ours = [p for p in committed() if p.suffix == ".py" and "contracts/src" not in str(p) and "tests" not in p.relative_to(ROOT).parts]
    assert [f"{p.relative_to(ROOT)}" for p in ours if len(p.read_text().splitlines()) > 400] == []
