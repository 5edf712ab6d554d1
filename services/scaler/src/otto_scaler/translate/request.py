"""ScaleRequest → WorkerSpecs, with everything that is wrong said at once."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration

from otto_options.options import Claim as OptionsClaim
from otto_options.options import Options, claim_problem, parse, path_problem, secret_problem, value_problem, variable_problem
from otto_options.quantities import cpu_cores, memory_bytes
from otto_options.repository import commit_problem, repository_problem
from otto_runtime import spans
from otto_scaler.errors import InvalidRequestError
from otto_scaler.worker import (
    LABEL_PREFIX,
    Claim,
    ExtraContainer,
    Identity,
    Owner,
    SecretVariable,
    WorkerSpec,
    label_value,
    task_workspace,
    worker_name,
)
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.worker_pb2 import Resources
from ottoscaler.v1.worker_pb2 import WorkerSpec as WorkerSpecMessage

MAX_ID_BYTES = 4096
"""Tasks of pipelines are named by the pipeline's id (at most 253 bytes), a slash and the stage's (1,024), in which each `/` takes three."""
MAX_ARGUMENT_BYTES = 131_071
"""Linux refuses to start a program with a longer one (MAX_ARG_STRLEN, 128 KiB with the NUL)."""
MAX_GIVEN_BYTES = 1_048_576
"""Arguments and variables together; Linux allows a quarter of the stack limit, usually 2 MiB."""
MAX_ANNOTATION_BYTES = 131_072
"""Kubernetes allows 256 KiB of annotations, of which we need some."""
MAX_LABELS = 64
CHECKOUT_VARIABLES = frozenset({"OTTO_REPOSITORY", "OTTO_COMMIT_SHA"})
"""What the executor may set for stages that find their repository checked out by an earlier one."""
SHOWN_VARIABLES = 100
SHOWN_CHARACTERS = 200
"""Of the variables that a worker without a command shows: it is given them as arguments too, and Linux bounds both together."""
_SAY = ("sh", "-c", 'printf "%s\\n" "$@"', "otto")
NOT_FOR_WORKERS = ("otto.run_if", "otto.ignore_errors")
_WORKSPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")

Problems = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be asked for, and what holds when it isn't; times in seconds. Their reasons stand in settings."""

    max_workers_per_request: int
    default_timeout: float
    max_timeout: float
    default_stop_grace: float
    max_stop_grace: float
    default_command: str
    exporting: tuple[tuple[str, str], ...] = ()
    """Variables that tell workers where to send telemetry of their own, unless they were given others."""


@dataclass(frozen=True, slots=True)
class WorkersWanted:
    """What a ScaleUp asks for."""

    specs: list[WorkerSpec]
    warnings: list[str]


