"""What is wrong with a pipeline file, by itself and in the service's eyes: one list, with the line of each."""

from __future__ import annotations  # the client is for its type only

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottoctl import exit_codes
from ottoctl.client import UNARY_SECONDS
from ottoctl.render import Output, counted, dump
from ottoctl.terminal import harmless
from ottoctl.words import ServiceError
from ottoscaler.v1.pipeline_service_pb2 import PipelineProblem, ValidatePipelineRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ottoctl.client import Client
    from ottoctl.pipeline_file import PipelineFile

_STAGE = re.compile(r"stages\[\d+\]\.?")
_CHECKED = re.compile(r"stages\[\d+\]\.(?:stage_id|depends_on\[\d+\])")
"""What the reader of files checks as the service does."""
_CONFIG = re.compile(r'(?:config|metadata)\["(.*)"\]', re.DOTALL)
_KEYS = {
    "pipeline_id": "id",
    "commit_sha": "commit",
    "stage_id": "name",
    "timeout_seconds": "timeout",
    "depends_on": "dependencies",
    "command": "commands",
    "args": "commands",
    "retry_policy.max_attempts": "maxAttempts",
    "retry_policy.retry_delay_seconds": "delaySeconds",
    "retry_policy.retryable_failures": "retryableFailures",
    "retry_policy.backoff_multiplier": "backoffMultiplier",
    "retry_policy.max_delay_seconds": "maxDelaySeconds",
    "retry_policy.jitter": "jitter",
}
"""What a field of the request is called in a file."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that is wrong, and where; without a line if it does not come from the file."""

    line: int
    column: int
    stage_id: str
    field: str
    description: str

    def words(self, name: str) -> str:
        """As a person reads it."""
        where = f"{name}:{self.line}:{self.column}" if self.line else "given on the command line"
        stage = f"stage {harmless(self.stage_id)!r}: " if self.stage_id else ""
        key = f"{harmless(key_of(self.field))}: " if self.field else ""
        return f"{where}: {stage}{key}{harmless(self.description)}"


def key_of(field: str) -> str:
    """A field of the request as files call it."""
    rest = _STAGE.sub("", field, count=1)
    if named := _CONFIG.fullmatch(rest):
        return named[1]
    bare = re.sub(r"\[\d+\]$", "", rest)
    return _KEYS.get(bare, bare)


def together(source: PipelineFile, problems: Iterable[PipelineProblem]) -> list[Found]:
    """The file's own mistakes and the service's problems, in the order of the file; what both have noticed is there once."""
    own = [Found(m.line, m.column, "", "", m.text) for m in source.mistakes]
    lines = {found.line for found in own}
    found_cycle = any(" → " in found.description or "waits for itself" in found.description for found in own)
    found = list(own)
    for problem in problems:
        line, column = source.place(problem.field) or (0, 0)
        again = bool(_CHECKED.fullmatch(problem.field)) and line in lines
        if not again and not (found_cycle and problem.field == "stages" and "cycle" in problem.description):
            found.append(Found(line, column, problem.stage_id, problem.field, problem.description))
    return sorted(found, key=lambda one: (one.line, one.column))


def report(source: PipelineFile, problems: Iterable[PipelineProblem], warnings: Iterable[str], output: Output, *, offline: bool) -> int:
    """Prints what was found; returns the exit code. `offline`: nobody was asked about options."""
    found = together(source, problems)
    code = exit_codes.USAGE if found else exit_codes.COMPLETED
    if output is not Output.TABLE:
        listed = [
            {"line": one.line, "column": one.column, "stage_id": one.stage_id, "field": one.field, "description": one.description}
            for one in found
        ]
        dump({"file": source.name, "problems": listed, "warnings": list(warnings), "asked_service": not offline}, output)
        return code
    for one in found:
        print(one.words(source.name))
    for warning in warnings:
        print(f"{source.name}: warning: {harmless(warning)}")
    unasked = "; options (otto.*), limits and causes to retry were not checked: only the service knows them" if offline else ""
    if not found:
        print(f"{source.name}: fine, {counted(len(source.request.stages), 'stage')}{unasked}")
    elif offline:
        print(f"{source.name}: {counted(len(found), 'mistake')}{unasked}")
    return code


async def validated(client: Client, source: PipelineFile, output: Output) -> int:
    """Asks the service what it thinks of a file, and prints everything; returns the exit code. Raises ServiceError."""
    request = ValidatePipelineRequest(pipeline=source.request)
    try:
        answer = await client.call(client.pipelines.ValidatePipeline(request, timeout=UNARY_SECONDS))
    except ServiceError:
        if source.mistakes:
            report(source, [], [], output, offline=True)
        raise
    return report(source, answer.problems, answer.warnings, output, offline=False)


async def in_file(client: Client, source: PipelineFile, error: ServiceError) -> ServiceError:
    """The error of a run that was refused, with the lines that it is about; as it is if the service does not say."""
    try:
        request = ValidatePipelineRequest(pipeline=source.request)
        answer = await client.call(client.pipelines.ValidatePipeline(request, timeout=UNARY_SECONDS))
    except ServiceError:
        return error
    found = [one.words(source.name) for one in together(source, answer.problems)]
    return ServiceError("\n".join(["the service refuses this pipeline:", *found]), error.exit_code, error.code) if found else error
