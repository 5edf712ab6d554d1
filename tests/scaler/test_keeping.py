"""How long finished workers are kept, and for whom; and what callers are told of creations and stops that failed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from otto_scaler.errors import AwayError, BackendError, RefusedError
from otto_scaler.keeping import Keeping, Need, Verdict
from otto_scaler.testing import MemoryBackend
from otto_scaler.worker import Cause, State, Worker
from ottoscaler.v1 import ottoscaler_service_pb2 as pb
from ottoscaler.v1.worker_pb2 import FailureCause

from .conftest import DEFAULT_LIMITS, memory_rig, serving, settings_at, spec, until

LONG = ("sleep", "300")
HOUR, DAY = 3600.0, 86_400.0


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def finished(task: str = "task", cause: Cause = Cause.UNSPECIFIED, **fields: Any) -> Worker:
    """A finished worker; a stage's with `pipeline_id` and `stage_id`."""
    identity = spec(task, **fields).identity
    return Worker(
        identity, f"uid of {identity.name}", State.FAILED if cause is not Cause.UNSPECIFIED else State.SUCCEEDED, created=1, cause=cause
    )


STAGES = finished(pipeline_id="p", stage_id="s")


def keeping(time: Time) -> Keeping:
    kept = Keeping(ttl=HOUR, limit=DAY, peer_grace=60, clock=time)
    kept.begin()
    return kept


@pytest.mark.parametrize(
    ("worker", "taken", "verdict"),
    [
        (finished(), Need(0), Verdict.KEEP),
        (finished(), Need.LINES, Verdict.REMOVE),
        (STAGES, Need.LINES, Verdict.KEEP),
        (STAGES, Need.END, Verdict.KEEP),
        (STAGES, Need.LINES | Need.END, Verdict.REMOVE),
        (finished(cause=Cause.REJECTED), Need(0), Verdict.REMOVE),
        (finished(cause=Cause.DELETED, pipeline_id="p", stage_id="s"), Need(0), Verdict.KEEP),
        (finished(cause=Cause.DELETED, pipeline_id="p", stage_id="s"), Need.END, Verdict.REMOVE),
    ],
    ids=["nobody", "a task's lines", "a stage's lines", "a stage's end", "both", "has no lines", "end not taken", "end taken"],
)
def test_a_worker_is_kept_for_whoever_needs_something_of_it(worker: Worker, taken: Need, verdict: Verdict) -> None:
    """A stage's worker is needed by its pipeline too: deleted before, its stage would seem to have vanished, and would run again."""
    time = Time()
    kept = keeping(time)
    kept.ended(worker, age=0)
    for what in taken:
        kept.taken(worker, what)
    assert kept.verdict(worker) is Verdict.KEEP
    time.now += HOUR
    assert kept.verdict(worker) is verdict


def test_nobody_is_waited_for_longer_than_the_limit() -> None:
    """Whatever is not taken until then is given up."""
    time = Time()
    kept = keeping(time)
    time.now += 100
    kept.ended(STAGES, age=0)
    time.now += DAY - 1
    assert kept.verdict(STAGES) is Verdict.KEEP
    time.now += 1
    assert kept.verdict(STAGES) is Verdict.GIVE_UP


def test_what_ended_long_before_this_service_began_is_waited_for() -> None:
    """The limit counts from when those who need it could see it; how long it stays visible counts from its end."""
    time = Time()
    kept = Keeping(ttl=HOUR, limit=DAY, peer_grace=60, clock=time)
    kept.ended(STAGES, age=10 * DAY)
    time.now += 5
    kept.begin()
    time.now += DAY + 59
    assert kept.verdict(STAGES) is Verdict.KEEP
    kept.taken(STAGES, Need.LINES | Need.END)
    assert kept.verdict(STAGES) is Verdict.REMOVE


def test_a_release_is_of_one_worker_not_of_a_name() -> None:
    """The next worker of that name has lines and an end of its own."""
    time = Time()
    kept = keeping(time)
    first, second = finished(), replace(finished(), uid="another")
    kept.ended(first, age=0)
    kept.taken(first, Need.LINES)
    kept.forget(first)
    kept.ended(second, age=0)
    time.now += HOUR
    assert kept.verdict(second) is Verdict.KEEP
    assert kept.verdict(first) is Verdict.KEEP


async def test_a_clock_that_is_put_forward_makes_nothing_old() -> None:
    """Two days on the wall in a moment: an unreleased worker stays."""
    wall, backend = [1_700_000_000 * 10**9], MemoryBackend()
    async with memory_rig(replace(DEFAULT_LIMITS, finished_ttl=0.05, unreleased_limit=DAY), backend) as rig:
        rig.fleet._clock = lambda: wall[0]
        waits, goes = await rig.run(spec("waits")), await rig.run(spec("goes"))
        wall[0] += 2 * 86_400 * 10**9
        await rig.fleet.release([goes.name])
        await until(lambda: rig.worker(goes.name) is None)
        assert rig.worker(waits.name) is waits


async def test_what_ended_while_the_service_was_away_is_not_deleted_at_its_start() -> None:
    """Though it ended longer ago than anything is waited for: nobody could have seen it."""
    backend, wanted = MemoryBackend(), spec("a", command=LONG, pipeline_id="p", stage_id="s")
    limits = replace(DEFAULT_LIMITS, finished_ttl=0.05, unreleased_limit=0.3)
    async with memory_rig(limits, backend) as rig:
        await rig.create(wanted)
        await rig.runs(wanted)
    backend.finish(wanted.identity.name)
    backend.workers[wanted.identity.name] = replace(backend.workers[wanted.identity.name], ended=10**9)
    async with memory_rig(replace(limits, peer_grace=3600.0), backend) as rig:
        other = await rig.run(spec("b"))
        await rig.fleet.release([other.name])
        await until(lambda: rig.worker(other.name) is None)
        assert rig.worker(wanted.identity.name) is not None
        await rig.fleet.release([wanted.identity.name], Need.LINES)
        await rig.fleet.release([wanted.identity.name], Need.END)
        await until(lambda: rig.worker(wanted.identity.name) is None)


