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
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"otto-scaler": "otto_scaler", "otto-executor": "otto_executor", "otto-relay": "otto_relay", "ottoctl": "ottoctl"}


def tool(name: str) -> ModuleType:
    path = ROOT / name
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


IMAGE = tool("services/image.py")
IMAGES = tool("tools/images.py")


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


def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by stage, each on a line, with that which says what it is from."""
    text = re.sub(r"^#.*\n", "", (ROOT / "services/Dockerfile").read_text(), flags=re.MULTILINE)
    instructions = [line for line in text.replace("\\\n", "").splitlines() if line]
    found: dict[str, list[str]] = {}
    for instruction in instructions:
        if begun := re.fullmatch(r"FROM \S+ AS (\S+)", instruction):
            found[begun[1]] = []
        if found:
            list(found.values())[-1].append(instruction)
    return found


STAGES = stages()


def test_every_image_has_a_target_and_belongs_to_a_value() -> None:
    """`make images` builds each target of the Dockerfile that is an image of a release, and the chart has a value for each."""
    bases = {name for name, instructions in STAGES.items() if instructions[0].startswith("FROM base ")}
    assert bases - {"parts", "installer", "workshop"} == set(IMAGES.TARGETS)
    written = yaml.safe_load(IMAGES.values([IMAGES.Image(target, f"host/{target}:1", 0.0) for target in IMAGES.TARGETS]))
    known = yaml.safe_load((ROOT / "charts/ottoscaler/values.yaml").read_text())
    assert len(written) == len(IMAGES.TARGETS)
    for part, chosen in written.items():
        assert set(chosen["image"]) <= set(known[part]["image"]), part
    names = {tomllib.loads(path.read_text())["project"]["name"] for path in ROOT.glob("services/*/pyproject.toml")}
    assert names - {"otto-standalone"} <= set(IMAGE.DISTRIBUTIONS)


@pytest.mark.parametrize("name", [*IMAGES.TARGETS, "dev", "workshop"])
def test_nobody_is_root_in_an_image(name: str) -> None:
    """Its last user is one with a number, as `runAsNonRoot` can see only of those that it is not root."""
    assert [instruction for instruction in STAGES[name] if instruction.startswith("USER ")][-1] == "USER 10001:10001"


@pytest.mark.parametrize("name", [name for name in IMAGES.TARGETS if name != "front-door"])
def test_a_change_of_code_makes_the_last_layer_anew_and_no_other(name: str) -> None:
    """Packages come before it, and neither they nor anything below is made of our code, but of the image's own pins."""
    copies = ["COPY --from=%s-packages /opt/otto/packages /opt/otto/packages", "COPY --from=parts /parts/%s/code /opt/otto/code"]
    assert STAGES[name][-2:] == [copy % name for copy in copies]
    pins = [f"COPY --from=parts /parts/{name}/requirements.lock /requirements.lock", "RUN install-packages /requirements.lock"]
    assert STAGES[f"{name}-packages"] == [f"FROM installer AS {name}-packages", *pins]
    assert (STAGES[name][0], STAGES["installer"][0]) == (f"FROM base AS {name}", "FROM base AS installer")
    below = [*STAGES["base"], *STAGES["installer"], *STAGES[name][:-2]]
    assert not [instruction for instruction in below if instruction.startswith(("COPY", "ADD")) or "--mount" in instruction]
