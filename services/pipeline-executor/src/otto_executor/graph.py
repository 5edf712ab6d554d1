"""The DAG of a pipeline: its order, who waits for whom, who runs after what, and the cycle if it is none.

graphlib gives the order and finds cycles. Which stages are ready is asked of the run's state each time instead of graphlib's incremental
sorter, because a state that was loaded after a crash has no such sorter, and so both ways are one.
"""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from otto_executor.stage import RunCondition, StageSpec, StageStatus

_ENDINGS = {StageStatus.FAILED: "failed", StageStatus.SKIPPED: "was skipped", StageStatus.CANCELLED: "was cancelled"}


class Graph:
    """An acyclic graph of stage ids."""

    def __init__(self, dependencies: Mapping[str, Sequence[str]]) -> None:
        """`dependencies` maps each stage to those that have to end first; all of them are keys. Raises graphlib.CycleError."""
        self.dependencies = {stage: tuple(needs) for stage, needs in dependencies.items()}
        self.order: tuple[str, ...] = tuple(TopologicalSorter(self.dependencies).static_order())
        """Every stage after all it depends on."""
        self._ancestors: dict[str, frozenset[str]] = {}
        for stage in self.order:
            needs = self.dependencies[stage]
            self._ancestors[stage] = frozenset(needs).union(*(self._ancestors[n] for n in needs))

    def ancestors(self, stage: str) -> frozenset[str]:
        """All stages that come before this one on some path."""
        return self._ancestors[stage]


def find_cycle(dependencies: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A cycle in the direction of the work, first and last the same: ("a", "b", "a") when each waits for the other; empty if there is none.

    Dependencies that are no keys are left out.
    """
    known = {stage: [n for n in needs if n in dependencies] for stage, needs in dependencies.items()}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        start = cycle.index(min(cycle[:-1], key=list(dependencies).index))
        turned = cycle[start:-1] + cycle[:start]
        return (*turned, turned[0])
    return ()


def find_cycles(dependencies: Mapping[str, Sequence[str]], most: int) -> list[tuple[str, ...]]:
    """Cycles that have no stage in common, at most `most`, each as `find_cycle` gives it."""
    left = dict(dependencies)
    cycles: list[tuple[str, ...]] = []
    while len(cycles) < most and (cycle := find_cycle(left)):
        cycles.append(cycle)
        for stage in cycle[1:]:
            del left[stage]
    return cycles


def skip_reason(spec: StageSpec, before: Mapping[str, StageStatus]) -> str:
    """Why a stage does not run once its dependencies have ended, in words; "" if it does. `before`: how all stages before it ended.

    ON_FAILURE looks at everything before it, ON_SUCCESS at what it depends on; a skipped dependency is no success. Where stages still have
    their turn, a cancelled one was cancelled because of a failure (fail-fast).
    """
    if spec.run_if is RunCondition.ALWAYS:
        return ""
    if spec.run_if is RunCondition.ON_FAILURE:
        if not {StageStatus.FAILED, StageStatus.CANCELLED}.isdisjoint(before.values()):
            return ""
        return "skipped: runs only on failure, and nothing before it failed"
    bad = next((needed for needed in spec.depends_on if before[needed] is not StageStatus.COMPLETED), None)
    return f"skipped: {bad} {_ENDINGS[before[bad]]}" if bad is not None else ""
