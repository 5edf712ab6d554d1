"""otto-handler's stack, `@grpc/grpc-js` with our protos loaded at run time, against a running standalone."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ..node.script import Script, needs_node, running
from .conftest import Standalone, serving

pytestmark = [needs_node, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Standalone]:
    """A standalone with room for four workers."""
    async with serving(tmp_path / "state", OTTO_SCALER_MAX_WORKERS="4") as instance:
        yield instance


async def passes(name: str, standalone: Standalone, folder: Path) -> None:
    """Runs a file of JavaScript tests: all pass, and none of it was a fault of ours."""
    report = folder / "report"
    async with running(name, standalone.address, report=report, OTTO_OLDER_PROTOS=str(folder / "older")) as script:
        code = await script.ended(timeout=280)
    assert code == 0, script.report
    assert re.search(r"pass [1-9]", script.report), script.report
    events = [json.loads(line) for line in standalone.log.read_text().splitlines() if line.startswith("{")]
    assert [event for event in events if event["level"] in {"error", "critical"}] == []


async def test_unary_calls(small: Standalone, tmp_path: Path) -> None:
    """Health, scaling, registering and notices work without deadlines and metadata, and errors have the words that are searched for."""
    await passes("calls.test.js", small, tmp_path)


async def test_pipelines(standalone: Standalone, tmp_path: Path) -> None:
    """Running, attaching, leaving and repeating are what the contract says, also for older clients and for ones that drop messages."""
    await passes("pipelines.test.js", standalone, tmp_path)


async def test_lines(standalone: Standalone, tmp_path: Path) -> None:
    """Lines sent by bidirectional streams are each answered; silent streams stay open; leaving any stream disturbs nobody."""
    await passes("lines.test.js", standalone, tmp_path)


async def test_limits(standalone: Standalone, tmp_path: Path) -> None:
    """No message is larger than what a client takes that has set no limit, whatever was asked for."""
    await passes("limits.test.js", standalone, tmp_path)


async def test_a_stop_ends_every_stream_with_ok(standalone: Standalone, tmp_path: Path) -> None:
    """At SIGTERM each kind of stream ends with OK, so a client that listens for no error lives; started again, it goes on where it was."""
    gate, report = tmp_path / "gate", tmp_path / "report"
    async with running("stops.js", standalone.address, str(gate), "careless", report=report) as script:
        names = await heard(script)
        assert await standalone.stop() == 0
        assert await heard(script) == {name: 14 if "TailLogs" in name else 0 for name in names}
        async with serving(standalone.state, OTTO_LISTEN=standalone.address):
            await goes_on(script, gate)


async def test_a_crash_is_an_error_that_a_client_can_handle(standalone: Standalone, tmp_path: Path) -> None:
    """At kill -9 each kind of stream ends with UNAVAILABLE or INTERNAL (which is grpc-js's word for ECONNRESET).

    A client that listens for errors goes on where it was, on the same channel.
    """
    gate, report = tmp_path / "gate", tmp_path / "report"
    async with running("stops.js", standalone.address, str(gate), "careful", report=report) as script:
        names = await heard(script)
        await standalone.kill()
        ends = await heard(script)
        assert list(ends) == names
        assert set(ends.values()) <= {13, 14}
        async with serving(standalone.state, OTTO_LISTEN=standalone.address):
            await goes_on(script, gate)


async def heard(script: Script) -> Any:
    """What it says next."""
    line = await script.line()
    assert line, script.report
    return json.loads(line)


async def goes_on(script: Script, gate: Path) -> None:
    """The client attaches again and sends again; the run ends, with nothing missing, repeated or changed."""
    script.say("started")
    assert await heard(script) == {"sequence": 2}
    await asyncio.to_thread(gate.touch)
    after = await heard(script)
    assert after["sequences"] == list(range(1, len(after["sequences"]) + 1))
    assert (after["same"], after["last"]) == (True, ["", 2])
    assert await script.ended() == 0, script.report
