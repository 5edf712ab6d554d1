"""What every WorkerBackend does: the same tests for processes, for pods, and for the one in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from otto_kubekit import kinds
from otto_kubekit.testing import Script
from otto_scaler.backends import Gone, Seen, Synced
from otto_scaler.backends.kubernetes import deadlines
from otto_scaler.testing import MemoryBackend
from otto_scaler.worker import Cause, SecretVariable, State

from .conftest import ClusterRig, PodsRig, Rig, cluster_rig, eventually, kill_workers, memory_rig, pods_rig, process_rig, spec, until

LONG = ("sleep", "300")


RIGS: dict[str, Callable[[Path], AbstractAsyncContextManager[Rig]]] = {
    "process": process_rig,
    "memory": lambda _: memory_rig(),
    "pods": pods_rig,
    "cluster": cluster_rig,
}
PARAMETERS = [*(name for name in RIGS if name != "cluster"), pytest.param("cluster", marks=pytest.mark.cluster)]


@pytest.fixture(params=PARAMETERS)
async def any_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A fleet over each backend in turn."""
    async with RIGS[request.param](tmp_path) as running:
        yield running
    kill_workers(tmp_path)


async def test_a_worker_that_ends_well_has_succeeded(any_rig: Rig) -> None:
    """Exit code 0 is success, with its times in order."""
    worker = await any_rig.run(spec(command=("true",)))
    assert (worker.state, worker.exit_code, worker.cause, worker.error) == (State.SUCCEEDED, 0, Cause.UNSPECIFIED, "")
    assert 0 < worker.created <= worker.started <= worker.ended


async def test_a_worker_that_ends_badly_has_failed_with_its_code(any_rig: Rig) -> None:
    """Another exit code is a failure of that code, in words too."""
    worker = await any_rig.run(spec(command=("sh", "-c", "exit 3")))
    assert (worker.state, worker.exit_code, worker.cause, worker.error) == (State.FAILED, 3, Cause.EXIT_CODE, "exit code 3")


async def test_creating_twice_creates_once(any_rig: Rig) -> None:
    """A second create of the same name leaves the worker as it is."""
    wanted = spec(command=LONG)
    await any_rig.create(wanted)
    first = await any_rig.runs(wanted)
    await any_rig.backend.create(wanted, held=False)
    await any_rig.backend.create(wanted, held=True)
    assert any_rig.worker(wanted.identity.name) is first


async def test_a_held_worker_does_not_run_before_it_is_started(any_rig: Rig) -> None:
    """It is pending with a reason until start, which does nothing when repeated."""
    wanted = spec(command=LONG)
    await any_rig.backend.create(wanted, held=True)
    held = await any_rig.reaches(wanted, lambda w: w.held)
    assert held.state is State.PENDING
    assert held.pending_reason
    await any_rig.backend.start(wanted.identity.name)
    running = await any_rig.runs(wanted)
    await any_rig.backend.start(wanted.identity.name)
    assert any_rig.worker(wanted.identity.name) is running


async def test_a_stopped_worker_has_failed_as_cancelled(any_rig: Rig) -> None:
    """Stopping is told apart from failing, with the reason; stopping again, or what isn't there, is harmless."""
    wanted = spec(command=LONG)
    await any_rig.create(wanted)
    await any_rig.runs(wanted)
    await any_rig.backend.stop(wanted.identity.name, "enough")
    worker = await any_rig.ends(wanted)
    assert (worker.state, worker.cause, worker.error, worker.exit_code) == (State.FAILED, Cause.CANCELLED, "enough", 143)
    await any_rig.backend.stop(wanted.identity.name, "again")
    await any_rig.backend.stop("otto-nobody-0000000000-1", "who")
    assert any_rig.worker(wanted.identity.name) is worker


async def test_a_held_worker_that_is_stopped_never_runs(any_rig: Rig) -> None:
    """It ends as cancelled without having started, and a later start does nothing."""
    wanted = spec(command=("true",))
    await any_rig.backend.create(wanted, held=True)
    await any_rig.reaches(wanted, lambda w: w.held)
    await any_rig.backend.stop(wanted.identity.name, "not needed")
    worker = await any_rig.ends(wanted)
    assert (worker.cause, worker.started, worker.exit_code, worker.held) == (Cause.CANCELLED, 0, None, False)
    await any_rig.backend.start(wanted.identity.name)
    assert any_rig.worker(wanted.identity.name) is worker


