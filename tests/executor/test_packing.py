"""How runs are kept in little room: everything comes back, and a large run stays small."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otto_executor.approval import Approval, Decision
from otto_executor.definition import Definition
from otto_executor.progress import Progress
from otto_executor.retry import Failure, FailureCause
from otto_executor.run_state import Cancellation, RunState, fresh
from otto_executor.stage import Phase, StageSpec, StageState, StageStatus, StageType, Worker, WorkerStatus
from otto_executor.stores.object_name import hashed_name, object_name
from otto_executor.stores.packed_journal import LARGE, SMALL, Block, added, bounded, pack, unpack
from otto_executor.stores.packed_state import MOST_BYTES, pack_record, pack_state, unpack_record, unpack_state
from otto_executor.stores.packing import DamagedError, filled, long_names, short_names, template
from otto_executor.usage import Usage

TIMES = st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.from_regex(r"\d{0,12} of \d{1,3} workers ended", fullmatch=True)
COUNTS = st.integers(0, 10_000)
OLD_BLOCK = (
    "eNo1j01uwkAMhYemPUBvwF0gRdmMUBHryJ0xKCLJRB6Hn1vQWVRdUqkQoGfhCqx7jHoidffZz09+7/OW/H4czmAMNoy2e51rnenJz1zPpukoe8"
    "nS8dUzEPth7TbdNNVjkd/34fD1FtQgKPHv7+q52zhaIfmgVFeh97DEMHi84Lbg3DiLsr82SAZrjpJcuTUSlGVEYMaqYcGzbQm4cLXwxbeSCi1a"
    "GU4LKMqejuwYou0kubj14eHpm3cNhiQ5IpGjaF1Jm3xBrooGA63vA/RF0ObQv8La/vMfLiplGA=="
)


def _messages() -> st.SearchStrategy[list[Progress]]:
    one = st.builds(
        Progress,
        sequence=st.just(0),
        stage_id=st.sampled_from(["", "빌드", "b/1"]),
        status=st.sampled_from(StageStatus),
        message=TEXTS,
        at=TIMES,
        percentage=st.integers(0, 100),
        overall=st.integers(0, 100),
        attempt=COUNTS,
        type=st.sampled_from(StageType),
        workers=st.lists(TEXTS, max_size=3).map(tuple) | st.integers(0, 9).map(lambda n: tuple(f"otto-{i}" for i in range(1, n))),
        started_at=st.none() | TIMES,
        ended_at=st.none() | TIMES,
        error=TEXTS,
        cause=st.none() | st.sampled_from(FailureCause),
        exit_code=st.none() | st.integers(-300, 300),
        duration=COUNTS,
        succeeded=COUNTS,
        failed=COUNTS,
        total=COUNTS,
        kept_from=TEXTS,
        usage=st.none() | st.builds(Usage, *(st.integers(low, 2**40) for low in (1, 0, 0, 0, 0))),
    )
    return st.lists(one, min_size=1, max_size=30).map(lambda found: [replace(m, sequence=n) for n, m in enumerate(found, 7)])


@settings(deadline=None)
@given(_messages())
def test_packed_messages_come_back(messages: list[Progress]) -> None:
    """Whatever messages say is the same after unpacking, with times in whole milliseconds."""
    block = pack(messages)
    assert (block.first, block.last) == (messages[0].sequence, messages[-1].sequence)
    assert unpack(block) == messages


@settings(deadline=None)
@given(_messages(), st.integers(1, 30))
def test_messages_may_be_added_in_parts(messages: list[Progress], size: int) -> None:
    """Blocks that grew by and by hold the same as those that were made at once."""
    blocks: tuple[Block, ...] = ()
    for start in range(0, len(messages), size):
        blocks = added(blocks, messages[start : start + size])
    assert [message for block in blocks for message in unpack(block)] == messages


def test_messages_of_before_anybody_was_measured_are_read() -> None:
    """A block of an executor that knew no figures, packed then: upgrades find such ones."""
    block = Block(1, 2, OLD_BLOCK)
    assert unpack(block) == [
        Progress(1, "", StageStatus.RUNNING, "accepted", at=1.0),
        Progress(2, "b", StageStatus.PENDING, "starts now", at=2.0),
    ]


def test_blocks_grow_and_are_put_together() -> None:
    """A block is full with 128 messages; eight full ones become a large one, so few are packed again with a save."""
    messages = [Progress(n, "a", StageStatus.RUNNING, f"{n} of 9000", at=n / 10) for n in range(1, LARGE + SMALL + 6)]
    blocks: tuple[Block, ...] = ()
    for start in range(0, len(messages), 7):
        blocks = added(blocks, messages[start : start + 7])
    assert [block.last - block.first + 1 for block in blocks] == [LARGE, SMALL, 5]
    with pytest.raises(ValueError, match="does not follow"):
        added(blocks, [messages[0]])


def test_messages_find_room_in_any_case() -> None:
    """Where there is too little, words of the oldest are cut, then the oldest are left out, and at last words of the newest are cut."""
    draw = random.Random(1)
    words = ["".join(chr(draw.randrange(97, 123)) for _ in range(2000)) for _ in range(3 * SMALL)]
    messages = [Progress(n, "a", StageStatus.FAILED, text, at=n, error=text) for n, text in enumerate(words, 1)]
    blocks = added((), messages)
    cut = bounded(blocks, 500_000)
    found = [message for block in cut for message in unpack(block)]
    assert sum(len(block.data) for block in cut) <= 500_000
    assert [message.sequence for message in found] == [message.sequence for message in messages]
    assert len(found[0].message) < 2000
    assert found[-SMALL:] == messages[-SMALL:]
    assert bounded(blocks, 300_000)[-1:] == blocks[-1:]
    [newest] = bounded(blocks, 200_000)
    assert len(newest.data) <= 200_000
    assert [message.sequence for message in unpack(newest)] == [message.sequence for message in messages[-SMALL:]]
    [newest] = bounded(blocks, 1000)
    assert unpack(newest)[-1].message.startswith(words[-1][:30])
    assert bounded(blocks, 10_000_000) == blocks


@pytest.mark.parametrize("data", ["", "no base64 …", "AAAA", "eJwDAAAAAAE="], ids=["empty", "text", "bytes", "nothing"])
def test_damaged_text_is_told(data: str) -> None:
    """What was not packed here is refused as damaged."""
    with pytest.raises(DamagedError):
        unpack(Block(1, 2, data))
    with pytest.raises(DamagedError):
        unpack_state(data)
    with pytest.raises(DamagedError):
        unpack_record(data)


@settings(deadline=None)
@given(TEXTS)
def test_numbers_of_texts_come_back(text: str) -> None:
    """A text without its numbers and those give the text again, leading zeros and long numbers too."""
    assert filled(*template(text)) == text


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=5) | st.tuples(TEXTS, st.integers(0, 12)).map(lambda t: [f"{t[0]}{n}" for n in range(1, t[1])]))
def test_short_names_come_back(names: list[str]) -> None:
    """Names in short are the same names."""
    assert long_names(short_names(names)) == tuple(names)


def _state() -> tuple[Definition, RunState]:
    definition = Definition("p", stages=tuple(StageSpec(name, workers=3) for name in ("빌드", "b", "c", "d")))
    state = fresh(definition, 1_700_000_000.123456)
    at = state.created_at
    state.stages["빌드"] = StageState(
        Phase.RUNNING, StageStatus.RUNNING, "1 of 3", 33, 2,
        {2: Worker("w-2", WorkerStatus.FAILED, None, 137, FailureCause.OOM_KILLED, "words"),
         3: Worker("w-3", WorkerStatus.RUNNING, at + 2.5), 1: Worker("other", WorkerStatus.PENDING, room=7)},
        ("w-1", "w-2", "w-3"), at + 1, at + 0.5, at + 0.25, None, Failure(FailureCause.EXIT_CODE, "no", 3), 1, 2, at + 9, True, 4,
    )  # fmt: skip
    state.stages["b"].approval = Approval(("kim",), Decision.APPROVE, "kim", "fine", at + 4)
    state.stages["c"] = StageState(Phase.ENDED, StageStatus.COMPLETED, succeeded=3, failed=1, kept_from="old", ended_at=at + 3)
    state.cancellation, state.failed_stages, state.error = Cancellation("by kim", at + 4, after_failure=True), ["b"], "no"
    state.status, state.ended_at, state.sequence, state.clock_set_by = StageStatus.FAILED, at + 5.000001, 12, -3.25
    return definition, state


def test_a_packed_state_comes_back() -> None:
    """Every field of every stage and worker is the same, times to the millisecond; the record has definition, request and messages too."""
    definition, state = _state()
    back = unpack_state(pack_state(state))
    for stage_id, stage in back.stages.items():
        for field in ("confirmed_at", "started_at", "attempt_started_at", "ended_at", "wake_at"):
            assert getattr(stage, field) == pytest.approx(getattr(state.stages[stage_id], field), abs=0.0006)
            setattr(stage, field, getattr(state.stages[stage_id], field))
    assert back.stages["빌드"].workers[3].running_since == pytest.approx(state.created_at + 2.5, abs=0.0006)
    back.stages["빌드"].workers[3].running_since = state.created_at + 2.5
    assert back == state
    message = Progress(1, "", StageStatus.RUNNING, "accepted", at=1.5)
    found = unpack_record(pack_record(definition, b"\0\xff", state, [message]))
    assert found == (definition, b"\0\xff", unpack_state(pack_state(state)), [message])


def test_words_are_cut_before_a_state_is_too_large() -> None:
    """A thousand workers that fail with a page of words each are kept, their words cut."""
    draw = random.Random(1)
    workers = {
        n: Worker(f"w{n}", WorkerStatus.FAILED, None, 1, FailureCause.EXIT_CODE, "".join(chr(draw.randrange(33, 126)) for _ in range(2000)))
        for n in range(1, 1001)
    }
    state = RunState(1.5, {"a": StageState(workers=workers)})
    text = pack_state(state)
    assert len(text) <= MOST_BYTES
    back = unpack_state(text).stages["a"].workers
    assert len(back) == 1000
    assert all(workers[n].words.startswith(worker.words[:-1]) and worker.words for n, worker in back.items())


def test_a_large_run_stays_small() -> None:
    """Of 100 stages with 100 workers each, state and messages take below 150 KB, at their largest as well as at the end."""
    draw, at = random.Random(1), 1_764_034_000.0
    names: dict[str, tuple[str, ...]] = {}
    messages: list[Progress] = []
    for n in range(100):
        digest = f"{draw.getrandbits(40):010x}"
        names[f"stage {n} 빌드"] = tuple(f"otto-pipeline-stage-{n}-{digest}-{i}" for i in range(1, 101))
    state = RunState(at, {stage_id: StageState(names=found) for stage_id, found in names.items()})
    ended, order = dict.fromkeys(names, 0), [stage_id for stage_id in names for _ in range(100)]
    draw.shuffle(order)
    for stage_id in order:  # the worst case: all stages at once, a message for each worker's end
        at += draw.expovariate(50)
        ended[stage_id] += 1
        words = f"{ended[stage_id]} of 100 workers ended, {draw.randrange(100)} run"
        messages.append(
            Progress(len(messages) + 1, stage_id, StageStatus.RUNNING, words, at, ended[stage_id], 0, 1, StageType.TEST, names[stage_id],
                     state.created_at + 1, None, "", None, None, round(at - state.created_at), ended[stage_id], 0, 100)
        )  # fmt: skip
    for stage_id, stage in state.stages.items():
        stage.workers = {i: Worker(names[stage_id][i - 1], WorkerStatus.RUNNING, at + draw.random()) for i in range(1, 101)}
    blocks = added((), messages)
    assert len(messages) == 10_000
    assert sum(len(block.data) for block in blocks) + len(pack_state(state)) < 150_000
    assert [message.sequence for block in blocks for message in unpack(block)] == list(range(1, 10_001))


@pytest.mark.parametrize("pipeline_id", ["build-1", "a", "0", "x" * 63])
def test_an_id_that_can_be_a_name_is_one(pipeline_id: str) -> None:
    """What kubectl can name is called so in kubectl."""
    assert object_name(pipeline_id) == pipeline_id


@settings(deadline=None)
@given(st.text(min_size=1, max_size=90).filter(lambda text: text.isprintable()))
def test_any_id_has_a_name(pipeline_id: str) -> None:
    """It is a DNS label, always the same, and no other id's: not even that of an id that looks like it."""
    name = object_name(pipeline_id)
    assert name == object_name(pipeline_id)
    assert len(name) <= 63
    assert name.strip("-") == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    hashed = hashed_name(pipeline_id)
    assert object_name(hashed) != hashed
