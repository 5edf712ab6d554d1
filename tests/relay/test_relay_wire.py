"""Bytes that we write by hand are the messages of the contract."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otto_relay import wire
from otto_relay.blocks import BLOCK_BYTES
from otto_relay.encoder import Encoder, Fresh
from otto_relay.levels import LEVELS
from otto_relay.parsing import parse
from otto_relay.records import LEVEL_SHIFT
from otto_runtime.times import rfc3339
from ottoscaler.v1.log_pb2 import BuildLogEntry, BuildLogKind, LogBatch, LogEntry

names = st.text(max_size=40)
numbers = st.integers(1, 2**53)


@given(names, names, st.text(), numbers, st.integers(0, 4102444800 * 10**9), st.integers(0, 7), st.dictionaries(names, names, max_size=3))
def test_a_line_is_a_log_entry(worker: str, task: str, message: str, sequence: int, at: int, flags: int, metadata: dict[str, str]) -> None:
    """The two parts of a line, joined, parse as the LogEntry with exactly these fields."""
    stamp = wire.Stamps().field(at)
    payload = wire.line_payload(stamp, flags, sequence, message.encode(), wire.metadata_fields(metadata))
    assert payload.endswith(message.encode())
    entry = LogEntry.FromString(wire.worker_fields(worker, task) + payload)
    assert entry == LogEntry(
        worker_id=worker,
        task_id=task,
        timestamp=rfc3339(at) or "1970-01-01T00:00:00.000Z",
        level=LEVELS[flags >> LEVEL_SHIFT],
        source=("stdout", "stderr")[flags & 1],
        message=message,
        metadata=metadata,
        sequence=sequence,
    )


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_varints(number: int) -> None:
    """Any number a message may hold is written as the generated classes write it."""
    assert b"\xa0\x06" + wire.varint(number) == (LogEntry(sequence=number).SerializeToString() or b"\xa0\x06\x00")


def test_fields_may_be_added_to_a_line() -> None:
    """What depends on the reader is added behind a stored line."""
    payload = wire.line_payload(wire.Stamps().field(0), 0, 7, b"x") + wire.REPLAYED + wire.dropped_field(300)
    entry = LogEntry.FromString(payload)
    assert (entry.sequence, entry.replayed, entry.dropped_before, entry.timestamp) == (7, True, 300, "1970-01-01T00:00:00.000Z")
    assert wire.dropped_field(0) == b""


@given(names, names, names, st.integers(0, 100), st.integers(0, 1000), numbers, st.integers(0, 6), st.integers(0, 10**9))
def test_build_entries_parse(
    pipeline: str, stage: str, name: str, kind: int, attempt: int, sequence: int, status: int, dropped: int
) -> None:
    """Marks and lines of a build parse as BuildLogEntries with exactly these fields, alone and in batches."""
    fields = wire.stage_fields(pipeline, stage, name, kind, attempt)
    mark = wire.build_mark(fields, sequence, wire.STAGE_FINISHED, status, dropped)
    entry = wire.line_payload(wire.Stamps().field(1), 0, 5, b"hello")
    line = wire.build_line(fields, sequence, entry)
    same = {
        "pipeline_id": pipeline,
        "stage_id": stage,
        "stage_name": name,
        "stage_type": kind,
        "attempt": attempt,
        "sequence": sequence,
    }
    expected = [
        BuildLogEntry(**same, kind=BuildLogKind.BUILD_LOG_KIND_STAGE_FINISHED, stage_status=status, dropped=dropped),  # type: ignore[arg-type]  # numbers of enums
        BuildLogEntry(**same, kind=BuildLogKind.BUILD_LOG_KIND_LINE, entry=LogEntry.FromString(entry)),  # type: ignore[arg-type]  # numbers of enums
    ]
    assert [BuildLogEntry.FromString(mark), BuildLogEntry.FromString(line)] == expected
    assert list(LogBatch.FromString(wire.build_batch([mark, line])).build_entries) == expected
    assert list(LogBatch.FromString(wire.entry_batch([entry, entry])).entries) == [expected[1].entry] * 2


@pytest.mark.parametrize("kind", ["LINE", "STAGE_STARTED", "STAGE_FINISHED", "GAP", "HEARTBEAT"])
def test_kinds_have_the_numbers_of_the_contract(kind: str) -> None:
    """Our constants are those of BuildLogKind."""
    assert getattr(wire, kind) == BuildLogKind.Value(f"BUILD_LOG_KIND_{kind}")


@settings(deadline=None)
@given(
    st.integers(1, 2**40),
    st.lists(
        st.tuples(
            st.integers(0, 4102444800 * 10**9),
            st.integers(0, 7),
            st.text() | st.integers(100, 20_000).map("x".__mul__),
            st.dictionaries(names, names, max_size=2),
        ),
        min_size=1,
        max_size=150,
    ),
)
def test_what_is_stored_is_what_readers_get(first: int, given: list[tuple[int, int, str, dict[str, str]]]) -> None:
    """Blocks hold each line once, as the LogEntries of a LogBatch, replayed or live, and by their index as it was given."""
    lines = [
        Fresh(at, flags, message.encode(), b"%d" % number, 0, wire.metadata_fields(metadata))
        for number, (at, flags, message, metadata) in enumerate(given)
    ]
    fields = wire.worker_fields("worker", "task")
    parsed = parse(Encoder().blocks(first, fields, lines), final=True)
    assert parsed.damaged == 0
    assert all(block.begins_with(fields) and not block.begins_with(fields[:-1]) and not block.gaps for block in parsed.blocks)
    assert all(block.lines == 1 or len(block.body) <= BLOCK_BYTES for block in parsed.blocks)
    assert parsed.blocks[-1].position == lines[-1].position
    expected = [
        LogEntry(
            worker_id="worker",
            task_id="task",
            timestamp=rfc3339(at) or "1970-01-01T00:00:00.000Z",
            level=LEVELS[flags >> LEVEL_SHIFT],
            source=("stdout", "stderr")[flags & 1],
            message=message,
            metadata=metadata,
            sequence=sequence,
            replayed=True,
        )
        for sequence, (at, flags, message, metadata) in enumerate(given, first)
    ]
    assert list(LogBatch.FromString(b"".join(block.body for block in parsed.blocks)).entries) == expected
    assert [LogEntry.FromString(entry) for block in parsed.blocks for entry in block.entries(replayed=True)] == expected
    for entry in expected:
        entry.replayed = False
    assert list(LogBatch.FromString(b"".join(block.live() for block in parsed.blocks)).entries) == expected
    assert [LogEntry.FromString(entry) for block in parsed.blocks for entry in block.entries(replayed=False)] == expected
    records = [record for block in parsed.blocks for record in block.records()]
    assert [LogEntry.FromString(fields + record.payload) for record in records] == expected
    assert [(record.sequence, record.time, record.flags) for record in records] == [
        (sequence, line.time, line.flags) for sequence, line in enumerate(lines, first)
    ]
    assert [record.payload[len(record.payload) - record.message_length :] for record in records] == [line.message for line in lines]