def workers_wanted(
    request: ScaleRequest, bounds: Bounds, unsupported: Callable[[WorkerSpec], Problems], traceparent: str = ""
) -> WorkersWanted:
    """The workers of a ScaleUp; `unsupported` is the backend's judgement, `traceparent` the caller's.

    Raises InvalidRequestError with every problem.
    """
    worker, problems = request.worker, list[tuple[str, str]]()
    _check_id("task_id", request.task_id, problems)
    if not 1 <= request.worker_count <= bounds.max_workers_per_request:
        problems.append(("worker_count", f"{request.worker_count} is not between 1 and {bounds.max_workers_per_request}"))
    if not 0 <= worker.attempt <= 1_000_000:
        problems.append(("worker.attempt", f"{worker.attempt} is not between 1 and 1000000"))
    for field, value in (("worker.pipeline_id", worker.pipeline_id), ("worker.stage_id", worker.stage_id)):
        if value:
            _check_id(field, value, problems)
    if request.repository and (problem := repository_problem(request.repository)):
        problems.append(("repository", problem))
    if request.commit_sha and (problem := commit_problem(request.commit_sha)):
        problems.append(("commit_sha", problem))
    if worker.traceparent and not spans.valid(worker.traceparent):
        problems.append(("worker.traceparent", f"{worker.traceparent!r} is no W3C traceparent"))
    if worker.workspace and not _WORKSPACE.fullmatch(worker.workspace):
        problems.append(("worker.workspace", "is no workspace name (lower-case letters, digits and '-', at most 63)"))

    options = parse(request.build_config, build=True)
    problems += [(f"build_config[{problem.key!r}]", problem.description) for problem in options.problems]
    if options.approvers is not None:
        problems.append(("build_config['otto.approvers']", "is for stages of a pipeline; workers of a plain ScaleUp can't be approved"))
    cpu, memory = _resources(worker.resources, options, problems)
    env = {**options.env, **_environment(worker, problems)}
    secret_variables = _secrets(worker, options, problems)
    directory = worker.working_directory or options.working_dir
    if problem := path_problem(directory):
        problems.append(("worker.working_directory", problem))
    timeout = _seconds("worker.timeout", worker.timeout, worker.HasField("timeout"), bounds.default_timeout, bounds.max_timeout, problems)
    if timeout == 0:
        timeout = bounds.default_timeout
    grace = _seconds(
        "worker.stop_grace_period",
        worker.stop_grace_period,
        worker.HasField("stop_grace_period"),
        bounds.default_stop_grace,
        bounds.max_stop_grace,
        problems,
    )
    labels = _labels(request, problems)
    annotations = {"triggered-by": request.triggered_by, "reason": request.reason, "metadata": _metadata(request)}
    if sum(len(value.encode()) for value in annotations.values()) > MAX_ANNOTATION_BYTES:
        problems.append(("metadata", f"with triggered_by and reason it is longer than {MAX_ANNOTATION_BYTES} bytes"))
    command = _command(worker, options, bounds, problems)
    _check_size(command, env, problems)
    containers = _containers(worker, problems)
    owner = _owner(worker, problems)
    claim = _claim(worker, options, problems)
    attempt = max(1, worker.attempt)
    fixed = {
        **env,
        "OTTO_PIPELINE_ID": worker.pipeline_id,
        "OTTO_STAGE_ID": worker.stage_id,
        "OTTO_TASK_ID": request.task_id,
        "OTTO_REPOSITORY": request.repository or env.get("OTTO_REPOSITORY", ""),
        "OTTO_COMMIT_SHA": request.commit_sha or env.get("OTTO_COMMIT_SHA", ""),
        "OTTO_WORKER_COUNT": str(request.worker_count),
        "OTTO_ATTEMPT": str(attempt),
    }
    parent = next(filter(spans.valid, (worker.traceparent, traceparent)), "") or spans.fresh()
    introduction = _introduction(request, env, secret_variables)

    def spec(index: int) -> WorkerSpec:
        identity = Identity(
            name=worker_name(request.task_id, worker.pipeline_id, worker.stage_id, attempt, index),
            task_id=request.task_id,
            index=index,
            count=request.worker_count,
            pipeline_id=worker.pipeline_id,
            stage_id=worker.stage_id,
            attempt=attempt,
            workspace=worker.workspace or (task_workspace(request.task_id) if options.workspace == "shared" else ""),
            labels=labels,
            annotations={name: value for name, value in annotations.items() if value},
            parent=parent,
        )
        return WorkerSpec(
            identity=identity,
            command=command
            or (
                *_SAY,
                f"worker {index} of {request.worker_count} of task {request.task_id} was given no command, so it has nothing to do",
                *introduction,
            ),
            env={**_exporting(bounds, identity), **fixed, "OTTO_WORKER_INDEX": str(index), "TRACEPARENT": identity.traceparent},
            secrets=secret_variables,
            image=worker.image or options.image,
            repository=request.repository,
            commit=request.commit_sha,
            working_directory=directory,
            cpu_cores=cpu,
            memory_bytes=memory,
            timeout=timeout,
            stop_grace=grace,
            priority_class=worker.priority_class_name,
            service_account=worker.service_account_name,
            extra_containers=containers,
            owner=owner,
            workspace_optional=worker.workspace_optional,
            workspace_expected=worker.workspace_expected,
            workspace_unshared=worker.workspace_unshared,
            claim=claim,
        )

    problems += [(f"worker.{field}", words) for field, words in unsupported(spec(1))]
    if problems:
        raise InvalidRequestError(problems)
    specs = [spec(index) for index in range(1, request.worker_count + 1)]
    return WorkersWanted(specs, [*options.unused, *(key for key in NOT_FOR_WORKERS if key in request.build_config)])


