"""What a process measures of itself."""

import asyncio
import socket
import struct
import threading
import urllib.request
from contextvars import copy_context

import pytest
from prometheus_client import REGISTRY

from otto_runtime.settings import RuntimeSettings
from otto_runtime.telemetry import CALLER, LAG_SECONDS, continue_trace, handed_on, telemetry

from ..ports import free_port

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LONGEST = f"a={'1' * 256},b={'2' * 251}"
"""A tracestate of 512 characters."""


def lag() -> tuple[float | None, float | None]:
    """How often the event loop was looked at, and by how many seconds it was late in all."""
    name = "otto_event_loop_lag_seconds_"
    return REGISTRY.get_sample_value(name + "count"), REGISTRY.get_sample_value(name + "sum")


async def test_how_late_the_event_loop_is_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still and then jumps: what was due in half a second comes three seconds late."""
    now = 1000.0
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "time", lambda: now)
        async with telemetry(RuntimeSettings(metrics_listen="off"), "trial"):
            count, seconds = lag()
            assert count is not None
            assert seconds is not None
            await turns()
            now += LAG_SECONDS + 3
            await turns()
    assert lag() == (count + 1, seconds + 3)


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ("", ""),
        (LONGEST, LONGEST),
        (f"{LONGEST}1", LONGEST.partition(",")[0]),
        (f"{LONGEST},c=3", LONGEST),
        (f"{'k' * 256}={'3' * 256}", ""),
    ],
    ids=["none", "longest", "longer", "an entry more", "no entry that fits"],
)
@pytest.mark.parametrize("baggage", [{}, {"baggage": "a=" + "%20" * 1000}], ids=["", "baggage"])
def test_of_a_callers_trace_only_what_is_used_is_handed_on(sent: str, passed: str, baggage: dict[str, str]) -> None:
    """No baggage, and of a tracestate as much as W3C asks for: a caller does not fill the metadata of calls between services."""

    def state(text: str) -> dict[str, str]:
        return {"tracestate": text} if text else {}

    def handed() -> dict[str, str]:
        continue_trace({"traceparent": TRACEPARENT, **state(sent), **baggage})
        return dict(handed_on())

    assert copy_context().run(handed) == {"traceparent": TRACEPARENT, CALLER: TRACEPARENT, **state(passed)}


async def turns() -> None:
    """Enough of the event loop's for whatever is due to begin and to wait again."""
    for _ in range(10):
        await asyncio.sleep(0)


def answered(port: int, accept: str) -> tuple[str, bytes]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read()


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["zz", "1.", '"1.0.0"', "=", "9" * 5000])
async def test_metrics_in_a_format_that_nobody_knows_are_plain(version: str, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A version that is no number is answered as if nothing had been asked for, and nothing is printed about it."""
    port = free_port()
    async with telemetry(RuntimeSettings(metrics_listen=f"127.0.0.1:{port}"), "trial"):
        content_type, text = await asyncio.to_thread(answered, port, f"{kind};version={version}")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"otto_build_info" in text
    assert "Traceback" not in capfd.readouterr().err


async def test_who_cuts_the_connection_to_metrics_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """In the middle of a request, with a reset: not a traceback each time among the log's lines."""
    port = free_port()

    def cut() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with telemetry(RuntimeSettings(metrics_listen=f"127.0.0.1:{port}"), "trial"):
        await asyncio.to_thread(cut)
        await asyncio.to_thread(answered, port, "*/*")  # the one that was cut was taken before
        for thread in threading.enumerate():
            if "process_request_thread" in thread.name:
                thread.join(60)
    assert capfd.readouterr().err == ""
