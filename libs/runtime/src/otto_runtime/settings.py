"""Settings from environment variables into frozen msgspec Structs, read once, in one place.

A settings class is a frozen Struct whose fields are `Annotated[type, Meta(description=…)]` with a default; the description says the unit
and why the default is what it is. `describe` renders the same text for the README, so the two can't drift apart. What needs more than
a bound has a function among its annotations, which is called with the value and raises ValueError with a sentence that begins with it.

    SettingsError      names every variable that is wrong, and why
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from otto_runtime.addresses import parse
from otto_runtime.allowed import allowed

S = TypeVar("S", bound=msgspec.Struct)
_LOGIN = re.compile(r"(://).*@|[^\s/:@'\"]+:(?!//)[^\s'\"]*@", re.DOTALL)
"""User and password of a URL, or before a host alone, of whatever characters: what is refused is printed, and stays in logs."""


class SettingsError(Exception):
    """One or more environment variables can't be used. `problems` has a sentence for each, beginning with its name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings table."""

    variable: str
    default: str
    description: str


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser()
    raise NotImplementedError(kind)


def _is_tuple(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) is tuple


def _checks(hint: Any) -> Iterator[Callable[[Any], object]]:
    return (annotation for annotation in get_args(hint)[1:] if callable(annotation))


def _read(text: str, hint: Any) -> Any:
    """The value that `text` stands for. Raises ValueError with a sentence that begins with the text."""
    raw: Any = [part.strip() for part in text.split(",") if part.strip()] if _is_tuple(hint) else text
    try:
        value = msgspec.convert(raw, hint, strict=False, dec_hook=_path)
        fits = not isinstance(value, float) or math.isfinite(value)
    except (msgspec.ValidationError, RuntimeError):  # RuntimeError: expanduser knows no such home
        fits = False
    if not fits:
        raise ValueError(f"{text!r} has to be {allowed(hint)}")
    for check in _checks(hint):
        check(value)
    return value


def load(settings_type: type[S], prefix: str, environ: Mapping[str, str]) -> S:
    """Reads `PREFIX_FIELD` variables into a new `settings_type`.

    An empty variable counts as not set. Fields that are tuples are split at commas; `~` in paths, also in defaults, is the user's home.
    Raises SettingsError that names every variable that is missing or has a value that does not fit.
    """
    hints = get_type_hints(settings_type, include_extras=True)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(settings_type):
        variable = f"{prefix}_{field.name}".upper()
        text = environ.get(variable, "").strip()
        if not text:
            if field.required:
                problems.append(f"{variable} has to be set")
            elif isinstance(field.default, Path):
                values[field.name] = field.default.expanduser()
            continue
        try:
            values[field.name] = _read(text, hints[field.name])
        except ValueError as error:
            problems.append(f"{variable}=" + _LOGIN.sub(r"\1***@", str(error)))
    if problems:
        raise SettingsError(problems)
    return settings_type(**values)


_OTHERS = re.compile(
    r"OTTO_(SCALER|EXECUTOR|RELAY|STANDALONE|KUBE)_.*"
    r"|OTTO_(ADDRESS|OUTPUT|DEBUG)"
    r"|OTTO_(PIPELINE_ID|STAGE_ID|TASK_ID|REPOSITORY|COMMIT_SHA|WORKER_INDEX|WORKER_COUNT|ATTEMPT|WORKSPACE)"
)
"""Variables that may be in the environment for somebody else: the other services, ottoctl, and what a worker is given."""


def unknown(prefix: str, settings_types: Mapping[str, type[msgspec.Struct]], environ: Mapping[str, str]) -> list[str]:
    """Variables that begin with `prefix` but belong to no setting: most likely misspelt. `settings_types` maps prefixes to classes.

    Those of another service, of ottoctl and of workers are left out, unless they begin with a prefix that is known here.
    """
    known = {f"{p}_{n}".upper() for p, kind in settings_types.items() for n in kind.__struct_fields__}
    ours = tuple(f"{p}_" for p in settings_types if p != prefix)
    return sorted(
        name
        for name in environ
        if name.startswith(f"{prefix}_") and name not in known and (name.startswith(ours) or not _OTHERS.fullmatch(name))
    )


