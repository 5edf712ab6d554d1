"""Logs: every line once, through breaks, restarts and rotations."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime

import pytest

from otto_kubekit.client import Client
from otto_kubekit.errors import KubeError, NotFoundError
from otto_kubekit.kinds import PODS
from otto_kubekit.podlogs import Had, LogGap, LogLine, follow
from otto_kubekit.testing import FakeCluster, Script
from otto_kubekit.testing.logs import ContainerLog, rfc3339

from .conftest import Kube, until

SECOND = 10**9


async def everything(client: Client, pod: str, **options: object) -> list[LogLine]:
    """All lines until the end."""
    async with asyncio.timeout(60):
        async with aclosing(follow(client, pod, "worker", **options)) as entries:  # type: ignore[arg-type] # of follow
            found = [entry async for entry in entries]
    assert not [entry for entry in found if isinstance(entry, LogGap)]
    return [entry for entry in found if isinstance(entry, LogLine)]


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text.decode() for line in lines]


async def test_a_log_is_followed_to_its_end(kube: Kube) -> None:
    """From before the container runs until it has ended: every line, in order, with times that grow."""
    await kube.client.create(PODS, kube.pod("p", "for i in 1 2 3; do echo line $i; sleep 0.3; done; echo last"))
    lines = await everything(kube.client, "p")
    assert texts(lines) == ["line 1", "line 2", "line 3", "last"]
    assert [line.time_ns for line in lines] == sorted({line.time_ns for line in lines})


async def test_many_lines_of_a_burst_come_once_each(kube: Kube) -> None:
    """Thousands within a second or two, on both streams."""
    script = "i=0; while [ $i -lt 3000 ]; do echo out $i; i=$((i+1)); done; echo err >&2"
    await kube.client.create(PODS, kube.pod("p", script))
    found = texts(await everything(kube.client, "p"))
    assert [line for line in found if line != "err"] == [f"out {i}" for i in range(3000)]
    assert found.count("err") == 1


async def test_a_very_long_line_and_one_without_an_end_are_lines(kube: Kube) -> None:
    """A line of 100,000 characters comes whole; the last one needs no newline; an empty one is one."""
    await kube.client.create(PODS, kube.pod("p", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo; printf unfinished"))
    lines = await everything(kube.client, "p")
    assert [len(line.text) for line in lines] == [100_000, 0, 10]


async def test_who_had_some_gets_the_rest(kube: Kube) -> None:
    """What a restarted follower has stored is not told again, to the nanosecond."""
    await kube.client.create(PODS, kube.pod("p", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; done"))
    lines = await everything(kube.client, "p")
    for had in (1, 5, 9):
        after = Had.of((line.time_ns, line.stream) for line in lines[:had])
        assert texts(await everything(kube.client, "p", after=after)) == texts(lines[had:])


async def test_a_pod_that_is_not_there_is_not_found(kube: Kube) -> None:
    """Neither by its name nor by another uid."""
    with pytest.raises(NotFoundError):
        await everything(kube.client, "none")
    await kube.client.create(PODS, kube.pod("p", "true"))
    with pytest.raises(NotFoundError):
        await everything(kube.client, "p", uid="00000000-0000-0000-0000-000000000000")


async def test_a_pod_that_is_deleted_ends_its_log(kube: Kube) -> None:
    """After the lines that were there: as ended, or with NotFoundError when the pod is gone before anybody could see that."""
    await kube.client.create(PODS, kube.pod("p", "echo first; trap 'exit 0' TERM; while :; do sleep 0.1; done"))
    seen: list[str] = []

    async def read() -> None:
        async with aclosing(follow(kube.client, "p", "worker")) as entries:
            async for entry in entries:
                assert isinstance(entry, LogLine)
                seen.append(entry.text.decode())
                await kube.client.delete(PODS, "p", grace=1)

    with contextlib.suppress(NotFoundError):
        await asyncio.wait_for(read(), 60)
    assert seen == ["first"]


# What a real cluster can't be told to do.


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[FakeCluster, Client, ContainerLog]]:
    """A pod that runs until it is told to end, and its log to write into."""
    async with FakeCluster() as fake, fake.client() as client:
        fake.script = lambda _pod, _container: Script()
        pod = {"metadata": {"name": "p"}, "spec": {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "i"}]}}
        await client.create(PODS, pod)

        async def running() -> bool:
            return (await client.get(PODS, "p")).status.phase == "Running"

        await until(running, "the pod runs")
        yield fake, client, fake.log("p")


class Follower:
    """Follows in the background."""

    def __init__(self, client: Client, **options: object) -> None:
        self.entries: list[LogLine | LogGap] = []
        self.troubles: list[KubeError] = []
        self.task = asyncio.create_task(self._run(client, options), name="follower")

    async def _run(self, client: Client, options: dict[str, object]) -> None:
        async with aclosing(follow(client, "p", "worker", trouble=self.troubles.append, **options)) as entries:  # type: ignore[arg-type] # of follow
            async for entry in entries:
                self.entries.append(entry)

    @property
    def texts(self) -> list[str]:
        return [entry.text.decode() for entry in self.entries if isinstance(entry, LogLine)]

    async def until(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.entries) >= count

        await until(enough, f"{count} entries")


@pytest.mark.slow
async def test_breaks_lose_and_repeat_nothing(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """Cut after every few lines, also within a second and with equal times."""
    fake, client, log = scripted
    follower = Follower(client)
    for number in range(40):
        log.write(f"{number} a")
        log.write(f"{number} b", time_ns=log.lines[-1].time_ns)
        await follower.until(2 * number + 1)
        fake.faults.drop_connections(lambda asked: asked.log)
    fake.end("p")
    await asyncio.wait_for(follower.task, 60)
    assert follower.texts == [f"{number} {letter}" for number in range(40) for letter in "ab"]
    assert follower.troubles


async def test_lines_out_of_order_are_not_taken_for_had(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """Stderr may lie behind stdout with an earlier time; a break in between loses neither."""
    fake, client, log = scripted
    follower = Follower(client)
    base = 1_700_000_000 * SECOND
    log.write("zeroth", "stdout", base + 2 * SECOND + 4)
    log.write("first", "stdout", base + 2 * SECOND + 5)
    await follower.until(2)
    fake.faults.drop_connections(lambda asked: asked.log)
    log.write("late", "stderr", base + 2 * SECOND - 7)
    log.write("next", "stdout", base + 2 * SECOND + 6)
    await follower.until(4)
    fake.end("p")
    await asyncio.wait_for(follower.task, 60)
    assert follower.texts == ["zeroth", "first", "late", "next"]


async def test_a_rotation_while_nobody_followed_is_told(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """The lines before it can't be had any more: a gap stands where they would."""
    fake, client, log = scripted
    log.write("one")
    follower = Follower(client)
    await follower.until(1)
    fake.faults.answer(503, times=None, when=lambda asked: asked.log)
    fake.faults.drop_connections(lambda asked: asked.log)
    log.write("lost")
    log.rotate()
    log.write("two")
    fake.faults.heal()
    await follower.until(3)
    fake.end("p")
    await asyncio.wait_for(follower.task, 60)
    assert [type(entry).__name__ for entry in follower.entries] == ["LogLine", "LogGap", "LogLine"]
    assert follower.texts == ["one", "two"]


