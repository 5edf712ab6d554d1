"""When something is done about a worker whose pod does not change, and how many pods are created at once."""

import asyncio
from datetime import UTC, datetime

import pytest

from otto_kubekit.errors import Status, ThrottledError
from otto_scaler.backends.kubernetes import marks
from otto_scaler.backends.kubernetes.deadlines import LOST_SECONDS, PULL_SECONDS, REST_SECONDS, SHORT_SECONDS, Action, Deadlines, Moment
from otto_scaler.backends.kubernetes.pace import FIRST, LEAST, MOST, Pace
from otto_scaler.worker import Cause

from .conftest import spec
from .pod_reports import CREATED, STARTED, Report, condition, deleted, marked, pod, read, running, terminated, waiting

CREATED_AT = datetime.fromisoformat(CREATED).timestamp()
STARTED_AT = datetime.fromisoformat(STARTED).timestamp()
PENDING = 300.0


class Clock:
    """Looks at a pod at given times; the steady clock is the time of day less a constant."""

    def __init__(self) -> None:
        self.deadlines = Deadlines(PENDING)

    def look(self, report: Report, at: float, *, live: bool = True, skew: float = 0.0) -> tuple[float, Action, Cause] | None:
        """What is due `at` seconds after the pod's creation; when, in the same seconds."""
        self.deadlines.look(read(report), Moment(at, CREATED_AT + at + skew, live))
        due = self.deadlines.due
        return None if due is None else (due.at, due.action, due.cause)


def test_a_pending_worker_is_given_up_with_the_cause_the_cluster_gives() -> None:
    """After the pending timeout from when it was seen, whatever it waits for by then."""
    clock = Clock()
    assert clock.look(pod(node=""), 1.0) == (1.0 + PENDING, Action.GIVE_UP, Cause.UNSCHEDULABLE)
    assert clock.look(pod(containerStatuses=[waiting("ContainerCreating")]), 50.0) == (1.0 + PENDING, Action.GIVE_UP, Cause.INTERNAL)


@pytest.mark.parametrize(
    ("reason", "seconds", "cause"),
    [
        ("ErrImagePull", PULL_SECONDS, Cause.IMAGE_PULL),
        ("InvalidImageName", 0.0, Cause.IMAGE_PULL),
        ("CreateContainerConfigError", SHORT_SECONDS, Cause.REJECTED),
    ],
)
def test_some_trouble_is_borne_for_less_time(reason: str, seconds: float, cause: Cause) -> None:
    """From when it was seen first, also while the kubelet tries again."""
    clock = Clock()
    clock.look(pod(node=""), 0.0)
    clock.look(pod(containerStatuses=[waiting(reason)]), 20.0)
    other = "ImagePullBackOff" if reason == "ErrImagePull" else reason
    assert clock.look(pod(containerStatuses=[waiting(other)]), 30.0) == (20.0 + seconds, Action.GIVE_UP, cause)


def test_trouble_that_passes_is_forgotten() -> None:
    """A pull that works after all leaves the whole pending time, and a later failure its own."""
    clock = Clock()
    clock.look(pod(containerStatuses=[waiting("ErrImagePull")]), 10.0)
    assert clock.look(pod(containerStatuses=[waiting("ContainerCreating")]), 20.0) == (310.0, Action.GIVE_UP, Cause.INTERNAL)
    assert clock.look(pod(containerStatuses=[waiting("ErrImagePull")]), 30.0) == (90.0, Action.GIVE_UP, Cause.IMAGE_PULL)


def test_a_held_worker_may_wait_for_ever() -> None:
    """Its time begins when it is let run."""
    clock = Clock()
    assert clock.look(pod(node="", held=True), 0.0) is None
    assert clock.look(pod(node=""), 5000.0) == (5300.0, Action.GIVE_UP, Cause.UNSCHEDULABLE)


def test_the_timeout_counts_from_the_start() -> None:
    """Not from the pod's creation: pulls and queues are no fault of the worker's. The checkout is part of it."""
    clock = Clock()
    assert clock.look(pod(phase="Running", containerStatuses=[running()]), 100.0) == (130.0, Action.TIME_OUT, Cause.TIMEOUT)
    clock, wanted = Clock(), spec(repository="https://git.example.com/a.git", timeout=30.0)
    checks_out = pod(wanted, initContainerStatuses=[running("checkout")], containerStatuses=[waiting("PodInitializing")])
    assert clock.look(checks_out, 100.0) == (130.0, Action.TIME_OUT, Cause.TIMEOUT)
    pulls = pod(wanted, initContainerStatuses=[terminated(0, name="checkout")], containerStatuses=[waiting("InvalidImageName")])
    assert clock.look(pulls, 110.0) == (110.0, Action.GIVE_UP, Cause.IMAGE_PULL)


def test_what_a_new_service_finds_is_as_old_as_it_is() -> None:
    """Times of before count, by what the cluster has written down; what is seen as it happens does not care how clocks are set."""
    report = pod(phase="Running", containerStatuses=[running()])
    assert Clock().look(report, 100.0, live=False) == (2.0 + 30.0, Action.TIME_OUT, Cause.TIMEOUT)
    assert Clock().look(report, 100.0, skew=7200.0) == (130.0, Action.TIME_OUT, Cause.TIMEOUT)
    assert Clock().look(pod(node=""), 100.0, live=False) == (PENDING, Action.GIVE_UP, Cause.UNSCHEDULABLE)
    admitted = pod(node="")
    admitted["metadata"]["annotations"][marks.STARTED] = datetime.fromtimestamp(CREATED_AT + 90, UTC).isoformat()
    assert Clock().look(admitted, 100.0, live=False) == (90.0 + PENDING, Action.GIVE_UP, Cause.UNSCHEDULABLE)


