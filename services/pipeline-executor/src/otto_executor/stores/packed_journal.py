"""A run's messages in little room. Pure.

A message of a stage differs little from that stage's last one, so each field is a column of differences to it: mostly zeros, which compress
to nothing. tests/executor/test_packing.py holds 10,000 messages to some 50 KB.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec

from otto_executor.progress import Progress, shortened
from otto_executor.retry import FailureCause
from otto_executor.stage import StageStatus, StageType
from otto_executor.stores.packing import DamagedError, filled, holes, long_names, milliseconds, packed, short_names, template, unpacked
from otto_executor.usage import Usage

SMALL, LARGE = 128, 1024
"""Messages of a block. The last block is packed again with each save (25 µs a message), so it is small; eight full ones become a large one,
because each block tells its texts and names again.
"""
_NUMBERS = ("percentage", "overall", "attempt", "duration", "succeeded", "failed", "total")
_TEXTS: dict[str, Callable[[str], Any]] = {
    "status": StageStatus,
    "type": StageType,
    "error": str,
    "kept_from": str,
    "cause": lambda word: FailureCause(word) if word else None,
}
_TIMES = ("started_at", "ended_at")
_FIELDS = ("workers", "message", "exit_code", *_NUMBERS, *_TEXTS, *_TIMES)
_USED = {f"used_{field.name}": field.name for field in fields(Usage)}
"""Columns that are there only if somebody was measured."""
_CUTS = (200, 40)
_encode = msgspec.msgpack.Encoder().encode


class Block(msgspec.Struct, frozen=True):
    """Messages with the sequences `first` to `last`, packed."""

    first: int
    last: int
    data: str


class _Columns(msgspec.Struct, array_like=True):
    base: int
    """Milliseconds since the epoch, from which times are counted."""
    texts: list[str]
    names: list[list[str | int]]
    stages: list[str]
    stage: list[int]
    at: list[int]
    numbers: list[int]
    """What stood in the messages' texts."""
    fields: dict[str, list[int]]


_columns = msgspec.msgpack.Decoder(_Columns).decode


_NOBODY = Usage(0)


class _Table:
    """Texts by number, each once."""

    def __init__(self, *first: Any) -> None:
        self._numbers: dict[Any, int] = {text: number for number, text in enumerate(first)}

    def number(self, text: Any) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def rows(self) -> list[Any]:
        return list(self._numbers)


def pack(messages: Sequence[Progress]) -> Block:
    """Messages whose sequences follow one another, at least one."""
    base = milliseconds(messages[0].at)
    texts, names, stages = _Table(""), _Table(()), _Table()
    measured = _USED if any(message.usage is not None for message in messages) else {}
    columns = _Columns(base, [], [], [], [], [], [], {field: [] for field in (*_FIELDS, *measured)})
    last: dict[int, dict[str, int]] = {}
    last_numbers: dict[tuple[int, int], list[int]] = {}
    before = base
    for message in messages:
        stage = stages.number(message.stage_id)
        columns.stage.append(stage)
        at = milliseconds(message.at)
        columns.at.append(at - before)
        before = at
        words, numbers = template(message.message)
        values = {
            "workers": names.number(message.workers),
            "message": texts.number(words),
            "exit_code": 0 if message.exit_code is None else message.exit_code + 1 if message.exit_code >= 0 else message.exit_code,
            **{field: getattr(message, field) for field in _NUMBERS},
            **{field: texts.number(getattr(message, field) or "") for field in _TEXTS},
            **{field: _since(base, getattr(message, field)) for field in _TIMES},
            **{column: getattr(message.usage or _NOBODY, field) for column, field in measured.items()},
        }
        known = last.get(stage)
        for field, value in values.items():
            columns.fields[field].append(value - known[field] if known is not None else value)
        last[stage] = values
        numbered = last_numbers.get((stage, values["message"]), [0] * len(numbers))
        columns.numbers += [number - other for number, other in zip(numbers, numbered, strict=True)]
        last_numbers[stage, values["message"]] = numbers
    columns.texts, columns.stages = texts.rows(), stages.rows()
    columns.names = [short_names(row) for row in names.rows()]
    return Block(messages[0].sequence, messages[-1].sequence, packed(_encode(columns)))


