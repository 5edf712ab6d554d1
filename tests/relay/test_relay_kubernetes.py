"""Pods' logs in a relay, with what goes wrong on the way: connections that break, rotation, an API server that is away, pods that go."""

import asyncio
import json
import os
import random
import signal
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from otto_kubekit.kinds import PODS, SECRETS
from otto_kubekit.testing import FakeCluster, Script
from otto_kubekit.testing.faults import Asked
from otto_relay.sources import kubernetes_lane
from otto_relay.sources.kubernetes import KubernetesSource
from otto_relay.testing import peers
from ottoscaler.v1.log_pb2 import LogEntry, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub

from .conftest import Stand, until
from .test_relay_collecting import complete, kept
from .test_relay_reading import relay_knows

LIMIT = 65_536


class Cluster:
    """A fake cluster whose pods write what a test says, and the stand whose relay reads them."""

    def __init__(self, fake: FakeCluster, client: Any, stand: Stand) -> None:
        self.fake = fake
        self.client = client
        self.stand = stand

    async def start(self, name: str, *, init: tuple[str, ...] = (), beside: tuple[str, ...] = (), **spec: Any) -> None:
        """A pod that has begun."""
        containers = [{"name": container, "image": "any"} for container in (*beside, "worker")]
        before = [{"name": container, "image": "any"} for container in init]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"containers": containers, "initContainers": before, "restartPolicy": "Never", **spec},
        }
        await self.client.create(PODS, body)
        await self.phase(name, "Running")
        self.stand.scaler.show(name)

    async def phase(self, name: str, wanted: str) -> None:
        """Waits for it."""
        async with asyncio.timeout(30):
            while (await self.client.get(PODS, name)).status.phase != wanted:
                await asyncio.sleep(0.01)

    async def end(self, name: str) -> None:
        """The worker ends, and the scaler sees it."""
        self.fake.end(name)
        await self.phase(name, "Succeeded")
        self.stand.scaler.show(name, "succeeded")

    def logs_asked(self) -> int:
        """How often a log was asked for."""
        return sum(asked.log for asked in self.fake.requests)


@pytest.fixture(params=["merged", "apart"])
async def cluster(request: pytest.FixtureRequest, stand: Stand) -> AsyncIterator[Cluster]:
    """The relay is the test's to start."""
    async with FakeCluster() as fake, fake.client(timeout=5.0) as client:
        fake.kubelet.split_streams = {"merged": False, "apart": True, "old": None}[request.param]
        fake.api.minor = 31 if request.param == "old" else 37
        stand.source = KubernetesSource(client, LIMIT)
        yield Cluster(fake, client, stand)


def messages(entries: list[LogEntry], container: str = "") -> list[str]:
    return [
        entry.message
        for entry in entries
        if entry.metadata.get("otto.container", "") == container and not entry.metadata.get("otto.notice")
    ]


def notices(entries: list[LogEntry]) -> list[LogEntry]:
    return [entry for entry in entries if "otto.notice" in entry.metadata]


@pytest.mark.parametrize("seed", range(3))
async def test_connections_that_break_in_the_middle_of_lines_lose_and_double_none(cluster: Cluster, seed: int) -> None:
    """While a worker writes short and long lines to both streams, all connections are cut again and again."""
    dice = random.Random(seed)
    texts: list[str] = []
    async with cluster.stand.relay(max_line_bytes=LIMIT):
        await cluster.start("w-1")
        for _ in range(25):
            for _ in range(dice.randrange(30)):
                texts.append(f"{len(texts)} " + "x" * dice.choice([0, 10, 200, 60_000]))
                cluster.fake.log("w-1").write(texts[-1], dice.choice(["stdout", "stderr"]))
            await asyncio.sleep(dice.random() * 0.03)
            cluster.fake.faults.drop_connections(lambda asked: asked.log)
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert sorted(messages(got)) == sorted(texts)
    assert [entry.sequence for entry in got] == list(range(1, len(texts) + 1))
    assert not notices(got)


@pytest.mark.parametrize("cluster", ["merged", "apart", "old"], indirect=True)
async def test_stdout_and_stderr_are_told_apart_where_the_server_does(cluster: Cluster) -> None:
    """Where it refuses that, it is asked once; one that is too old to know of it is not asked. Then everything comes as stdout."""
    async with cluster.stand.relay():
        for name in ("w-1", "w-2"):
            await cluster.start(name)
            cluster.fake.log(name).write("out")
            cluster.fake.log(name).write("err", "stderr")
            await cluster.end(name)
            sources = {entry.message: entry.source for entry in await complete(cluster.stand, name)}
            assert sources == {"out": "stdout", "err": "stderr" if cluster.fake.kubelet.split_streams else "stdout"}
    refused = [asked for asked in cluster.fake.requests if "stream" in asked.query]
    if cluster.fake.kubelet.split_streams is None:
        assert not refused
    elif not cluster.fake.kubelet.split_streams:
        assert {asked.query["stream"] for asked in refused} <= {"Stdout", "Stderr"}
        assert len(refused) <= 2


