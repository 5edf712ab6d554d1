"""Stdout and stderr of workers on a real cluster whose API server tells them apart, and stops doing so."""

import asyncio

import pytest

from ottoscaler.v1.log_pb2 import LogEntry

from ..patient_clients import Account, Clients
from ..quick import unless_quick
from .conftest import Install
from .control_plane import ControlPlane
from .test_pipelines import one_stage

pytestmark = [pytest.mark.cluster, pytest.mark.disruptive, unless_quick, pytest.mark.timeout(900)]

SPLIT_STREAMS = "PodLogsQuerySplitStreams=true"
"""Alpha from Kubernetes 1.32 on, and off by default."""
BOTH = "i=1; until [ -e /tmp/gate ]; do if [ $((i % 2)) = 0 ]; then echo line $i >&2; else echo line $i; fi; i=$((i+1)); sleep 0.1; done"
"""Odd lines to stdout and even ones to stderr."""
ENOUGH = 40


def lines(account: Account) -> list[LogEntry]:
    return [e.entry for e in account.entries if e.entry.message.startswith("line ")]


def number(line: LogEntry) -> int:
    return int(line.message.removeprefix("line "))


async def test_streams_are_told_apart_as_long_as_the_cluster_does(plane: ControlPlane, installed: Install) -> None:
    """Over another relay too; when it does so no more, all goes on as stdout behind a notice. No line is missing or comes twice."""
    request = one_stage(BOTH)
    account = Account(request.pipeline_id)

    async def more(count: int) -> None:
        wanted = len(lines(account)) + count
        async with asyncio.timeout(120):
            while len(lines(account)) < wanted:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(800):
        async with asyncio.TaskGroup() as group:
            async with plane.with_features(SPLIT_STREAMS):
                installation = await asyncio.to_thread(installed)
                clients = Clients(installation)
                await clients.submit(request)
                group.create_task(clients.follow_progress(account), name="progress")
                group.create_task(clients.follow_lines(account), name="lines")
                await more(ENOUGH)
                await asyncio.to_thread(installation.restart, "log-relay")
                await more(ENOUGH)
                apart = list(lines(account))
            await more(ENOUGH)
            [worker] = installation.workers()[request.pipeline_id]
            await installation.open_gate(worker)
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
    assert {(number(line) % 2, line.source) for line in apart} == {(1, "stdout"), (0, "stderr")}
    notices = [e.entry.message for e in account.entries if e.entry.metadata.get("otto.notice")]
    assert len(notices) == 1, notices
    at = next(place for place, e in enumerate(account.entries) if e.entry.metadata.get("otto.notice"))
    assert {e.entry.source for e in account.entries[at + 1 :] if e.entry.message.startswith("line ")} == {"stdout"}
    found = lines(account)
    assert sorted(map(number, found)) == list(range(1, len(found) + 1))
