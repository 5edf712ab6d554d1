"""What holds for the repository as a whole."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DISTRIBUTIONS = sorted(p.parent for p in [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])
PACKAGES = sorted(p for d in DISTRIBUTIONS for p in (d / "src").glob("*") if p.is_dir() and p.name != "ottoscaler")
# Put together here, so that this file doesn't hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("index", "crates", "io"),
        ("rubygems", "org"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("registry-1", "docker", "io"),
        ("buf", "build"),
    )
]
MACHINE_PATHS = ["/" + "work/", "/" + "root/", "/" + "home/", "/" + "Users/"]


def committed() -> list[Path]:
    """The files that git knows and that are there."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def ours() -> list[Path]:
    """Committed Python files that are written by hand."""
    return [p for p in committed() if p.suffix == ".py" and ROOT / "libs/contracts/src" not in p.parents]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_committed_file_names_a_package_registry_or_a_path_of_a_machine() -> None:
    """What is committed works anywhere, and asks whatever registry a user has configured."""
    files = committed()
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files
        for text in [path.read_bytes().decode("utf-8", "replace")]
        for word in [*REGISTRY_HOSTS, *MACHINE_PATHS]
        if re.search(rf"(?<![\w.-]){re.escape(word)}", text)
    ]
    assert found == []


