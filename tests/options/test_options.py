"""What the keys of a config map mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otto_options.options import Claim, Problem, Secret, parse, path_problem, variable_problem
from otto_options.quantities import cpu_cores, memory_bytes


@pytest.mark.parametrize(
    ("text", "cores"), [("1", 1.0), ("500m", 0.5), ("0.25", 0.25), ("2.5", 2.5), (".5", 0.5), ("1k", 1000.0), (" 2 ", 2.0)]
)
def test_cpu_quantities(text: str, cores: float) -> None:
    """CPU is read as Kubernetes reads it."""
    assert cpu_cores(text) == cores


@pytest.mark.parametrize(
    ("text", "size"),
    [("512Mi", 512 * 2**20), ("2G", 2 * 10**9), ("1Gi", 2**30), ("1.5Gi", 3 * 2**29), ("1048576", 2**20), ("5000000k", 5 * 10**9)],
)
def test_memory_quantities(text: str, size: int) -> None:
    """Memory is read as Kubernetes reads it."""
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "1e3", "0", "1 Gi", "NaN", "Infinity", "1" * 400])
def test_bad_quantities_are_refused_in_words(text: str) -> None:
    """What is no quantity, or an absurd one, is a ValueError that shows a bounded part of what was given."""
    for read in (cpu_cores, memory_bytes):
        with pytest.raises(ValueError, match=r"is no Kubernetes quantity|is not between") as caught:
            read(text)
        assert len(str(caught.value)) < 200


def test_variables_are_kept_and_other_keys_become_variables() -> None:
    """A key that is a variable name stays; any other is upper-cased and its odd characters become underscores."""
    options = parse({"NODE_ENV": "production", "_A1": "x", "nodeVersion": "18", "my-key.x": "y"})
    assert options.env == {"NODE_ENV": "production", "_A1": "x", "NODEVERSION": "18", "MY_KEY_X": "y"}
    assert options.problems == ()


def test_two_keys_that_become_one_variable_are_a_problem() -> None:
    """Neither value silently wins."""
    assert [p.key for p in parse({"a-b": "1", "a.b": "2"}).problems] == ["a.b"]


def test_every_option_is_read() -> None:
    """All options of the contract, in the forms that clients send them."""
    options = parse(
        {
            "otto.run_if": "on_failure",
            "otto.ignore_errors": "true",
            "otto.working_dir": "web/app",
            "otto.artifacts": '["dist/**"]',
            "otto.cache": '["node_modules"]',
            "otto.cpu": "500m",
            "otto.memory": "1Gi",
            "otto.secrets": '{"TOKEN": "registry/token"}',
            "otto.approvers": "team-leads",
            "otto.workspace": "own",
        }
    )
    assert options.problems == ()
    assert (options.run_if, options.ignore_errors, options.working_dir) == ("on_failure", True, "web/app")
    assert (options.artifacts, options.cache, options.cpu, options.memory) == (("dist/**",), ("node_modules",), "500m", "1Gi")
    assert options.secrets == (Secret("TOKEN", "registry", "token"),)
    assert (options.approvers, options.workspace) == (("team-leads",), "own")
    assert options.unused == ("otto.artifacts", "otto.cache")


def test_an_unknown_option_is_a_problem_that_names_the_nearest() -> None:
    """A misspelt option is never taken for a variable and never ignored."""
    assert parse({"otto.runif": "always"}).problems == (Problem("otto.runif", "is no option; did you mean otto.run_if?"),)
    assert parse({"otto.command": "x"}).problems[0].key == "otto.command"
    assert parse({"otto.command": "x"}, build=True).command == "x"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("otto.run_if", "sometimes"),
        ("otto.ignore_errors", "maybe"),
        ("otto.working_dir", "/etc"),
        ("otto.working_dir", "a/../../b"),
        ("otto.artifacts", '["a", 1]'),
        ("otto.artifacts", "[" * 100_000),
        ("otto.cpu", "lots"),
        ("otto.memory", "1"),
        ("otto.secrets", '{"TOKEN": "no-slash"}'),
        ("otto.secrets", '{"TOKEN": "../x/key"}'),
        ("otto.secrets", '{"OTTO_TASK_ID": "a/b"}'),
        ("otto.secrets", "[]"),
        ("otto.approvers", "[]x"),
        ("otto.approvers", "[]"),
        ("otto.approvers", "null"),
        ("otto.approvers", '{"team": "leads"}'),
        ("otto.workspace", "mine"),
        ("otto.workspace", '{"size": "much"}'),
        ("otto.workspace", '{"mode": "ReadWriteMany"}'),
        ("otto.workspace", '{"accessMode": "ReadOnlyMany"}'),
        ("otto.workspace", '{"class": 3}'),
        ("otto.workspace", '{"class": "a b"}'),
        ("OTTO_TASK_ID", "x"),
        ("TRACEPARENT", "x"),
        ("", "x"),
        ("1a", "x"),
        ("GOOD", "nul\0"),
    ],
    ids=lambda v: v[:20] or "empty",
)
def test_a_bad_value_is_a_problem_of_its_key(key: str, value: str) -> None:
    """Exactly one problem, naming the key, with words that stay short."""
    problems = parse({key: value, "FINE": "1"}).problems
    assert [p.key for p in problems] == [key]
    assert 0 < len(problems[0].description) < 300


@given(st.dictionaries(st.text(max_size=20) | st.sampled_from(["otto.cpu", "otto.secrets", "otto.approvers"]), st.text(max_size=50)))
def test_any_map_is_read_without_an_exception(config: dict[str, str]) -> None:
    """Whatever is in it, the answer is options and problems; every variable that results can be set."""
    options = parse(config)
    assert all(variable_problem(name) == "" for name in options.env)
    assert {p.key for p in options.problems} <= set(config)


@given(st.lists(st.sampled_from(["..", "a", ".", "b c", ""])))
def test_a_path_that_is_accepted_stays_in_the_workspace(parts: list[str]) -> None:
    """No sequence of parts that passes leads above the workspace at its end."""
    path = "/".join(parts)
    if path_problem(path) == "":
        depth = 0
        for part in parts:
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        assert depth >= 0


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9]{0,10}", fullmatch=True), st.just("some-secret/key"), min_size=1))
def test_secrets_of_any_variable(references: dict[str, str]) -> None:
    """A JSON object of variables and references is read whole."""
    options = parse({"otto.secrets": json.dumps(references)})
    refused = any(variable_problem(name) for name in references)
    assert (len(options.problems) == 1) if refused else ({s.name for s in options.secrets} == set(references))


def test_a_workspace_may_be_described() -> None:
    """An object says what the shared workspace is to be where it is a volume; what it leaves out is the installation's."""
    options = parse({"otto.workspace": '{"class": "fast", "size": "5Gi", "accessMode": "ReadWriteMany"}'})
    assert (options.workspace, options.claim, options.problems) == ("shared", Claim("fast", "5Gi", "ReadWriteMany"), ())
    assert parse({"otto.workspace": "{}"}).claim == Claim()
    assert parse({"otto.workspace": "own"}).claim is None
