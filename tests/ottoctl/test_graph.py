"""Pipelines as graphs: text that fits, DOT that Graphviz reads, Mermaid that its grammar takes, whatever names hold."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottoctl.graph import Graph, of_request, of_run
from ottoctl.graph_drawing import dot, mermaid
from ottoctl.graph_text import cells, rows
from ottoctl.pipeline_file import parse
from ottoscaler.v1.pipeline_pb2 import ApprovalDecision, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, RunCondition, StageStatus, StageType

NASTY = [
    "우분투 준비 🚀",
    'say "hi"',
    "a[b](c){d}",
    "back\\slash\\n",
    "<b>&amp;</b>",
    "#35; `x` **y** %% -->",
    "end",
    "a;b|c",
    "1. numbered",
]

PIPELINE = b"""
name: Shop
repository: https://git.example.com/shop.git
stages:
  - {name: install}
  - {name: lint, dependencies: [install]}
  - {name: test, dependencies: [install], worker_count: 4, config: {retry.maxAttempts: 2}}
  - {name: docs, dependencies: [install], config: {otto.ignore_errors: true}}
  - {name: approve, dependencies: [lint, test, docs], config: {otto.approvers: [kim, lee]}}
  - {name: deploy, dependencies: [approve]}
  - {name: tell, dependencies: [deploy], config: {otto.run_if: on_failure}}
  - {name: clean, dependencies: [deploy], config: {otto.run_if: always}}
