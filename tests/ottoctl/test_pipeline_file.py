"""Pipeline files: what they become, and every mistake with its line."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoctl.pipeline_file import MAX_BYTES, PipelineFileError, load, parse
from ottoctl.templates import TEMPLATES, template
from ottoscaler.v1.stage_pb2 import StageType

SHARED = sorted((Path(__file__).resolve().parents[1] / "standalone" / "pipelines").glob("*.yaml"))
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("file", [*SHARED, *EXAMPLES], ids=lambda f: f.stem)
def test_real_files_are_taken_as_they_are(file: Path) -> None:
    """What otto-front's users build, and what lies in pipelines/, has no mistake."""
    assert len(load(file).request.stages) >= 3


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_pipelines(name: str) -> None:
    """Each template of `--type` is read like a file."""
    assert template(name).request.stages


def test_a_job_becomes_a_stage_as_otto_handler_s_converter_makes_it() -> None:
    """Names are ids verbatim; commands are one script for sh; the defaults are the converter's."""
    stage = parse("- {name: '우분투 준비', image: 'ubuntu:22.04', commands: \"a\\nb\"}".encode(), "f").stages[0]
    assert (stage.stage_id, stage.name, stage.image) == ("우분투 준비", "우분투 준비", "ubuntu:22.04")
    assert (list(stage.command), list(stage.args)) == (["sh", "-e", "-c"], ["a\nb"])
    assert (stage.worker_count, stage.timeout_seconds, stage.type) == (1, 600, StageType.STAGE_TYPE_CUSTOM)


def test_config_values_stay_as_they_are_written() -> None:
    """No scalar is reinterpreted; lists and mappings become JSON text; retry keys become the retry policy."""
    source = b"""
- name: a
  config: {VERSION: 1.10, ON: on, OCTAL: 010, YES: true, EMPTY: "", otto.artifacts: ["a/**", "b"], OBJECT: {k: 1, l: [true, null]},
           retry.maxAttempts: 2, retry.delaySeconds: 5, retry.retryableFailures: "timeout, oom"}
"""
    stage = parse(source, "f").stages[0]
    assert dict(stage.config) == {
        "VERSION": "1.10",
        "ON": "on",
        "OCTAL": "010",
        "YES": "true",
        "EMPTY": "",
        "otto.artifacts": '["a/**", "b"]',
        "OBJECT": '{"k": 1, "l": [true, null]}',
    }
    policy = stage.retry_policy
    assert (policy.max_attempts, policy.retry_delay_seconds, list(policy.retryable_failures)) == (2, 5, ["timeout", "oom"])


@pytest.mark.parametrize("where", ["retry", "config"])
def test_the_whole_retry_policy(where: str) -> None:
    """Every part of it stands under `retry:` or as `retry.*` under `config`, and comes out the same."""
    parts = {
        "maxAttempts": "3",
        "delaySeconds": "5",
        "retryableFailures": '[timeout, "exit:137"]',
        "backoffMultiplier": "2.5",
        "maxDelaySeconds": "60",
        "jitter": "0.2",
    }
    prefix = "retry." if where == "config" else ""
    inner = ", ".join(f"{prefix}{key}: {value}" for key, value in parts.items())
    policy = parse(f"- {{name: a, {where}: {{{inner}}}}}".encode(), "f").stages[0].retry_policy
    assert (policy.max_attempts, policy.retry_delay_seconds, list(policy.retryable_failures)) == (3, 5, ["timeout", "exit:137"])
    assert (policy.backoff_multiplier, policy.max_delay_seconds, policy.jitter) == (2.5, 60, 0.2)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("backoffMultiplier: 0.5", "f:1:.*backoffMultiplier has to be from 1 to 100, not 0.5"),
        ("backoffMultiplier: nan", "backoffMultiplier has to be from 1 to 100, not nan"),
        ("jitter: lots", "jitter has to be a number, not 'lots'"),
        ("jitter: 1.5", "jitter has to be from 0 to 1, not 1.5"),
        ("jitter: [1]", "jitter has to be a text, not a list"),
        ("maxDelaySeconds: 0", "maxDelaySeconds has to be from 1 to 86400, not 0"),
        ("maxDelay: 3", "did you mean 'maxDelaySeconds'"),
    ],
)
def test_wrong_parts_of_a_retry_policy(entry: str, words: str) -> None:
    """Each is named with its line and what would be right."""
    with pytest.raises(PipelineFileError, match=words):
        parse(f"- {{name: a, retry: {{{entry}}}}}".encode(), "f")


