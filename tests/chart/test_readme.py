"""What the README says of a cluster is what the chart renders and what the product says."""

import ast
import re
from functools import cache

import pytest

from .rendering import ROOT, objects, one, resources, text

README = (ROOT / "README.md").read_text()
SAID_BY_OTHERS = {
    "the kubelet": ("ErrImagePull", "ImagePullBackOff", "DeadlineExceeded"),
    "the scheduler": ("Unschedulable", "unbound immediate PersistentVolumeClaims", "volume node affinity conflict"),
    "the API server": ("exceeded quota", "violates PodSecurity", "denied the request", "failed calling webhook", "is forbidden: User"),
    "Envoy": ("no healthy upstream",),
}
NAMES = {"kubectl get pods", "otto.workspace: shared", "ws-…", "spool-…", "State"}
"""What stands in symptoms and is nobody's words."""


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = README.partition(f"\n### {heading}\n")[2]
    lines = re.split(r"\n#{2,3} ", section)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")][2:]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


SYMPTOMS = rows("Troubleshooting")


@cache
def words() -> list[str]:
    """Every text in the code of the services and libraries in lower case, but docstrings and those of test doubles."""
    found = []
    for directory in ("services", "libs"):
        for path in (ROOT / directory).glob("*/src/**/*.py"):
            if "testing" in str(path.relative_to(ROOT)):
                continue
            nodes = list(ast.walk(ast.parse(path.read_text())))
            told_to_nobody = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            texts = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in told_to_nobody)
            found += [node.value.lower() for node in texts if isinstance(node.value, str)]
    return found


@pytest.mark.parametrize("symptom", [row[0] for row in SYMPTOMS])
def test_symptoms_are_told_in_the_words_that_are_seen(symptom: str) -> None:
    """Whoever searches for what they see finds it: each quotation is a text of ours, whole or a part, or somebody else's who is named."""
    others = {text for texts in SAID_BY_OTHERS.values() for text in texts}
    for phrase in quoted(symptom):
        parts = [part.strip() for part in phrase.split("…")]
        known = phrase in others | NAMES or all(any(part.lower() in told for told in words()) for part in parts)
        assert known, phrase


def test_every_symptom_has_something_to_do() -> None:
    """A command at least."""
    assert len(SYMPTOMS) > 20
    assert all(len(row) == 3 for row in SYMPTOMS)
    tools = ("kubectl ", "ottoctl ", "helm ")
    assert [row[0] for row in SYMPTOMS if not any(command.startswith(tools) for command in quoted(row[2]))] == []


def test_objects_that_are_named_are_there() -> None:
    """What to do names objects that the chart makes; tests/chart/test_named_values.py is about its values."""
    named = set(re.findall(r"otto-ottoscaler-[a-z-]+[a-z]", " ".join(" ".join(row) for row in SYMPTOMS)))
    rendered = text()
    assert named
    assert [name for name in sorted(named) if name not in rendered] == []


def test_the_table_of_rights_is_that_of_the_roles() -> None:
    """Service, resource and verbs, those on objects of their own names apart."""
    found: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    service = ""
    for row in rows("What each may do"):
        service = row[0] or service
        general: set[str] = set()
        own: set[str] = set()
        for part in row[2].split(";"):
            verbs = set(re.split(r",\s*|\s+and\s+", part.strip().removesuffix(" of its own")))
            (own if part.strip().endswith(" of its own") else general).update(verbs)
        found[service, row[1]] = (general, own)
    rendered: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for component in ("scaler", "pipeline-executor", "log-relay"):
        for rule in one(objects(), "Role", component)["rules"]:
            for resource in resources(rule):
                may = rendered.setdefault((component, resource), (set(), set()))
                may[bool(rule.get("resourceNames"))].update(rule["verbs"])
    assert found == rendered
