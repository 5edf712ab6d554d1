"""Whole pipeline requests that are right, and single mistakes to put into them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from otto_executor.settings import Settings
from otto_executor.stage import CHECKOUT
from otto_executor.validation import MAX_PIPELINE_ID_BYTES, MAX_STAGE_ID_BYTES
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, RunCondition, StageType

LIMITS = Settings()
SCRIPTS = (
    "a",
    "Z9",
    "한",
    "日本",
    "ع",
    "क",
    "😀",
    "é",
    "e\u0301",
    ".",
    "_",
    " ",
    "\u200b",
    "\u202e",
    "'",
    '"',
    "\\",
    "→",
    "/",
    "%",
    "\U0010ffff",
    "ﷺ",
)
"""Pieces of ids: letters of many scripts, what combines, what shows nothing, what turns the line around, what shells and JSON quote."""


def texts(least: int, most_bytes: int) -> st.SearchStrategy[str]:
    """Ids of up to so many bytes: mostly short, sometimes exactly as long as is allowed."""
    short = st.lists(st.sampled_from(SCRIPTS), min_size=least, max_size=8).map("".join)
    longest = st.sampled_from(SCRIPTS).map(lambda piece: (piece * most_bytes).encode()[:most_bytes].decode("utf-8", "ignore"))
    return st.one_of(short, short, short, longest).filter(lambda text: bool(text.strip()) or not least)


def numbers(most: int) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted({0, 1, 2, most - 1, most}))


CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "NODE_ENV": st.sampled_from(["test", "", "한글", "x" * 32_768]),
        "some.key-with things": st.just("v"),
        "otto.run_if": st.sampled_from(["on_success", " Always ", "ON_FAILURE"]),
        "otto.ignore_errors": st.sampled_from(["true", "FALSE"]),
        "otto.working_dir": st.sampled_from(["a/b", "a/../b", "한글 dir"]),
        "otto.artifacts": st.sampled_from(["dist/**", '["a", "b"]', "[]"]),
        "otto.cpu": st.sampled_from(["1m", "500m", "10000", ".5"]),
        "otto.memory": st.sampled_from(["1Mi", "2G", "1Pi"]),
        "otto.secrets": st.sampled_from(['{"TOKEN": "secret/key"}', "{}"]),
        "otto.approvers": st.sampled_from(["kim", '["kim", "팀"]']),
        "otto.workspace": st.sampled_from(["own", "shared"]),
    },
)
POLICIES = st.builds(
    RetryPolicy,
    max_attempts=numbers(LIMITS.max_retries),
    retry_delay_seconds=numbers(LIMITS.max_retry_delay),
    max_delay_seconds=numbers(LIMITS.max_retry_delay),
    retryable_failures=st.lists(st.sampled_from(["timeout", "OOM", "exit:0", "exit:255", "failure_cause_evicted"]), max_size=3),
    backoff_multiplier=st.sampled_from([0.0, 1.0, 2.5, 100.0]),
    jitter=st.sampled_from([0.0, 0.5, 1.0]),
)


@st.composite
def right_requests(draw: st.DrawFn) -> PipelineRequest:
    """A request that can run: any acyclic graph, in any order, with ids in any script, and numbers up to their limits."""
    request = PipelineRequest(
        pipeline_id=draw(texts(1, MAX_PIPELINE_ID_BYTES)),
        name=draw(texts(0, 2000)),
        triggered_by=draw(st.sampled_from(["", "kim", "팀" * 60_000])),
        repository=draw(st.sampled_from(["", "", "https://git.example/한.git"])),
        metadata=draw(st.fixed_dictionaries({}, optional={"": st.just(""), "mine": texts(0, 100), "otto.fail_fast": st.just("true")})),
    )
    ids = draw(st.lists(texts(1, MAX_STAGE_ID_BYTES).filter(lambda text: text != CHECKOUT), min_size=1, max_size=12, unique=True))
    stages = []
    for number, stage_id in enumerate(ids):
        needs = draw(st.lists(st.sampled_from(ids[:number]), max_size=4)) if number else []
        stage = PipelineStage(stage_id=stage_id, depends_on=needs, worker_count=draw(numbers(400)), config=draw(CONFIG))
        stage.timeout_seconds = draw(numbers(int(LIMITS.max_timeout)))
        stage.type = draw(st.sampled_from(list(StageType.values())))
        stage.name = draw(texts(0, 200))
        stage.run_condition = draw(st.sampled_from([RunCondition.RUN_CONDITION_UNSPECIFIED] * 3 + list(RunCondition.values())))
        if draw(st.booleans()):
            stage.command[:] = draw(st.sampled_from([["true"], ["sh", "-c", "echo 한\n"], ["x", ""]]))
        if draw(st.booleans()):
            stage.retry_policy.CopyFrom(draw(POLICIES))
        stages.append(stage)
    if draw(st.integers(0, 9)) == 0:
        stages[0].command[:] = ["x"] * draw(st.sampled_from([10_000, 70_000]))
    request.stages.extend(draw(st.permutations(stages)))
    return request


@dataclass(frozen=True)
class Mistake:
    """One thing to make wrong about a stage (or about the request), and the field that it will be named by."""

    name: str
    make: Callable[[PipelineStage], object]
    field: str


def _set(**fields: object) -> Callable[[PipelineStage], object]:
    def make(stage: PipelineStage) -> None:
        for name, value in fields.items():
            setattr(stage, name, value)

    return make


def _config(key: str, value: str) -> Mistake:
    return Mistake(f"{key}={value[:20]}", lambda stage: stage.config.update({key: value}), f'config["{key}"]')


def _policy(name: str, value: float) -> Mistake:
    return Mistake(f"{name}={value}", lambda stage: setattr(stage.retry_policy, name, value), f"retry_policy.{name}")


def _failure(word: str) -> Mistake:
    def make(stage: PipelineStage) -> None:
        stage.retry_policy.retryable_failures[:] = [word]

    return Mistake(f"retryable_failures={word[:20]}", make, "retry_policy.retryable_failures[0]")


def _grace(seconds: int, nanos: int = 0) -> Mistake:
    def make(stage: PipelineStage) -> None:
        stage.stop_grace_period.seconds, stage.stop_grace_period.nanos = seconds, nanos

    return Mistake(f"grace={seconds}", make, "stop_grace_period")


STAGE_MISTAKES = (
    *(Mistake(f"workers={n}", _set(worker_count=n), "worker_count") for n in (-1, -(2**31), LIMITS.max_stage_workers + 1, 2**31 - 1)),
    *(Mistake(f"timeout={n}", _set(timeout_seconds=n), "timeout_seconds") for n in (-1, -(2**31), int(LIMITS.max_timeout) + 1, 2**31 - 1)),
    *(Mistake(f"type={n}", _set(type=n), "type") for n in (-1, 8, 101, 2**31 - 1)),
    *(Mistake(f"condition={n}", _set(run_condition=n), "run_condition") for n in (-1, 4, 2**31 - 1)),
    *(Mistake(f"name={text!r}", _set(name=text), "name") for text in ("\0", "a\nb", "\x1b[1m", "\x85")),
    Mistake("image", _set(image="a\tb"), "image"),
    *(Mistake(f"directory={text!r}", _set(working_directory=text), "working_directory") for text in ("/etc", "..", "a/../../b", "a\0")),
    Mistake("program", lambda stage: stage.command.__setitem__(slice(None), ["", "x"]), "command[0]"),
    Mistake("NUL", lambda stage: stage.command.__setitem__(slice(None), ["x", "a\0b"]), "command[1]"),
    Mistake("many arguments", lambda stage: stage.command.__setitem__(slice(None), ["x"] * 104_001), "command"),
    Mistake("long argument", lambda stage: stage.command.__setitem__(slice(None), ["x", "a" * 131_072]), "command[1]"),
    *(_policy("max_attempts", n) for n in (-1, LIMITS.max_retries + 1, 2**31 - 1)),
    *(_policy("retry_delay_seconds", n) for n in (-1, LIMITS.max_retry_delay + 1)),
    *(_policy("max_delay_seconds", n) for n in (-1, LIMITS.max_retry_delay + 1)),
    *(_policy("backoff_multiplier", x) for x in (-1.0, 0.5, 100.1, math.nan, math.inf)),
    *(_policy("jitter", x) for x in (-0.1, 1.1, math.nan, -math.inf)),
    *(_failure(word) for word in ("", "nothing", "exit:256", "exit:-1", "exit:" + "9" * 5000, "x" * 3000, "\0")),
    _grace(-1), _grace(3601), _grace(2**62), _grace(3600, 999_999_999), _grace(0, -1),
    _config("otto.nothing", "x"), _config("otto.", ""), _config("otto.run_if", "never"), _config("otto.ignore_errors", ""),
    _config("otto.working_dir", "/"), _config("otto.cpu", "0"), _config("otto.cpu", "10001"), _config("otto.memory", "1Zi"),
    _config("otto.memory", "9" * 5000), _config("otto.secrets", "[" * 100_000), _config("otto.secrets", '{"A": "b"}'),
    _config("otto.secrets", '{"A": ' + "9" * 5000 + "}"), _config("otto.approvers", "null"), _config("otto.approvers", "[]"),
    _config("otto.workspace", "mine"), _config("otto.artifacts", "[1]"), _config("otto.cache", " "),
    _config("", "x"), _config("OTTO_TASK_ID", "x"), _config("TRACEPARENT", "x"), _config("9", "x"),
    _config("A", "a\0"), _config("B", "x" * 32_769),
)  # fmt: skip


def _pipeline_id(text: str) -> Callable[[PipelineRequest, int], tuple[str, ...]]:
    def make(request: PipelineRequest, _: int) -> tuple[str, ...]:
        request.pipeline_id = text
        return ("pipeline_id",)

    return make


def _twice(request: PipelineRequest, at: int) -> tuple[str, ...]:
    request.stages.add(stage_id=request.stages[at].stage_id)
    return (f"stages[{at}].stage_id", f"stages[{len(request.stages) - 1}].stage_id")


def _needs(name: str) -> Callable[[PipelineRequest, int], tuple[str, ...]]:
    def make(request: PipelineRequest, at: int) -> tuple[str, ...]:
        needs = request.stages[at].depends_on
        needs.append(name or request.stages[at].stage_id)
        return (f"stages[{at}].depends_on[{len(needs) - 1}]",)

    return make


def _circle(request: PipelineRequest, at: int) -> tuple[str, ...]:
    chain = [stage.stage_id for stage in (request.stages.add(stage_id=f"{request.stages[at].stage_id[:9]} circle {n}") for n in range(5))]
    for number, stage in enumerate(list(request.stages)[-5:]):
        stage.depends_on.append(chain[number - 1])
    return ("stages",)


def _no_stage_id(text: str) -> Callable[[PipelineRequest, int], tuple[str, ...]]:
    def make(request: PipelineRequest, _: int) -> tuple[str, ...]:
        request.stages.add(stage_id=text)
        return (f"stages[{len(request.stages) - 1}].stage_id",)

    return make


def _metadata(key: str, value: str) -> Callable[[PipelineRequest, int], tuple[str, ...]]:
    def make(request: PipelineRequest, _: int) -> tuple[str, ...]:
        request.metadata[key] = value
        return (f'metadata["{key}"]',)

    return make


def _source(field: str, text: str) -> Callable[[PipelineRequest, int], tuple[str, ...]]:
    def make(request: PipelineRequest, _: int) -> tuple[str, ...]:
        setattr(request, field, text)
        return (field,)

    return make


def _too_many_workers(request: PipelineRequest, at: int) -> tuple[str, ...]:
    for number in range(6):
        request.stages.add(stage_id=f"many {number}", worker_count=LIMITS.max_stage_workers)
    return ("stages",)


# Each changes the request, in part at the stage it is given, and returns the fields that name it.
REQUEST_MISTAKES: dict[str, Callable[[PipelineRequest, int], tuple[str, ...]]] = {
    "no id": _pipeline_id(""),
    "an id of white space": _pipeline_id("\u3000 "),
    "an id that is too long": _pipeline_id("한" * 85),
    "an id with NUL": _pipeline_id("a\0b"),
    "a stage twice": _twice,
    "an unknown dependency": _needs("nobody is called so"),
    "a dependency on itself": _needs(""),
    "a cycle": _circle,
    "no stage id": _no_stage_id(""),
    "a stage id that is too long": _no_stage_id("😀" * 257),
    "a stage id with a line end": _no_stage_id("a\n"),
    "the checkout's id": _no_stage_id(CHECKOUT),
    "too many workers together": _too_many_workers,
    "unknown metadata": _metadata("otto.on_disconect", "cancel"),
    "wrong metadata": _metadata("otto.fail_fast", "perhaps"),
    "an option as repository": _source("repository", "--upload-pack=x"),
    "an option as commit": _source("commit_sha", "-x"),
    "a name with an escape": _source("name", "\x1b]0;x"),
}
