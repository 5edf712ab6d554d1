"""The core of a run under random graphs, outcomes, orders of events, crashes, losses and cancellations."""

from collections import defaultdict
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otto_executor.approval import Decision
from otto_executor.decisions import Action, Kind, Patience
from otto_executor.definition import Definition
from otto_executor.orders import Created, Refused, WorkerReport
from otto_executor.progress import Progress
from otto_executor.retry import Failure, FailureCause, RetryPolicy
from otto_executor.run import Run
from otto_executor.run_state import RunState
from otto_executor.stage import Phase, RunCondition, StageSpec, StageState, StageStatus, WorkerStatus

ENDINGS = {StageStatus.COMPLETED, StageStatus.FAILED, StageStatus.CANCELLED, StageStatus.SKIPPED}
Key = tuple[str, int, int]


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """Up to seven stages in a random DAG with random conditions, retries, approvals and numbers of workers."""
    count = draw(st.integers(1, 7))
    stages = []
    for number in range(count):
        earlier = [f"s{n}" for n in range(number)]
        approvers = draw(st.sampled_from([None, None, None, (), ("kim",)]))
        stages.append(
            StageSpec(
                stage_id=f"s{number}",
                workers=draw(st.integers(0 if approvers is not None else 1, 3)),
                depends_on=tuple(draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True))) if earlier else (),
                run_if=draw(st.sampled_from([RunCondition.ON_SUCCESS, RunCondition.ON_SUCCESS, *RunCondition])),
                ignore_errors=draw(st.booleans()),
                approvers=approvers,
                timeout=50.0,
                approval_timeout=500.0,
                retry=RetryPolicy(retries=draw(st.integers(0, 2)), delay=draw(st.sampled_from([0.0, 5.0])), jitter=0.5),
            )
        )
    order = draw(st.permutations(stages))
    return Definition("p", stages=tuple(order), fail_fast=draw(st.booleans()))


class World:
    """A scaler without a network around one run: it does what the run wants, in any order, and may lose workers."""

    def __init__(self, definition: Definition, data: st.DataObject) -> None:
        self.data = data
        self.definition = definition
        self.now = 1000.0
        self.watch = 1
        self.specs = {stage.stage_id: stage for stage in definition.stages}
        self.workers: dict[Key, WorkerReport] = {}
        self.created: list[Key] = []
        self.said: list[Progress] = []
        self.losses = self.crashes = 0
        self.kept = self.kept_stages()
        self.run = Run.begun(definition, self.now, Patience(), lambda: 0.5, self.kept)
        self.state = b""
        self.cancelled = False
        self.store()

    def kept_stages(self) -> dict[str, StageState]:
        """In one case of four it is a rerun, in which some stages that follow from nothing else are kept."""
        kept: dict[str, StageState] = {}
        if self.data.draw(st.integers(0, 3)):
            return kept
        for stage_id in self.definition.graph().order:
            if kept.keys() >= set(self.specs[stage_id].depends_on) and self.data.draw(st.booleans()):
                kept[stage_id] = StageState(Phase.ENDED, StageStatus.COMPLETED, attempt=1, ended_at=900.0, kept_from="earlier")
        return kept

    def store(self) -> None:
        step = self.run.take()
        if step is not None:
            self.said += step.progress
            self.state = msgspec.json.encode(self.run.state)
            self.check()

    def check(self) -> None:
        """What has to hold at every moment."""
        states = self.run.state.stages
        for action in self.run.wanted():
            if action.kind is Kind.START:
                assert all(states[n].ended for n in self.specs[action.stage_id].depends_on)
        for (stage_id, number, _), worker in self.workers.items():
            if not worker.status.ended:
                assert not states[stage_id].ended
                assert number == states[stage_id].attempt, "two attempts at a time"

    def choices(self) -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = [("act", action) for action in sorted(self.run.wanted(), key=repr)]
        found += [("worker", key) for key, worker in self.workers.items() if not worker.status.ended]
        found += [("approve", stage_id) for stage_id in self.run.state.awaiting_approval()]
        if self.run.wake_at(watching=True) is not None:
            found.append(("tick", None))
        return found

    def go(self) -> None:
        """One event."""
        choices = self.choices()
        assert choices, "the run waits for nothing and has not ended"
        extra = self.data.draw(st.integers(0, 40))
        if extra == 0 and self.crashes < 3:
            self.crash()
        elif extra == 1 and self.losses < 2:
            self.lose()
        elif extra == 2:
            self.run.cancel("cancelled by a test", self.now)
            self.cancelled = True
        elif extra == 3:
            step = self.data.draw(st.sampled_from([3600.0, -3600.0, 86400.0, -86400.0]))
            self.now += step
            self.run.clock_set(step)
        else:
            name, what = self.data.draw(st.sampled_from(choices))
            getattr(self, name)(what)
        self.now += 1.0
        self.store()

    def act(self, action: Action) -> None:
        spec = self.specs[action.stage_id]
        if action.kind is Kind.START:
            order = self.run.order(action.stage_id)
            assert order.attempt == action.attempt
            kind = self.data.draw(st.sampled_from(["created", "created", "created", "part", "refused", "fault"]))
            count = spec.workers if kind == "created" else spec.workers - 1 if kind == "part" else 0
            waiting = self.data.draw(st.sampled_from([0, 0, count, min(1, count)]))
            for index in range(1, count + 1):
                self.create((action.stage_id, action.attempt, index), room=9 if index > count - waiting else 0)
            names = tuple(f"{action.stage_id}-{action.attempt}-{i}" for i in range(1, count + 1))
            cause = FailureCause.INTERNAL if kind == "fault" else FailureCause.REJECTED
            outcome = Created(names, waiting, 9) if count == spec.workers else Refused(Failure(cause, "refused"), names)
            self.run.started(action.stage_id, action.attempt, outcome, self.now, self.watch)
            return
        last = action.round + 1 == Patience().stops  # who ignores that one too is given up by the run, and may go on after its end
        for key, worker in list(self.workers.items()):
            if key[0] == action.stage_id and not worker.status.ended and (last or self.data.draw(st.booleans())):
                self.end(key, 143, FailureCause.CANCELLED)
        reports = [worker for key, worker in self.workers.items() if key[0] == action.stage_id]
        self.run.stopped(action.stage_id, action.attempt, reports, self.now)

    def create(self, key: Key, room: int) -> None:
        if key not in self.workers:
            assert key not in self.created, "created again after it was lost"
            self.created.append(key)
            self.workers[key] = WorkerReport("p", *key, "-".join(map(str, key)), WorkerStatus.PENDING, room=room)
            self.run.reported([self.workers[key]], self.now)

    def worker(self, key: Key) -> None:
        worker = self.workers[key]
        if worker.status is WorkerStatus.PENDING and self.data.draw(st.booleans()):
            self.workers[key] = WorkerReport("p", *key, worker.name, WorkerStatus.RUNNING)
            self.run.reported([self.workers[key]], self.now)
            return
        code, cause = self.data.draw(
            st.sampled_from([(0, None), (0, None), (0, None), (3, FailureCause.EXIT_CODE), (137, FailureCause.EVICTED)])
        )
        self.end(key, code, cause)

    def end(self, key: Key, code: int, cause: FailureCause | None) -> None:
        status = WorkerStatus.SUCCEEDED if code == 0 else WorkerStatus.FAILED
        self.workers[key] = WorkerReport("p", *key, self.workers[key].name, status, code, cause)
        self.run.reported([self.workers[key]], self.now)

    def approve(self, stage_id: str) -> None:
        self.run.approve(stage_id, self.data.draw(st.sampled_from(list(Decision))), "kim", "", self.now)

    def tick(self, _: object) -> None:
        due = self.run.wake_at(watching=True)
        assert due is not None
        self.now = max(self.now, due)
        self.run.tick(self.now, watching=True)

    def lose(self) -> None:
        """A worker vanishes while nobody watches."""
        self.losses += 1
        live = [key for key, worker in self.workers.items() if not worker.status.ended]
        if live:
            del self.workers[self.data.draw(st.sampled_from(live))]
        self.snapshot()

    def crash(self) -> None:
        """The process dies; what was not stored is gone."""
        self.crashes += 1
        self.run = Run(self.definition, msgspec.json.decode(self.state, type=RunState), Patience(), lambda: 0.5)
        self.snapshot()

    def snapshot(self) -> None:
        self.watch += 1
        self.run.reported(list(self.workers.values()), self.now)
        self.run.synced(set(self.workers), self.watch, self.now)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(definitions(), st.data())
