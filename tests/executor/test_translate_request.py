"""A PipelineRequest as it is understood: what each field and key becomes, and every problem at once, with its field."""

import json
import math

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otto_executor.retry import RetryPolicy as Policy
from otto_executor.settings import Settings
from otto_executor.stage import CHECKOUT, ExtraContainer, RunCondition, Secret, StageSpec, StageType
from otto_executor.translate_request import Read, read, stage_type
from ottoscaler.v1 import worker_pb2
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import (
    RUN_CONDITION_ALWAYS,
    STAGE_TYPE_APPROVAL,
    STAGE_TYPE_DEPLOY,
    PipelineStage,
    RetryPolicy,
)

SETTINGS = Settings()


def understood(request: PipelineRequest, limits: Settings = SETTINGS) -> Read:
    return read(request, limits, "00-trace-span-01")


def one(stage: PipelineStage, limits: Settings = SETTINGS) -> StageSpec:
    """The stage of a pipeline without problems."""
    stage.stage_id = stage.stage_id or "a"
    got = understood(PipelineRequest(pipeline_id="p", stages=[stage]), limits)
    assert got.problems == ()
    return got.definition.stages[0]


def problems(request: PipelineRequest, limits: Settings = SETTINGS) -> dict[str, str]:
    return {problem.field: problem.description for problem in understood(request, limits).problems}


def wrong(stage: PipelineStage, limits: Settings = SETTINGS) -> dict[str, str]:
    """The problems of a stage, their fields without the stage's place."""
    stage.stage_id = "a"
    found = problems(PipelineRequest(pipeline_id="p", stages=[stage]), limits)
    return {field.removeprefix("stages[0]."): text for field, text in found.items()}


def test_what_is_not_said_has_the_contracts_defaults() -> None:
    """One worker, the configured timeouts, no retries, on_success, the shared workspace, nothing else."""
    assert one(PipelineStage()) == StageSpec("a", timeout=SETTINGS.default_timeout, approval_timeout=SETTINGS.approval_timeout)


def test_fields_and_keys_become_a_stage() -> None:
    """Each field, each option of config, and variables by the contract's rules."""
    stage = PipelineStage(
        stage_id="빌드 1",
        name="Build",
        worker_count=3,
        image="node:20",
        command=["sh", "-c"],
        args=["make"],
        timeout_seconds=77,
        retry_policy=RetryPolicy(
            max_attempts=2,
            retry_delay_seconds=5,
            retryable_failures=["oom", "exit:7", "OOM_KILLED"],
            backoff_multiplier=2.5,
            max_delay_seconds=60,
            jitter=0.25,
        ),
        config={
            "NODE_ENV": "test",
            "my-key.x": "1",
            "otto.secrets": json.dumps({"TOKEN": "s/k"}),
            "otto.cpu": "500m",
            "otto.workspace": "own",
            "otto.approvers": json.dumps(["kim", "lee"]),
        },
        run_condition=RUN_CONDITION_ALWAYS,
        ignore_errors=True,
        working_directory="web/app",
        resources=worker_pb2.Resources(memory="1Gi"),
        secret_env=[worker_pb2.SecretEnv(name="OTHER", secret="s", key="o")],
        extra_containers=[worker_pb2.ExtraContainer(name="db", image="pg", command=["pg"], args=["-x"], env={"A": "b"})],
        stop_grace_period=Duration(seconds=2, nanos=500_000_000),
    )
    assert one(stage) == StageSpec(
        "빌드 1",
        name="Build",
        workers=3,
        run_if=RunCondition.ALWAYS,
        ignore_errors=True,
        approvers=("kim", "lee"),
        timeout=77,
        approval_timeout=77,
        grace=2.5,
        retry=Policy(retries=2, delay=5, on=("OOM_KILLED", "exit:7"), multiplier=2.5, max_delay=60, jitter=0.25),
        image="node:20",
        command=("sh", "-c"),
        args=("make",),
        env={"NODE_ENV": "test", "MY_KEY_X": "1"},
        secrets=(Secret("TOKEN", "s", "k"), Secret("OTHER", "s", "o")),
        working_directory="web/app",
        own_workspace=True,
        cpu="500m",
        memory="1Gi",
        extra_containers=(ExtraContainer("db", "pg", ("pg",), ("-x",), {"A": "b"}),),
    )