@pytest.mark.parametrize("cluster", ["apart"], indirect=True)
@pytest.mark.parametrize("restarted", [False, True], ids=["followed on", "by another relay"])
@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
async def test_streams_that_are_told_apart_no_more_are_read_merged(cluster: Cluster, streams: tuple[str, ...], *, restarted: bool) -> None:
    """As by an API server whose feature was switched off: each line comes once, and a notice says that it can't be sure of that."""
    texts: list[str] = []

    def write() -> None:
        for number in range(20):
            texts.append(f"{len(texts)}")
            cluster.fake.log("w-1").write(texts[-1], streams[number // 2 % len(streams)])

    async with AsyncExitStack() as relays:
        await relays.enter_async_context(cluster.stand.relay())
        await cluster.start("w-1")
        write()
        await relay_knows(cluster.stand, "w-1", 20)
        if restarted:
            await relays.aclose()
        cluster.fake.kubelet.split_streams = False
        cluster.fake.faults.drop_connections(lambda asked: asked.log)
        write()
        if restarted:
            await relays.enter_async_context(cluster.stand.relay())
        await relay_knows(cluster.stand, "w-1", 41)
        write()
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert sorted(messages(got), key=int) == texts
    assert [entry.source for entry in got if not entry.metadata][20:] == ["stdout"] * 40
    assert ["apart" in entry.message for entry in got] == [False] * 20 + [True] + [False] * 40


async def test_a_rotation_that_ends_a_follow_costs_no_line(cluster: Cluster) -> None:
    """The new file is followed; as nobody can know whether something was written between, a line of ours says so."""
    async with cluster.stand.relay():
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("one")
        await relay_knows(cluster.stand, "w-1", 1)
        cluster.fake.log("w-1").rotate()
        cluster.fake.log("w-1").write("two")
        await relay_knows(cluster.stand, "w-1", 3)
        cluster.fake.log("w-1").write("three")
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert messages(got) == ["one", "two", "three"]
    assert ["rotated" in entry.message for entry in got] == [False, True, False, False]


async def test_lines_that_were_rotated_away_while_no_relay_ran_are_told_to_be_missing(cluster: Cluster) -> None:
    """A visible notice stands where they would, also when nothing came after them; what is there comes."""
    await cluster.start("w-1")
    await cluster.start("w-2")
    for name in ("w-1", "w-2"):
        cluster.fake.log(name).write("before")
    async with cluster.stand.relay():
        await relay_knows(cluster.stand, "w-1", 1)
        await relay_knows(cluster.stand, "w-2", 1)
    for name in ("w-1", "w-2"):
        cluster.fake.log(name).write("never seen")
        cluster.fake.log(name).rotate()
    cluster.fake.log("w-1").write("after")
    async with cluster.stand.relay():
        await cluster.end("w-1")
        await cluster.end("w-2")
        first, second = await complete(cluster.stand, "w-1"), await complete(cluster.stand, "w-2")
    assert [bool(entry.metadata) for entry in first] == [False, True, False]
    assert messages(first) == ["before", "after"]
    assert [bool(entry.metadata) for entry in second] == [False, True]


async def test_an_api_server_that_is_away_is_waited_for(cluster: Cluster) -> None:
    """What was written meanwhile is caught up, each line once; the worker's end too."""
    async with cluster.stand.relay():
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("before")
        await relay_knows(cluster.stand, "w-1", 1)
        await cluster.fake.stop()
        cluster.fake.log("w-1").write("during")
        await asyncio.sleep(0.3)
        await cluster.fake.start()
        cluster.fake.log("w-1").write("after")
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert messages(got) == ["before", "during", "after"]
    assert not notices(got)


@pytest.mark.parametrize("follow", [True, False], ids=["while it is followed", "while the rest of it is read"])
async def test_a_connection_that_falls_silent_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *, follow: bool) -> None:
    """It lives and brings nothing, as behind a proxy that has forgotten it: the log is asked for anew, and each line comes once."""
    monkeypatch.setattr(kubernetes_lane, "FOLLOW_SILENCE" if follow else "READ_SILENCE", 0.5)
    streams = ("Stdout", "Stderr") if cluster.fake.kubelet.split_streams else ("",)
    looked: Counter[tuple[str, bool]] = Counter()
    silent = True

    def falls_silent(asked: Asked) -> bool:
        if not silent or not asked.log:
            return False
        followed = "follow" in asked.query
        looked[asked.query.get("stream", ""), followed] += 1
        return followed or looked[asked.query.get("stream", ""), False] > 1  # its answer begins, and stops there

    async with cluster.stand.relay():
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("one")
        await relay_knows(cluster.stand, "w-1", 1)
        cluster.fake.faults.stall(falls_silent)
        cluster.fake.log("w-1").write("two")
        await until(lambda: all(looked[stream, True] for stream in streams), 30)
        if not follow:
            await cluster.end("w-1")
            await until(lambda: all(looked[stream, False] > 1 for stream in streams), 30)
        silent = False  # for connections to come; those that are open stay as they are
        await relay_knows(cluster.stand, "w-1", 2)
        if follow:
            await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert messages(got) == ["one", "two"]
    assert not notices(got)


async def test_a_pod_that_is_deleted_leaves_what_was_read_and_a_notice(cluster: Cluster) -> None:
    """Nobody can know what it wrote last, so a line of ours says so; the worker is complete then, and released."""
    async with cluster.stand.relay(stage_wait=0.2):
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("one")
        await relay_knows(cluster.stand, "w-1", 1)
        await cluster.client.delete(PODS, "w-1", grace=0)
        cluster.stand.scaler.remove("w-1")
        got = await complete(cluster.stand, "w-1")
    assert messages(got) == ["one"]
    assert len(notices(got)) == 1


@pytest.mark.parametrize("refused", [False, True], ids=["in the place of the log", "400"])
async def test_a_log_that_its_node_has_deleted_is_told_to_be_missing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, refused: bool
) -> None:
    """A worker whose log was never read before is incomplete, and says so; the kubelet's words are nobody's output. It is released."""
    monkeypatch.setattr(kubernetes_lane, "GONE_SECONDS", 0.3)
    await cluster.start("w-1")
    cluster.fake.log("w-1").write("never read")
    cluster.fake.log("w-1").gone = 'failed to try resolving symlinks in path "/var/log/pods/x/0.log": no such file or directory'
    cluster.fake.log("w-1").refused = refused
    async with cluster.stand.relay():
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
        await until(lambda: cluster.stand.scaler.released == ["w-1"], 30)
    assert messages(got) == []
    assert len(notices(got)) == 1
    reasons = {vars(record)["reason"] for record in caplog.records if record.message == "relay.source.gone"}
    assert reasons == {cluster.fake.log("w-1").gone}


