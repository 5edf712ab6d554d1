"""Logs are events: a constant dotted name plus fields, written with the standard library's `logging` and rendered here.

    log = logging.getLogger(__name__)
    log.info("scaler.worker.created", extra={"worker": name})

Rendered as one JSON object a line (times in UTC), or as a human line (local time) whose words come from `events.CATALOG` in English or
Korean. Fields bound with `structlog.contextvars.bind_contextvars` (pipeline, stage, worker) and the current trace are added to every event
of the task.
Nothing that a field holds can break a line in two, and fields whose names say that they hold a secret are never written.
"""

import logging
import re
import string
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog
from opentelemetry import trace

from otto_runtime.events import CATALOG, Words
from otto_runtime.settings import RuntimeSettings

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Any]

_LEVELS = {
    "en": {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "critical"},
    "ko": {"debug": "디버그", "info": "정보", "warning": "경고", "error": "오류", "critical": "심각"},
}
_SECRET = re.compile(r"password|passwd|secret_value|authorization|credential|api_?key|(^|_)token$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Shown(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return f"<{key}?>"


def _one_line(value: Any) -> str:
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], str(value))


def _without_secrets(_logger: Any, _method: str, event: Event) -> Event:
    for key in event:
        if _SECRET.search(key):
            event[key] = "***"
    return event


def _with_trace(_logger: Any, _method: str, event: Event) -> Event:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


class HumanRenderer:
    """Renders an event as one line: time, level, the catalogue's words, the fields they did not use; a traceback on lines of its own."""

    def __init__(self, language: str, catalog: MutableMapping[str, Words] | None = None) -> None:
        """`language` is "en" or "ko"; the catalogue is `events.CATALOG` unless another one is given."""
        self._levels = _LEVELS[language]
        words = CATALOG if catalog is None else catalog
        self._texts = {name: w.ko if language == "ko" else w.en for name, w in words.items()}
        self._used = {name: {field for _, field, _, _ in string.Formatter().parse(text) if field} for name, text in self._texts.items()}

    def __call__(self, _logger: Any, _method: str, event: Event) -> str:
        """A structlog processor, the last of a chain."""
        name = str(event.pop("event", ""))
        time = str(event.pop("timestamp", ""))[:23]
        level = str(event.pop("level", ""))
        for hidden in ("logger", "trace_id", "span_id"):
            event.pop(hidden, None)
        traceback = event.pop("exception", None)
        fields = _Shown({key: _one_line(value) for key, value in event.items()})
        text = self._texts[name].format_map(fields) if name in self._texts else _one_line(name)
        rest = " ".join(f"{key}={value}" for key, value in fields.items() if key not in self._used.get(name, ()))
        line = f"{time} {self._levels.get(level, level):<7} {text}" + (f"  [{rest}]" if rest else "")
        return f"{line}\n{traceback}" if traceback else line


_ABOUT_CALLERS = frozenset({"opentelemetry.trace.propagation.tracecontext", "opentelemetry.trace.span"})
"""They warn of trace headers that are too long or malformed: as many lines as a caller likes, with its words in them."""


def _of_use(record: logging.LogRecord) -> bool:
    """Libraries' details are no help to who looks for ours: gRPC alone writes a line for every call."""
    return record.name.startswith("otto") or (record.levelno > logging.DEBUG and record.name not in _ABOUT_CALLERS)


def configure(settings: RuntimeSettings, stream: TextIO | None = None) -> None:
    """Sends every log record of the process to standard error, or `stream`, rendered as the settings say. Replaces what was set before."""
    stream = sys.stderr if stream is None else stream
    text = settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty())
    times = (
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S.%f", utc=False)
        if text
        else structlog.processors.TimeStamper(fmt="iso", utc=True)
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        times,
        structlog.stdlib.ExtraAdder(),
        _with_trace,
        _without_secrets,
        structlog.processors.format_exc_info,
    ]
    renderer: Any = HumanRenderer(settings.log_language) if text else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(_of_use)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