async def test_only_finished_workers_can_be_removed(any_rig: Rig) -> None:
    """A live one is refused; a finished one is gone; removing what isn't there is harmless."""
    wanted = spec(command=LONG)
    name = wanted.identity.name
    await any_rig.create(wanted)
    await any_rig.runs(wanted)
    with pytest.raises(ValueError, match="has not ended"):
        await any_rig.backend.remove(name)
    await any_rig.backend.stop(name, "")
    await any_rig.ends(wanted)
    await any_rig.backend.remove(name)
    await until(lambda: any_rig.worker(name) is None)
    await any_rig.backend.remove(name)


async def test_a_name_can_be_used_again_after_removal(any_rig: Rig) -> None:
    """The new worker of the old name is another one."""
    wanted = spec(command=("true",))
    first = await any_rig.run(wanted)
    await any_rig.backend.remove(wanted.identity.name)
    await until(lambda: any_rig.worker(wanted.identity.name) is None)
    second = await any_rig.run(wanted)
    assert second.uid != first.uid


async def test_observing_again_shows_everything_again(any_rig: Rig) -> None:
    """A new observation begins with all workers, then Synced, and a finished one is as it ended."""
    ended = await any_rig.run(spec("done"))
    running = spec("long", command=LONG)
    await any_rig.create(running)
    await any_rig.runs(running)
    await any_rig.stop()
    seen = {}
    observations = any_rig.backend.observe()
    async for observation in observations:
        if isinstance(observation, Synced):
            break
        assert isinstance(observation, Seen)
        seen[observation.worker.name] = observation.worker
    await observations.aclose()  # type: ignore[attr-defined]  # every backend's is a generator
    assert set(seen) == {ended.name, running.identity.name}
    assert (seen[ended.name].uid, seen[ended.name].state) == (ended.uid, State.SUCCEEDED)
    assert seen[running.identity.name].state is State.RUNNING
    await any_rig.start()
    await any_rig.backend.stop(running.identity.name, "")
    await any_rig.ends(running)


async def test_a_secret_that_is_missing_fails_the_worker(any_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, or is a worker that fails as REJECTED, where only who runs it may look into secrets; the words name the secret."""
    wanted = spec(secrets=(SecretVariable("TOKEN", "deploy", "token"),))
    if isinstance(any_rig, PodsRig):
        monkeypatch.setattr(deadlines, "SHORT_SECONDS", 0.3)
        any_rig.cluster.script = lambda _pod, _container: Script(waiting="CreateContainerConfigError", message='secret "deploy" not found')
    created = await any_rig.create(wanted)
    if created.refused:
        [(name, why, cause, _)] = created.refused
        assert (name, cause) == (wanted.identity.name, Cause.REJECTED)
        assert "deploy/token" in why
        assert "TOKEN" in why
        assert any_rig.worker(name) is None
    else:
        worker = await any_rig.ends(wanted)
        assert (worker.cause, worker.started) == (Cause.REJECTED, 0)
        assert "deploy" in worker.error


async def test_a_workspace_lives_until_nobody_uses_it(any_rig: Rig) -> None:
    """Deleting it is noted at once and done when the last unfinished worker that names it has ended."""

    async def there() -> bool:
        if isinstance(any_rig.backend, MemoryBackend):
            return "shared" in any_rig.backend.workspaces
        if isinstance(any_rig, ClusterRig):
            # A cluster lets a claim go when the last pod that mounts it is deleted, even one that has ended.
            return any(claim.metadata.deletion_timestamp is None for claim in (await any_rig.client.list(kinds.CLAIMS)).items)
        return (any_rig.root / "workspaces" / "shared").exists()

    wanted = spec(command=LONG, workspace="shared")
    await any_rig.create(wanted)
    await any_rig.runs(wanted)
    await any_rig.backend.delete_workspace("shared")
    assert await there()
    await any_rig.backend.stop(wanted.identity.name, "")
    await any_rig.ends(wanted)
    await eventually(there, lambda is_there: not is_there)
    await any_rig.backend.delete_workspace("shared")
    await any_rig.backend.delete_workspace("never-was")


async def test_what_vanishes_is_observed_as_gone(any_rig: Rig) -> None:
    """A removal is an observation, so that every observer knows."""
    wanted = spec()
    await any_rig.run(wanted)
    await any_rig.stop()
    observations = any_rig.backend.observe()
    async for observation in observations:
        if isinstance(observation, Synced):
            await any_rig.backend.remove(wanted.identity.name)
        if isinstance(observation, Gone):
            assert observation.name == wanted.identity.name
            break
    await observations.aclose()  # type: ignore[attr-defined]  # every backend's is a generator
    await any_rig.start()
