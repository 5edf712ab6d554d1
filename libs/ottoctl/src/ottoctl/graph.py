"""A pipeline as a graph: its stages in steps, who waits for whom, and how each stands if it is a run."""

from __future__ import annotations  # ValueType exists in the generated stubs only

from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from ottoctl.pipeline_file import CHECKOUT
from ottoctl.terminal import harmless
from ottoscaler.v1.stage_pb2 import PipelineStage, RunCondition, StageStatus, StageType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ottoscaler.v1.pipeline_pb2 import PipelineRequest
    from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse

_CONDITIONS = {RunCondition.RUN_CONDITION_ON_FAILURE: "on_failure", RunCondition.RUN_CONDITION_ALWAYS: "always"}


@dataclass(frozen=True, slots=True)
class Node:
    """A stage in the graph. Texts are harmless for a terminal, but may hold anything printable; a name may have several lines."""

    stage_id: str
    name: str
    needs: tuple[str, ...]
    workers: int = 1
    condition: str = ""
    """`on_failure` or `always`; empty: on success."""
    approval: str = ""
    """Who may approve; empty: it needs no approval."""
    ignores_errors: bool = False
    retries: int = 0
    status: StageStatus.ValueType | None = None
    """None: it is a file, not a run."""
    attempt: int = 0
    seconds: float | None = None

    def remarks(self) -> list[str]:
        """What is special about it, in words."""
        told = []
        if self.approval:
            told.append(f"approval by {self.approval}")
        if self.condition:
            told.append("only after a failure" if self.condition == "on_failure" else "always")
        if self.ignores_errors:
            told.append("its failure is ignored")
        if self.retries:
            told.append(f"up to {self.retries} {'retry' if self.retries == 1 else 'retries'}")
        return told


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages, each after all that it needs."""

    title: str
    nodes: tuple[Node, ...]

    def steps(self) -> list[list[Node]]:
        """The stages by the length of the longest way to them: those of a step may run at the same time."""
        depth: dict[str, int] = {}
        for node in self.nodes:
            depth[node.stage_id] = 1 + max((depth[need] for need in node.needs), default=-1)
        steps: list[list[Node]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for node in self.nodes:
            steps[depth[node.stage_id]].append(node)
        return steps


def of_request(request: PipelineRequest, title: str) -> Graph:
    """The graph of a pipeline that has not run. The checkout that a repository brings is part of it, as it is of a run.

    So it is where a stage waits for it, of whichever repository then.
    """
    stages = [_asked(stage) for stage in request.stages]
    if request.repository or any(CHECKOUT in stage.needs for stage in stages):
        stages = [Node(n.stage_id, n.name, n.needs or (CHECKOUT,), *_rest(n)) for n in stages]
        stages.insert(0, Node(CHECKOUT, f"checkout of {harmless(request.repository) or 'the repository'}", ()))
    return Graph(title, _sorted(stages))


def of_run(run: GetPipelineResponse) -> Graph:
    """The graph of a run, with how its stages stand."""
    asked = {stage.stage_id: _asked(stage) for stage in run.request.stages}
    nodes = []
    for stage in run.stages:
        known = asked.get(stage.stage_id)
        seconds = None
        if stage.HasField("started_at") and stage.HasField("ended_at"):
            seconds = (stage.ended_at.ToNanoseconds() - stage.started_at.ToNanoseconds()) / 1e9
        nodes.append(
            Node(
                stage.stage_id,
                lines_of(stage.name or stage.stage_id),
                tuple(dict.fromkeys(stage.depends_on)),
                max(1, stage.worker_count),
                known.condition if known else "",
                _approvers(list(stage.approval.approvers)) if stage.HasField("approval") else "",
                known.ignores_errors if known else False,
                known.retries if known else 0,
                stage.status,
                stage.attempt,
                seconds,
            )
        )
    title = harmless(run.summary.pipeline_id)
    if run.summary.name and run.summary.name != run.summary.pipeline_id:
        title += f" ({harmless(run.summary.name)})"
    return Graph(title, _sorted(nodes))


def _asked(stage: PipelineStage) -> Node:
    condition = _CONDITIONS.get(stage.run_condition, "")
    if not stage.run_condition:
        said = stage.config.get("otto.run_if", "").strip().lower()
        condition = said if said in _CONDITIONS.values() else ""
    approval = ""
    if stage.type == StageType.STAGE_TYPE_APPROVAL or "otto.approvers" in stage.config:
        approval = _approvers(_listed(stage.config.get("otto.approvers", "")))
    return Node(
        stage.stage_id,
        lines_of(stage.name or stage.stage_id),
        tuple(dict.fromkeys(stage.depends_on)),
        max(1, stage.worker_count),
        condition,
        approval,
        stage.ignore_errors or stage.config.get("otto.ignore_errors", "").strip().lower() == "true",
        stage.retry_policy.max_attempts,
    )


def lines_of(name: str) -> str:
    """A name whose line breaks are kept, each line harmless; never empty."""
    return "\n".join(line for line in map(harmless, name.splitlines()) if line.strip()) or "(unnamed)"


def _rest(node: Node) -> tuple[int, str, str, bool, int]:
    return node.workers, node.condition, node.approval, node.ignores_errors, node.retries


def _listed(text: str) -> list[str]:
    """A list that arrives as JSON text, or as words with commas."""
    import json

    try:
        found = json.loads(text)
    except ValueError:
        found = text.split(",")
    return [str(one).strip() for one in (found if isinstance(found, list) else [found]) if str(one).strip()]


def _approvers(names: Iterable[str]) -> str:
    return ", ".join(harmless(name) for name in names) or "anybody"


def _sorted(nodes: list[Node]) -> tuple[Node, ...]:
    """In an order of the work that keeps to the given order where it can."""
    by_id = {node.stage_id: node for node in nodes}
    sorter = TopologicalSorter({node.stage_id: [need for need in node.needs if need in by_id] for node in nodes})
    place = {node.stage_id: index for index, node in enumerate(nodes)}
    sorter.prepare()
    found: list[Node] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place.__getitem__)
        found += [by_id[stage_id] for stage_id in ready]
        sorter.done(*ready)
    return tuple(found)
