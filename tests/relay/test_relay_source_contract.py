"""What the collector relies on of a LogSource, shown of each: of files (told by the kernel, looked for), of pods (merged, apart)."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from otto_kubekit.kinds import PODS, SECRETS
from otto_kubekit.testing import FakeCluster
from otto_relay.errors import SourceLostError
from otto_relay.sources import file
from otto_relay.sources.file import FileSource
from otto_relay.sources.kubernetes import KubernetesSource
from otto_relay.sources.protocol import Ending, Line, LogSource
from otto_relay.testing import LogFile

LONGEST = 64
START = 1_763_949_600_000_000_000


def split(text: bytes, complete: bool) -> int:
    return min(len(text), LONGEST) if complete or len(text) >= LONGEST else 0


class Workers(Protocol):
    """Workers that do what a test says, and the source that reads them."""

    apart: bool
    """Whether it is known which lines are of stderr."""

    @property
    def source(self) -> LogSource:
        """Reads them."""

    async def start(self, name: str) -> None:
        """There is a worker, and it has a log."""

    def write(self, name: str, *texts: str | bytes, stderr: bool = False) -> None:
        """It writes lines, each a microsecond after the last."""

    async def remove(self, name: str) -> None:
        """It is gone, and its log with it."""

    async def give(self, name: str, values: dict[str, str]) -> None:
        """It is there, and was given secret values."""


class Directories:
    """Workers of the process backend."""

    apart = True

    def __init__(self, source: FileSource, directory: Path) -> None:
        self.source = source
        self._directory = directory
        self._logs: dict[str, LogFile] = {}

    async def start(self, name: str) -> None:
        self._logs[name] = LogFile(self._directory, name)

    def write(self, name: str, *texts: str | bytes, stderr: bool = False) -> None:
        self._logs[name].write(*texts, stderr=stderr)

    async def remove(self, name: str) -> None:
        self._logs[name].path.unlink()

    async def give(self, name: str, values: dict[str, str]) -> None:
        await self.start(name)
        (self._directory / name / "secrets").write_text(json.dumps(list(values.values())), "utf-8")


class Pods:
    """Workers of the Kubernetes backend."""

    def __init__(self, cluster: FakeCluster, client: Any, apart: bool) -> None:
        self.source = KubernetesSource(client, LONGEST)
        self.apart = apart
        self._cluster = cluster
        self._client = client
        self._time = START
        cluster.kubelet.split_streams = apart

    async def start(self, name: str, env: list[dict[str, Any]] | None = None) -> None:
        container = {"name": "worker", "image": "any", "env": env or []}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container], "restartPolicy": "Never"}}
        await self._client.create(PODS, pod)
        async with asyncio.timeout(30):
            while (await self._client.get(PODS, name)).status.phase != "Running":
                await asyncio.sleep(0.01)

    def write(self, name: str, *texts: str | bytes, stderr: bool = False) -> None:
        for text in texts:
            self._time += 1000
            self._cluster.log(name).write(text, "stderr" if stderr else "stdout", self._time)

    async def remove(self, name: str) -> None:
        await self._client.delete(PODS, name, grace=0)

    async def give(self, name: str, values: dict[str, str]) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "given"},
            "data": {k: b64encode(v.encode()).decode() for k, v in values.items()},
        }
        await self._client.create(SECRETS, secret)
        keys = [{"name": key.upper(), "valueFrom": {"secretKeyRef": {"name": "given", "key": key}}} for key in values]
        await self.start(name, [*keys, {"name": "PLAIN", "value": "not secret"}])


@asynccontextmanager
async def _directories(directory: Path, poll: float) -> AsyncIterator[Workers]:
    source = FileSource(directory, poll, LONGEST)
    try:
        yield Directories(source, directory)
    finally:
        source.close()


@asynccontextmanager
async def _pods(apart: bool) -> AsyncIterator[Workers]:
    async with FakeCluster() as cluster, cluster.client() as client:
        yield Pods(cluster, client, apart)


@pytest.fixture(params=["files, told by the kernel", "files, looked for", "pods, streams merged", "pods, streams apart"])
async def workers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    """Told by the kernel the source looks by itself only after longer than a test waits."""
    async with AsyncExitStack() as stack:
        if request.param.startswith("pods"):
            yield await stack.enter_async_context(_pods(request.param.endswith("apart")))
            return
        told = request.param.endswith("kernel")
        if not told:

            def none_left() -> None:
                raise OSError("no more watches")

            monkeypatch.setattr(file, "Inotify", none_left)
        yield await stack.enter_async_context(_directories(tmp_path, 300.0 if told else 0.01))


class Reader:
    """Reads in the background, and remembers."""

    def __init__(self, source: LogSource, position: bytes = b"") -> None:
        self.ending = Ending()
        self.lines: list[Line] = []
        self._source = source
        self._position = position

    async def run(self) -> None:
        async with aclosing(self._source.lines("w-1", self._position, self.ending, split)) as batches:  # type: ignore[type-var]  # an async generator behind an AsyncIterator
            async for batch in batches:
                assert batch
                self.lines += batch

    @property
    def texts(self) -> list[str]:
        return [line.text.decode() for line in self.lines]


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def whole(source: LogSource, position: bytes = b"") -> list[Line]:
    """What a worker that has ended has written behind a position."""
    reader = Reader(source, position)
    reader.ending.set()
    await asyncio.wait_for(reader.run(), 30)
    return reader.lines


async def test_lines_come_as_they_are_written_until_the_worker_has_ended(workers: Workers) -> None:
    """Each once, in order, with its stream and time; what was written before the end is given before the source ends."""
    await workers.start("w-1")
    workers.write("w-1", "one")
    reader = Reader(workers.source)
    reading = asyncio.create_task(reader.run())
    await until(lambda: reader.texts == ["one"])
    for number in range(20):
        workers.write("w-1", f"later {number}", stderr=number % 2 == 1)
        await until(lambda: reader.texts[-1] == f"later {number}")  # noqa: B023 - awaited in this round
    workers.write("w-1", "last")
    reader.ending.set()
    await asyncio.wait_for(reading, 30)
    assert reader.texts == ["one", *(f"later {number}" for number in range(20)), "last"]
    assert [line.stderr for line in reader.lines] == [False, *([False, workers.apart] * 10), False]
    assert [line.time for line in reader.lines] == sorted(line.time for line in reader.lines)


async def test_from_the_position_of_any_line_come_exactly_those_behind_it(workers: Workers) -> None:
    """Also from within a line that was too long for one entry, and with two streams."""
    await workers.start("w-1")
    workers.write("w-1", "one", "x" * 150, "two")
    workers.write("w-1", "err", "y" * 70, stderr=True)
    workers.write("w-1", "", "three")
    lines = await whole(workers.source)
    assert sorted(line.text.decode() for line in lines) == sorted(
        ["one", "x" * 64, "x" * 64, "x" * 22, "two", "err", "y" * 64, "y" * 6, "", "three"]
    )
    for index, line in enumerate(lines):
        assert len(line.position) <= 255
        rest = await whole(workers.source, line.position)
        assert sorted((line.time, line.stderr, line.text) for line in rest) == sorted(
            (line.time, line.stderr, line.text) for line in lines[index + 1 :]
        )


async def test_bytes_are_given_as_they_were_written(workers: Workers) -> None:
    """Whatever they are, but for line ends."""
    await workers.start("w-1")
    odd = [b"\x00\xff\xfe", "한글".encode(), b"\r", b"  two spaces ", b"\x1b[31mred", b""]
    workers.write("w-1", *odd)
    assert [line.text for line in await whole(workers.source)] == odd


async def test_a_worker_may_end_without_a_line(workers: Workers) -> None:
    """Its lines are complete, and none."""
    await workers.start("w-1")
    reader = Reader(workers.source)
    reading = asyncio.create_task(reader.run())
    await asyncio.sleep(0.05)
    reader.ending.set()
    await asyncio.wait_for(reading, 30)
    assert reader.lines == []


async def test_a_log_that_is_gone_is_lost(workers: Workers) -> None:
    """SourceLostError, and not an empty log."""
    await workers.start("w-1")
    workers.write("w-1", "one", "two")
    position = (await whole(workers.source))[-1].position
    await workers.remove("w-1")
    for start in (b"", position):
        with pytest.raises(SourceLostError):
            await whole(workers.source, start)


async def test_whether_there_is_a_log_is_known_at_the_workers_end(workers: Workers) -> None:
    """`available` waits for a log that comes, and says no once the worker has ended without one."""
    ending = Ending()
    waiting = asyncio.create_task(workers.source.available("w-1", ending))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await workers.start("w-1")
    assert await asyncio.wait_for(waiting, 30)
    waiting = asyncio.create_task(workers.source.available("w-2", ending))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    ending.set()
    assert not await asyncio.wait_for(waiting, 30)


async def test_values_are_those_that_the_worker_was_given(workers: Workers) -> None:
    """All of them, and none where none were."""
    await workers.give("w-1", {"one": "hidden", "two": "둘"})
    assert sorted(await workers.source.secrets("w-1")) == ["hidden", "둘"]
    await workers.start("w-2")
    assert list(await workers.source.secrets("w-2")) == []
