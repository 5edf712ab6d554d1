"""How a run stands, in little room; and what is kept of its beginning. Pure.

Of a stage only what is not as at its beginning is kept, times as milliseconds since the run's creation, and of its workers one column each
for what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, replace
from typing import Any

import msgspec

from otto_executor.definition import Definition
from otto_executor.progress import Progress, shortened
from otto_executor.run_state import RunState
from otto_executor.stage import StageState, Worker, WorkerStatus
from otto_executor.stores.packed_journal import Block, pack, unpack
from otto_executor.stores.packing import DamagedError, long_names, packed, short_names, unpacked
from otto_executor.usage import Usage

MOST_BYTES = 393_216
"""Characters of a packed state; what does not fit has its words cut. Half a megabyte of words helps nobody."""
_CUTS = (500, 100, 20, 0)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_TIMES = ("confirmed_at", "started_at", "attempt_started_at", "ended_at", "wake_at")
_FRESH: dict[str, Any] = msgspec.to_builtins(StageState())
_STATUSES = {"p": WorkerStatus.PENDING, "r": WorkerStatus.RUNNING, "s": WorkerStatus.SUCCEEDED, "f": WorkerStatus.FAILED}
_LETTERS = {status: letter for letter, status in _STATUSES.items()}
_FIELDS = tuple(field.name for field in fields(StageState))
_USED = tuple(field.name for field in fields(Usage))


class _Record(msgspec.Struct, array_like=True):
    definition: Definition
    request: bytes
    state: str
    messages: Block | None


_record = msgspec.msgpack.Decoder(_Record).decode


def pack_record(definition: Definition, request: bytes, state: RunState, messages: Sequence[Progress]) -> str:
    """What is kept of a run's beginning."""
    return packed(_encode(_Record(definition, request, pack_state(state), pack(messages) if messages else None)))


def unpack_record(text: str) -> tuple[Definition, bytes, RunState, list[Progress]]:
    """What `pack_record` was given. Raises DamagedError."""
    try:
        record = _record(unpacked(text))
    except msgspec.MsgspecError as error:
        raise DamagedError(str(error)) from error
    return record.definition, record.request, unpack_state(record.state), unpack(record.messages) if record.messages is not None else []


def pack_state(state: RunState, most: int = MOST_BYTES) -> str:
    """The state as text; its words are cut, at last left out, where it would become larger than so many characters."""
    text = packed(_encode(_short(state, None)))
    for cut in _CUTS:
        if len(text) <= most:
            break
        text = packed(_encode(_short(state, cut)))
    return text


def unpack_state(text: str) -> RunState:
    """The state, its times in whole milliseconds since the run's creation. Raises DamagedError."""
    try:
        short = _decode(unpacked(text))
        created = short["created_at"]
        short["stages"] = {stage_id: _long_stage(stage, created) for stage_id, stage in short["stages"].items()}
        return msgspec.convert(short, RunState)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(str(error)) from error


def _short(state: RunState, most: int | None) -> dict[str, Any]:
    short = {
        "created_at": state.created_at,
        "status": state.status,
        "ended_at": state.ended_at,
        "sequence": state.sequence,
        "cancellation": state.cancellation,
        "failed_stages": state.failed_stages,
        "error": _cut(state.error, most),
        "clock_set_by": state.clock_set_by,
        "stages": {stage_id: _short_stage(stage, state.created_at, most) for stage_id, stage in state.stages.items()},
    }
    assert short.keys() == {field.name for field in fields(RunState)}
    return short


def _short_stage(stage: StageState, created: float, most: int | None) -> dict[str, Any]:
    short: dict[str, Any] = {}
    for field in _FIELDS:
        value = getattr(stage, field)
        if value is None or value == _FRESH[field] or (field in {"workers", "names"} and not value):
            continue
        short[field] = _since(value, created) if field in _TIMES else value
    if "message" in short:
        short["message"] = _cut(stage.message, most)
    if stage.approval is not None and most is not None:  # who decided is kept as long as it can be
        by = shortened(stage.approval.decided_by, max(most, 20))
        short["approval"] = replace(stage.approval, decided_by=by, comment=_cut(stage.approval.comment, most))
    if stage.failure is not None:
        short["failure"] = [stage.failure.cause, _cut(stage.failure.words, most), stage.failure.exit_code]
    if stage.usage is not None:
        short["usage"] = list(astuple(stage.usage))
    if stage.names:
        short["names"] = short_names(stage.names)
    if stage.workers:
        short["workers"] = _short_workers(stage.workers, created, most)
    return short


def _long_stage(short: dict[str, Any], created: float) -> dict[str, Any]:
    for field in _TIMES:
        if field in short:
            short[field] = _at(short[field], created)
    if "failure" in short:
        short["failure"] = dict(zip(("cause", "words", "exit_code"), short["failure"], strict=True))
    if "usage" in short:
        short["usage"] = dict(zip(_USED, short["usage"], strict=True))
    if "names" in short:
        short["names"] = long_names(short["names"])
    if "workers" in short:
        short["workers"] = _long_workers(short["workers"], created)
    return short


def _short_workers(workers: Mapping[int, Worker], created: float, most: int | None) -> dict[str, Any]:
    indexes = sorted(workers)
    rows = [workers[index] for index in indexes]
    before, since = 0, []
    for row in rows:  # the difference to the one before: workers of a stage start together
        at = 0 if row.running_since is None else _since(row.running_since, created)
        since.append(None if row.running_since is None else at - before)
        before = at or before
    return {
        "indexes": len(indexes) if indexes[-1] == len(indexes) else indexes,
        "names": short_names([row.name for row in rows]),
        "status": "".join(_LETTERS[row.status] for row in rows),
        "since": since,
        "more": {
            number: [row.exit_code, row.cause, _cut(row.words, most), row.room]
            for number, row in enumerate(rows)
            if (row.exit_code, row.cause, row.words, row.room) != (None, None, "", 0)
        },
    }


def _long_workers(short: dict[str, Any], created: float) -> dict[int, dict[str, Any]]:
    indexes = range(1, short["indexes"] + 1) if isinstance(short["indexes"], int) else short["indexes"]
    before, found = 0, {}
    columns = zip(indexes, long_names(short["names"]), short["status"], short["since"], strict=True)
    for number, (index, name, letter, since) in enumerate(columns):
        before += since or 0
        exit_code, cause, words, room = short["more"].get(number, (None, None, "", 0))
        found[index] = {
            "name": name,
            "status": _STATUSES[letter],
            "running_since": None if since is None else _at(before, created),
            "exit_code": exit_code,
            "cause": cause,
            "words": words,
            "room": room,
        }
    return found


def _cut(text: str, most: int | None) -> str:
    if most is None:
        return text
    return shortened(text, most) if most else ""


def _since(at: float, created: float) -> int:
    return round((at - created) * 1000)


def _at(since: int, created: float) -> float:
    return created + since / 1000