def test_keys_say_what_fields_say_and_fields_win() -> None:
    """otto.run_if, otto.ignore_errors, otto.working_dir, otto.memory; a field beside them decides."""
    config = {"otto.run_if": "on_failure", "otto.ignore_errors": "true", "otto.working_dir": "x", "otto.memory": "1G"}
    stage = one(PipelineStage(config=config))
    assert (stage.run_if, stage.ignore_errors, stage.working_directory, stage.memory) == (RunCondition.ON_FAILURE, True, "x", "1G")
    stage = one(
        PipelineStage(config=config, run_condition=RUN_CONDITION_ALWAYS, working_directory="y", resources=worker_pb2.Resources(memory="2G"))
    )
    assert (stage.run_if, stage.working_directory, stage.memory) == (RunCondition.ALWAYS, "y", "2G")


def test_the_longest_delay_by_default() -> None:
    """300 s, or the first delay where that is longer already, so that it never shortens what was asked for."""
    assert one(PipelineStage(retry_policy=RetryPolicy(retry_delay_seconds=5))).retry.max_delay == 300
    assert one(PipelineStage(retry_policy=RetryPolicy(retry_delay_seconds=900))).retry.max_delay == 900


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (PipelineStage(type=STAGE_TYPE_APPROVAL), ((), 0)),
        (PipelineStage(type=STAGE_TYPE_APPROVAL, command=["true"], worker_count=2), ((), 2)),
        (PipelineStage(type=STAGE_TYPE_APPROVAL, config={"otto.approvers": "kim"}), (("kim",), 0)),
        (PipelineStage(type=STAGE_TYPE_DEPLOY, config={"otto.approvers": "kim"}, command=["true"]), (("kim",), 1)),
        (PipelineStage(name="approve-deploy", type=STAGE_TYPE_DEPLOY, command=["true"]), (None, 1)),
    ],
    ids=["type", "type with a command", "type with approvers", "approvers", "only a name"],
)
def test_what_makes_a_stage_wait_for_approval(stage: PipelineStage, expected: tuple[object, int]) -> None:
    """The type or otto.approvers, never a name; an approval that names no command runs nothing."""
    made = one(stage)
    assert (made.approvers, made.workers) == expected


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("build", StageType.BUILD),
        ("DEPLOY", StageType.DEPLOY),
        (" Test ", StageType.TEST),
        ("custom", StageType.CUSTOM),
        ("?", StageType.CUSTOM),
    ],
)
def test_an_older_clients_type(word: str, meant: StageType) -> None:
    """Field 2 as a string is understood, in any case; a word that means nothing is CUSTOM."""
    text = word.encode()
    stage = PipelineStage.FromString(PipelineStage(stage_id="a").SerializeToString() + bytes([2 << 3 | 2, len(text)]) + text)
    assert stage_type(stage) is meant
    assert one(stage).type is meant


def test_a_repository_puts_the_checkout_first() -> None:
    """Stages without dependencies wait for it, with the configured timeout and retries."""
    request = PipelineRequest(
        pipeline_id="p", repository="/r", stages=[PipelineStage(stage_id="b", depends_on=["a"]), PipelineStage(stage_id="a")]
    )
    got = understood(request)
    checkout, b, a = got.definition.stages
    assert (checkout.stage_id, checkout.type, checkout.retry.retries) == (CHECKOUT, StageType.SETUP, SETTINGS.checkout_retries)
    assert (a.depends_on, b.depends_on) == ((CHECKOUT,), ("a",))


