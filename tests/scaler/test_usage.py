"""What workers use: measured while they run, told once they have ended, and nothing where nobody can measure it."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from otto_kubekit.testing.faults import Asked
from otto_scaler.backends.kubernetes.backend import KubernetesBackend
from otto_scaler.backends.process.supervisor.control import UnreadableError
from otto_scaler.backends.process.supervisor.report import Ending, read_ending, write_ending
from otto_scaler.backends.process.supervisor.usage import Usage as Measured
from otto_scaler.backends.process.supervisor.usage import running_seconds
from otto_scaler.translate.status import pod_status
from otto_scaler.worker import State, Usage, Worker

from .conftest import PYTHON, PodsRig, Rig, pods_rig, spec, until

MIB = 1 << 20
BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
INTERVAL = 0.05


async def used(rig: Rig, code: str) -> Usage:
    worker = await rig.run(spec(command=(PYTHON, "-I", "-c", code)))
    assert worker.state is State.SUCCEEDED
    assert worker.usage is not None
    return worker.usage


async def test_a_process_that_burns_cpu(rig: Rig) -> None:
    """Half a second of CPU time is told as such, however long it took; it is one thread, so never much more than a core."""
    worker = await rig.run(spec(command=(PYTHON, "-I", "-c", BURN.format(seconds=0.5))))
    assert worker.usage is not None
    ran = (worker.ended - worker.started) / 1e9
    assert 0.45 <= worker.usage.cpu_average * ran <= 2
    assert worker.usage.cpu_average <= worker.usage.cpu_peak <= 1.5


async def test_cpu_of_what_a_worker_started_counts(rig: Rig) -> None:
    """A child that was waited for, and a grandchild that nobody waited for: all of it was the worker's."""
    burn = BURN.format(seconds=0.4)
    waited_for = f"import subprocess, sys\nsubprocess.run([sys.executable, '-I', '-c', {burn!r}], check=True)\n"
    left_alone = (
        f"import os, time\nif os.fork() == 0:\n    if os.fork() == 0:\n        exec({burn!r})\n"
        "        open('done', 'w')\n    os._exit(0)\n"
        "os.wait()\nwhile not os.path.exists('done'): time.sleep(0.05)\n"
    )
    for task, text in (("a", waited_for), ("b", left_alone)):
        worker = await rig.run(spec(task=task, command=(PYTHON, "-I", "-c", text)))
        assert worker.usage is not None
        assert worker.usage.cpu_average * (worker.ended - worker.started) / 1e9 >= 0.35


def test_a_running_process_has_the_time_of_those_it_waited_for() -> None:
    """So what short-lived children use is seen when they used it, and not all at once when their parent ends."""
    burn = BURN.format(seconds=0.3)
    code = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-I', '-c', {burn!r}], check=True)\nprint(flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([PYTHON, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert running_seconds(parent.pid) >= 0.25
        parent.communicate()
    assert running_seconds(parent.pid) == 0


async def test_a_process_that_holds_memory(rig: Rig) -> None:
    """64 MiB for two seconds: the peak has them all."""
    usage = await used(rig, "import time\nheld = b'x' * (64 << 20)\ntime.sleep(2)\n")
    assert 64 * MIB <= usage.memory_peak <= 160 * MIB
    assert 0 < usage.memory_average <= usage.memory_peak


async def test_a_worker_that_ends_at_once_has_no_memory_of_nothing(rig: Rig) -> None:
    """There is hardly anything to measure: what there is makes sense, and a worker whose memory nobody saw has no figures."""
    usage = (await rig.run(spec(command=("true",)))).usage
    assert usage is None or (0 <= usage.cpu_average <= usage.cpu_peak < 4 and 0 < usage.memory_average <= usage.memory_peak < 64 * MIB)


@pytest.mark.parametrize("looks", [0, 1])
def test_what_ends_before_its_memory_was_looked_at_has_no_figures(looks: int) -> None:
    """Though its CPU time is known: together with it a memory of 0 would be told, as one that was measured."""
    code = f"""
import subprocess
from otto_scaler.backends.process.supervisor.usage import Meter
meter = Meter()
child = subprocess.Popen(["sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo; read x"], stdin=-1, stdout=-1)
child.stdout.readline()
for _ in range({looks}): meter.measure()
child.communicate()
usage = meter.usage()
print(usage and usage.memory_average)
"""
    told = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    assert 0 < int(told) < 64 * MIB if looks else told == "None"


async def test_figures_survive_the_service(rig: Rig) -> None:
    """They stand in the worker's own report, so who finds it later knows them as well."""
    wanted = spec(command=(PYTHON, "-I", "-c", BURN.format(seconds=0.2)))
    before = (await rig.run(wanted)).usage
    assert before is not None
    await rig.stop()
    await rig.start()
    after = (await rig.reaches(wanted, lambda w: w.finished)).usage
    assert before == after


