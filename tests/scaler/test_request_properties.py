"""Whatever a ScaleRequest is, everything that is wrong with it is named, and what is right becomes its workers."""

import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otto_runtime.errors import status_of
from otto_scaler.errors import InvalidRequestError
from otto_scaler.translate.request import MAX_ID_BYTES, Bounds, WorkersWanted, check_scale_down, workers_wanted
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.worker_pb2 import ExtraContainer, Resources, SecretEnv

BOUNDS = Bounds(20, 3600.0, 604_800.0, 10.0, 3600.0, "")
DETAILS = 8 * 1024
PIECES = ("a", "Z9", "한", "ع", "क", "😀", "e\u0301", " ", "/", "%", "\u202e", "\u200b", "'", '"', "\\", "\n", "\x1b", "\U0010ffff")


def texts(most_bytes: int) -> st.SearchStrategy[str]:
    """Non-empty text in any script: mostly short, sometimes as long as is allowed."""
    short = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
    longest = st.sampled_from(PIECES[:8]).map(lambda piece: (piece * most_bytes).encode()[:most_bytes].decode("utf-8", "ignore"))
    return st.one_of(short, short, longest).filter(lambda text: bool(text.strip()))


@st.composite
def right_requests(draw: st.DrawFn) -> ScaleRequest:
    """A request that can be carried out, with numbers up to their limits."""
    request = ScaleRequest(
        task_id=draw(texts(MAX_ID_BYTES)),
        worker_count=draw(st.sampled_from([1, 2, BOUNDS.max_workers_per_request])),
        repository=draw(st.sampled_from(["", "https://git.example/한.git", "git@git.example:a/b", "/srv/a.git"])),
        commit_sha=draw(st.sampled_from(["", "main", "feature/한글", "0" * 40])),
        triggered_by=draw(st.sampled_from(["", "kim\0", "팀" * 1000])),
        metadata=draw(st.dictionaries(st.sampled_from(["", "a", "otto.x", "한"]), st.sampled_from(["", "x" * 1000]), max_size=3)),
        build_config=draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "NODE_ENV": st.sampled_from(["", "한글", "x" * 32_768]),
                    "a key of any kind": st.just("v"),
                    "otto.command": st.sampled_from(["true", "echo 한\n"]),
                    "otto.cpu": st.sampled_from(["1m", "10000"]),
                    "otto.run_if": st.just("always"),
                    "otto.workspace": st.sampled_from(["own", "shared"]),
                },
            )
        ),
    )
    worker = request.worker
    worker.attempt = draw(st.sampled_from([0, 1, 1_000_000]))
    worker.stage_id = draw(st.one_of(st.just(""), texts(MAX_ID_BYTES)))
    worker.workspace = draw(st.sampled_from(["", "a", "a" * 63]))
    worker.working_directory = draw(st.sampled_from(["", "a/b", "한/../b"]))
    if draw(st.booleans()):
        worker.command.extend(draw(st.sampled_from([["true"], ["sh", "-c", "x" * 131_071]])))
    if draw(st.booleans()):
        worker.timeout.seconds = draw(st.sampled_from([0, 1, 604_800]))
    if draw(st.booleans()):
        worker.stop_grace_period.seconds = draw(st.sampled_from([0, 1, 3600]))
    worker.labels.update(draw(st.sampled_from([{}, {"team": "web"}, {"example.com/team": ""}])))
    worker.env.update(draw(st.sampled_from([{}, {"A_B": "c"}])))
    return request


Mistake = tuple[str, Callable[[ScaleRequest], object], str]


def _set(name: str, value: object, *, of_worker: bool = False) -> Mistake:
    field = f"worker.{name}" if of_worker else name
    return f"{field}={str(value)[:20]!r}", lambda request: setattr(request.worker if of_worker else request, name, value), field


def _seconds(name: str, seconds: int, nanos: int = 0) -> Mistake:
    def make(request: ScaleRequest) -> None:
        span = getattr(request.worker, name)
        span.seconds, span.nanos = seconds, nanos

    return f"{name}={seconds}.{nanos}", make, f"worker.{name}"


def _config(key: str, value: str) -> Mistake:
    return f"{key}={value[:20]}", lambda request: request.build_config.update({key: value}), f"build_config[{key!r}]"


def _env(key: str, value: str) -> Mistake:
    return f"env {key}={value[:20]}", lambda request: request.worker.env.update({key: value}), f"worker.env[{key!r}]"


def _label(key: str, value: str) -> Mistake:
    return f"label {key}={value[:20]}", lambda request: request.worker.labels.update({key: value}), f"worker.labels[{key!r}]"


def _command(*words: str) -> Mistake:
    return f"command {words!r:.20}", lambda request: request.worker.command.__setitem__(slice(None), words), "worker.command"


def _only_args(request: ScaleRequest) -> None:
    request.worker.ClearField("command")
    request.worker.args.append("x")