def test_everything_that_is_wrong_is_named_at_once() -> None:
    """One problem hides no other, wherever they are."""
    request = PipelineRequest(
        pipeline_id="",
        name="a\nb",
        repository="-x",
        metadata={"otto.fail_fasd": "true", "otto.on_disconnect": "explode", "mine": "anything"},
        stages=[
            PipelineStage(
                stage_id="a", worker_count=-1, timeout_seconds=-5, depends_on=["b"], config={"otto.memory": "lots", "otto.nope": "1"}
            ),
            PipelineStage(stage_id="b", depends_on=["a", "c"], worker_count=5000, retry_policy=RetryPolicy(max_attempts=-1, jitter=2)),
        ],
    )
    found = problems(request)
    assert found.keys() == {
        "pipeline_id",
        "name",
        "repository",
        'metadata["otto.fail_fasd"]',
        'metadata["otto.on_disconnect"]',
        "stages[0].worker_count",
        "stages[0].timeout_seconds",
        'stages[0].config["otto.memory"]',
        'stages[0].config["otto.nope"]',
        "stages[1].worker_count",
        "stages[1].retry_policy.max_attempts",
        "stages[1].retry_policy.jitter",
        "stages[1].depends_on[1]",
        "stages",
    }
    assert found["stages"] == "the dependencies form a cycle: a → b → a"
    assert "did you mean otto.fail_fast?" in found['metadata["otto.fail_fasd"]']
    assert found["stages[0].worker_count"] == "-1 is negative"


