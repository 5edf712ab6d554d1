"""What the README promises is shown by tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def promises() -> dict[str, list[str]]:
    """What happens, and the tests that show what is promised then."""
    section = (ROOT / "README.md").read_text().partition("## What is promised when something breaks\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    return {happens: re.findall(r"tests/[\w./]+", shown) for happens, _, shown in rows[2:]}


def test_every_promise_names_the_files_that_show_it() -> None:
    """Files and not whole directories, each of which exists and has tests."""
    assert len(promises()) > 15
    test = re.compile(r"^(async )?def test_", re.MULTILINE)
    wrong = {
        happens: files
        for happens, files in promises().items()
        if not files or not all((ROOT / file).is_file() and test.search((ROOT / file).read_text()) for file in files)
    }
    assert wrong == {}


def test_the_working_instructions_name_files_that_exist() -> None:
    """Every path under tests/, tools/, libs/ and services/ in CONTRIBUTING.md."""
    named = re.findall(r"\b(?:tests|tools|libs|services)/[\w./-]*\w", (ROOT / "CONTRIBUTING.md").read_text())
    made = {"tests/node/node_modules"}
    assert named
    assert [path for path in named if path not in made and not (ROOT / path).exists()] == []
