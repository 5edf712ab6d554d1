"""A graph in the languages of programs that draw: Graphviz's DOT and Mermaid's flowchart. Names may hold anything."""

from collections.abc import Iterator

from ottoctl.graph import Graph, Node
from ottoctl.progress import duration, status_word
from ottoscaler.v1.stage_pb2 import StageStatus

FILLS = {
    StageStatus.STAGE_PENDING: "#ffffff",
    StageStatus.STAGE_RUNNING: "#b3e5fc",
    StageStatus.STAGE_COMPLETED: "#c8e6c9",
    StageStatus.STAGE_FAILED: "#ffcdd2",
    StageStatus.STAGE_CANCELLED: "#ffe0b2",
    StageStatus.STAGE_SKIPPED: "#eeeeee",
    StageStatus.STAGE_RETRYING: "#fff9c4",
}
_MERMAID_PLAIN = frozenset(" .,:-_/()+=?!@%^*'")
"""What stands for itself in a quoted label, beside letters and digits."""


def dot(graph: Graph) -> Iterator[str]:
    """Lines of DOT. Nodes are n1, n2 …; names are their labels."""
    yield "digraph pipeline {"
    yield f"  label={_dot_text(graph.title)}; labelloc=t; rankdir=TB;"
    yield '  node [shape=box, style="rounded,filled", fillcolor="#ffffff", fontname="sans-serif"];'
    numbers = _numbers(graph)
    for node in graph.nodes:
        shape = ", shape=diamond, style=filled" if node.approval else ""
        fill = f', fillcolor="{FILLS[node.status]}"' if node.status is not None and node.status in FILLS else ""
        yield f"  {numbers[node.stage_id]} [label={_dot_text(*_label(node))}{shape}{fill}];"
    for node in graph.nodes:
        style = " [style=dashed]" if node.condition else ""
        for need in node.needs:
            yield f"  {numbers[need]} -> {numbers[node.stage_id]}{style};"
    yield "}"


def mermaid(graph: Graph) -> Iterator[str]:
    """Lines of a Mermaid flowchart. Nodes are n1, n2 …; names are their labels."""
    yield "flowchart TD"
    numbers = _numbers(graph)
    for node in graph.nodes:
        label = "<br/>".join(_mermaid_text(part) for part in _label(node))
        begin, end = ("{{", "}}") if node.approval else ("[", "]")
        yield f'  {numbers[node.stage_id]}{begin}"{label}"{end}'
    for node in graph.nodes:
        arrow = "-.->" if node.condition else "-->"
        for need in node.needs:
            yield f"  {numbers[need]} {arrow} {numbers[node.stage_id]}"
    used: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.status is not None:
            used.setdefault(status_word(node.status).lower(), []).append(numbers[node.stage_id])
    for word, members in used.items():
        yield f"  classDef {word} fill:{FILLS[StageStatus.Value(f'STAGE_{word.upper()}')]}"
        yield f"  class {','.join(members)} {word}"


def _numbers(graph: Graph) -> dict[str, str]:
    return {node.stage_id: f"n{number}" for number, node in enumerate(graph.nodes, start=1)}


def _label(node: Node) -> list[str]:
    """The lines of a node: its name and number of workers, how it stands, what is special."""
    lines = (node.name + (f" ×{node.workers}" if node.workers > 1 else "")).split("\n")
    if node.status is not None:
        took = f" in {duration(node.seconds)}" if node.seconds is not None and node.attempt else ""
        lines.append(status_word(node.status).lower() + took)
    return [*lines, *node.remarks()]


def _dot_text(*lines: str) -> str:
    r"""A quoted string of DOT: quotes and backslashes escaped, `&` too, since labels know HTML's entities; \n between lines."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _mermaid_text(text: str) -> str:
    """Text in a quoted label: everything that any part of Mermaid might read as syntax, Markdown or HTML becomes a numeric entity."""
    return "".join(c if c.isalnum() or c in _MERMAID_PLAIN else f"#{ord(c)};" for c in text)
