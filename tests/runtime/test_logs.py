"""Logs: events rendered as JSON or as a line for people, in English and Korean; nothing breaks a line, no secret is written."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from contextvars import copy_context
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from otto_runtime import logs
from otto_runtime.events import CATALOG
from otto_runtime.settings import RuntimeSettings
from otto_runtime.telemetry import continue_trace

log = logging.getLogger("otto_trial.part")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Puts the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def rendering(**settings: str) -> io.StringIO:
    """Sends logs to a buffer, rendered as the settings say."""
    stream = io.StringIO()
    logs.configure(RuntimeSettings(**settings), stream)  # type: ignore[arg-type]  # values come as text, as from the environment
    return stream


def test_json_is_one_object_a_line() -> None:
    """Every field as it is, Korean unescaped, the time in UTC, anything that JSON does not know as text."""
    stream = rendering(log_format="json")
    log.info("runtime.ready", extra={"service": "스케일러", "path": datetime(2026, 1, 1, tzinfo=UTC), "count": 3})
    log.warning("runtime.stopping", extra={"text": "two\nlines"})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "스케일러" in lines[0]
    event = json.loads(lines[0])
    when = datetime.fromisoformat(event.pop("timestamp"))
    assert abs(when - datetime.now(UTC)) < timedelta(minutes=1)
    assert event == {
        "event": "runtime.ready",
        "level": "info",
        "logger": "otto_trial.part",
        "service": "스케일러",
        "path": "2026-01-01 00:00:00+00:00",
        "count": 3,
    }
    assert json.loads(lines[1])["text"] == "two\nlines"


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "info    Serving gRPC on 127.0.0.1:9090  [more=1]"), ("ko", "정보      127.0.0.1:9090에서 gRPC 제공 중  [more=1]")],
)
def test_text_has_the_catalogue_s_words(language: str, words: str) -> None:
    """Local time with date, level, the words of the language with the fields in them, then the fields that the words did not use."""
    stream = rendering(log_format="text", log_language=language)
    log.info("runtime.serving", extra={"address": "127.0.0.1:9090", "more": 1})
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} " + re.escape(words) + "\n", stream.getvalue())


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x1b[2J", "\u2028", "\x85"], ids=ascii)
def test_no_value_breaks_a_line(log_format: str, value: str) -> None:
    """What a user can choose can't forge a line of the log, nor control a terminal."""
    stream = rendering(log_format=log_format)
    log.info("runtime.ready", extra={"service": value, "other": value})
    log.info("not in the catalogue: " + value)
    text = stream.getvalue()
    assert text.count("\n") == 2
    if log_format == "text":
        assert value not in text


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_secrets_are_never_written(log_format: str) -> None:
    """A field whose name says that it holds a secret is masked; others are not."""
    stream = rendering(log_format=log_format)
    secret = {"password": "s3cret", "Authorization": "s3cret", "api_key": "s3cret", "token": "s3cret", "access_token": "s3cret"}
    log.info("runtime.stopping", extra={**secret, "page_token_count": "kept"})
    assert "s3cret" not in stream.getvalue()
    assert "kept" in stream.getvalue()


def test_a_traceback_follows_its_event() -> None:
    """In text on lines of its own, in JSON inside the object."""
    for log_format in ("text", "json"):
        stream = rendering(log_format=log_format)
        try:
            int("why")
        except ValueError:
            log.exception("runtime.failed", extra={"service": "scaler"})
        text = stream.getvalue()
        assert "ValueError: invalid literal" in text
        assert "Traceback" in (json.loads(text)["exception"] if log_format == "json" else text)


async def test_what_is_bound_belongs_to_its_task() -> None:
    """Fields and traces bound in one task are on its events, not on those of others."""
    stream = rendering(log_format="json")
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    async def bound() -> None:
        structlog.contextvars.bind_contextvars(pipeline="p1")
        continue_trace({"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
        log.info("runtime.stopping")

    async def other() -> None:
        log.info("runtime.stopping")

    await asyncio.gather(bound(), other())
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e.get("pipeline") for e in events] == ["p1", None]
    assert [e.get("trace_id") for e in events] == [trace_id, None]


@pytest.mark.parametrize(
    "sent",
    [
        {"traceparent": TRACEPARENT + "0" * 600},
        {"traceparent": TRACEPARENT, "tracestate": "a=" + "1" * 600},
        {"traceparent": TRACEPARENT, "tracestate": "what is this"},
        {"traceparent": TRACEPARENT, "baggage": "a=" + "1" * 9000},
        {"traceparent": TRACEPARENT, "baggage": "what is this"},
    ],
    ids=["long traceparent", "long tracestate", "malformed tracestate", "long baggage", "malformed baggage"],
)
def test_headers_of_a_trace_write_no_lines(sent: dict[str, str]) -> None:
    """Whoever calls could fill the log with them."""
    stream = rendering(log_level="debug")
    copy_context().run(continue_trace, sent)
    assert stream.getvalue() == ""


def test_levels_and_formats_follow_the_settings() -> None:
    """What is below the level is not written, nor are details of libraries; `auto` is JSON unless a terminal reads."""
    stream = rendering(log_level="warning")
    log.info("runtime.stopping")
    log.warning("runtime.stopping")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == ["warning"]

    stream = rendering(log_level="debug")
    for name in ("grpc._cython.cygrpc", "otto_trial.part"):
        logging.getLogger(name).debug("runtime.stopping")
    assert [json.loads(line)["logger"] for line in stream.getvalue().splitlines()] == ["otto_trial.part"]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure(RuntimeSettings(), terminal)
    log.info("runtime.stopping")
    assert terminal.getvalue().endswith("Stopping\n")


def test_a_missing_field_is_shown_as_missing() -> None:
    """An event without a field that its words need is still written."""
    stream = rendering(log_format="text")
    log.info("runtime.serving")
    assert "Serving gRPC on <address?>" in stream.getvalue()


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_event_reads_in_both_languages(name: str) -> None:
    """Rendering with its fields leaves no placeholder in either language, and the Korean is Korean."""
    fields = {field: "x" for text in CATALOG[name] for field in re.findall(r"\{(\w+)\}", text)}
    for language in ("en", "ko"):
        line = logs.HumanRenderer(language)(None, "", {"event": name, "level": "info", "timestamp": "2026-01-01 00:00:00.000", **fields})
        assert "{" not in line
        assert "?>" not in line
    assert re.search(r"[가-힣]", CATALOG[name].ko)
    assert not re.search(r"[가-힣]", CATALOG[name].en)