def pins() -> dict[str, tuple[str, int]]:
    """What requirements.lock pins: the name, its version, how many hashes."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text()):
        entry = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?==([^\s;\\]+)", block)
        if entry:
            found[normal(entry[1])] = (entry[3], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)))
        elif not block.startswith("#"):
            raise AssertionError(f"requirements.lock has an entry that is no pin: {block[:80]}")
    return found


def test_every_pin_has_hashes() -> None:
    """requirements.lock is what `pip install --require-hashes` takes, and nothing in it is unpinned."""
    locked = pins()
    assert len(locked) > 30
    assert [name for name, (_, hashes) in locked.items() if not hashes] == []


def test_every_dependency_is_pinned() -> None:
    """The lock leaves out nothing that a distribution or a tool of ours asks for."""
    own = {normal(tomllib.loads((d / "pyproject.toml").read_text())["project"]["name"]) for d in DISTRIBUTIONS}
    wanted = set()
    for directory in [*DISTRIBUTIONS, ROOT]:
        project = tomllib.loads((directory / "pyproject.toml").read_text())
        extras = project["project"].get("optional-dependencies", {}).values()
        groups = project.get("dependency-groups", {}).values()
        for requirement in [*project["project"]["dependencies"], *(r for group in [*extras, *groups] for r in group)]:
            wanted.add(normal(re.split(r"[^A-Za-z0-9._-]", requirement)[0]))
    assert len(wanted) > 20
    assert wanted - own - set(pins()) == set()


def test_every_npm_package_is_pinned_and_names_no_registry() -> None:
    """package-lock.json has a hash for each package and no address; package.json asks for exact versions."""
    locked = json.loads((ROOT / "tests/node/package-lock.json").read_text())["packages"]
    packages = {name: entry for name, entry in locked.items() if name}
    assert len(packages) > 2
    assert [name for name, entry in packages.items() if "resolved" in entry or not entry["integrity"].startswith("sha512-")] == []
    asked = json.loads((ROOT / "tests/node/package.json").read_text())["dependencies"]
    assert asked == locked[""]["dependencies"]
    assert [version for version in asked.values() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


STANDARD = sys.stdlib_module_names
IMPORTED_AS = {
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_tools": "grpcio-tools",
    "google": "ottoscaler-contracts",  # the well-known types are part of its messages
    "yaml": "pyyaml",
    "prometheus_client": "prometheus-client",
    "opentelemetry": "opentelemetry-api",
    "ottoscaler": "ottoscaler-contracts",
    "otto_kubekit": "otto-kubekit",
    "otto_options": "otto-options",
    "otto_runtime": "otto-runtime",
    "otto_scaler": "otto-scaler",
    "otto_executor": "otto-executor",
    "otto_relay": "otto-relay",
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_a_distribution_declares_what_it_imports(package: Path) -> None:
    """Every import of a package is of the standard library, of itself, or of a dependency that its pyproject.toml names, or an extra."""
    project = tomllib.loads((package.parents[1] / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project.get("optional-dependencies", {}).values() for requirement in extra]
    declared = {normal(re.split(r"[^A-Za-z0-9._-]", r)[0]) for r in (*project["dependencies"], *extras)}
    undeclared = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top not in STANDARD and top != package.name and IMPORTED_AS.get(top, normal(top)) not in declared:
                    undeclared.add(f"{path.relative_to(package)}: {name}")
    assert undeclared == set()


@pytest.mark.parametrize("init", sorted(i for p in PACKAGES for i in p.rglob("__init__.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_init_of_a_package_is_its_charter(init: Path) -> None:
    """A docstring of a sentence or more, and no code beyond re-exports."""
    tree = ast.parse(init.read_text())
    charter = ast.get_docstring(tree) or ""
    assert len(charter) > 40, f"{init} has no charter"
    assert charter.rstrip().endswith(".")
    code = [node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom) and not is_all(node)]
    assert code == []


def is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)


def test_every_package_says_that_it_is_typed() -> None:
    """`py.typed` lies in every package, so that mypy believes its annotations."""
    assert [p.name for p in PACKAGES if not (p / "py.typed").is_file()] == []


def test_modules_stay_small() -> None:
    """No module of ours is longer than 400 lines: then it is two."""
    modules = [p for p in ours() if "tests" not in p.relative_to(ROOT).parts]
    assert len(modules) > 20
    assert [f"{p.relative_to(ROOT)}" for p in modules if len(p.read_text().splitlines()) > 400] == []


def test_modules_are_nouns_of_the_domain() -> None:
    """Nothing is called utils, helpers, common or manager."""
    assert [str(p.relative_to(ROOT)) for p in ours() if re.search(r"util|helper|common|manager", p.stem)] == []


def test_every_ignore_has_its_reason() -> None:
    """`noqa` and `type: ignore` name the rule and say why, on the line or for a group above it."""
    bare = []
    for path in ours():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            found = re.search(r"#\s*(noqa\b(?!:)|type:\s*ignore(?!\[))", line)
            if found and '"' not in line[: found.start()].split("#")[0][-1:]:
                bare.append(f"{path.relative_to(ROOT)}:{number}")
    own = Path(__file__).relative_to(ROOT)
    assert [where for where in bare if not where.startswith(str(own))] == []


def test_only_otlp_knows_the_sdk() -> None:
    """The OpenTelemetry SDK and its exporters are imported in one module only; import-linter can't see into external packages."""
    knowing = [
        str(p.relative_to(ROOT))
        for p in ours()
        if "tests" not in p.relative_to(ROOT).parts
        and re.search(r"^\s*(from|import) opentelemetry\.(sdk|exporter)", p.read_text(), re.MULTILINE)
    ]
    assert knowing == ["libs/runtime/src/otto_runtime/otlp.py"]


def test_no_unittest_mock() -> None:
    """Doubles ship beside the real thing and pass the same tests."""
    word = "unittest" + ".mock"
    assert [str(p.relative_to(ROOT)) for p in ours() if word in p.read_text() or "from unittest " + "import mock" in p.read_text()] == []


@pytest.mark.parametrize(
    "command", [["lint-imports", "--no-cache"], ["buf", "lint"], ["buf", "format", "--diff", "--exit-code"]], ids=" ".join
)
def test_a_linter_passes(command: list[str]) -> None:
    """The import law and the protos' style hold."""
    result = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", ["libs/contracts/tools/generate.py", "tools/settings_table.py", "tools/chart_values.py"])
def test_what_is_generated_is_current(script: str) -> None:
    """The committed code and the README's tables are what the generators would write."""
    result = subprocess.run(
        [sys.executable, str(ROOT / script), "--check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