def check_scale_down(request: ScaleRequest) -> None:
    """Raises InvalidRequestError for a ScaleDown that can't be carried out."""
    problems: Problems = []
    if not request.task_id:
        problems.append(("task_id", "is empty"))
    if request.worker_count < 0:
        problems.append(("worker_count", f"{request.worker_count} is negative"))
    if problems:
        raise InvalidRequestError(problems)


def check_workspace(name: str) -> None:
    """Raises InvalidRequestError for a name that no workspace can have."""
    if not name:
        raise InvalidRequestError([("workspace", "is empty")])
    if not _WORKSPACE.fullmatch(name):
        raise InvalidRequestError([("workspace", "is no workspace name (lower-case letters, digits and '-', at most 63)")])


def _check_id(field: str, value: str, problems: Problems) -> None:
    if not value.strip():
        problems.append((field, "is empty"))
    elif len(value.encode()) > MAX_ID_BYTES:
        problems.append((field, f"is longer than {MAX_ID_BYTES} bytes"))
    elif "\0" in value:
        problems.append((field, "holds a NUL character"))


def _resources(given: Resources, options: Options, problems: Problems) -> tuple[float, int]:
    cpu, memory = 0.0, 0
    for field, text, reader in (("cpu", given.cpu or options.cpu, cpu_cores), ("memory", given.memory or options.memory, memory_bytes)):
        if text:
            try:
                amount = reader(text)
            except ValueError as error:
                problems.append((f"worker.resources.{field}", str(error)))
                continue
            if field == "cpu":
                cpu = float(amount)
            else:
                memory = int(amount)
    return cpu, memory


def _environment(worker: WorkerSpecMessage, problems: Problems) -> dict[str, str]:
    allowed = CHECKOUT_VARIABLES if worker.pipeline_id else frozenset[str]()
    for name, value in worker.env.items():
        if name not in allowed and (problem := variable_problem(name)):
            problems.append((f"worker.env[{name!r}]", problem))
        if problem := value_problem(value):
            problems.append((f"worker.env[{name!r}]", problem))
    return dict(worker.env)


def _secrets(worker: WorkerSpecMessage, options: Options, problems: Problems) -> tuple[SecretVariable, ...]:
    found = {secret.name: SecretVariable(secret.name, secret.secret, secret.key) for secret in options.secrets}
    named: set[str] = set()
    for index, secret in enumerate(worker.secret_env):
        field = f"worker.secret_env[{index}]"
        if problem := variable_problem(secret.name):
            problems.append((f"{field}.name", problem))
        elif secret.name in named or secret.name in worker.env:
            problems.append((f"{field}.name", f"{secret.name} is given twice"))
        if problem := secret_problem(secret.secret, secret.key):
            problems.append((field, problem))
        named.add(secret.name)
        found[secret.name] = SecretVariable(secret.name, secret.secret, secret.key)
    return tuple(found.values())


def _seconds(field: str, value: Duration, given: bool, default: float, longest: float, problems: Problems) -> float:
    if not given:
        return default
    seconds = value.seconds + value.nanos / 1e9
    if not 0 <= seconds <= longest:
        problems.append((field, f"{seconds:g} s is not between 0 and {longest:g} s"))
    return seconds


def _labels(request: ScaleRequest, problems: Problems) -> dict[str, str]:
    worker = request.worker
    for name, value in worker.labels.items():
        if name.startswith(LABEL_PREFIX) or name == "app.kubernetes.io/managed-by":
            problems.append((f"worker.labels[{name!r}]", "is set by Ottoscaler itself"))
        elif not _LABEL_NAME.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
            problems.append((f"worker.labels[{name!r}]", "is no Kubernetes label (letters, digits, '-', '_' and '.', at most 63)"))
    if len(worker.labels) > MAX_LABELS:
        problems.append(("worker.labels", f"{len(worker.labels)} are more than {MAX_LABELS}"))
    labels = {**worker.labels, "app.kubernetes.io/managed-by": "ottoscaler", f"{LABEL_PREFIX}task": label_value(request.task_id)}
    if worker.pipeline_id:
        labels[f"{LABEL_PREFIX}pipeline"] = label_value(worker.pipeline_id)
    if worker.stage_id:
        labels[f"{LABEL_PREFIX}stage"] = label_value(worker.stage_id)
    return labels