@pytest.mark.parametrize(
    ("stage", "field", "words"),
    [
        (PipelineStage(retry_policy=RetryPolicy(backoff_multiplier=0.5)), "retry_policy.backoff_multiplier", "between 1 and 100"),
        (PipelineStage(retry_policy=RetryPolicy(backoff_multiplier=math.nan)), "retry_policy.backoff_multiplier", "nan"),
        (PipelineStage(retry_policy=RetryPolicy(jitter=math.nan)), "retry_policy.jitter", "between 0 and 1"),
        (PipelineStage(retry_policy=RetryPolicy(retry_delay_seconds=86_401)), "retry_policy.retry_delay_seconds", "86400 are the most"),
        (PipelineStage(retry_policy=RetryPolicy(max_delay_seconds=-1)), "retry_policy.max_delay_seconds", "negative"),
        (PipelineStage(retry_policy=RetryPolicy(retryable_failures=["oom", "x"])), "retry_policy.retryable_failures[1]", "exit:N"),
        (PipelineStage(type=99), "type", "99 is no stage type"),  # type: ignore[arg-type]  # what a newer client may send
        (PipelineStage(run_condition=9), "run_condition", "9 is no run condition"),  # type: ignore[arg-type]  # what a newer client may send
        (PipelineStage(stop_grace_period=Duration(seconds=-1)), "stop_grace_period", "-1 s"),
        (PipelineStage(working_directory="../up"), "working_directory", "leads out"),
        (PipelineStage(working_directory="/abs"), "working_directory", "relative"),
        (PipelineStage(resources=worker_pb2.Resources(cpu="fast")), "resources.cpu", "fast"),
        (PipelineStage(image="a\x00"), "image", "control"),
        (PipelineStage(command=["sh"], args=["x\0"]), "args[0]", "NUL"),
        (PipelineStage(config={"OTTO_STAGE_ID": "x"}), 'config["OTTO_STAGE_ID"]', "set by Ottoscaler itself"),
        (PipelineStage(config={"a-b": "1", "a.b": "2"}), 'config["a.b"]', "becomes the variable A_B"),
        (PipelineStage(secret_env=[worker_pb2.SecretEnv(name="A", secret="..", key="k")]), "secret_env[0]", "no secret name"),
        (
            PipelineStage(config={"A": "1"}, secret_env=[worker_pb2.SecretEnv(name="A", secret="s", key="k")]),
            "secret_env[0]",
            "also given in config",
        ),
        (
            PipelineStage(config={"A": "1", "otto.secrets": '{"A": "s/k"}'}),
            'config["otto.secrets"]',
            "also given as a plain variable",
        ),
        (PipelineStage(extra_containers=[worker_pb2.ExtraContainer()]), "extra_containers[0].name", "is empty"),
        (
            PipelineStage(extra_containers=[worker_pb2.ExtraContainer(name="x"), worker_pb2.ExtraContainer(name="x")]),
            "extra_containers[1].name",
            "used twice",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else None,
)
def test_each_problem_names_its_field(stage: PipelineStage, field: str, words: str) -> None:
    """And nothing else is found wrong."""
    found = wrong(stage)
    assert list(found) == [field]
    assert words in found[field]


def test_limits_are_settings() -> None:
    """At the limit it runs, over it the problem names the limit; each comes from the settings."""
    limits = msgspec.structs.replace(SETTINGS, max_stages=2, max_stage_workers=3, max_workers=5, max_timeout=10, max_retries=1)

    def asked(*workers: int) -> dict[str, str]:
        return problems(
            PipelineRequest(pipeline_id="p", stages=[PipelineStage(stage_id=f"s{n}", worker_count=w) for n, w in enumerate(workers)]),
            limits,
        )

    assert asked(3, 2) == {}
    assert "3 are the most" in asked(4, 1)["stages[0].worker_count"]
    assert "they have 6 workers together; 5 are the most" in asked(3, 3)["stages"]
    assert "there are 3; 2 are the most" in asked(1, 1, 1)["stages"]
    assert wrong(PipelineStage(timeout_seconds=10, retry_policy=RetryPolicy(max_attempts=1)), limits) == {}
    assert wrong(PipelineStage(timeout_seconds=11, retry_policy=RetryPolicy(max_attempts=2)), limits).keys() == {
        "timeout_seconds",
        "retry_policy.max_attempts",
    }
    big = PipelineRequest(pipeline_id="p", stages=[PipelineStage(stage_id="a", args=["x" * 5000])])
    assert "4096 are the most" in problems(big, msgspec.structs.replace(SETTINGS, max_request_bytes=4096))["stages"]
    assert "there are none" in problems(PipelineRequest(pipeline_id="p"))["stages"]


def test_what_is_not_acted_on_yet_is_a_warning() -> None:
    """otto.artifacts, otto.cache and artifact_paths are named with their stage; a wrong value is still a problem."""
    stage = PipelineStage(stage_id="a", config={"otto.cache": "x", "otto.artifacts": '["*.zip"]'}, artifact_paths=["*"])
    got = understood(PipelineRequest(pipeline_id="p", stages=[stage]))
    assert got.problems == ()
    assert got.definition.warnings == ("stage 'a': otto.artifacts, otto.cache, artifact_paths are checked but not acted on yet",)
    assert 'config["otto.cache"]' in wrong(PipelineStage(config={"otto.cache": "[1]"}))


texts = st.text(max_size=20)
stages = st.builds(
    PipelineStage,
    stage_id=texts,
    type=st.integers(-2, 200),
    name=texts,
    worker_count=st.integers(-(2**31), 2**31 - 1),
    depends_on=st.lists(texts, max_size=4),
    config=st.dictionaries(
        st.sampled_from(["otto.run_if", "otto.secrets", "otto.approvers", "otto.cpu", "otto.memory", "otto.working_dir", "otto.x", "A"])
        | texts,
        texts,
        max_size=4,
    ),
    args=st.lists(texts, max_size=3),
    timeout_seconds=st.integers(-(2**31), 2**31 - 1),
    retry_policy=st.builds(
        RetryPolicy,
        max_attempts=st.integers(-(2**31), 2**31 - 1),
        retry_delay_seconds=st.integers(-(2**31), 2**31 - 1),
        retryable_failures=st.lists(texts, max_size=3),
        backoff_multiplier=st.floats(),
        jitter=st.floats(),
        max_delay_seconds=st.integers(-(2**31), 2**31 - 1),
    ),
    run_condition=st.integers(-2, 9),
    working_directory=texts,
    stop_grace_period=st.builds(Duration, seconds=st.integers(-(2**40), 2**40), nanos=st.integers(-(10**9), 10**9)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(stages, max_size=4), texts, st.dictionaries(texts, texts, max_size=3))
def test_no_request_is_too_strange_to_be_read(given_stages: list[PipelineStage], pipeline_id: str, metadata: dict[str, str]) -> None:
    """Reading never raises; what has no problem has a graph, and numbers within the limits."""
    got = understood(PipelineRequest(pipeline_id=pipeline_id, stages=given_stages, metadata=metadata))
    if got.problems:
        assert all(problem.field and problem.description for problem in got.problems)
        return
    got.definition.graph()
    for stage in got.definition.stages:
        assert 0 <= stage.workers <= SETTINGS.max_stage_workers
        assert 0 < stage.timeout <= SETTINGS.max_timeout
        assert 0 <= stage.retry.retries <= SETTINGS.max_retries
        assert 1 <= stage.retry.multiplier <= 100
        assert 0 <= stage.retry.jitter <= 1