async def test_release_says_for_whom(tmp_path: Path) -> None:
    """An older caller, who says nothing, means the lines; a releaser that is unknown is refused."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path, finished_ttl=0.05, unreleased_limit=3600.0), backend) as (stub, _, _):
        request = pb.ScaleRequest(task_id="t", worker_count=1)
        request.worker.command.append("true")
        request.worker.pipeline_id, request.worker.stage_id = "p", "s"
        [name] = (await stub.ScaleUp(request)).worker_pod_names
        await until(lambda: backend.workers[name].finished)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ReleaseWorkers(pb.ReleaseWorkersRequest(worker_pod_names=[name], releaser=77))  # type: ignore[arg-type]  # a number that no release knows
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await stub.ReleaseWorkers(pb.ReleaseWorkersRequest(worker_pod_names=[name]))).released_count == 1
        again = await stub.ScaleUp(request)
        assert again.status == pb.ScaleResponse.ALREADY_PROCESSED
        await stub.ReleaseWorkers(pb.ReleaseWorkersRequest(worker_pod_names=[name], releaser=pb.RELEASER_PIPELINE))
        await until(lambda: name not in backend.workers)


async def test_a_backend_that_does_not_answer_is_no_refusal(tmp_path: Path) -> None:
    """The caller is told to repeat; then those that were created are there already, and the others are created."""
    backend = MemoryBackend()
    names = [spec("t", index=n, count=2).identity.name for n in (1, 2)]
    backend.faults[names[0]] = AwayError("the cluster can't be reached")
    async with serving(settings_at(tmp_path, max_workers=2), backend) as (stub, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ScaleUp(pb.ScaleRequest(task_id="t", worker_count=2))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "the cluster can't be reached; repeat the call" in str(raised.value.details())
        backend.faults.clear()
        answer = await stub.ScaleUp(pb.ScaleRequest(task_id="t", worker_count=2))
        assert (answer.status, answer.processed_count) == (pb.ScaleResponse.SUCCESS, 1)
        assert list(answer.worker_pod_names) == names


async def test_a_creation_says_why_each_worker_was_refused(tmp_path: Path) -> None:
    """With a typed cause for each: what is the request's fault, and what is nobody's, however it came about."""
    backend = MemoryBackend()
    names = [spec("t", index=n, count=4).identity.name for n in range(1, 5)]
    backend.refusals[names[0]] = "no such secret"
    backend.faults[names[1]] = RefusedError("the disk is full", Cause.INTERNAL)
    backend.faults[names[2]] = RuntimeError("private")
    async with serving(settings_at(tmp_path), backend) as (stub, _, _):
        answer = await stub.ScaleUp(pb.ScaleRequest(task_id="t", worker_count=4))
        assert answer.status == pb.ScaleResponse.PARTIAL_SUCCESS
        assert [(r.worker_pod_name, FailureCause.Name(r.cause)) for r in answer.refusals] == [
            (names[0], "FAILURE_CAUSE_REJECTED"),
            (names[1], "FAILURE_CAUSE_INTERNAL"),
            (names[2], "FAILURE_CAUSE_INTERNAL"),
        ]
        assert [r.reason for r in answer.refusals[:2]] == ["no such secret", "the disk is full"]
        assert "private" not in answer.message
        assert "error id" in answer.refusals[2].reason
        assert list(answer.worker_pod_names) == [names[3]]


@pytest.mark.parametrize(("broken", "status"), [(1, pb.ScaleResponse.PARTIAL_SUCCESS), (2, pb.ScaleResponse.FAILED)], ids=["one", "all"])
async def test_a_stop_that_failed_is_no_success(tmp_path: Path, broken: int, status: int) -> None:
    """Called a success, nobody would ask again, and the worker would run on."""
    backend = MemoryBackend()
    async with serving(settings_at(tmp_path), backend) as (stub, _, _):
        request = pb.ScaleRequest(task_id="t", worker_count=2)
        request.worker.command.extend(LONG)
        names = (await stub.ScaleUp(request)).worker_pod_names
        for name in names[:broken]:
            backend.faults[name] = BackendError("the stop could not be noted: No space left on device")
        down = pb.ScaleRequest(task_id="t", worker_count=0)
        answer = await stub.ScaleDown(down)
        assert answer.status == status
        assert answer.processed_count == 2 - broken
        assert all(name in answer.message for name in names[:broken])
        backend.faults.clear()
        assert (await stub.ScaleDown(down)).status == pb.ScaleResponse.SUCCESS
        await until(lambda: all(worker.finished for worker in backend.workers.values()))


async def test_one_worker_that_breaks_the_backend_ends_nobody_else() -> None:
    """Whatever is raised for it."""
    async with memory_rig() as rig:
        bad, good = spec("bad"), spec("good", command=LONG)
        rig.memory.faults[bad.identity.name] = OSError(24, "Too many open files")
        assert [refusal.cause for refusal in (await rig.create(bad)).refused] == [Cause.INTERNAL]
        await rig.create(good)
        await rig.runs(good)