async def test_a_node_that_can_not_read_a_log_for_a_moment_loses_nothing(cluster: Cluster) -> None:
    """It is asked again."""
    await cluster.start("w-1")
    cluster.fake.log("w-1").write("one")
    cluster.fake.log("w-1").gone = "unable to retrieve container logs for containerd://1"
    async with cluster.stand.relay():
        await cluster.end("w-1")
        asked = cluster.logs_asked()
        await until(lambda: cluster.logs_asked() > asked + 2, 30)
        cluster.fake.log("w-1").gone = ""
        got = await complete(cluster.stand, "w-1")
    assert messages(got) == ["one"]
    assert not notices(got)


async def test_a_pod_that_was_replaced_is_not_taken_for_the_old_one(cluster: Cluster) -> None:
    """The lines of another pod of the same name never count as what the first one wrote after."""
    async with cluster.stand.relay(stage_wait=0.2):
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("old")
        await relay_knows(cluster.stand, "w-1", 1)
    await cluster.client.delete(PODS, "w-1", grace=0)
    async with cluster.stand.relay(stage_wait=0.2):
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("other")
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert messages(got) == ["old"]
    assert len(notices(got)) == 1


async def test_every_container_is_read_and_told_apart(cluster: Cluster) -> None:
    """The checkout's lines come before all others; those of containers beside the worker's own name theirs; what it wrote names none."""
    cluster.fake.script = lambda _pod, container: Script(lines=["cloned"], runs=0.05) if container == "checkout" else Script()
    async with cluster.stand.relay():
        await cluster.start("w-1", init=("checkout",), beside=("db", "cache"))
        for container in ("db", "worker", "cache"):
            for number in range(3):
                cluster.fake.log("w-1", container).write(f"{container} {number}")
        await relay_knows(cluster.stand, "w-1", 10)
        for container in ("db", "cache"):
            cluster.fake.end("w-1", container=container)
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert messages(got[:1], "checkout") == ["cloned"]
    for container in ("db", "cache"):
        assert messages(got, container) == [f"{container} {number}" for number in range(3)]
    assert messages(got) == [f"worker {number}" for number in range(3)]
    assert len(got) == 10