def test_a_mapping_carries_the_pipeline_s_own_fields() -> None:
    """Id, name, repository, commit and metadata stand beside the jobs."""
    request = parse(b"{id: i, name: n, repository: r, commit: c, metadata: {otto.fail_fast: true}, stages: [{name: a}]}", "f")
    assert (request.pipeline_id, request.name, request.repository, request.commit_sha) == ("i", "n", "r", "c")
    assert dict(request.metadata) == {"otto.fail_fast": "true"}


def test_type_is_guessed_from_the_name_but_never_stops_a_pipeline() -> None:
    """Only displays depend on a guess, so a name that sounds like an approval does not become one."""
    kinds = [s.type for s in parse(b"[{name: unit-tests}, {name: docker-build}, {name: approve-x}, {name: z, type: approval}]", "f").stages]
    assert kinds == [
        StageType.STAGE_TYPE_TEST,
        StageType.STAGE_TYPE_BUILD,
        StageType.STAGE_TYPE_CUSTOM,
        StageType.STAGE_TYPE_APPROVAL,
    ]


def test_every_mistake_is_named_with_its_line_and_column() -> None:
    """One run of the reader finds them all, in the order of the file."""
    source = b"""\
- {name: a, comands: x, dependencies: [c11]}
- {name: c1, timeout: soon, worker_count: 0}
- {name: a}
- 7
- {name: d, dependencies: e}
- {name: e, dependencies: [d]}
- {commands: x, type: tset}
"""
    with pytest.raises(PipelineFileError) as caught:
        parse(source, "ci.yaml")
    assert str(caught.value).splitlines() == [
        "ci.yaml:1:13: a job has no 'comands'; did you mean 'commands'?",
        "ci.yaml:1:40: there is no job named 'c11'; did you mean 'c1'?",
        "ci.yaml:2:23: timeout (seconds) has to be a whole number, not 'soon'",
        "ci.yaml:2:43: worker_count has to be from 1 to 1000000, not 0",
        "ci.yaml:3:3: there is a job named 'a' already, in line 1",
        "ci.yaml:4:3: a job has to be a mapping like {name: build, commands: make}, not a text",
        "ci.yaml:5:3: these jobs wait for each other: d → e → d",
        "ci.yaml:7:3: a job needs a name",
        "ci.yaml:7:23: type 'tset' is not one of approval, build, cleanup, custom, deploy, notify, setup, test",
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "the file is empty"),
        (b"text", "a list of jobs, not a text"),
        (b"[]", "at least one job"),
        (b"{name: x}", "needs its jobs"),
        (b"{stages: [{name: a}], jobs: [{name: b}]}", "mean the same"),
        (b"- {name: a", "no valid YAML"),
        (b"- {name: \xff}", "not UTF-8"),
        (b"- &a {name: a, config: {A: *a}}", "aliases"),
        (b"- {name: a, config: " + b"[" * 5000 + b"]" * 5000 + b"}", "YAML|nesting"),
        (b"- {name: a, config: {retry.max: 1}}", "retry.maxAttempts"),
        (b"x" * (MAX_BYTES + 1), "no valid YAML|a list of jobs"),
    ],
    ids=["empty", "text", "no jobs", "no stages", "both", "broken", "latin", "alias", "deep", "retry key", "large"],
)
def test_what_is_no_pipeline_is_refused_in_words(source: bytes, words: str) -> None:
    """Every other input is a PipelineFileError with a line, never another exception, and quickly."""
    started = time.monotonic()
    with pytest.raises(PipelineFileError, match=words) as caught:
        parse(source, "f")
    assert str(caught.value).startswith("f:")
    assert time.monotonic() - started < 30


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """The limit stands before the parser."""
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(PipelineFileError, match="larger than"):
        load(tmp_path / "large.yaml")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_pipeline_or_mistakes(source: bytes) -> None:
    """Nothing but PipelineFileError comes out."""
    try:
        assert parse(source, "f").stages
    except PipelineFileError as error:
        assert error.mistakes  # noqa: PT017  either outcome is right, this one has to say why
