"""Settings from environment variables into frozen msgspec Structs, read once, in one place.

A settings class is a frozen Struct whose fields are `Annotated[type, Meta(description=…)]` with a default; the description says the unit and why the
default is what it is. `describe` renders the same text for the README, so the two can't drift apart.

    SettingsError      names every variable that is wrong, and why
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

S = TypeVar("S", bound=msgspec.Struct)


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


def load(settings_type: type[S], prefix: str, environ: Mapping[str, str]) -> S:
    """Reads `PREFIX_FIELD` variables into a new `settings_type`.

    An empty variable counts as not set. Fields that are tuples are split at commas.
    Raises SettingsError that names every variable with a value that does not fit.
    """
    hints = get_type_hints(settings_type, include_extras=True)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name in settings_type.__struct_fields__:
        variable = f"{prefix}_{name}".upper()
        text = environ.get(variable, "").strip()
        if not text:
            continue
        raw: Any = [part.strip() for part in text.split(",") if part.strip()] if _is_tuple(hints[name]) else text
        try:
            values[name] = msgspec.convert(raw, hints[name], strict=False, dec_hook=_path)
        except msgspec.ValidationError as error:
            problems.append(f"{variable}={text!r}: {error}")
    if problems:
        raise SettingsError(problems)
    return settings_type(**values)


def unknown(prefix: str, settings_types: Mapping[str, type[msgspec.Struct]], environ: Mapping[str, str]) -> list[str]:
    """Variables that begin with `prefix` but belong to no setting: most likely misspelt. `settings_types` maps prefixes to classes."""
    known = {f"{p}_{n}".upper() for p, kind in settings_types.items() for n in kind.__struct_fields__}
    return sorted(name for name in environ if name.startswith(f"{prefix}_") and name not in known)


def describe(settings_type: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    """One row per field, in the order of declaration."""
    hints = get_type_hints(settings_type, include_extras=True)
    for field in msgspec.structs.fields(settings_type):
        described = [m.description for m in get_args(hints[field.name])[1:] if isinstance(m, Meta) and m.description]
        default = "" if field.default is msgspec.NODEFAULT or field.default is None else field.default
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, tuple):
            default = ",".join(default)
        yield Setting(f"{prefix}_{field.name}".upper(), str(default), " ".join(described))


class RuntimeSettings(msgspec.Struct, frozen=True):
    """What every service of ours has in common. Prefix OTTO."""

    listen: Annotated[
        str,
        Meta(
            description="Address and port of the gRPC server. Loopback by default: whoever reaches it may run commands. Port 0 takes a free one."
        ),
    ] = "127.0.0.1:9090"
    metrics_listen: Annotated[
        str, Meta(description="Address and port of Prometheus `/metrics`; `off` for none. Port 0 takes a free one.")
    ] = "127.0.0.1:9464"
    log_format: Annotated[
        str, Meta(pattern="^(auto|json|text)$", description="`json`, `text`, or `auto`: text on a terminal, JSON elsewhere.")
    ] = "auto"
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$", description="The lowest level that is logged.")] = "info"
    log_language: Annotated[
        str, Meta(pattern="^(en|ko)$", description="Language of text logs: `en` or `ko`. JSON logs carry event names only.")
    ] = "en"
    otlp_endpoint: Annotated[
        str, Meta(description="OTLP/gRPC endpoint (`http://host:4317`) for traces and metrics; empty: none are exported.")
    ] = ""
    trace_sample_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Share of new traces that are sampled; a caller's decision is kept.")
    ] = 1.0
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