def test_every_run_ends_right(definition: Definition, data: st.DataObject) -> None:
    """Each stage ends once, after its dependencies; one attempt at a time; nothing is created twice; messages are numbered."""
    world = World(definition, data)
    for _ in range(2000):
        if world.run.state.ended:
            break
        world.go()
    state, said = world.run.state, world.said
    assert state.ended
    assert [p.sequence for p in said] == list(range(1, len(said) + 1))
    assert [p for p in said if p.final] == [said[-1]]
    assert said[-1].overall == 100
    ends = defaultdict(list)
    for p in said:
        if p.stage_id and p.status in ENDINGS:
            ends[p.stage_id].append(p.sequence)
    assert {stage: len(at) for stage, at in ends.items()} == dict.fromkeys(world.specs, 1)
    assert all(a.overall <= b.overall for a, b in pairwise(said)), "overall progress went back"
    first_running: dict[str, int] = {}
    last: dict[str, Progress] = {}
    for p in said:
        if not p.stage_id:
            continue
        if p.status is StageStatus.RUNNING:
            first_running.setdefault(p.stage_id, p.sequence)
        before = last.get(p.stage_id)
        if before is not None:
            assert (before.status, before.percentage) != (p.status, p.percentage), "existing clients would drop it"
            if before.attempt == p.attempt:
                assert before.percentage <= p.percentage
        last[p.stage_id] = p
    for stage_id, sequence in first_running.items():
        assert all(ends[needed][0] < sequence for needed in world.specs[stage_id].depends_on)
    for stage_id, stage in state.stages.items():
        if stage.status is StageStatus.CANCELLED and world.specs[stage_id].run_if is not RunCondition.ON_SUCCESS:
            assert world.cancelled, "fail-fast has cancelled what is there for a failure"
    failed = any(s.status is StageStatus.FAILED for s in state.stages.values())
    expected = StageStatus.FAILED if failed else StageStatus.CANCELLED if state.cancellation else StageStatus.COMPLETED
    assert said[-1].status is state.status is expected
    assert len(world.created) == len(set(world.created))
    assert not {key[0] for key in world.created} & world.kept.keys()
    assert {p.stage_id for p in said if p.kept_from} == world.kept.keys()
