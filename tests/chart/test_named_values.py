"""Values of the chart that texts for people name are there: whoever sets one as they read it is not refused."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from otto_runtime.events import CATALOG

from .rendering import CHART, ROOT

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
NOTES = CHART / "templates/NOTES.txt"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted(
        [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / "tools/install", NOTES, *ROOT.glob("docs/*.md")]
    )
}
TOP = "|".join(SCHEMA["properties"])
PATH = re.compile(rf"\b(?:{TOP})(?:\.[A-Za-z][A-Za-z_]*)+")
FILES = (".py", ".yaml", ".json", ".proto", ".md")


def known(path: str) -> bool:
    """Whether the schema has a value of this name, or leaves what stands there to Kubernetes."""
    node = SCHEMA
    for key in path.split("."):
        node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if key not in node.get("properties", {}):
            return node.get("type") == "object" and node.get("additionalProperties") is not False
        node = node["properties"][key]
    return True


def names(values: Any, path: str = "") -> Iterator[str]:
    """The names of all values that a mapping sets, also of mappings."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield (name := f"{path}.{key}".removeprefix("."))
            yield from names(value, name)


def in_spans(line: str) -> Iterator[str]:
    """Those between backticks: `a.b`, `a: {b: 1}`, and `.c` for the `a.c` beside an `a.b`."""
    beside = ""
    for span in re.findall(r"`([^`]+)`", line):
        if span.endswith(FILES) or span in CATALOG:  # a file, or an event of a log
            continue
        name, with_value, _ = span.partition(": ")
        if PATH.fullmatch(name):
            beside = name.rpartition(".")[0]
        if with_value and re.fullmatch(rf"(?:{TOP})[.A-Za-z_]*", name):
            yield from names(yaml.safe_load(span))
        elif PATH.fullmatch(name):
            yield name
        elif beside and re.fullmatch(r"(?:\.[A-Za-z][A-Za-z_]*)+", span):
            yield beside + span


def in_blocks(text: str) -> Iterator[str]:
    """Those of blocks of YAML that are values."""
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and document.keys() <= SCHEMA["properties"].keys():
                yield from names(document)


def set_by_commands(text: str) -> Iterator[str]:
    """Those behind `--set`, several with commas between them too."""
    for given in re.findall(r"--set(?:-json|-string)?[ =]([A-Za-z][^\s`\"']*=[^\s`\"']*)", text):
        yield from re.findall(r"(?:^|,)([A-Za-z][A-Za-z0-9_.]*)=", given)


def named(page: str) -> set[str]:
    text = PAGES[page]
    if page.endswith(NOTES.name):
        return set(PATH.findall(re.sub(r"\{\{.*?\}\}", "", text)))
    return {*set_by_commands(text), *in_blocks(text), *(name for line in text.splitlines() for name in in_spans(line))}


@pytest.mark.parametrize("page", PAGES)
def test_values_that_are_named_are_there(page: str) -> None:
    """In a table, a sentence, a block of YAML, or set by a command."""
    assert [name for name in sorted(named(page)) if not known(name)] == []


def test_names_are_found_wherever_they_stand() -> None:
    """Those of each kind, and one that is not there is known not to be."""
    line = "| x | `workers.a`, `.b.c`; `workers.resources: {limits: {cpu: 2}}`, `gateway: {parentRefs: [{name: …}]}`, `image.py` |"
    assert list(in_spans(line)) == [
        *("workers.a", "workers.b.c", "workers.resources", "workers.resources.limits", "workers.resources.limits.cpu"),
        *("gateway", "gateway.parentRefs"),
    ]
    assert list(in_blocks("```yaml\nmetrics: {rules: {yes_: 1}}\n```\n```yaml\nkind: Pod\n```\n")) == [
        "metrics",
        "metrics.rules",
        "metrics.rules.yes_",
    ]
    assert list(set_by_commands("helm --set a.b=1,ipv6=false --set-json d.e='[1]' --set=f=g")) == ["a.b", "ipv6", "d.e", "f"]
    unknown = ["workers.a", "workers.b.c", "metrics.rules.yes_", "bogus", "frontDoor.service.nodeports", "scaler.settings.max_worker"]
    assert [name for name in unknown if known(name)] == []
    assert known("workers.resources.limits.cpu")
    assert len(named("README.md")) > 40
