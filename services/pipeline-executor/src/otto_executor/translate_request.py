"""A PipelineRequest into a Definition, with everything that is wrong with it. Pure; no problem hides another."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from google.protobuf.unknown_fields import UnknownFieldSet

from otto_executor.definition import Definition
from otto_executor.retry import DEFAULT_MAX_DELAY, RetryPolicy, condition
from otto_executor.settings import Settings
from otto_executor.stage import CHECKOUT, Claim, ExtraContainer, RunCondition, Secret, StageSpec, StageType
from otto_executor.validation import (
    MAX_PIPELINE_ID_BYTES,
    Problem,
    bounded,
    claim_problems,
    command_problems,
    control_problem,
    given_problems,
    graph_problems,
    hints,
    id_problem,
    limit_problems,
    source_problems,
)
from otto_options.metadata import fails_fast, metadata_problems
from otto_options.options import Options, parse, path_problem, secret_problem, value_problem, variable_problem
from otto_options.quantities import cpu_cores, memory_bytes
from otto_runtime import spans
from ottoscaler.v1 import stage_pb2
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage

LENGTH_DELIMITED = 2
TYPE_FIELD = 2
MAX_MULTIPLIER = 100.0
"""Of a backoff: more than a hundredfold at each step is most likely a mistake."""
_TYPES = {number: StageType(name.removeprefix("STAGE_TYPE_")) for name, number in stage_pb2.StageType.items()}
_CONDITIONS = {number: RunCondition(name.removeprefix("RUN_CONDITION_")) for name, number in stage_pb2.RunCondition.items() if number}


@dataclass(frozen=True, slots=True)
class Read:
    """A request as it was understood. The definition can be run only if there are no problems."""

    definition: Definition
    problems: tuple[Problem, ...]


def read(request: PipelineRequest, settings: Settings, trace: str, parent: str = "") -> Read:
    """Reads a request with stages; never raises for what is in it.

    `trace` is any traceparent of the trace that the run belongs to, `parent` that of the span which it is a part of, if there is one.
    """
    problems: list[Problem] = []
    if problem := id_problem(request.pipeline_id, MAX_PIPELINE_ID_BYTES):
        problems.append(Problem("pipeline_id", "", problem))
    dependencies = sum(len(stage.depends_on) for stage in request.stages)
    if exceeded := limit_problems(request.ByteSize(), len(request.stages), dependencies, settings):
        return Read(Definition(request.pipeline_id), (*problems, *exceeded))
    if problem := control_problem(request.name):
        problems.append(Problem("name", "", problem))
    if not request.stages:
        problems.append(Problem("stages", "", "there are none; a pipeline has at least one"))
    problems += source_problems(request.repository, request.commit_sha)
    problems += [Problem(f'metadata["{wrong.key}"]', "", wrong.description) for wrong in metadata_problems(request.metadata)]
    warnings: list[str] = []
    stages = [_Stage(stage, f"stages[{number}]", settings, problems, warnings).read() for number, stage in enumerate(request.stages)]
    problems += claim_problems(stages)
    problems += graph_problems(stages, checkout=bool(request.repository))
    # only now: until here places among the dependencies are those of the request
    stages = [replace(stage, depends_on=tuple(dict.fromkeys(stage.depends_on))) for stage in stages]
    if (total := sum(stage.workers for stage in stages)) > settings.max_workers:
        problems.append(Problem("stages", "", f"they have {total} workers together; {settings.max_workers} are the most"))
    definition = Definition(
        pipeline_id=request.pipeline_id,
        name=request.name,
        stages=_with_checkout(stages, settings) if request.repository else tuple(stages),
        repository=request.repository,
        commit_sha=request.commit_sha,
        triggered_by=request.triggered_by,
        fail_fast=fails_fast(request.metadata),
        traceparent=spans.run(trace, request.pipeline_id),
        parent=parent,
    )
    definition = replace(definition, warnings=tuple(bounded([*warnings, *hints(definition)])))
    return Read(definition, tuple(problems))


def _with_checkout(stages: list[StageSpec], settings: Settings) -> tuple[StageSpec, ...]:
    checkout = StageSpec(
        stage_id=CHECKOUT,
        name="Checkout",
        type=StageType.SETUP,
        timeout=settings.checkout_timeout,
        retry=RetryPolicy(retries=settings.checkout_retries, delay=settings.checkout_retry_delay),
    )
    return (checkout, *(stage if stage.depends_on else replace(stage, depends_on=(CHECKOUT,)) for stage in stages))


def stage_type(stage: PipelineStage) -> StageType | None:
    """The stage's type, also from an older client that sends it as a string; None for a number that means nothing."""
    if stage.type:
        return _TYPES.get(stage.type)
    for field in UnknownFieldSet(stage):  # type: ignore[attr-defined]  # the stubs know only __len__ and __getitem__, which is the older iteration
        if field.field_number == TYPE_FIELD and field.wire_type == LENGTH_DELIMITED:
            word = bytes(field.data).decode("utf-8", "replace").strip().upper().replace("-", "_").removeprefix("STAGE_TYPE_")
            return StageType.__members__.get(word, StageType.CUSTOM)
    return StageType.UNSPECIFIED