def _metadata(request: ScaleRequest) -> str:
    return json.dumps(dict(sorted(request.metadata.items())), ensure_ascii=False) if request.metadata else ""


def _command(worker: WorkerSpecMessage, options: Options, bounds: Bounds, problems: Problems) -> tuple[str, ...]:
    """What is to be run; () for our own default."""
    given = (*worker.command, *worker.args)
    if worker.args and not worker.command:
        problems.append(("worker.args", "without worker.command there is nothing to give them to"))
    if worker.command and not worker.command[0]:
        problems.append(("worker.command", "its first element, the program, is empty"))
    for argument in given:
        if "\0" in argument:
            problems.append(("worker.command", "an argument holds a NUL character"))
    if given:
        return given
    script = options.command or bounds.default_command
    if "\0" in script:
        problems.append(("build_config['otto.command']", "holds a NUL character"))
    return ("sh", "-c", script) if script else ()


def _check_size(command: tuple[str, ...], env: dict[str, str], problems: Problems) -> None:
    if any(len(argument.encode()) > MAX_ARGUMENT_BYTES for argument in command):
        problems.append(("worker.command", f"an argument is longer than {MAX_ARGUMENT_BYTES} bytes, which Linux can't start"))
    total = sum(len(text.encode()) + 9 for text in (*command, *env, *env.values()))
    if total > MAX_GIVEN_BYTES:
        problems.append(("worker", f"command and variables together are longer than {MAX_GIVEN_BYTES} bytes"))


def _containers(worker: WorkerSpecMessage, problems: Problems) -> tuple[ExtraContainer, ...]:
    found = []
    for index, container in enumerate(worker.extra_containers):
        cpu, memory = _resources(container.resources, Options(), problems)
        if not container.name:
            problems.append((f"worker.extra_containers[{index}].name", "is empty"))
        found.append(
            ExtraContainer(
                container.name, container.image, tuple(container.command), tuple(container.args), dict(container.env), cpu, memory
            )
        )
    return tuple(found)


def _owner(worker: WorkerSpecMessage, problems: Problems) -> Owner | None:
    if not worker.HasField("owner"):
        return None
    said = worker.owner
    owner = Owner(said.api_version, said.kind, said.name, said.uid, said.namespace)
    given = {"api_version": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
    problems += [(f"worker.owner.{field}", "is empty") for field, value in given.items() if not value]
    return owner


def _claim(worker: WorkerSpecMessage, options: Options, problems: Problems) -> Claim:
    given = OptionsClaim(worker.claim.storage_class, worker.claim.size, worker.claim.access_mode)
    if not worker.HasField("claim"):
        given = options.claim or given
    elif problem := claim_problem(given):
        problems.append(("worker.claim", problem))
    return Claim(given.storage_class, given.size, given.access_mode)


def _exporting(bounds: Bounds, identity: Identity) -> dict[str, str]:
    """What tells a worker where to send telemetry of its own, and as whose."""
    if not bounds.exporting:
        return {}
    who = {spans.RUN_ID: identity.pipeline_id, spans.TASK_RUN_ID: identity.stage_id, spans.WORKER_NAME: identity.name}
    told = ",".join(f"{name}={quote(value, safe='')}" for name, value in who.items() if value)
    return {**dict(bounds.exporting), "OTEL_RESOURCE_ATTRIBUTES": told}


def _introduction(request: ScaleRequest, env: dict[str, str], secret_variables: tuple[SecretVariable, ...]) -> tuple[str, ...]:
    """What workers that were given no command say, after who they are: what they have, and what to do."""
    variables = sorted(env.items())
    more = len(variables) - SHOWN_VARIABLES
    return (
        *([f"checked out: {request.repository} {request.commit_sha}".rstrip()] if request.repository else []),
        *(f"variable: {name}={value}"[:SHOWN_CHARACTERS] for name, value in variables[:SHOWN_VARIABLES]),
        *([f"and {more} more variables"] if more > 0 else []),
        *(f"secret variable: {secret.name}" for secret in secret_variables[:SHOWN_VARIABLES]),
        'give it one: `commands` in a pipeline file, command and args of a stage; of ScaleUp build_config {"otto.command": "make test"}, '
        'or worker {command: ["make"], args: ["test"]}',
    )
