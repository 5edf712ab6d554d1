"""A ScaleRequest, read: what workers are told, what wins, and what reaches a real worker."""

from dataclasses import replace
from typing import Any

import pytest

from otto_runtime import spans
from otto_scaler.errors import InvalidRequestError
from otto_scaler.testing import MemoryBackend
from otto_scaler.translate.request import SHOWN_CHARACTERS, SHOWN_VARIABLES, Bounds, workers_wanted
from otto_scaler.worker import Cause, Owner, State
from otto_scaler.worker import WorkerSpec as Spec
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.worker_pb2 import OwnerReference, Resources, SecretEnv, WorkerSpec

from .conftest import Rig

BOUNDS = Bounds(
    max_workers_per_request=100, default_timeout=3600, max_timeout=86400, default_stop_grace=10, max_stop_grace=60, default_command=""
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def read(bounds: Bounds = BOUNDS, traceparent: str = "", **fields: Any) -> list[Spec]:
    request = ScaleRequest(**{"task_id": "task", "worker_count": 1, **fields})
    return workers_wanted(request, bounds, MemoryBackend().unsupported, traceparent).specs


def test_every_worker_is_told_whose_it_is() -> None:
    """All OTTO_* variables that don't depend on where it runs, numbered from 1, and the trace."""
    worker = WorkerSpec(pipeline_id="pipe", stage_id="stage", attempt=3, traceparent=TRACE, command=["true"])
    specs = read(worker_count=2, worker=worker, repository="https://git.example.com/a.git", commit_sha="main")
    assert [spec.env for spec in specs] == [
        {
            "OTTO_PIPELINE_ID": "pipe",
            "OTTO_STAGE_ID": "stage",
            "OTTO_TASK_ID": "task",
            "OTTO_REPOSITORY": "https://git.example.com/a.git",
            "OTTO_COMMIT_SHA": "main",
            "OTTO_WORKER_INDEX": str(index),
            "OTTO_WORKER_COUNT": "2",
            "OTTO_ATTEMPT": "3",
            "TRACEPARENT": spans.worker(TRACE, spec.identity.name),
        }
        for index, spec in enumerate(specs, 1)
    ]


def test_a_plain_scale_up_is_told_what_there_is() -> None:
    """Variables without a value are there, empty; the attempt is the first."""
    (spec,) = read()
    assert {name: spec.env[name] for name in ("OTTO_PIPELINE_ID", "OTTO_STAGE_ID", "OTTO_REPOSITORY", "OTTO_COMMIT_SHA")} == dict.fromkeys(
        ("OTTO_PIPELINE_ID", "OTTO_STAGE_ID", "OTTO_REPOSITORY", "OTTO_COMMIT_SHA"), ""
    )
    assert spec.env["OTTO_ATTEMPT"] == "1"


def test_the_trace_is_the_one_named_the_callers_or_a_new_one() -> None:
    """In this order; each worker has a span of its own in it, the same one whenever it is asked for."""
    other = TRACE.replace("0af7", "1af7")
    assert read(traceparent=TRACE, worker=WorkerSpec(traceparent=other))[0].identity.parent == other
    assert read(traceparent=TRACE)[0].identity.parent == TRACE
    first, second = (spec.env["TRACEPARENT"] for spec in read(worker_count=2))
    assert spans.valid(first)
    assert first[:36] == second[:36]
    assert first[36:] != second[36:]
    assert read(traceparent=TRACE)[0].env["TRACEPARENT"] == read(traceparent=TRACE)[0].env["TRACEPARENT"]


def test_workers_are_told_where_to_send_telemetry_if_they_were_not_told_otherwise() -> None:
    """As the installation says it, and as whose; what was asked for wins; without a setting nothing is said."""
    exporting = replace(
        BOUNDS, exporting=(("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"))
    )
    worker = WorkerSpec(pipeline_id="가 b", stage_id="s")
    (spec,) = read(exporting, worker=worker)
    assert (spec.env["OTEL_EXPORTER_OTLP_ENDPOINT"], spec.env["OTEL_EXPORTER_OTLP_PROTOCOL"]) == ("http://collector:4317", "grpc")
    assert spec.env["OTEL_RESOURCE_ATTRIBUTES"] == (
        f"cicd.pipeline.run.id=%EA%B0%80%20b,cicd.pipeline.task.run.id=s,cicd.worker.name={spec.identity.name}"
    )
    worker.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://mine:4317"
    assert read(exporting, worker=worker)[0].env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://mine:4317"
    assert not [name for name in read(worker=worker)[0].env if name.startswith("OTEL_") and name not in worker.env]


def test_the_executor_may_name_a_repository_that_is_checked_out_already() -> None:
    """Then the worker is told of it, and nothing is checked out; a plain ScaleUp may not set these variables."""
    told = WorkerSpec(pipeline_id="p", env={"OTTO_REPOSITORY": "https://a/b", "OTTO_COMMIT_SHA": "abc"})
    (spec,) = read(worker=told)
    assert (spec.env["OTTO_REPOSITORY"], spec.env["OTTO_COMMIT_SHA"], spec.repository) == ("https://a/b", "abc", "")
    with pytest.raises(InvalidRequestError, match="OTTO_REPOSITORY is set by Ottoscaler itself"):
        read(worker=WorkerSpec(env={"OTTO_REPOSITORY": "x"}))


def test_build_config_becomes_variables() -> None:
    """Names of variables stay, others are upper-cased with `_` for what can't be in one; `otto.*` are options."""
    (spec,) = read(build_config={"NODE_ENV": "test", "build-type": "release", "otto.image": "node:20", "otto.command": "npm test"})
    assert (spec.env["NODE_ENV"], spec.env["BUILD_TYPE"]) == ("test", "release")
    assert not any(name.lower().startswith("otto.") for name in spec.env)
    assert (spec.image, spec.command) == ("node:20", ("sh", "-c", "npm test"))


def test_the_worker_spec_wins_over_build_config() -> None:
    """In every field that both can give."""
    config = {
        "A": "config",
        "B": "config",
        "otto.image": "config",
        "otto.command": "config",
        "otto.cpu": "1",
        "otto.memory": "1Gi",
        "otto.working_dir": "config",
        "otto.secrets": '{"TOKEN": "config/key"}',
    }
    worker = WorkerSpec(
        image="spec",
        command=["spec"],
        args=["-v"],
        env={"A": "spec"},
        resources=Resources(cpu="2", memory="2Gi"),
        working_directory="spec",
        secret_env=[SecretEnv(name="TOKEN", secret="spec", key="key")],
    )
    (spec,) = read(build_config=config, worker=worker)
    assert (spec.env["A"], spec.env["B"]) == ("spec", "config")
    assert (spec.image, spec.command, spec.cpu_cores, spec.memory_bytes) == ("spec", ("spec", "-v"), 2.0, 2 * 1024**3)
    assert (spec.working_directory, [secret.secret for secret in spec.secrets]) == ("spec", ["spec"])


def test_the_configured_default_command_runs_where_none_was_given() -> None:
    """As a script; a command of the request wins."""
    bounds = Bounds(**{name: getattr(BOUNDS, name) for name in Bounds.__slots__ if name != "default_command"}, default_command="make")
    assert read(bounds)[0].command == ("sh", "-c", "make")
    assert read(bounds, build_config={"otto.command": "ls"})[0].command == ("sh", "-c", "ls")
    assert read(bounds, worker=WorkerSpec(command=["ls"]))[0].command == ("ls",)


async def test_a_worker_without_a_command_says_what_it_was_given(rig: Rig) -> None:
    """Who it is, its variables, the names of its secrets (not their values), how to give it a command; then it ends with 0."""
    secret = rig.root / "secrets" / "s" / "k"
    secret.parent.mkdir(parents=True)
    secret.write_text("hidden-value")
    config = {"B": "2", "A": "1", "otto.secrets": '{"TOKEN": "s/k"}'}
    first, second = read(worker_count=2, task_id="my task", build_config=config)
    ended = await rig.run(second)
    assert (ended.state, ended.exit_code) == (State.SUCCEEDED, 0)
    assert rig.output(second).splitlines() == [
        "worker 2 of 2 of task my task was given no command, so it has nothing to do",
        "variable: A=1",
        "variable: B=2",
        "secret variable: TOKEN",
        'give it one: `commands` in a pipeline file, command and args of a stage; of ScaleUp build_config {"otto.command": "make test"}, '
        'or worker {command: ["make"], args: ["test"]}',
    ]
    assert first.command[-1] == second.command[-1]


def test_what_a_worker_without_a_command_says_is_bounded() -> None:
    """It is given its variables as arguments too, and Linux bounds both together."""
    (spec,) = read(worker=WorkerSpec(env={f"V{number:04}": "x" * 5000 for number in range(200)}))
    lines = spec.command[4:]
    assert len(lines) == SHOWN_VARIABLES + 3
    assert max(map(len, lines)) <= SHOWN_CHARACTERS
    assert "and 100 more variables" in lines


async def test_what_was_asked_for_reaches_the_worker(rig: Rig) -> None:
    """Variables, secrets and the number of cores, seen by the worker itself."""
    secret = rig.root / "secrets" / "api" / "token"
    secret.parent.mkdir(parents=True)
    secret.write_text("s3cr3t-value\n")
    script = 'printf "%s|%s|%s|%s|" "$OTTO_TASK_ID" "$OTTO_PIPELINE_ID" "$MODE" "$OTTO_WORKER_INDEX"; printf "%s" "$TOKEN" | wc -c; nproc'
    (spec,) = read(
        build_config={"MODE": "quick"},
        worker=WorkerSpec(
            pipeline_id="p",
            stage_id="s",
            command=["sh", "-c", script],
            resources=Resources(cpu="500m"),
            secret_env=[SecretEnv(name="TOKEN", secret="api", key="token")],
        ),
    )
    ended = await rig.run(spec)
    assert ended.state is State.SUCCEEDED
    told, cores = rig.output(spec).splitlines()
    assert told.split("|") == ["task", "p", "quick", "1", "12"]
    assert cores == "1"


async def test_a_timeout_reaches_the_worker(rig: Rig) -> None:
    """The one that was asked for, not the default."""
    worker = WorkerSpec(command=["sleep", "60"])
    worker.timeout.FromMilliseconds(300)
    (spec,) = read(worker=worker)
    assert (await rig.run(spec)).cause is Cause.TIMEOUT


async def test_a_memory_limit_reaches_the_worker(rig: Rig) -> None:
    """The one that was asked for."""
    hungry = "x=$(head -c 80000000 /dev/zero | tr '\\0' x); sleep 60"
    (spec,) = read(worker=WorkerSpec(command=["sh", "-c", hungry]), build_config={"otto.memory": "30Mi"})
    assert (await rig.run(spec)).cause is Cause.OOM_KILLED


def test_defaults_hold_where_nothing_was_asked_for() -> None:
    """Timeout and grace are the scaler's, cores and memory are not limited."""
    (spec,) = read()
    assert (spec.timeout, spec.stop_grace, spec.cpu_cores, spec.memory_bytes) == (3600, 10, 0.0, 0)


def test_an_owner_is_handed_on_whole() -> None:
    """All workers of the request get it; without one they belong to nothing."""
    owner = OwnerReference(api_version="ottoscaler.io/v1alpha1", kind="PipelineRun", name="run", uid="8c1e")
    specs = read(worker_count=2, worker=WorkerSpec(owner=owner, workspace_optional=True, workspace_expected=True, workspace_unshared=True))
    for spec in specs:
        assert spec.owner == Owner("ottoscaler.io/v1alpha1", "PipelineRun", "run", "8c1e")
        assert (spec.workspace_optional, spec.workspace_expected, spec.workspace_unshared) == (True, True, True)
    [spec] = read()
    assert (spec.owner, spec.workspace_optional, spec.workspace_expected, spec.workspace_unshared) == (None, False, False, False)


def test_half_an_owner_is_refused() -> None:
    """Kubernetes takes away what belongs to an owner that it does not find, so every missing field is named."""
    with pytest.raises(InvalidRequestError) as raised:
        read(worker=WorkerSpec(owner=OwnerReference(kind="PipelineRun")))
    assert raised.value.problems == [(f"worker.owner.{field}", "is empty") for field in ("api_version", "name", "uid")]