def as_understood(request: PipelineRequest) -> PipelineRequest:
    """A copy to be kept and given out again: with the types that came as strings, without fields that we don't know.

    Decoders that go by field numbers alone (protobuf.js) can't read a message in which field 2 is still the older client's string.
    """
    copy = PipelineRequest()
    copy.CopyFrom(request)
    for stage in copy.stages:
        if not stage.type and (recovered := stage_type(stage)):
            stage.type = stage_pb2.StageType.Value(f"STAGE_TYPE_{recovered.value}")
    copy.DiscardUnknownFields()
    return copy


class _Stage:
    """One stage being read; what is wrong with it goes to `problems`."""

    def __init__(self, stage: PipelineStage, where: str, settings: Settings, problems: list[Problem], warnings: list[str]) -> None:
        self._stage = stage
        self._id = stage.stage_id  # once: each access makes another copy, which every problem would keep
        self._where = where
        self._settings = settings
        self._problems = problems
        self._warnings = warnings

    def _wrong(self, field: str, description: str) -> None:
        self._problems.append(Problem(f"{self._where}.{field}", self._id, description))

    def read(self) -> StageSpec:
        """The stage, with harmless values where something is wrong."""
        stage, settings = self._stage, self._settings
        options = parse(stage.config)
        for wrong in options.problems:
            self._wrong(f'config["{wrong.key}"]', wrong.description)
        self._warn(options)
        kind = stage_type(stage)
        if kind is None:
            self._wrong("type", f"{stage.type} is no stage type")
        for field, text in (("name", stage.name), ("image", stage.image)):
            if problem := control_problem(text):
                self._wrong(field, problem)
        self._problems += command_problems(self._where, self._id, stage.command, stage.args)
        self._problems += given_problems(self._where, self._id, (*stage.command, *stage.args, *options.env, *options.env.values()))
        if stage.args and not stage.command:
            self._wrong("args", "without a command there is nothing to give them to")
        timeout = self._number("timeout_seconds", stage.timeout_seconds, settings.max_timeout)
        approvers = options.approvers
        if approvers is None and kind is StageType.APPROVAL:
            approvers = ()
        workers = self._number("worker_count", stage.worker_count, settings.max_stage_workers) or 1
        runs_nothing = kind is StageType.APPROVAL and not stage.command and not stage.args
        return StageSpec(
            stage_id=self._id,
            name=stage.name,
            type=kind or StageType.UNSPECIFIED,
            workers=0 if runs_nothing else workers,
            depends_on=tuple(stage.depends_on),
            run_if=self._run_if(options),
            ignore_errors=stage.ignore_errors or bool(options.ignore_errors),
            approvers=approvers,
            timeout=timeout or settings.default_timeout,
            approval_timeout=timeout or settings.approval_timeout,
            grace=self._grace(),
            retry=self._retry(),
            image=stage.image,
            command=tuple(stage.command),
            args=tuple(stage.args),
            env=options.env,
            secrets=self._secrets(options),
            working_directory=self._working_directory(options),
            own_workspace=options.workspace == "own",
            shared_workspace=options.workspace == "shared",
            claim=None if options.claim is None else Claim(options.claim.storage_class, options.claim.size, options.claim.access_mode),
            cpu=stage.resources.cpu or options.cpu,
            memory=stage.resources.memory or options.memory,
            extra_containers=self._extra_containers(),
        )

    def _warn(self, options: Options) -> None:
        unused = [*options.unused, *(["artifact_paths"] if self._stage.artifact_paths else [])]
        if unused:
            are = "is" if len(unused) == 1 else "are"
            self._warnings.append(f"stage {self._id!r}: {', '.join(unused)} {are} checked but not acted on yet")

    def _number(self, field: str, value: int, most: int) -> int:
        if value < 0:
            self._wrong(field, f"{value} is negative")
            return 0
        if value > most:
            self._wrong(field, f"{value} is too many; {most} are the most")
            return 0
        return value

    def _run_if(self, options: Options) -> RunCondition:
        number = self._stage.run_condition
        if number and number not in _CONDITIONS:
            self._wrong("run_condition", f"{number} is no run condition")
        if number in _CONDITIONS:
            return _CONDITIONS[number]
        return RunCondition(options.run_if.upper()) if options.run_if else RunCondition.ON_SUCCESS

    def _grace(self) -> float | None:
        if not self._stage.HasField("stop_grace_period"):
            return None
        period = self._stage.stop_grace_period
        seconds = period.seconds + period.nanos / 1e9
        most = self._settings.max_stop_grace
        if not 0 <= seconds <= most:
            self._wrong("stop_grace_period", f"{seconds:g} s is not between 0 and {most:g} s")
            return None
        return seconds

    def _retry(self) -> RetryPolicy:
        if not self._stage.HasField("retry_policy"):
            return RetryPolicy()
        policy, settings = self._stage.retry_policy, self._settings
        words: list[str] = []
        for number, word in enumerate(policy.retryable_failures):
            try:
                words.append(condition(word))
            except ValueError as error:
                self._wrong(f"retry_policy.retryable_failures[{number}]", str(error))
        multiplier = policy.backoff_multiplier or 1.0
        if not 1.0 <= multiplier <= MAX_MULTIPLIER:
            self._wrong("retry_policy.backoff_multiplier", f"{multiplier:g} is not between 1 and {MAX_MULTIPLIER:g} (0 means 1)")
            multiplier = 1.0
        jitter = policy.jitter
        if math.isnan(jitter) or not 0.0 <= jitter <= 1.0:
            self._wrong("retry_policy.jitter", f"{jitter:g} is not between 0 and 1")
            jitter = 0.0
        delay = self._number("retry_policy.retry_delay_seconds", policy.retry_delay_seconds, settings.max_retry_delay)
        most = self._number("retry_policy.max_delay_seconds", policy.max_delay_seconds, settings.max_retry_delay)
        return RetryPolicy(
            retries=self._number("retry_policy.max_attempts", policy.max_attempts, settings.max_retries),
            delay=delay,
            on=tuple(dict.fromkeys(words)),
            multiplier=multiplier,
            max_delay=most or max(DEFAULT_MAX_DELAY, delay),
            jitter=jitter,
        )

    def _secrets(self, options: Options) -> tuple[Secret, ...]:
        secrets = [Secret(s.name, s.secret, s.key) for s in options.secrets]
        taken = {**dict.fromkeys(options.env, "config"), **{s.name: "otto.secrets" for s in secrets}}
        for s in options.secrets:
            if s.name in options.env:
                self._wrong('config["otto.secrets"]', f"{s.name} is also given as a plain variable")
        for number, given in enumerate(self._stage.secret_env):
            field = f"secret_env[{number}]"
            if problem := variable_problem(given.name) or secret_problem(given.secret, given.key):
                self._wrong(field, problem)
            elif given.name in taken:
                self._wrong(field, f"{given.name} is also given in {taken[given.name]}")
            taken[given.name] = field
            secrets.append(Secret(given.name, given.secret, given.key))
        return tuple(secrets)

    def _working_directory(self, options: Options) -> str:
        directory = self._stage.working_directory
        if directory and (problem := path_problem(directory) or control_problem(directory)):
            self._wrong("working_directory", problem)
        for field, text, check in (
            ("resources.cpu", self._stage.resources.cpu, cpu_cores),
            ("resources.memory", self._stage.resources.memory, memory_bytes),
        ):
            self._quantity(field, text, check)
        return directory or options.working_dir

    def _quantity(self, field: str, text: str, check: Callable[[str], object]) -> None:
        if text:
            try:
                check(text)
            except ValueError as error:
                self._wrong(field, str(error))

    def _extra_containers(self) -> tuple[ExtraContainer, ...]:
        containers: list[ExtraContainer] = []
        most = self._settings.max_extra_containers
        if (count := len(self._stage.extra_containers)) > most:
            self._wrong("extra_containers", f"there are {count}; {most} are the most")
        for number, given in enumerate(self._stage.extra_containers[:most]):
            where = f"extra_containers[{number}]"
            if problem := id_problem(given.name, 63):
                self._wrong(f"{where}.name", problem)
            elif any(given.name == other.name for other in containers):
                self._wrong(f"{where}.name", f"{given.name!r} is used twice")
            for name, value in given.env.items():
                if problem := variable_problem(name) or value_problem(value):
                    self._wrong(f'{where}.env["{name}"]', problem)
            self._problems += command_problems(f"{self._where}.{where}", self._id, given.command, given.args)
            self._quantity(f"{where}.resources.cpu", given.resources.cpu, cpu_cores)
            self._quantity(f"{where}.resources.memory", given.resources.memory, memory_bytes)
            containers.append(
                ExtraContainer(
                    given.name,
                    given.image,
                    tuple(given.command),
                    tuple(given.args),
                    dict(given.env),
                    given.resources.cpu,
                    given.resources.memory,
                )
            )
        return tuple(containers)
