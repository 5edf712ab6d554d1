"""What can be wrong with a pipeline beyond single values: names, sizes, and the graph."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from otto_executor.definition import Definition
from otto_executor.graph import find_cycles
from otto_executor.settings import Settings
from otto_executor.stage import CHECKOUT, RunCondition, StageSpec
from otto_options.repository import commit_problem, repository_problem
from otto_options.suggestions import Suggestions

MAX_PIPELINE_ID_BYTES = 253
"""As long as a Kubernetes object's name may be. Part of the contract, as existing ids have to stay good."""
MAX_STAGE_ID_BYTES = 1024
"""Clients send stages' names from YAML verbatim: long enough for any. The scaler takes tasks of both ids together (4,096 bytes)."""
MAX_ARGUMENT_BYTES = 131_071
"""Linux starts no program with a single argument over 128 KiB, its terminating zero included (MAX_ARG_STRLEN)."""
MAX_GIVEN_BYTES = 1_040_000
"""Arguments and variables of a worker together, 9 bytes added for each: Linux bounds them, and the scaler takes 1 MiB with its own."""
MAX_CYCLES = 10
"""Cycles that are named at once."""
_LONGEST_LINE = 600
"""Characters of a problem in an error's details, which gRPC's default allows 8 KiB in all."""
_LONGEST_DESCRIPTION = 3000
"""Characters of a problem's description in an answer: it may quote what the client sent. A cycle of a hundred stages fits."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: where, in which stage (empty: the pipeline), and what would be right."""

    field: str
    stage_id: str
    description: str

    def __str__(self) -> str:
        """A line for people."""
        return f"{self.field}" + (f" (stage {self.stage_id!r})" if self.stage_id else "") + f": {self.description}"


def told(problems: Sequence[Problem], limit: int = 1_048_576) -> list[Problem]:
    """As many problems as `limit` bytes hold, each cut where it quotes at length; the last one says how many more there are."""
    found: list[Problem] = []
    size = 0
    for problem in problems:
        short = Problem(_cut(problem.field), _cut(problem.stage_id, MAX_STAGE_ID_BYTES), _cut(problem.description, _LONGEST_DESCRIPTION))
        size += len(f"{short.field}{short.stage_id}{short.description}".encode()) + 16
        if size > limit:
            return [*found, Problem("stages", "", f"{len(problems) - len(found)} more problems are not shown")]
        found.append(short)
    return found


def in_words(problems: Sequence[Problem], limit: int = 5500) -> str:
    """All problems, one a line, as many as `limit` bytes hold, and how many there are; one that is long is cut in its middle."""
    head = "the pipeline can't run" if len(problems) == 1 else f"the pipeline can't run, {len(problems)} problems"
    lines = [head]
    size = len(head)
    for number, problem in enumerate(problems):
        line = _cut(str(problem))
        size += len(line.encode()) + 1
        if size > limit:
            lines.append(f"… and {len(problems) - number} more; ValidatePipeline lists more of them")
            break
        lines.append(line)
    return "\n".join(lines)


def _cut(line: str, most: int = _LONGEST_LINE) -> str:
    """About so many characters: the field at its beginning and the reason at its end are what counts."""
    if len(line) <= most:
        return line
    return f"{line[: most // 2]} … {line[-most // 2 :]}"


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
    checks = (("repository", repository, repository_problem), ("commit_sha", commit_sha, commit_problem))
    return [Problem(field, "", problem) for field, text, check in checks if text and (problem := check(text))]


def command_problems(where: str, stage_id: str, command: Sequence[str], args: Sequence[str]) -> list[Problem]:
    """What is wrong with a program and what it is given."""
    problems = []
    if command and not command[0]:
        problems.append(Problem(f"{where}.command[0]", stage_id, "is empty; it names the program"))
    return problems + _argument_problems(f"{where}.command", stage_id, command) + _argument_problems(f"{where}.args", stage_id, args)


def given_problems(where: str, stage_id: str, texts: Iterable[str]) -> list[Problem]:
    """What is wrong with all that a worker is given: its command, arguments, and names and values of variables."""
    if (size := sum(len(text.encode()) + 9 for text in texts)) <= MAX_GIVEN_BYTES:
        return []
    words = f"with arguments and variables it takes {size} bytes, each of them counted with 9 more; {MAX_GIVEN_BYTES} are the most"
    return [Problem(f"{where}.command", stage_id, words)]


def _argument_problems(field: str, stage_id: str, arguments: Sequence[str]) -> list[Problem]:
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
    suggestions = Suggestions(known)
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
                problems.append(Problem(field, stage.stage_id, f"there is no stage {needed!r}{suggestions.hint(needed)}"))
    others = {stage.stage_id: [n for n in dict.fromkeys(stage.depends_on) if n != stage.stage_id] for stage in stages}
    cycles = find_cycles(others, MAX_CYCLES)
    return problems + [Problem("stages", "", f"the dependencies form a cycle: {' → '.join(cycle)}") for cycle in cycles]


def claim_problems(stages: Sequence[StageSpec]) -> list[Problem]:
    """Stages that say otherwise than one before them what the run's one workspace is to be."""
    said = [(number, stage) for number, stage in enumerate(stages) if stage.claim is not None]
    return [
        Problem(
            f'stages[{number}].config["otto.workspace"]',
            stage.stage_id,
            f"is not what stage {said[0][1].stage_id!r} says; a run has one workspace",
        )
        for number, stage in said[1:]
        if stage.claim != said[0][1].claim
    ]


def limit_problems(size: int, stages: int, dependencies: int, settings: Settings) -> list[Problem]:
    """Which limits a request of `size` bytes exceeds. What does is not looked at any further, as that would take too long."""
    problems = []
    for found, most, words in (
        (size, settings.max_request_bytes, "the request has {} bytes"),
        (stages, settings.max_stages, "there are {}"),
        (dependencies, settings.max_dependencies, "they have {} dependencies together"),
    ):
        if found > most:
            problems.append(Problem("stages", "", f"{words.format(found)}; {most} are the most"))
    return problems


def bounded(warnings: Sequence[str], most: int = 20) -> list[str]:
    """The warnings cut to what can be told; the last one says how many there are beyond that."""
    shown = [_cut(warning) for warning in warnings[:most]]
    return [*shown, f"{len(warnings) - most} more warnings are not shown"] if len(warnings) > most else shown


def hints(definition: Definition) -> list[str]:
    """What is allowed but most likely not meant."""
    return [
        f"stage {stage.stage_id!r} runs only on failure but depends on nothing, so it will always be skipped"
        for stage in definition.stages
        if stage.run_if is RunCondition.ON_FAILURE and not stage.depends_on
    ]
