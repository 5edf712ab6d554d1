"""What can be wrong with a pipeline beyond single values: names, sizes, and the graph."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from otto_executor.definition import Definition
from otto_executor.graph import find_cycle
from otto_executor.stage import CHECKOUT, RunCondition, StageSpec

MAX_PIPELINE_ID_BYTES = 253
MAX_STAGE_ID_BYTES = 1024
MAX_ARGUMENT_BYTES = 131_071
"""Linux starts no program with a single argument over 128 KiB, its terminating zero included (MAX_ARG_STRLEN)."""
_LONGEST_LINE = 600
"""Characters of a problem in an error's details, which gRPC's default allows 8 KiB in all."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: where, in which stage (empty: the pipeline), and what would be right."""

    field: str
    stage_id: str
    description: str

    def __str__(self) -> str:
        """A line for people."""
        return f"{self.field}" + (f" (stage {self.stage_id!r})" if self.stage_id else "") + f": {self.description}"


def in_words(problems: Sequence[Problem], limit: int = 5500) -> str:
    """All problems, one a line, as many as `limit` bytes hold, and how many there are; one that is long is cut in its middle."""
    head = "the pipeline can't run" if len(problems) == 1 else f"the pipeline can't run, {len(problems)} problems"
    lines = [head]
    size = len(head)
    for number, problem in enumerate(problems):
        line = _cut(str(problem))
        size += len(line.encode()) + 1
        if size > limit:
            lines.append(f"… and {len(problems) - number} more; ValidatePipeline lists them all")
            break
        lines.append(line)
    return "\n".join(lines)


def _cut(line: str) -> str:
    """At most _LONGEST_LINE characters: the field at its beginning and the reason at its end are what counts."""
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"


def id_problem(text: str, most: int) -> str:
    """Why `text` can't be an id; "" if it can."""
    if not text:
        return "is empty"
    if not text.strip():
        return "consists of white space only"
    if len(text.encode()) > most:
        return f"has {len(text.encode())} bytes; {most} are the most"
    return control_problem(text)


def control_problem(text: str) -> str:
    """Why `text` can't be shown or handed to a program; "" if it can."""
    bad = next((c for c in text if unicodedata.category(c) == "Cc"), "")
    return f"holds the control character {bad!r}" if bad else ""


def source_problems(repository: str, commit_sha: str) -> list[Problem]:
    """What is wrong with a repository and commit before anybody has tried them."""
    problems = []
    for field, text in (("repository", repository), ("commit_sha", commit_sha)):
        if text.startswith("-"):
            problems.append(Problem(field, "", f"{text!r} begins with '-', which no {field} does"))
        elif text and (problem := id_problem(text, 4096)):
            problems.append(Problem(field, "", problem))
    return problems


def argument_problems(field: str, stage_id: str, arguments: Sequence[str]) -> list[Problem]:
    """What is wrong with a command's words."""
    problems = []
    for number, argument in enumerate(arguments):
        if "\0" in argument:
            problems.append(Problem(f"{field}[{number}]", stage_id, "holds a NUL character, which no program can be given"))
        elif (size := len(argument.encode())) > MAX_ARGUMENT_BYTES:
            problems.append(
                Problem(f"{field}[{number}]", stage_id, f"has {size} bytes; no program can be given an argument over {MAX_ARGUMENT_BYTES}")
            )
    return problems


def graph_problems(stages: Sequence[StageSpec], *, checkout: bool) -> list[Problem]:
    """What is wrong with the stages' ids and dependencies. `checkout`: the checkout may be depended on."""
    problems: list[Problem] = []
    counts = Counter(stage.stage_id for stage in stages)
    known = dict.fromkeys([*counts, CHECKOUT] if checkout else counts)
    for number, stage in enumerate(stages):
        where = f"stages[{number}]"
        if problem := id_problem(stage.stage_id, MAX_STAGE_ID_BYTES):
            problems.append(Problem(f"{where}.stage_id", stage.stage_id, problem))
        elif stage.stage_id == CHECKOUT:
            problems.append(Problem(f"{where}.stage_id", stage.stage_id, "is reserved for the checkout of the repository"))
        elif counts[stage.stage_id] > 1:
            problems.append(Problem(f"{where}.stage_id", stage.stage_id, f"is used by {counts[stage.stage_id]} stages; ids are unique"))
        for place, needed in enumerate(stage.depends_on):
            field = f"{where}.depends_on[{place}]"
            if needed == stage.stage_id:
                problems.append(Problem(field, stage.stage_id, "the stage depends on itself"))
            elif needed not in known:
                near = difflib.get_close_matches(needed, list(known), n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                problems.append(Problem(field, stage.stage_id, f"there is no stage {needed!r}{hint}"))
    others = {stage.stage_id: [n for n in stage.depends_on if n != stage.stage_id] for stage in stages}
    if cycle := find_cycle(others):
        problems.append(Problem("stages", "", f"the dependencies form a cycle: {' → '.join(cycle)}"))
    return problems


def hints(definition: Definition) -> list[str]:
    """What is allowed but most likely not meant."""
    return [
        f"stage {stage.stage_id!r} runs only on failure but depends on nothing, so it will always be skipped"
        for stage in definition.stages
        if stage.run_if is RunCondition.ON_FAILURE and not stage.depends_on
    ]
