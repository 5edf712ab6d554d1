"""How large a run's object may become, and a status that fits into it. Pure.

etcd takes no request over 1.5 MiB, and a save writes the whole object. What a run begins with stays as it is, so whether it leaves enough
for a status is asked then; what is said later is cut until it fits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from otto_executor.definition import Definition
from otto_executor.errors import RunTooLargeError
from otto_executor.progress import shortened
from otto_executor.run_state import RunState
from otto_executor.stores.packed_journal import Block, bounded
from otto_executor.stores.packed_state import MOST_BYTES, pack_state
from otto_executor.stores.pipelinerun import READABLE_BYTES, readable_status, stored_bytes, summary_text
from otto_executor.stores.protocol import StoredRun, Summary, summary

OBJECT_BYTES = 1_441_792
"""Of etcd's 1,572,864; the rest is for managed fields and for what others put into an object's metadata."""
RECORD_BYTES = 720_896
"""Characters of a record."""
JOURNAL_BYTES = 393_216
"""Characters of all messages but the first: some 40,000 of them, or 200 that have 2,000 characters of their own to say."""
STATUS_BYTES = 327_680
"""Enough for the shortest status of any run, stage ids aside: 500 stages, 5,000 workers and the last 128 messages, without their words."""
SMALLEST = 65_536
"""Bytes of a status below which there is nothing left to be cut."""
_SUMMARY_CUTS = (2000, 200, 20)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A run's status."""

    readable: dict[str, Any]
    summary: str
    state: str
    journal: tuple[Block, ...]


def check_beginning(run: StoredRun, record: str, rest: int, asked: Mapping[str, Any]) -> None:
    """Raises RunTooLargeError for a run that would not leave its status enough room, naming what takes most of what was `asked`.

    `rest` are the bytes of its object beside record and status.
    """
    if len(record) > RECORD_BYTES:
        raise RunTooLargeError(
            f"the pipeline takes {len(record)} bytes when packed; a cluster's memory of runs takes {RECORD_BYTES}. {_largest(asked)}"
        )
    needed = STATUS_BYTES + 2 * len(pack_state(run.state))
    if len(record) + rest + needed > OBJECT_BYTES:
        raise RunTooLargeError(
            f"the pipeline takes {len(record) + rest} bytes, and {needed} more for how its {len(run.state.stages)} stages stand; "
            f"a cluster's memory of runs takes {OBJECT_BYTES} together. {_largest(asked)}"
        )


def status_room(record: str, spec: Mapping[str, Any]) -> int:
    """The bytes that a run's object has for its status."""
    return OBJECT_BYTES - len(record) - stored_bytes(spec)


def fitted(definition: Definition, state: RunState, journal: Sequence[Block], room: int) -> Fitted:
    """A status of about so many bytes at most, which says the less the fewer they are."""
    readable = readable_status(definition, state, min(READABLE_BYTES, room // 6))
    short = _short_summary(summary(definition, state), room // 8)
    packed = pack_state(state, min(MOST_BYTES, room // 3))
    left = room - stored_bytes(readable) - stored_bytes(short) - len(packed)
    return Fitted(readable, short, packed, bounded(tuple(journal), min(JOURNAL_BYTES, left)))


def _short_summary(whole: Summary, most: int) -> str:
    text = summary_text(whole)
    for cut in _SUMMARY_CUTS:
        if stored_bytes(text) <= most:
            break
        name, error, by = (shortened(words, cut) for words in (whole.name, whole.error, whole.triggered_by))
        text = summary_text(replace(whole, name=name, error=error, triggered_by=by, awaiting_approval=whole.awaiting_approval[: cut // 20]))
    return text


def _largest(asked: Mapping[str, Any]) -> str:
    """Which stage to look at, and what to do about it."""
    stages = asked.get("stages", [])
    sizes = [stored_bytes(stage) for stage in stages]
    words = ""
    if sizes:
        number = sizes.index(max(sizes))
        name = stages[number].get("stageId", "") if isinstance(stages[number], Mapping) else ""
        words = f"Largest is stages[{number}] (stage {shortened(str(name), 200)!r}) with {sizes[number]} bytes. "
    return f"{words}Move long scripts and values into files of the repository"