"""


def shop() -> Graph:
    return of_request(parse(PIPELINE, "f"), "Shop")


@pytest.mark.parametrize("header", [b"", b"repository: /r\n"], ids=["no repository in the file", "a repository"])
def test_a_job_may_wait_for_the_checkout_by_name(header: bytes) -> None:
    """`otto.checkout` is taken as the service takes it and is a node of the graph, also where the repository is still to be given."""
    request = parse(header + b"stages: [{name: a, dependencies: [otto.checkout]}, {name: b, dependencies: [a, otto.checkout]}]", "f")
    assert [list(stage.depends_on) for stage in request.stages] == [["otto.checkout"], ["a", "otto.checkout"]]
    graph = of_request(request, "f")
    assert [[node.stage_id for node in step] for step in graph.steps()] == [["otto.checkout"], ["a"], ["b"]]
    assert graph.nodes[0].name == ("checkout of /r" if header else "checkout of the repository")
    for form in (dot(graph), mermaid(graph), rows(graph, 100)):
        assert "checkout of" in "\n".join(form)


def test_text_shows_steps_workers_conditions_and_approvals() -> None:
    """A row a stage by steps, with who it waits for and what is special; the checkout of a repository is the first step."""
    assert list(rows(shop(), 100)) == [
        "Shop: 9 stages in 6 steps",
        "",
        "1 ─ ○ checkout of https://git.example.com/shop.git",
        "",
        "2 ─ ○ install                               after checkout of https://git.example.com/shop.git",
        "",
        "3 ┬ ○ lint                                  after install",
        "  ├ ○ test ×4                               after install · up to 2 retries",
        "  └ ○ docs                                  after install · its failure is ignored",
        "",
        "4 ─ ◇ approve                               after all of 3 · approval by kim, lee",
        "",
        "5 ─ ○ deploy                                after approve",
        "",
        "6 ┬ ○ tell                                  after deploy · only after a failure",
        "  └ ○ clean                                 after deploy · always",
    ]


def test_a_run_shows_how_its_stages_stand() -> None:
    """State, time, attempt, approvers: from what the service says."""
    answer = GetPipelineResponse()
    answer.summary.pipeline_id = "r"
    build = answer.stages.add(stage_id="build", status=StageStatus.STAGE_COMPLETED, attempt=2, worker_count=1)
    build.started_at.FromSeconds(100)
    build.ended_at.FromSeconds(165)
    wait = answer.stages.add(stage_id="go", status=StageStatus.STAGE_PENDING, depends_on=["build"], worker_count=1)
    wait.approval.decision = ApprovalDecision.APPROVAL_DECISION_UNSPECIFIED
    assert list(rows(of_run(answer), 80)) == [
        "r: 2 stages in 2 steps",
        "",
        "1 ─ ✔ build  completed in 1m05s (attempt 2)",
        "",
        "2 ─ · go     pending · after build · approval by anybody",
    ]
    assert '  n1 [label="build\\ncompleted in 1m05s", fillcolor="#c8e6c9"];' in list(dot(of_run(answer)))
    assert "  class n1 completed" in list(mermaid(of_run(answer)))


def wide_and_deep() -> Graph:
    stages = [PipelineStage(stage_id=f"단계 {n:02d} with a rather long name", depends_on=[]) for n in range(30)]
    for n in range(1, 10):
        stages[n].depends_on.append(stages[n - 1].stage_id)
    for n in range(10, 28):
        stages[n].depends_on.append(stages[9].stage_id)
    stages[28].depends_on.extend(stage.stage_id for stage in stages[10:28])
    stages[29].depends_on.extend(stage.stage_id for stage in stages[5:15])
    return of_request(PipelineRequest(stages=stages), "wide and deep")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_thirty_stages_fit_any_terminal(width: int) -> None:
    """Every stage has its row, none is wider than the terminal, and a whole step is named by its number."""
    shown = list(rows(wide_and_deep(), width))
    assert [line for line in shown if cells(line) > width] == []
    text = "\n".join(shown)
    for n in range(30):
        assert re.search(rf"[○◇] 단계 {n:02d} with", text)
    assert "after all of 11" in text


def nasty() -> Graph:
    names = list(NASTY)
    stages = [PipelineStage(stage_id=name, depends_on=names[:n][-1:]) for n, name in enumerate(names)]
    stages[1].type = StageType.STAGE_TYPE_APPROVAL
    stages[2].run_condition = RunCondition.RUN_CONDITION_ALWAYS
    stages[3].retry_policy.CopyFrom(RetryPolicy(max_attempts=1))
    return of_request(PipelineRequest(stages=stages), 'title "with" \\ all <&>')


def test_a_newline_in_a_name_breaks_no_format() -> None:
    """A line break is one in a drawing and a mark in the text; other control characters are gone."""
    stages = [PipelineStage(stage_id="two\nlines\r\x1b[2J"), PipelineStage(stage_id="\n\x07", depends_on=["two\nlines\r\x1b[2J"])]
    graph = of_request(PipelineRequest(stages=stages), "t")
    assert "○ two↵lines" in "\n".join(rows(graph, 80))
    assert "○ (unnamed)  after two↵lines" in "\n".join(rows(graph, 80))
    assert '  n1 [label="two\\nlines"];' in list(dot(graph))
    assert '  n1["two<br/>lines"]' in list(mermaid(graph))
    assert "\x1b" not in "".join([*rows(graph, 80), *dot(graph), *mermaid(graph)])


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_reads_every_name_back() -> None:
    """Graphviz takes the DOT without a warning, and draws each name as it is."""
    done = subprocess.run(["dot", "-Tjson0"], input="\n".join(dot(nasty())), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = json.loads(done.stdout)
    assert len(drawn["edges"]) == len(NASTY) - 1
    picture = subprocess.run(["dot", "-Tsvg"], input="\n".join(dot(nasty())), capture_output=True, text=True, check=True).stdout
    texts = [html.unescape(text).replace("\xa0", " ") for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]
    for name in NASTY:
        assert name in texts, texts
    assert 'title "with" \\ all <&>' in texts


NODE = re.compile(r'^  (n\d+)(?:\["|\{\{")((?:[^"#;<>`\[\]{}|&\\]|#\d+;|<br/>)*)(?:"\]|"\}\})$')
EDGE = re.compile(r"^  (n\d+) (?:-->|-\.->) (n\d+)$")
CLASS = re.compile(r"^  (?:classDef [a-z]+ fill:#[0-9a-f]{6}|class n\d+(?:,n\d+)* [a-z]+)$")


def read_mermaid(lines: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Labels and edges, by the part of Mermaid's flowchart grammar that is written; raises AssertionError for any other line."""
    assert lines[0] == "flowchart TD"
    labels: list[str] = []
    edges = []
    for line in lines[1:]:
        if node := NODE.match(line):
            labels.append(re.sub(r"#(\d+);", lambda found: chr(int(found[1])), node[2].replace("<br/>", "\n")))
        elif edge := EDGE.match(line):
            edges.append((edge[1], edge[2]))
        else:
            assert CLASS.match(line), line
    return labels, edges


def test_mermaid_s_grammar_takes_every_name() -> None:
    """Each name comes out of the label as it went in; nothing in it is read as syntax, Markdown or HTML."""
    labels, edges = read_mermaid(list(mermaid(nasty())))
    assert [label.split("\n")[0] for label in labels] == NASTY
    assert edges == [(f"n{n}", f"n{n + 1}") for n in range(1, len(NASTY))]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6, unique=True), st.integers(20, 120))
def test_any_names_can_be_drawn(names: list[str], width: int) -> None:
    """Whatever stages are called, each format has each of them, and Mermaid's grammar holds."""
    graph = of_request(PipelineRequest(stages=[PipelineStage(stage_id=n, depends_on=names[:i]) for i, n in enumerate(names)]), "t")
    labels, edges = read_mermaid(list(mermaid(graph)))
    assert labels == [node.name for node in graph.nodes]
    assert len(edges) == len(names) * (len(names) - 1) // 2
    drawn = list(dot(graph))
    assert sum("->" in line and "label" not in line for line in drawn) == len(edges)
    assert sum(line[:4].strip() != "" for line in rows(graph, width)) >= len(names)


def test_shared_examples_have_a_graph() -> None:
    """Every pipeline file of this repository can be drawn."""
    for path in sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.yaml")):
        graph = of_request(parse(path.read_bytes(), path.name), path.name)
        assert len(list(rows(graph, 80))) > len(graph.nodes)
