"""What goes into the images: each service's own dependencies with their hashes, and the code that it needs."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"otto-scaler": "otto_scaler", "otto-executor": "otto_executor", "otto-relay": "otto_relay", "ottoctl": "ottoctl"}


def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("image", ROOT / "services/image.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


IMAGE = tool()


def installed(name: str, seen: set[str]) -> set[str]:
    """What a distribution needs here, as its and its dependencies' metadata say."""
    seen.add(re.sub(r"[-_.]+", "-", name).lower())
    for text in distribution(name).requires or []:
        wanted = Requirement(text)
        normal = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if normal not in seen and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            installed(normal, seen)
    return seen


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_the_packages_that_its_service_needs_and_no_other(name: str) -> None:
    """The pins of an image are what the installed packages' own metadata say it needs; each has its hashes."""
    lock = IMAGE.lock(name)
    blocks = re.split(r"\n(?=\S)", lock.strip())
    pins = {re.match(r"[^=\[]+", block)[0]: block for block in blocks}  # type: ignore[index]  # every block begins with a name
    assert all("--hash=sha256:" in block for block in blocks)
    here = {pin for pin, block in pins.items() if "sys_platform == 'win32'" not in block}
    assert here == installed(name, set()) - set(IMAGE.DISTRIBUTIONS)


@pytest.mark.parametrize(("name", "package"), SERVICES.items())
def test_an_image_has_the_code_that_its_service_runs_and_no_other(name: str, package: str, tmp_path: Path) -> None:
    """With the copied code alone, beside the packages, the service is imported whole; nobody else's code and no test double is there."""
    IMAGE.code(name, tmp_path / "code")
    there = {path.name for path in (tmp_path / "code").iterdir() if path.suffix != ".dist-info"}
    assert there == {path.name for other in IMAGE.ours(name) for path in (IMAGE.DISTRIBUTIONS[other].parent / "src").iterdir()}
    assert not [path for path in (tmp_path / "code").rglob("*") if "testing" in path.stem or path.suffix in {".pyc", ".pyi"}]
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'code')!r}]; sys.dont_write_bytecode = True\n"
        f"import {package}.__main__\n"
        f"own = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0].startswith(('otto_', 'ottoctl'))]\n"
        f"assert own and all(f.startswith({str(tmp_path)!r}) for f in own), own"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_knows_the_versions_of_our_code(name: str, tmp_path: Path) -> None:
    """A service tells its own and the libraries' among its metrics; without them none of them started."""
    IMAGE.code(name, tmp_path)
    told = {found.metadata["Name"]: found.version for found in distributions(path=[str(tmp_path)])}
    assert told == {other: distribution(other).version for other in IMAGE.ours(name)}


def test_what_has_not_changed_is_the_same_layer(tmp_path: Path) -> None:
    """Every copied file has the same time, whenever it is built."""
    IMAGE.code("otto-scaler", tmp_path / "code")
    assert {path.stat().st_mtime for path in (tmp_path / "code").rglob("*")} == {IMAGE.TIME}


def test_every_image_has_a_target_and_belongs_to_a_value() -> None:
    """`make images` builds each target of the Dockerfile that is an image of a release, and the chart has a value for each."""
    stages = re.findall(r"^FROM base AS (\S+)$", (ROOT / "services/Dockerfile").read_text(), re.MULTILINE)
    text = (ROOT / "tools/images.py").read_text()
    built = set(re.findall(r'"([a-z-]+)"', text.partition("TARGETS = (")[2].partition(")")[0]))
    assert set(stages) - {"parts", "installer", "workshop"} == built
    names = {tomllib.loads(path.read_text())["project"]["name"] for path in ROOT.glob("services/*/pyproject.toml")}
    assert names - {"otto-standalone"} <= set(IMAGE.DISTRIBUTIONS)