async def test_more_containers_than_fit_are_read_as_others_end(cluster: Cluster) -> None:
    """Each line of 30 containers comes once, over a restart of the relay too."""
    beside = tuple(f"c{number}" for number in range(29))
    await cluster.start("w-1", beside=beside)
    for container in (*beside, "worker"):
        cluster.fake.log("w-1", container).write(f"{container} first")
    async with cluster.stand.relay():
        await relay_knows(cluster.stand, "w-1", 5)
    for container in (*beside, "worker"):
        cluster.fake.log("w-1", container).write(f"{container} second")
        if container != "worker":
            cluster.fake.end("w-1", container=container)
    async with cluster.stand.relay():
        await cluster.end("w-1")
        got = await complete(cluster.stand, "w-1")
    assert len(got) == 60
    for container in beside:
        assert messages(got, container) == [f"{container} first", f"{container} second"]


async def test_a_worker_is_released_when_its_last_line_is_stored_and_not_before(cluster: Cluster) -> None:
    """While its log can't be read to the end, the scaler is not told that its pod may go."""
    async with cluster.stand.relay(stage_wait=60.0):
        await cluster.start("w-1")
        cluster.fake.log("w-1").write("one")
        await relay_knows(cluster.stand, "w-1", 1)
        cluster.fake.faults.answer(503, times=None, when=lambda asked: asked.log)
        cluster.fake.faults.drop_connections(lambda asked: asked.log)
        cluster.fake.log("w-1").write("last")
        await cluster.end("w-1")
        asked = cluster.logs_asked()
        await until(lambda: cluster.logs_asked() > asked + 1, 30)
        assert cluster.stand.scaler.released == []
        cluster.fake.faults.heal()
        await until(lambda: cluster.stand.scaler.released == ["w-1"], 30)
        assert messages(await kept(cluster.stand, "w-1")) == ["one", "last"]


def _given(*names: str) -> list[dict[str, Any]]:
    return [{"name": name.upper(), "valueFrom": {"secretKeyRef": {"name": name, "key": "value"}}} for name in names]


async def _with_secrets(cluster: Cluster) -> None:
    for name in ("one", "two"):
        data = {"value": b64encode(f"hidden {name} value".encode()).decode(), "other": b64encode(b"not given").decode()}
        await cluster.client.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    containers = [
        {"name": "worker", "image": "any", "env": _given("one")},
        {"name": "beside", "image": "any", "envFrom": [{"secretRef": {"name": "two"}}, {"secretRef": {"name": "gone", "optional": True}}]},
    ]
    await cluster.start("w-1", containers=containers)
    cluster.fake.log("w-1").write("a hidden one value, a hidden two value, not given")


async def test_values_of_the_pods_secrets_are_masked(cluster: Cluster) -> None:
    """Those of single variables and of whole secrets, of all containers; what a secret holds beside them is masked where all is given."""
    async with cluster.stand.relay():
        await _with_secrets(cluster)
        await relay_knows(cluster.stand, "w-1", 1)
        assert messages(await kept(cluster.stand, "w-1")) == ["a ***, a ***, ***"]


async def test_the_password_in_the_repositorys_url_is_masked(cluster: Cluster) -> None:
    """As it stands in the URL and as it is; a token in the place of the user's name too, and nothing of other variables."""
    urls = {"OTTO_REPOSITORY": "https://me:pass%2Fword@host/repo.git", "OTHER": "https://token-1234@host/x", "PLAIN": "a@b"}
    env = [{"name": name, "value": value} for name, value in urls.items()]
    async with cluster.stand.relay():
        await cluster.start("w-1", containers=[{"name": "worker", "image": "any", "env": env}])
        cluster.fake.log("w-1").write("me pass/word pass%2Fword token-1234 a@b host")
        await relay_knows(cluster.stand, "w-1", 1)
        assert messages(await kept(cluster.stand, "w-1")) == ["me *** *** *** a@b host"]