def describe(settings_type: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    """One row per field, in the order of declaration."""
    hints = get_type_hints(settings_type, include_extras=True)
    for field in msgspec.structs.fields(settings_type):
        described = [m.description for m in get_args(hints[field.name])[1:] if isinstance(m, Meta) and m.description]
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        yield Setting(f"{prefix}_{field.name}".upper(), _text(default), " ".join(described))


def _text(default: Any) -> str:
    """A default as one would write it into the variable."""
    if default is msgspec.NODEFAULT or default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(_text(part) for part in default)
    if isinstance(default, float):
        return str(int(default)) if default.is_integer() and abs(default) < 1e15 else str(default)
    return str(default)


def _metrics_address(text: str) -> None:
    if text != "off":
        parse(text)


def _otlp_endpoint(text: str) -> None:
    if not re.fullmatch(r"https?://[^/\s@]+/?", text):
        raise ValueError(f"{text!r} is not of the form http://host:port or https://host:port")


class RuntimeSettings(msgspec.Struct, frozen=True):
    """What every service of ours has in common. Prefix OTTO."""

    listen: Annotated[
        str,
        Meta(
            description="Address and port of the gRPC server. Loopback by default: whoever reaches it may run commands. "
            "Port 0 takes a free one. Run apart, the pipeline-executor takes 9091 and the log-relay 9092."
        ),
        parse,
    ] = "127.0.0.1:9090"
    metrics_listen: Annotated[
        str,
        Meta(
            description="Address and port of Prometheus `/metrics`; `off` for none. Port 0 takes a free one. "
            "Run apart, the pipeline-executor takes 9465 and the log-relay 9466."
        ),
        _metrics_address,
    ] = "127.0.0.1:9464"
    log_format: Annotated[
        Literal["auto", "json", "text"], Meta(description="`json`, `text`, or `auto`: text on a terminal, JSON elsewhere.")
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The lowest level that is logged; of libraries never `debug`.")
    ] = "info"
    log_language: Annotated[
        Literal["en", "ko"], Meta(description="Language of text logs: `en` or `ko`. JSON logs carry event names only.")
    ] = "en"
    otlp_endpoint: Annotated[
        str, Meta(description="OTLP/gRPC endpoint (`http://host:4317`) for traces and metrics; empty: none are exported."), _otlp_endpoint
    ] = ""
    otlp_interval: Annotated[
        float, Meta(ge=1, description="Seconds between exports of metrics to the OTLP endpoint; 60 is OpenTelemetry's default.")
    ] = 60.0
    trace_sampler: Annotated[
        Literal[
            "parentbased_traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "traceidratio",
            "always_on",
            "always_off",
        ],
        Meta(
            description="Which traces are sampled, as OpenTelemetry names it: those beginning with `parentbased_` keep a caller's "
            "decision, the others decide anew; `traceidratio` takes `OTTO_TRACE_SAMPLE_RATIO` of the traces."
        ),
    ] = "parentbased_traceidratio"
    trace_sample_ratio: Annotated[float, Meta(ge=0, le=1, description="Share of traces that samplers of the name `traceidratio` take.")] = (
        1.0
    )
    advertised_address: Annotated[
        str,
        Meta(
            description="Host and port under which other replicas of this service reach this one, and who it is in its Lease. Empty: where "
            "it listens, which has to be an address of its own then."
        ),
        parse,
    ] = ""
    lease_duration: Annotated[
        float,
        Meta(
            ge=2,
            le=3600,
            description="Seconds after which another replica takes over from one that is gone. Who can't renew its Lease for eight tenths "
            "of them stops acting. Of use with `OTTO_SCALER_LEASE` and `OTTO_EXECUTOR_LEASE` only, as the next two.",
        ),
    ] = 13.0
    lease_retry: Annotated[
        float, Meta(gt=0, description="Seconds between renewals of a Lease; at most half of its duration, so that one may fail.")
    ] = 2.0
    hand_on_patience: Annotated[
        float, Meta(gt=0, description="Seconds that a call waits at a replica while none acts, then UNAVAILABLE: longer than a takeover.")
    ] = 18.0
    unary_timeout: Annotated[float, Meta(gt=0, description="Seconds until a unary call is given up with DEADLINE_EXCEEDED.")] = 30.0
    drain_delay: Annotated[
        float, Meta(ge=0, description="Seconds between NOT_SERVING and the end of streams at a stop, so that load balancers can notice.")
    ] = 0.0
    stop_grace: Annotated[float, Meta(gt=0, description="Seconds that running calls have to end at a stop before they are cancelled.")] = (
        10.0
    )
    max_message_bytes: Annotated[
        int,
        Meta(ge=65536, le=67108864, description="Largest message taken in, in bytes. What goes out stays below 4 MiB, the clients' limit."),
    ] = 4194304
    max_concurrent_streams: Annotated[int, Meta(ge=1, description="Open calls per connection; further ones wait.")] = 10000