def test_a_worker_that_is_stopped_or_has_ended_needs_nothing() -> None:
    """Nothing is due any more."""
    assert Clock().look(marked(pod(phase="Running", containerStatuses=[running()]), "CANCELLED", ""), 0.0) is None
    assert Clock().look(pod(phase="Failed", containerStatuses=[terminated(1)]), 0.0) is None


def test_a_pod_that_is_to_stop_and_whose_node_does_not_answer_is_lost() -> None:
    """A while after its grace, counted from when it was told to stop, with the cause of that; as long as the node answers it has time."""
    clock = Clock()
    report = marked(pod(phase="Running", containerStatuses=[running()]), "CANCELLED", "enough")
    report["spec"]["terminationGracePeriodSeconds"] = 7
    assert clock.look(report, 100.0) is None
    report["status"]["conditions"] = [condition("Ready", "False", ""), condition("ContainersReady", "True", "")]
    assert clock.look(report, 140.0) == (100.0 + 7 + LOST_SECONDS, Action.LOSE, Cause.CANCELLED)
    assert clock.deadlines.due is not None
    assert clock.deadlines.due.words == "enough; its node node-1 does not answer"
    report["status"]["conditions"] = [condition("Ready", "True", "")]
    assert clock.look(report, 141.0) is None


def test_a_deleted_pod_whose_node_does_not_answer_is_lost() -> None:
    """A while after the time at which it should have been gone, counted once, whatever is heard of it meanwhile."""
    clock = Clock()
    report = deleted(pod(phase="Running", containerStatuses=[running()]), "2026-11-25T10:02:00Z")
    assert clock.look(report, 110.0) == (120.0 + LOST_SECONDS, Action.LOSE, Cause.NODE_LOST)
    report["status"]["conditions"] = [condition("Ready", "False", "NodeNotReady")]
    assert clock.look(report, 130.0) == (120.0 + LOST_SECONDS, Action.LOSE, Cause.NODE_LOST)
    assert Clock().look(report, 500.0, live=False) == (120.0 + LOST_SECONDS, Action.LOSE, Cause.NODE_LOST)
    assert Clock().look(report, 500.0) == (500.0 + LOST_SECONDS, Action.LOSE, Cause.NODE_LOST)


class Turns:
    """Calls that take as long as a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = Pace(lambda: self.now)
        self.under_way = self.most = 0

    async def call(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        async with self.pace.turn():
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            self.now += seconds
            if error is not None:
                raise error


async def test_good_answers_make_room_for_more() -> None:
    """Up to the most; never more than the limit at a time, and all get their turn."""
    turns = Turns()
    await asyncio.gather(*(turns.call() for _ in range(20)))
    assert turns.most == FIRST
    await asyncio.gather(*(turns.call() for _ in range(4000)))
    assert turns.pace.limit == MOST
    assert turns.most <= MOST


async def test_bad_answers_halve_the_room_once() -> None:
    """Throttled, failed or slow: half for all that were under way together; never less than one."""
    turns = Turns()
    throttled = ThrottledError("POST", Status(code=429))
    await asyncio.gather(*(turns.call(error=throttled) for _ in range(int(FIRST))), return_exceptions=True)
    assert turns.pace.limit == FIRST / 2
    turns.now += 1
    await turns.call(seconds=5.0)
    assert turns.pace.limit == FIRST / 4
    for _ in range(10):
        turns.now += 1
        await asyncio.gather(turns.call(error=throttled), return_exceptions=True)
    assert turns.pace.limit == LEAST


async def test_who_gives_up_waiting_takes_nobodys_turn() -> None:
    """A cancelled caller leaves the queue, whether or not its turn had just come."""
    turns = Turns()
    turns.pace._limit = 1.0
    async with turns.pace.turn():
        waiting_ones = [asyncio.create_task(turns.call()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting_ones[1].cancel()
        await asyncio.sleep(0)
    waiting_ones[0].cancel()
    await asyncio.gather(*waiting_ones, return_exceptions=True)
    assert waiting_ones[2].exception() is None
    async with asyncio.timeout(5):
        await turns.call()


def test_what_runs_beside_an_ended_worker_is_stopped() -> None:
    """A few seconds after the worker's own container has ended, in time that began before this service too; nothing else is due then."""
    clock = Clock()
    rest = pod(phase="Running", containerStatuses=[terminated(0), running("proxy")])
    assert clock.look(rest, 9.0) == (9.0 + REST_SECONDS, Action.STOP_REST, Cause.UNSPECIFIED)
    assert clock.look(rest, 12.0) == (9.0 + REST_SECONDS, Action.STOP_REST, Cause.UNSPECIFIED)
    assert Clock().look(rest, 100.0, live=False) == (9.0 + REST_SECONDS, Action.STOP_REST, Cause.UNSPECIFIED)
    rest["metadata"]["annotations"][marks.REST_STOPPED] = "proxy"
    assert clock.look(rest, 13.0) is None
    beside = pod(phase="Running", containerStatuses=[running(), terminated(1, name="proxy")])
    assert (due := Clock().look(beside, 9.0)) is not None
    assert due[1] is Action.TIME_OUT
