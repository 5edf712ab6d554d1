"""What becomes of a worker's lines, as spans below the worker's own: that they are stored, and that they are read or pushed.

Nothing is below these spans, so one that a kill cuts off leaves no gap in its trace.
"""

import secrets
import time
from collections.abc import Iterable

from otto_relay.outbox import Outbox
from otto_relay.worker_log import Facts, WorkerLog
from otto_runtime import spans
from otto_runtime.spans import Span
from otto_runtime.times import nanoseconds


def collected(facts: Facts) -> Span:
    """All lines of a worker are stored."""
    return Span(
        context=spans.child(facts.traceparent, "collect logs", facts.worker_id),
        parent=facts.traceparent,
        name="collect logs",
        start=nanoseconds(facts.created),
        end=nanoseconds(facts.ended),
        attributes={**_whose(facts), **spans.given(log_lines=facts.last, log_bytes=facts.size)},
    )


def pushed(outbox: Outbox) -> Span | None:
    """otto-handler has all lines of a worker that has ended; None while it has not, and once that was told."""
    known, facts, began = outbox.known, outbox.facts, outbox.began
    over = outbox.gone if known is None else known.ended
    if not (over and began and facts.traceparent) or outbox.owed:
        return None
    outbox.began = 0.0
    return Span(
        context=spans.child(facts.traceparent, "push logs", secrets.token_hex(8)),
        parent=facts.traceparent,
        name="push logs",
        start=nanoseconds(began),
        end=time.time_ns(),
        attributes={**_whose(facts), **spans.given(log_lines=outbox.position.answered, log_dropped=outbox.dropped)},
    )


def delivered(parent: str, call: str, began: int, ended: int, method: str, amount: dict[str, int]) -> Span:
    """A reader has got what it wanted, or left; `call` is the traceparent of its call, which belongs to its own trace."""
    return Span(
        context=spans.child(parent, "deliver logs", secrets.token_hex(8)),
        parent=parent,
        name="deliver logs",
        start=began,
        end=ended,
        attributes={"rpc.method": method, **spans.given(**amount)},
        links=(call,) if call else (),
    )


def above(workers: Iterable[WorkerLog], pipeline_id: str = "", stage_id: str = "") -> str:
    """The traceparent of what is read: of the stage or else the run, or where there is none of the first worker; empty if that has none."""
    facts = next((known.facts for known in workers if known.facts.traceparent), None)
    if facts is None:
        return ""
    if stage_id:
        return spans.stage(facts.traceparent, pipeline_id, stage_id)
    return spans.run(facts.traceparent, pipeline_id) if pipeline_id else facts.traceparent


def to_tell_again(workers: Iterable[WorkerLog]) -> list[Span]:
    """Of what was complete right before the last process ended."""
    ended = (known.facts for known in workers if known.ended and known.facts.traceparent)
    return [collected(facts) for facts in spans.to_tell_again(ended, lambda facts: facts.ended)]


def _whose(facts: Facts) -> dict[str, spans.Value]:
    told: dict[str, spans.Value] = {spans.WORKER_NAME: facts.worker_id}
    if facts.pipeline_id:
        told |= {spans.RUN_ID: facts.pipeline_id, spans.TASK_RUN_ID: facts.stage_id}
    return told