MISTAKES: tuple[Mistake, ...] = (
    *(_set("task_id", text) for text in ("", " \u3000", "a\0b", "한" * 1366)),
    *(_set("worker_count", number) for number in (0, -1, -(2**31), BOUNDS.max_workers_per_request + 1, 2**31 - 1)),
    *(_set("repository", text) for text in ("-x", "ext::sh -c x", "a", "gopher://x/y", "/a\0b", "/" + "한" * 1000, "https://")),
    *(_set("commit_sha", text) for text in ("-x", "a b", "a..b", "@", "x" * 256, "a\0", "refs/*")),
    *(_set("attempt", number, of_worker=True) for number in (-1, 1_000_001, 2**31 - 1)),
    *(_set("pipeline_id", text, of_worker=True) for text in (" ", "\0", "x" * (MAX_ID_BYTES + 1))),
    *(_set("stage_id", text, of_worker=True) for text in ("\t", "a\0", "x" * (MAX_ID_BYTES + 1))),
    *(_set("traceparent", text, of_worker=True) for text in ("x", "00-" + "0" * 32 + "-b7ad6b7169203331-01")),
    *(_set("workspace", text, of_worker=True) for text in ("..", "A", "a/b", "a" * 64, "한", "-")),
    *(_set("working_directory", text, of_worker=True) for text in ("/etc", "..", "a/../../b", "a\0")),
    *(_seconds("timeout", seconds) for seconds in (-1, 604_801, 2**62)),
    *(_seconds("stop_grace_period", seconds, nanos) for seconds, nanos in ((-1, 0), (3601, 0), (3600, 1), (-(2**62), -1))),
    _config("otto.nothing", "x"), _config("otto.cpu", "0"), _config("otto.memory", "9" * 5000), _config("otto.secrets", "[" * 100_000),
    _config("otto.approvers", "kim"), _config("otto.working_dir", ".."), _config("otto.image", " "), _config("OTTO_TASK_ID", "x"),
    _config("A", "a\0"), _config("B", "x" * 32_769), _config("9", "x"),
    _env("OTTO_TASK_ID", "x"), _env("a b", "x"), _env("C", "\0"), _env("D", "x" * 32_769), _env("", ""), _env("TRACEPARENT", ""),
    _label("ottoscaler.io/task", "x"), _label("a b", "x"), _label("c", "한"), _label("d", "x" * 64), _label("", ""),
    _command(""), _command("x", "a\0b"), _command("x", "y" * 131_072),
    ("args", _only_args, "worker.args"),
    ("secret", lambda r: r.worker.secret_env.append(SecretEnv(name="T", secret="../x", key="k")), "worker.secret_env[0]"),
    ("resources", lambda r: r.worker.resources.CopyFrom(Resources(memory="1e9999")), "worker.resources.memory"),
    ("container", lambda r: r.worker.extra_containers.append(ExtraContainer(image="x")), "worker.extra_containers[0].name"),
)  # fmt: skip


def asked(request: ScaleRequest) -> WorkersWanted | InvalidRequestError:
    try:
        return workers_wanted(request, BOUNDS, lambda _: [])
    except InvalidRequestError as error:
        return error


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(right_requests(), st.lists(st.sampled_from(MISTAKES), max_size=5))
def test_every_mistake_of_a_scale_request_is_named_at_once(request: ScaleRequest, mistakes: list[Mistake]) -> None:
    """What is right becomes so many different workers; any mistakes are named by their fields, all of them and nothing else."""
    made: dict[str, Mistake] = {}
    for mistake in mistakes:
        group = "command" if mistake[2] in {"worker.command", "worker.args"} else mistake[2]
        if group not in made:
            made[group] = mistake
            mistake[1](request)
    found = asked(request)
    if isinstance(found, WorkersWanted):
        assert not made
        assert len({spec.identity.name for spec in found.specs}) == len(found.specs) == request.worker_count
        for spec in found.specs:
            assert len(spec.identity.name) <= 63
            assert set(spec.identity.name) <= set(string.ascii_lowercase + string.digits + "-")
            assert spec.env["OTTO_TASK_ID"] == request.task_id
        return
    # an option that is wrong in itself may be said of the worker's field that it stands for
    assert {field for field, _ in found.problems} == {mistake[2] for mistake in made.values()}
    status = status_of(found, (InvalidRequestError,))
    assert status.code.name == "INVALID_ARGUMENT"
    assert len(status.details.encode()) < DETAILS
    assert all(words not in status.details for words in ("Traceback", "Exceeds the limit", " object at 0x"))


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_is_named_alone(mistake: Mistake) -> None:
    """Each one by itself, in a request that is right but for it."""
    request = ScaleRequest(task_id="t", worker_count=1)
    mistake[1](request)
    found = asked(request)
    assert isinstance(found, InvalidRequestError)
    assert {field for field, _ in found.problems} == {mistake[2]}


@given(st.text(), st.integers(-(2**31), 2**31 - 1))
def test_a_scale_down_is_refused_exactly_when_it_is_wrong(task_id: str, count: int) -> None:
    """An empty task and a negative count, both at once; anything else may be asked for."""
    expected = ["task_id"] * (not task_id) + ["worker_count"] * (count < 0)
    found: list[str] = []
    try:
        check_scale_down(ScaleRequest(task_id=task_id, worker_count=count))
    except InvalidRequestError as error:
        found = [field for field, _ in error.problems]
    assert found == expected
