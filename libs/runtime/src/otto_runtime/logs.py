"""Logs are events: a constant dotted name plus fields, written with the standard library's `logging` and rendered here.

    log = logging.getLogger(__name__)
    log.info("scaler.worker.created", extra={"worker": name})

Rendered as one JSON object a line, or as a human line whose words come from `events.CATALOG` in English or Korean.
Fields bound with `structlog.contextvars.bind_contextvars` (pipeline, stage, worker, trace) are added to every event of the task.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from otto_runtime.events import CATALOG
from otto_runtime.settings import RuntimeSettings

Event = MutableMapping[str, Any]
_LEVELS = {"en": {}, "ko": {"debug": "디버그", "info": "정보", "warning": "경고", "error": "오류", "critical": "심각"}}


class _Missing(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return f"<{key}?>"


class HumanRenderer:
    """Renders an event as one line: time, level, the catalogue's words, the fields the words did not use."""

    def __init__(self, language: str) -> None:
        """`language` is "en" or "ko"."""
        self._language = language

    def __call__(self, logger: Any, method: str, event: Event) -> str:
        """A structlog processor, the last of a chain."""
        name = str(event.pop("event", ""))
        time = str(event.pop("timestamp", ""))[11:23]
        level = str(event.pop("level", ""))
        event.pop("logger", None)
        trace = event.pop("exception", None)
        words = CATALOG.get(name)
        if words is None:
            text, used = name, ""
        else:
            used = words.ko if self._language == "ko" else words.en
            text = used.format_map(_Missing(event))
        rest = " ".join(f"{k}={v}" for k, v in event.items() if f"{{{k}}}" not in used)
        shown = _LEVELS[self._language].get(level, level)
        line = f"{time} {shown:<7} {text}" + (f"  [{rest}]" if rest else "")
        return f"{line}\n{trace}" if trace else line


def configure(settings: RuntimeSettings) -> None:
    """Sends every log record of the process to standard error, rendered as the settings say. Replaces what was configured before."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = HumanRenderer(settings.log_language) if text else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