def unpack(block: Block) -> list[Progress]:
    """The messages, their times in whole milliseconds. Raises DamagedError."""
    try:
        return _unpack(block)
    except (ValueError, LookupError, TypeError, msgspec.MsgspecError) as error:
        raise DamagedError(f"messages {block.first} to {block.last}: {error}") from error


def _unpack(block: Block) -> list[Progress]:
    columns = _columns(unpacked(block.data))
    names = [long_names(row) for row in columns.names]
    found: list[Progress] = []
    last: dict[int, dict[str, int]] = {}
    last_numbers: dict[tuple[int, int], list[int]] = {}
    at, place = columns.base, 0
    for number, stage in enumerate(columns.stage):
        at += columns.at[number]
        values = {field: column[number] + last.get(stage, {}).get(field, 0) for field, column in columns.fields.items()}
        last[stage] = values
        words = columns.texts[values["message"]]
        key, count = (stage, values["message"]), holes(words)
        known = last_numbers.get(key, [0] * count)
        numbers = [a + b for a, b in zip(columns.numbers[place : place + count], known, strict=True)]
        last_numbers[key] = numbers
        place += count
        code = values["exit_code"]
        rest: dict[str, Any] = {
            **{field: values[field] for field in _NUMBERS},
            **{field: read(columns.texts[values[field]]) for field, read in _TEXTS.items()},
            **{field: _time(columns.base, values[field]) for field in _TIMES},
            "usage": Usage(*(values[column] for column in _USED)) if values.get("used_workers") else None,
        }
        found.append(
            Progress(
                sequence=block.first + number,
                stage_id=columns.stages[stage],
                message=filled(words, numbers),
                at=at / 1000,
                workers=names[values["workers"]],
                exit_code=None if code == 0 else code - 1 if code > 0 else code,
                **rest,
            )
        )
    if len(found) != block.last - block.first + 1:
        raise ValueError(f"there are {len(found)}")
    return found


def _since(base: int, at: float | None) -> int:
    """A time as a number that is 0 for none."""
    if at is None:
        return 0
    since = milliseconds(at) - base
    return since + 1 if since >= 0 else since


def _time(base: int, since: int) -> float | None:
    if not since:
        return None
    return (base + (since - 1 if since > 0 else since)) / 1000


def added(blocks: Sequence[Block], messages: Sequence[Progress]) -> tuple[Block, ...]:
    """The blocks with further messages: the last one grows until it is full, and full ones are put together."""
    kept, waiting = list(blocks), list(messages)
    if not waiting:
        return tuple(kept)
    if kept and kept[-1].last + 1 != waiting[0].sequence:
        raise ValueError(f"message {waiting[0].sequence} does not follow {kept[-1].last}")
    if kept and _size(kept[-1]) < SMALL:
        waiting = unpack(kept.pop()) + waiting
    kept += [pack(waiting[start : start + SMALL]) for start in range(0, len(waiting), SMALL)]
    count = LARGE // SMALL
    for start in range(max(0, len(kept) - count)):
        few = kept[start : start + count]
        if len(few) == count and all(_size(block) == SMALL for block in few):
            kept[start : start + count] = [pack([message for block in few for message in unpack(block)])]
    return tuple(kept)


def bounded(blocks: tuple[Block, ...], most: int) -> tuple[Block, ...]:
    """The blocks in at most so many characters: of the oldest ones words are cut, then they are left out, which only happens after tens of
    thousands of messages. The newest stays, its words cut only where it is the last.
    """
    kept = list(blocks)
    for cut in _CUTS:
        for number, block in enumerate(kept[:-1]):
            if _room(kept) <= most:
                return tuple(kept)
            kept[number] = pack([_short(message, cut) for message in unpack(block)])
    while len(kept) > 1 and _room(kept) > most:
        del kept[0]
    for cut in _CUTS:
        if _room(kept) <= most:
            break
        kept = [pack([_short(message, cut) for message in unpack(block)]) for block in kept]
    return tuple(kept)


def _room(blocks: Sequence[Block]) -> int:
    return sum(len(block.data) for block in blocks)


def _short(message: Progress, most: int) -> Progress:
    return replace(message, message=shortened(message.message, most), error=shortened(message.error, most))


def _size(block: Block) -> int:
    return block.last - block.first + 1
