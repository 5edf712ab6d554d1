"""What the file's reader and the service find wrong is one list, with the lines of the file."""

import io
import json
import sys
from pathlib import Path

import pytest

from ottoctl.checking import report, together
from ottoctl.pipeline_file import PipelineFileError, load, parse, read, read_text
from ottoctl.render import Output
from ottoctl.templates import TEMPLATES
from ottoscaler.v1.pipeline_service_pb2 import PipelineProblem

SOURCE = b"""\
id: shop
metadata:
  otto.fail_fast: maybe
stages:
  - name: a
    commands: make
    config:
      otto.memory: lots
      retry.retryableFailures: "timeout,oops"
  - name: b
    timeout: 99999999
    dependencies: [a, c]
"""


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("pipeline_id", (1, 5)),
        ('metadata["otto.fail_fast"]', (3, 19)),
        ("stages", (5, 3)),
        ('stages[0].config["otto.memory"]', (8, 20)),
        ('stages[0].config["otto.cpu"]', (8, 7)),
        ("stages[0].retry_policy.retryable_failures[1]", (9, 32)),
        ("stages[0].args[0]", (6, 15)),
        ("stages[0].stage_id", (5, 11)),
        ("stages[1].timeout_seconds", (11, 14)),
        ("stages[1].depends_on[1]", (12, 23)),
        ("stages[1].run_condition", (10, 5)),
        ("commit_sha", (1, 1)),
    ],
)
def test_the_service_s_fields_have_places(field: str, place: tuple[int, int]) -> None:
    """Where a field stands, or what it belongs to."""
    assert read_text(SOURCE, "f", "f").place(field) == place


def test_one_list_in_the_order_of_the_file() -> None:
    """Own mistakes and the service's, none twice, in the words of the file."""
    source = read_text(SOURCE, "ci.yaml", "ci")
    source.elsewhere.add('stages[1].config["otto.nonsense"]')
    problems = [
        PipelineProblem(field="stages[1].depends_on[1]", stage_id="b", description="there is no stage 'c'"),
        PipelineProblem(field="stages[1].timeout_seconds", stage_id="b", description="is too many"),
        PipelineProblem(field='stages[0].config["otto.memory"]', stage_id="a", description="'lots' is no quantity"),
        PipelineProblem(field='stages[1].config["otto.nonsense"]', stage_id="b", description="is no option"),
    ]
    assert [found.words(source.name) for found in together(source, problems)] == [
        "given on the command line: stage 'b': otto.nonsense: is no option",
        "ci.yaml:8:20: stage 'a': otto.memory: 'lots' is no quantity",
        "ci.yaml:11:14: stage 'b': timeout: is too many",
        "ci.yaml:12:23: there is no job named 'c'",
    ]


def test_every_cycle_is_named_once() -> None:
    """Each with its path; the service's word on them is not repeated."""
    source = read_text(
        b"- {name: a, dependencies: a}\n- {name: b, dependencies: c}\n- {name: c, dependencies: b}\n"
        b"- {name: d, dependencies: e}\n- {name: e, dependencies: d}\n",
        "f",
        "f",
    )
    found = together(source, [PipelineProblem(field="stages", description="the dependencies form a cycle: d → e → d")])
    assert [(one.line, one.description) for one in found] == [
        (1, "this job waits for itself"),
        (2, "these jobs wait for each other: b → c → b"),
        (4, "these jobs wait for each other: d → e → d"),
    ]


@pytest.mark.parametrize(("text", "place"), [('a: 1\nb: "x\nc: 2\n', "f:2:4:"), ("a: 1\nb: [x, y\n", "f:2:4:")], ids=["quote", "list"])
def test_what_is_never_closed_is_shown_where_it_begins(text: str, place: str) -> None:
    """Not at the end of the file, where the parser notices."""
    with pytest.raises(PipelineFileError) as caught:
        parse(text.encode(), "f")
    assert str(caught.value).startswith(place)


def test_reports_are_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has the file's own mistakes too; offline it is said that nobody was asked about options."""
    source = read_text(SOURCE, "ci.yaml", "ci")
    assert report(source, [], [], Output.JSON, offline=True) == 2
    shown = json.loads(capsys.readouterr().out)
    assert shown["problems"] == [{"line": 12, "column": 23, "stage_id": "", "field": "", "description": "there is no job named 'c'"}]
    assert shown["asked_service"] is False
    fine = read_text(b"[{name: a}]", "ci.yaml", "ci")
    assert report(fine, [], [], Output.TABLE, offline=True) == 0
    assert capsys.readouterr().out.startswith("ci.yaml: fine, 1 stage; options (otto.*)")
    assert report(fine, [], [], Output.TABLE, offline=False) == 0
    assert capsys.readouterr().out == "ci.yaml: fine, 1 stage\n"


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads it."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[{name: a}]")))
    source = read(Path("-"))
    assert (source.name, source.stem, len(source.request.stages)) == ("standard input", "stdin", 1)


@pytest.mark.parametrize("job", ["{name: go, type: approval}", "{name: go, config: {otto.approvers: kim}}"])
def test_an_approval_without_a_timeout_has_the_service_s(job: str) -> None:
    """Not the ten minutes of an attempt; one that is said stays."""
    assert parse(f"- {job}".encode(), "f").stages[0].timeout_seconds == 0
    assert parse(f"- {job[:-1]}, timeout: 5}}".encode(), "f").stages[0].timeout_seconds == 5


@pytest.mark.parametrize("commands", ["'a; b'", "[a, b]"])
def test_a_failing_command_ends_its_script(commands: str) -> None:
    """Texts and lists go to `sh -e`."""
    assert list(parse(f"- {{name: a, commands: {commands}}}".encode(), "f").stages[0].command) == ["sh", "-e", "-c"]


def test_files_of_this_repository_are_right() -> None:
    """What lies in pipelines/ and comes with ottoctl has no mistake."""
    for path in sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.yaml")):
        assert load(path).mistakes == []
    assert TEMPLATES
