"""The commands of CONTRIBUTING.md and the README are there to be run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "CONTRIBUTING.md", ROOT / "README.md", *ROOT.glob("docs/*.md")))


def blocks(page: str) -> list[list[str]]:
    """The commands of each block of a page, a line each."""
    found = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", "").splitlines() for block in found]


def targets() -> set[str]:
    """What `make` can be asked for."""
    told = subprocess.run(["make", "--print-data-base", "--question", "help"], cwd=ROOT, capture_output=True, text=True, check=False)
    return set(re.findall(r"^([a-z][a-z-]*):", told.stdout, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_make_there_is_a_target_of(page: str) -> None:
    """In blocks and within sentences, with several targets at a time as with one."""
    text = (ROOT / page).read_text()
    spans = re.findall(r"`(make [^`\n]*)`", text) + [line for block in blocks(page) for line in block if line.startswith("make ")]
    asked = {word for span in spans for word in shlex.split(span, comments=True)[1:] if re.fullmatch("[a-z][a-z-]*", word)}
    assert asked <= targets()


def test_the_changes_of_the_first_hour_change_something() -> None:
    """Each `sed` finds its words in the file that it names, or has been there, and the tests that it is about are there."""
    lines = [shlex.split(line, comments=True) for block in blocks("CONTRIBUTING.md") for line in block]
    changes = [line for line in lines if line[:1] == ["sed"]]
    assert len(changes) == 2
    for _, _, script, file in changes:
        _, old, new, _ = script.split("/")
        text = (ROOT / file).read_text()
        assert (old in text) != (new in text)
    for line in lines:
        assert line[:1] != ["pytest"] or (ROOT / line[1]).is_file()
