"""A pipeline as it was asked for: never changes once it is stored."""

import hashlib
from dataclasses import dataclass

from otto_executor.graph import Graph
from otto_executor.stage import StageSpec


@dataclass(frozen=True, slots=True)
class Definition:
    """What is to run. `stages` are in the order they were given, the checkout first; `depends_on` holds the implied dependencies too."""

    pipeline_id: str
    name: str = ""
    stages: tuple[StageSpec, ...] = ()
    repository: str = ""
    commit_sha: str = ""
    triggered_by: str = ""
    fail_fast: bool = False
    traceparent: str = ""
    """W3C's, of the run's own span."""
    parent: str = ""
    """That of the span it is a part of, which is its caller's own: those of our calls are lost when a process is killed. Empty: none."""
    warnings: tuple[str, ...] = ()
    repeats: str = ""
    """The run that this one repeats; empty: none."""
    repeated: str = ""
    """The traceparent of that one's span."""
    directory: str = ""
    """The name of the workspace, given when the run begins, because a run that repeats another may take that one's over."""

    @property
    def workspace(self) -> str:
        """The name of the directory that the run's workers share. Of runs stored by earlier versions it follows from the id."""
        return self.directory or "ws-" + hashlib.sha256(self.pipeline_id.encode()).hexdigest()[:16]

    def graph(self) -> Graph:
        """The stages' graph. Raises graphlib.CycleError, which validation has ruled out."""
        return Graph({stage.stage_id: stage.depends_on for stage in self.stages})
