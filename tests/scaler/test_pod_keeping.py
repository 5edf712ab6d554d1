"""Pods that have ended stay in the cluster, with their logs, until they are needed no more."""

from dataclasses import replace
from pathlib import Path

from otto_kubekit.testing.resources import PODS
from otto_scaler.keeping import Need
from otto_scaler.worker import WorkerSpec

from .conftest import DEFAULT_LIMITS, PodsRig, pods_rig, spec, until


def there(pods: PodsRig, wanted: WorkerSpec) -> bool:
    """Whether the cluster has its pod."""
    return wanted.identity.name in {pod["metadata"]["name"] for pod in pods.cluster.storage.all(PODS)}


async def swept(pods: PodsRig, task: str) -> None:
    """Another worker comes, ends and goes: whatever may go has gone by then."""
    other = spec(task, pipeline_id="other", stage_id=task)
    await pods.run(other)
    await pods.fleet.release([other.identity.name], Need.LINES)
    await pods.fleet.release([other.identity.name], Need.END)
    await until(lambda: not there(pods, other))


async def test_an_ended_pod_stays_until_its_lines_and_its_end_are_stored(tmp_path: Path) -> None:
    """By the log-relay and by its pipeline; what a scaler was told before it was started anew has to be told again. Then it goes."""
    limits, wanted = replace(DEFAULT_LIMITS, finished_ttl=0.05), spec("a", pipeline_id="p", stage_id="s")
    name = wanted.identity.name
    async with pods_rig(tmp_path, limits) as pods:
        await pods.run(wanted)
        await pods.fleet.release([name], Need.LINES)
        await swept(pods, "first")
        assert there(pods, wanted)
        await pods.stop()
        async with pods_rig(tmp_path, limits, cluster=pods.cluster) as later:
            await later.ends(wanted)
            await later.fleet.release([name], Need.END)
            await swept(later, "second")
            assert there(later, wanted)
            await later.fleet.release([name], Need.LINES)
            await until(lambda: not there(later, wanted))
        deletions = [asked for asked in pods.cluster.requests if asked.method == "DELETE" and asked.path.endswith(f"/{name}")]
        assert len(deletions) == 1
        await pods.start()
