"""Settings: read once, every mistake named at once, described for people."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from otto_runtime.launch import read_settings
from otto_runtime.settings import RuntimeSettings, Setting, SettingsError, describe, load, unknown


class Sample(msgspec.Struct, frozen=True):
    """All kinds of fields."""

    required: Annotated[str, Meta(description="Has no default.")]
    count: Annotated[int, Meta(ge=1, description="How many.")] = 3
    seconds: Annotated[float, Meta(gt=0, description="How long, in seconds.")] = 1.5
    month: Annotated[float, Meta(gt=0, description="A month, in seconds.")] = 2592000.0
    enabled: Annotated[bool, Meta(description="Whether.")] = False
    folder: Annotated[Path, Meta(description="Where.")] = Path("~/x")
    names: Annotated[tuple[str, ...], Meta(description="Which.")] = ("a", "b")
    optional: Annotated[int | None, Meta(description="Perhaps.")] = None
    made: Annotated[tuple[int, ...], Meta(description="Made anew.")] = msgspec.field(default_factory=lambda: (1, 2))


def problems(environ: dict[str, str], kind: type[msgspec.Struct] = Sample, prefix: str = "OTTO_T") -> list[str]:
    with pytest.raises(SettingsError) as error:
        load(kind, prefix, environ)
    return error.value.problems


def test_every_kind_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, numbers, truth, paths with ~ and comma-separated lists; an empty variable counts as not set."""
    monkeypatch.setenv("HOME", "/somewhere")
    environ = {
        "OTTO_T_REQUIRED": " x ",
        "OTTO_T_COUNT": "7",
        "OTTO_T_SECONDS": "2",
        "OTTO_T_ENABLED": "True",
        "OTTO_T_FOLDER": "~/y",
        "OTTO_T_NAMES": "p, q,,",
        "OTTO_T_OPTIONAL": "",
        "OTTO_T_MADE": "4,5",
    }
    assert load(Sample, "OTTO_T", environ) == Sample("x", 7, 2.0, 2592000.0, True, Path("/somewhere/y"), ("p", "q"), None, (4, 5))
    assert load(Sample, "OTTO_T", {"OTTO_T_REQUIRED": "x"}) == Sample("x", folder=Path("/somewhere/x"))


def test_every_mistake_is_named_at_once() -> None:
    """Each variable that is missing or does not fit, with its value and what would fit."""
    found = problems(
        {
            "OTTO_T_COUNT": "0",
            "OTTO_T_SECONDS": "soon",
            "OTTO_T_ENABLED": "perhaps",
            "OTTO_T_MADE": "1,x",
            "OTTO_T_OPTIONAL": "y",
        }
    )
    assert [p.split("=")[0].split(" ")[0] for p in found] == [
        "OTTO_T_REQUIRED",
        "OTTO_T_COUNT",
        "OTTO_T_SECONDS",
        "OTTO_T_ENABLED",
        "OTTO_T_OPTIONAL",
        "OTTO_T_MADE",
    ]
    assert "'soon'" in found[2]
    assert ">= 1" in found[1]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "NaN", "Infinity"])
def test_seconds_are_finite(text: str) -> None:
    """A wait without end, or no number at all, is refused."""
    assert problems({"OTTO_T_REQUIRED": "x", "OTTO_T_SECONDS": text})[0].startswith("OTTO_T_SECONDS=")


@given(st.sampled_from(Sample.__struct_fields__), st.text(max_size=30))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    """Whatever stands in a variable: a value or a problem that names it, never another exception."""
    variable = f"OTTO_T_{name.upper()}"
    found: list[str] = []
    try:
        load(Sample, "OTTO_T", {"OTTO_T_REQUIRED": "x", variable: text})
    except SettingsError as error:
        found = error.problems
    assert all(p.startswith(variable) for p in found)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OTTO_LISTEN", "9090"),
        ("OTTO_LISTEN", "127.0.0.1:99999"),
        ("OTTO_METRICS_LISTEN", "on"),
        ("OTTO_LOG_LEVEL", "loud"),
        ("OTTO_LOG_LANGUAGE", "fr"),
        ("OTTO_LOG_FORMAT", "xml"),
        ("OTTO_OTLP_ENDPOINT", "collector:4317"),
        ("OTTO_TRACE_SAMPLE_RATIO", "1.1"),
        ("OTTO_UNARY_TIMEOUT", "0"),
        ("OTTO_STOP_GRACE", "-1"),
        ("OTTO_MAX_MESSAGE_BYTES", "1"),
    ],
)
def test_runtime_settings_refuse(variable: str, text: str) -> None:
    """Each value that could not work is refused at the start, under its variable's name."""
    found = problems({variable: text}, RuntimeSettings, "OTTO")
    assert len(found) == 1
    assert found[0].startswith(f"{variable}=")
    assert text in found[0]


def test_problems_of_all_classes_come_together() -> None:
    """What is wrong in one class does not hide what is wrong in another."""
    with pytest.raises(SettingsError) as error:
        read_settings({"OTTO": RuntimeSettings, "OTTO_T": Sample}, {"OTTO_LISTEN": "x", "OTTO_T_COUNT": "x"})
    assert [p.split("=")[0].split(" ")[0] for p in error.value.problems] == ["OTTO_LISTEN", "OTTO_T_REQUIRED", "OTTO_T_COUNT"]


def test_misspelt_variables_are_found() -> None:
    """Ours but unknown is told; what belongs to another service, to ottoctl or to a worker is not."""
    environ = {
        "OTTO_LISTEN": "127.0.0.1:1",
        "OTTO_LISTN": "x",
        "OTTO_SCALER_MAX": "x",
        "OTTO_RELAY_WHATEVER": "x",
        "OTTO_ADDRESS": "x",
        "OTTO_TASK_ID": "x",
        "OTTOMAN": "x",
        "PATH": "x",
    }
    assert unknown("OTTO", {"OTTO": RuntimeSettings, "OTTO_SCALER": Sample}, environ) == ["OTTO_LISTN", "OTTO_SCALER_MAX"]


def test_settings_describe_themselves() -> None:
    """One row per field, with the default as one would write it into the variable."""
    assert list(describe(Sample, "OTTO_T")) == [
        Setting("OTTO_T_REQUIRED", "", "Has no default."),
        Setting("OTTO_T_COUNT", "3", "How many."),
        Setting("OTTO_T_SECONDS", "1.5", "How long, in seconds."),
        Setting("OTTO_T_MONTH", "2592000", "A month, in seconds."),
        Setting("OTTO_T_ENABLED", "false", "Whether."),
        Setting("OTTO_T_FOLDER", "~/x", "Where."),
        Setting("OTTO_T_NAMES", "a,b", "Which."),
        Setting("OTTO_T_OPTIONAL", "", "Perhaps."),
        Setting("OTTO_T_MADE", "1,2", "Made anew."),
    ]


def test_defaults_read_back_as_themselves() -> None:
    """What the table shows as a default is what one would get by setting it."""
    environ = {row.variable: row.default for row in describe(RuntimeSettings, "OTTO")}
    assert load(RuntimeSettings, "OTTO", environ) == RuntimeSettings()
