"""Lines and notices pushed to an otto-handler on its own stack (@grpc/grpc-js)."""

import json
from pathlib import Path
from typing import Any

import pytest

from ottoscaler.v1.worker_pb2 import FailureCause

from ..node.script import Script, needs_node, running
from .conftest import Stand

pytestmark = [needs_node, pytest.mark.slow]


async def said(script: Script) -> dict[str, Any]:
    """The next thing it says."""
    line = await script.line()
    assert line, script.report
    found: dict[str, Any] = json.loads(line)
    return found


async def test_a_node_receiver_gets_all_in_order_across_its_restart(stand: Stand, tmp_path: Path) -> None:
    """One that keeps strict order, asks again, drops, throttles and is killed half-way has every line once, in order, and notices of all
    five kinds.
    """
    texts = [f"unwanted {number}" if number % 70 == 0 else f"줄 {number}" for number in range(1, 401)]
    taken: list[tuple[int, str]] = []
    kinds: dict[str, list[int]] = {}
    repeated = 0

    async def gather(script: Script, upto: int) -> None:
        nonlocal repeated
        while (taken[-1][0] if taken else 0) < upto or (upto == 400 and sum(map(len, kinds.values())) < 9):
            what = await said(script)
            repeated += "repeated" in what
            if "message" in what:
                taken.append((what["sequence"], what["message"]))
            if "notice" in what:
                kinds.setdefault(what["worker"], []).append(what["notice"])

    async with running("handler_server.js", "0", report=tmp_path / "one") as script:
        port = (await said(script))["listening"]
        async with stand.relay(handler_address=f"127.0.0.1:{port}", handler_longest_wait=0.2):
            log = stand.log("w-1")
            log.write(*texts)
            stand.scaler.show("w-1")
            await gather(script, 150)
            script.kill()
            await script.ended()
            # What it said before it died counts as stored, as if it were in its database.
            while line := await script.line():
                what = json.loads(line)
                if "message" in what:
                    taken.append((what["sequence"], what["message"]))
            has = {"w-1": max([sequence for sequence, _ in taken])}
            while has["w-1"] < 400 and "unwanted" in texts[has["w-1"]]:
                has["w-1"] += 1
            async with running("handler_server.js", str(port), json.dumps(has), report=tmp_path / "two") as second:
                assert (await said(second))["listening"] == port
                stand.scaler.show("w-1", "succeeded")
                for silent in ("w-2", "w-3"):
                    stand.log(silent)
                stand.scaler.show("w-2", "failed", failure_cause=FailureCause.FAILURE_CAUSE_EXIT_CODE, exit_code=3)
                stand.scaler.show("w-3", "failed", failure_cause=FailureCause.FAILURE_CAUSE_CANCELLED)
                await gather(second, 400)
    assert [message for _, message in taken] == [text for text in texts if "unwanted" not in text]
    assert kinds == {"w-1": [0, 1, 2], "w-2": [0, 1, 3], "w-3": [0, 1, 4]}
    assert repeated <= 256