def test_a_report_without_figures_is_read(tmp_path: Path) -> None:
    """As supervisors before this one left it; and one that is no such line is none of ours."""
    write_ending(str(tmp_path), Ending(0, "", "", 1, 2))
    found = read_ending(str(tmp_path))
    assert found is not None
    assert found.usage is None
    write_ending(str(tmp_path), Ending(0, "", "", 1, 2, Measured(1, 2, 3, 4)))
    found = read_ending(str(tmp_path))
    assert found is not None
    assert found.usage is not None
    assert (found.usage.cpu_average, found.usage.memory_peak) == (1, 4)
    (tmp_path / "exit").write_text((tmp_path / "exit").read_text().replace("usage=1 2 3 4", "usage=1 2 x 4"))
    with pytest.raises(UnreadableError):
        read_ending(str(tmp_path))


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[PodsRig]:
    """Pods of a cluster in this process, whose metrics server is asked all the time."""
    async with pods_rig(tmp_path, times={"usage_interval": INTERVAL}) as running:
        yield running


def polls(pods: PodsRig) -> list[Asked]:
    return [asked for asked in pods.cluster.requests if "metrics.k8s.io" in asked.path]


async def measured(pods: PodsRig, name: str, cpu: str, memory: str) -> None:
    """The metrics server says so, and that has been heard."""
    assert isinstance(pods.backend, KubernetesBackend)
    pods.cluster.set_usage(name, cpu, memory)
    seen = len(polls(pods))
    await until(lambda: len(polls(pods)) > seen + 1)


async def test_a_pod_has_the_figures_of_the_metrics_server(pods: PodsRig) -> None:
    """Average and peak of what was measured, each moment once however often it is asked for; kept when the worker has ended."""
    wanted = spec(command=("sleep", "300"))
    name = wanted.identity.name
    await pods.backend.create(wanted, held=True)
    await pods.reaches(wanted, lambda w: w.held)
    pods.cluster.set_usage(name, "1", "1Mi")
    await pods.backend.start(name)
    await pods.runs(wanted)
    await until(lambda: len(polls(pods)) > 1)
    await measured(pods, name, "250000000n", "65536Ki")
    await measured(pods, name, "1500m", "32Mi")
    await pods.backend.stop(name, "enough")
    worker = await pods.ends(wanted)
    assert worker.usage is not None
    assert worker.usage.cpu_average == pytest.approx((1 + 0.25 + 1.5) / 3)
    assert worker.usage.cpu_peak == 1.5
    assert worker.usage.memory_average == (1 + 64 + 32) * MIB // 3
    assert worker.usage.memory_peak == 64 * MIB
    message = pod_status(worker, 10).usage
    assert (message.peak_cpu_cores, message.peak_memory_bytes) == (1.5, 64 * MIB)
    assert all(asked.query["labelSelector"] and asked.query["limit"] for asked in polls(pods))


async def test_a_cluster_without_metrics_has_no_figures_and_no_errors(pods: PodsRig, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked once, then left alone for minutes; the worker is as any other."""
    caplog.set_level("INFO")
    wanted = spec(command=("sleep", "300"))
    await pods.create(wanted)
    await pods.runs(wanted)
    await until(lambda: [record for record in caplog.records if record.message.startswith("scaler.usage")])
    await pods.backend.stop(wanted.identity.name, "enough")
    worker = await pods.ends(wanted)
    assert worker.usage is None
    assert not pod_status(worker, 10).HasField("usage")
    assert len(polls(pods)) == 1
    told = [(record.message, record.levelname) for record in caplog.records if record.message.startswith("scaler.usage")]
    assert told == [("scaler.usage.unknown", "INFO")]


async def test_nobody_is_asked_while_nothing_runs(pods: PodsRig) -> None:
    """Workers that wait cost a metrics server nothing; the first that runs is measured."""
    wanted = spec(command=("sleep", "300"))
    await pods.backend.create(wanted, held=True)
    await pods.reaches(wanted, lambda w: w.held)
    seen = len(pods.cluster.requests)
    await pods.backend.start(wanted.identity.name)
    assert [asked for asked in pods.cluster.requests[:seen] if "metrics.k8s.io" in asked.path] == []
    await until(lambda: polls(pods))


def test_a_worker_is_told_without_figures() -> None:
    """Nothing is made up."""
    worker = Worker(spec().identity, "u", State.SUCCEEDED, 1, started=2, ended=3)
    assert not pod_status(worker, 10).HasField("usage")