async def test_a_rotation_while_following_goes_on(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """The server ends the answer with the file, the container has not ended: it is asked again."""
    fake, client, log = scripted
    log.write("one")
    follower = Follower(client)
    await follower.until(1)
    log.rotate()
    log.write("two")

    async def two() -> bool:
        return "two" in follower.texts

    await until(two, "the second file is read")
    fake.end("p")
    await asyncio.wait_for(follower.task, 60)
    assert follower.texts == ["one", "two"]


async def test_streams_come_apart_where_the_server_can(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """Each line says which it is, through breaks."""
    fake, client, log = scripted
    fake.kubelet.split_streams = True
    follower = Follower(client)
    for number in range(10):
        log.write(f"{number}", "stdout" if number % 2 else "stderr")
        await follower.until(number + 1)
        fake.faults.drop_connections(lambda asked: asked.log)
    fake.end("p")
    await asyncio.wait_for(follower.task, 60)
    assert [(e.text, e.stream) for e in follower.entries if isinstance(e, LogLine)] == [
        (str(number).encode(), "stdout" if number % 2 else "stderr") for number in range(10)
    ]


@pytest.mark.parametrize("minor", [31, 37])
async def test_streams_come_as_one_where_the_server_can_not(scripted: tuple[FakeCluster, Client, ContainerLog], minor: int) -> None:
    """An old server would ignore the question and send everything twice; it is not asked. A newer one refuses, once."""
    fake, client, log = scripted
    fake.api.minor = minor
    log.write("out", "stdout")
    log.write("err", "stderr")
    fake.end("p")
    for _ in range(2):
        assert [(line.text, line.stream) for line in await everything(client, "p")] == [(b"out", ""), (b"err", "")]
    assert len([asked for asked in fake.requests if "stream" in asked.query]) == (0 if minor == 31 else 1)


async def test_a_silent_log_is_opened_again(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """A connection that has died without breaking costs its silence, not the log."""
    fake, client, log = scripted
    follower = Follower(client, inactivity=0.5)
    log.write("one")
    await follower.until(1)
    asked_before = sum(asked.log for asked in fake.requests)
    fake.faults.stall(lambda asked: asked.log and sum(a.log for a in fake.requests) == asked_before)
    log.write("last")
    await follower.until(2)
    fake.end("p")
    await asyncio.wait_for(follower.task, 60)
    assert follower.texts == ["one", "last"]


async def test_a_missing_pod_in_the_middle_ends_the_follow(scripted: tuple[FakeCluster, Client, ContainerLog]) -> None:
    """Evicted nodes and force deletions take the log along."""
    _, client, log = scripted
    follower = Follower(client)
    log.write("one")
    await follower.until(1)
    await client.delete(PODS, "p", grace=0)
    with pytest.raises(NotFoundError):
        await asyncio.wait_for(follower.task, 60)
    assert follower.texts == ["one"]


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (1_700_000_000 * SECOND, "2023-11-14T22:13:20Z"),
        (1_700_000_000 * SECOND + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000 * SECOND + 1, "2023-11-14T22:13:20.000000001Z"),
    ],
)
async def test_times_are_read_to_the_nanosecond(scripted: tuple[FakeCluster, Client, ContainerLog], time_ns: int, text: str) -> None:
    """However many digits of the fraction are written."""
    fake, client, log = scripted
    assert rfc3339(time_ns) == text
    assert datetime.fromisoformat(text[:19] + "+00:00").timestamp() == time_ns // SECOND
    log.write("x", time_ns=time_ns)
    fake.end("p")
    assert [line.time_ns for line in await everything(client, "p")] == [time_ns]
