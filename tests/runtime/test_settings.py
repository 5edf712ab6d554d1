"""Settings: read once, every mistake named at once, described for people."""

from pathlib import Path
from typing import Annotated, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from otto_executor.settings import Settings as ExecutorSettings
from otto_relay.settings import Settings as RelaySettings
from otto_runtime.allowed import allowed
from otto_runtime.launch import read_settings
from otto_runtime.settings import RuntimeSettings, Setting, SettingsError, describe, load, unknown
from otto_scaler.settings import Settings as ScalerSettings
from otto_standalone.settings import Settings as StandaloneSettings


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
    assert found == [
        "OTTO_T_REQUIRED has to be set",
        "OTTO_T_COUNT='0' has to be a whole number of at least 1",
        "OTTO_T_SECONDS='soon' has to be a number greater than 0",
        "OTTO_T_ENABLED='perhaps' has to be true or false",
        "OTTO_T_OPTIONAL='y' has to be a whole number",
        "OTTO_T_MADE='1,x' has to be a list with commas between its items, each of them a whole number",
    ]


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


@pytest.mark.parametrize("password", ["hunter22", "p@ss/w:rd", 'wi\'th "quotes" and\tmore', "http://x"])
@pytest.mark.parametrize(
    ("kind", "prefix", "variable"),
    [
        (RuntimeSettings, "OTTO", "OTTO_OTLP_ENDPOINT"),
        (RuntimeSettings, "OTTO", "OTTO_LISTEN"),
        (RuntimeSettings, "OTTO", "OTTO_UNARY_TIMEOUT"),
        (ScalerSettings, "OTTO_SCALER", "OTTO_SCALER_WORKER_OTLP_ENDPOINT"),
    ],
)
def test_a_refused_url_is_told_without_its_password(kind: type[msgspec.Struct], prefix: str, variable: str, password: str) -> None:
    """Whichever variable it was put into; what is behind the password is there still."""
    (found,) = problems({variable: f"http://usr:{password}@collector:4999/a b"}, kind, prefix)
    assert found.startswith(f"{variable}='http://***@collector:4999/a b'")
    assert not any(part in found for part in ("usr", *password.split()))


def test_a_refused_address_is_told_without_its_password() -> None:
    """Also where it was no URL."""
    (found,) = problems({"OTTO_OTLP_ENDPOINT": "usr:hun/ter@2@collector:4999"}, RuntimeSettings, "OTTO")
    assert found.startswith("OTTO_OTLP_ENDPOINT='***@collector:4999'")


def test_an_endpoint_with_a_login_is_refused() -> None:
    """Nobody logs in like that over gRPC, and what could not be reached would be logged with the password."""
    (found,) = problems({"OTTO_OTLP_ENDPOINT": "http://usr:hunter22@collector:4317"}, RuntimeSettings, "OTTO")
    assert found.startswith("OTTO_OTLP_ENDPOINT='http://***@collector:4317'")


def test_what_needs_more_than_a_bound_is_told_with_the_rest() -> None:
    """Addresses that are none do not wait for numbers to be right, nor for each other; choices and bounds are said in words."""
    environ = {
        "OTTO_LISTEN": "9090",
        "OTTO_METRICS_LISTEN": "on",
        "OTTO_LOG_LANGUAGE": "fr",
        "OTTO_OTLP_ENDPOINT": "collector:4317",
        "OTTO_TRACE_SAMPLE_RATIO": "2",
        "OTTO_UNARY_TIMEOUT": "soon",
    }
    found = problems(environ, RuntimeSettings, "OTTO")
    assert [p.split("=")[0] for p in found] == list(environ)
    assert found[0].startswith("OTTO_LISTEN='9090' is not HOST:PORT")
    assert found[2] == "OTTO_LOG_LANGUAGE='fr' has to be en or ko"
    assert found[4] == "OTTO_TRACE_SAMPLE_RATIO='2' has to be a number from 0 to 1"


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (RuntimeSettings, "OTTO"),
        (ScalerSettings, "OTTO_SCALER"),
        (ExecutorSettings, "OTTO_EXECUTOR"),
        (RelaySettings, "OTTO_RELAY"),
        (StandaloneSettings, "OTTO_STANDALONE"),
    ],
    ids=["runtime", "scaler", "executor", "relay", "standalone"],
)
def test_every_setting_says_in_words_what_is_allowed(kind: type[msgspec.Struct], prefix: str) -> None:
    """Whatever is wrong with any variable of any service, no word of Python's reaches whoever set it."""
    words = {name: allowed(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    assert all(not any(python in text for python in ("int", "float", "str", "bool", "None", "enum", "Expected")) for text in words.values())
    environ = {row.variable: "\N{SNOWMAN}" for row in describe(kind, prefix)}
    numbers = [f"{prefix}_{name}".upper() for name, text in words.items() if "number" in text]
    try:
        load(kind, prefix, environ)
        found = []
    except SettingsError as error:
        found = error.problems
    assert set(numbers) <= {p.split("=")[0] for p in found}


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
