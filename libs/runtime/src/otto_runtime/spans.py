"""Spans of what outlives calls and processes: told when it is over, from what is stored of it, by whichever process is there then.

Their ids follow from what they are about (`child`), so whoever knows the trace knows its spans: a run's, a stage's, a worker's. Pure; knows
no OpenTelemetry, `otto_runtime.telemetry` hands them on. Names of attributes are those of OpenTelemetry's conventions where it has them.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

PIPELINE_NAME = "cicd.pipeline.name"
PIPELINE_ACTION = "cicd.pipeline.action.name"
PIPELINE_RESULT = "cicd.pipeline.result"
RUN_ID = "cicd.pipeline.run.id"
TASK_NAME = "cicd.pipeline.task.name"
TASK_TYPE = "cicd.pipeline.task.type"
TASK_RUN_ID = "cicd.pipeline.task.run.id"
TASK_RESULT = "cicd.pipeline.task.run.result"
WORKER_ID = "cicd.worker.id"
WORKER_NAME = "cicd.worker.name"
ERROR_TYPE = "error.type"
EXIT_CODE = "process.exit.code"
HOST_NAME = "host.name"
REPOSITORY = "vcs.repository.url.full"
REVISION = "vcs.ref.head.revision"
POD_NAME = "k8s.pod.name"
POD_UID = "k8s.pod.uid"
NODE_NAME = "k8s.node.name"
NAMESPACE_NAME = "k8s.namespace.name"
CONTAINER_NAME = "k8s.container.name"
OWN = "ottoscaler."
"""Begins the names of attributes that OpenTelemetry has none for."""

SUCCESS, FAILURE, ERROR, TIMEOUT, CANCELLATION, SKIP = "success", "failure", "error", "timeout", "cancellation", "skip"
"""Results of runs and of tasks: FAILURE is the work's own, ERROR that of whoever runs it."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LOGIN = re.compile(r"^([a-z+.-]+://)[^/]*@")
_MOST_TEXT = 1024
"""Characters of an attribute or of a status: words of a cluster are long, and as many as there are workers wait to be sent."""

AGAIN_SECONDS = 10.0
"""What ended so shortly before the last process did may not have been told: spans are sent in batches."""
MOST_AGAIN = 100
"""How much of it is told again, so that a start sends no flood."""

Value = str | int | float
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that is over. `context` and `parent` are W3C traceparents; times are nanoseconds since the epoch."""

    context: str
    parent: str
    """Empty: it is the first of its trace."""
    name: str
    start: int
    end: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    """Traceparents of spans that it has to do with."""
    error: str | None = None
    """Why it failed; None: it did not."""
    serves: bool = False
    """It is the server's part of something that somebody asked for."""


def child(traceparent: str, *about: str) -> str:
    """The traceparent of the span about `about` in the same trace: always the same one. Empty without a trace."""
    if not traceparent:
        return ""
    version, trace, _, flags = traceparent.split("-", 3)
    digest = hashlib.sha256(trace.encode())
    for part in about:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"{version}-{trace}-{digest.hexdigest()[:16]}-{flags}"


def run(traceparent: str, pipeline_id: str) -> str:
    """A run's span in this trace."""
    return child(traceparent, "run", pipeline_id)


def stage(traceparent: str, pipeline_id: str, stage_id: str) -> str:
    """A stage's span in this trace."""
    return child(traceparent, "stage", pipeline_id, stage_id)


def worker(traceparent: str, name: str) -> str:
    """A worker's span in this trace."""
    return child(traceparent, "worker", name)


def fresh(*, sampled: bool = True) -> str:
    """The beginning of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{sampled:02d}"


def valid(traceparent: str) -> bool:
    """Whether it is a W3C traceparent."""
    return _TRACEPARENT.fullmatch(traceparent) is not None


def is_sampled(traceparent: str) -> bool:
    """Whether spans of this trace are to be told."""
    return bool(traceparent) and int(traceparent[-2:], 16) & 1 == 1


def to_tell_again(ended: Iterable[T], at: Callable[[T], float], since: float | None = None, most: int = MOST_AGAIN) -> list[T]:
    """What a new process tells once more, with the same ids, as the last one may not have: the newest, in the order of their ends.

    `at` gives an end, in seconds; what ended at `since` or later counts, None: AGAIN_SECONDS before the last of all.
    """
    found = sorted(ended, key=at)
    if found and since is None:
        since = at(found[-1]) - AGAIN_SECONDS
    return [one for one in found if since is not None and at(one) >= since][-most:]


def public(repository: str) -> str:
    """A repository's address without whoever logs in there."""
    return _LOGIN.sub(r"\1", repository)


def given(**attributes: Value | None) -> dict[str, Value]:
    """Attributes of our own that have a value; `_` stands for a dot."""
    return {OWN + name.replace("_", "."): value for name, value in attributes.items() if value not in {None, ""}}


def shortened(text: str) -> str:
    """As much of it as a span may have."""
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