async def test_secrets_that_may_not_be_read_are_told_once(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """The lines come all the same; without permission their values can't be known."""
    cluster.fake.faults.answer(403, times=None, when=lambda asked: asked.method == "GET" and "/secrets/" in asked.path)
    async with cluster.stand.relay():
        await _with_secrets(cluster)
        await relay_knows(cluster.stand, "w-1", 1)
        assert messages(await kept(cluster.stand, "w-1")) == ["a hidden one value, a hidden two value, not given"]
    assert [record.message for record in caplog.records].count("relay.secrets.forbidden") == 1


async def test_a_worker_costs_few_requests(cluster: Cluster) -> None:
    """The pod is looked at once, each of its streams followed once and read once more after the end."""
    async with cluster.stand.relay():
        await cluster.start("first")
        await cluster.end("first")
        await until(lambda: cluster.stand.scaler.released == ["first"], 30)
        await cluster.start("w-1")
        before = len(cluster.fake.requests)
        cluster.fake.log("w-1").write("one")
        await relay_knows(cluster.stand, "w-1", 1)
        asked = [request for request in cluster.fake.requests[before:] if request.log]
        lanes = 2 if cluster.fake.kubelet.split_streams else 1
        assert len(asked) <= lanes
        await cluster.end("w-1")
        await until(lambda: "w-1" in cluster.stand.scaler.released, 30)
    logs = [request for request in cluster.fake.requests if request.log and "/w-1/" in request.path]
    assert lanes + lanes <= len(logs) <= 3 * lanes


# Killed


@asynccontextmanager
async def _process(directory: Path, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The relay as a process of its own; killed at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTTO_")}
    settings = {"OTTO_METRICS_LISTEN": "off", "OTTO_LOG_FORMAT": "json", "OTTO_RELAY_SPOOL_DIR": str(directory / "spool"), **environ}
    with (directory / "relay.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "otto_relay", env={**clean, **settings}, stderr=log)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _address(directory: Path, process: asyncio.subprocess.Process, starts: int) -> str:
    """Where it serves, once it does for this many times."""
    async with asyncio.timeout(60):
        while True:
            events = [json.loads(line) for line in (directory / "relay.log").read_text().splitlines() if line.startswith("{")]
            serving = [event["address"] for event in events if event["event"] == "runtime.serving"]
            if len(serving) >= starts:
                return str(serving[-1])
            assert process.returncode is None, (directory / "relay.log").read_text()
            await asyncio.sleep(0.02)


async def _lines(address: str, worker: str) -> list[LogEntry]:
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = LogStreamingServiceStub(channel).StreamWorkerLogs(WorkerIdentifier(worker_id=worker))
        async with asyncio.timeout(60):
            return [entry async for entry in call]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_a_relay_that_is_killed_again_and_again_has_each_line_once(tmp_path: Path, seed: int) -> None:
    """While three pods write, `kill -9` at random moments, connections cut besides: in the end no line is missing or double."""
    dice = random.Random(seed)
    stand = Stand(tmp_path)
    names = ["w-1", "w-2", "w-3"]
    texts: dict[str, list[str]] = {name: [] for name in names}
    async with FakeCluster() as fake, fake.client() as client, peers(stand.scaler, stand.executor) as peer:
        cluster = Cluster(fake, client, stand)
        fake.kubelet.split_streams = bool(seed % 2)
        environ = {
            "OTTO_LISTEN": "127.0.0.1:0",
            "OTTO_RELAY_SCALER_ADDRESS": peer,
            "OTTO_RELAY_EXECUTOR_ADDRESS": peer,
            "OTTO_RELAY_SOURCE": "kubernetes",
            "OTTO_KUBE_CONFIG": str(fake.kubeconfig(tmp_path / "kubeconfig")),
        }
        for name in names:
            await cluster.start(name)

        def write(count: int) -> None:
            for _ in range(count):
                name = dice.choice(names)
                texts[name].append(f"{name} {len(texts[name])} " + "x" * dice.choice([0, 100, 20_000]))
                fake.log(name).write(texts[name][-1], dice.choice(["stdout", "stderr"]))

        starts = 0
        for _ in range(3):
            async with _process(tmp_path, **environ) as process:
                starts += 1
                await _address(tmp_path, process, starts)
                for _ in range(dice.randrange(5, 40)):
                    write(dice.randrange(30))
                    await asyncio.sleep(dice.random() * 0.03)
                    if dice.random() < 0.1:
                        fake.faults.drop_connections(lambda asked: asked.log)
            write(20)
        async with _process(tmp_path, **environ) as process:
            address = await _address(tmp_path, process, starts + 1)
            for name in names:
                await cluster.end(name)
            for name in names:
                got = await _lines(address, name)
                assert sorted(messages(got)) == sorted(texts[name])
                assert [entry.sequence for entry in got] == list(range(1, len(texts[name]) + 1))
