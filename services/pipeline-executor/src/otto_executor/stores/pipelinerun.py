"""The PipelineRun object: what is read of it, and what people see of it. charts/ottoscaler/crds/pipelineruns.yaml describes it.

Two views of the same kind: `WATCHED` reads what lists of runs need, `WHOLE` all of it.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from otto_executor import attempt
from otto_executor.definition import Definition
from otto_executor.progress import rfc3339, shortened
from otto_executor.run_state import RunState
from otto_executor.stage import StageSpec, StageState
from otto_executor.stores.packed_journal import Block
from otto_executor.stores.protocol import Summary
from otto_kubekit.kinds import Kind
from otto_kubekit.objects import KubeObject, Part

GROUP, VERSION, PLURAL, KIND = "ottoscaler.io", "v1alpha1", "pipelineruns", "PipelineRun"
API_VERSION = f"{GROUP}/{VERSION}"
INSTANCE_LABEL = "ottoscaler.io/instance"
FINALIZER = "ottoscaler.io/pipeline-executor"
"""Keeps a run that goes on until its workers are stopped and its workspace is deleted. One that has ended needs nobody: it goes without."""
PENDING, REFUSED = "Pending", "Refused"
READABLE_BYTES = 131_072
"""What of an object people read takes at most so much twice: spec and status. The rest is for what counts."""
_CUTS = (200, 60, 20)
_LISTED = 5
"""Items that are shown of each list but the stages in a run that is too large to be shown."""
_MAPS = ("config", "metadata", "env")


class Fate(Part, frozen=True):
    """What has become of a workspace since its run's end: kept (or ""), condemned, taken or gone."""

    fate: str = ""
    taken_by: str = ""
    taken_at: float = 0.0


class SeenMemory(Part, frozen=True):
    """What lists of runs tell."""

    version: int = 0
    summary: str = ""
    """Its JSON. As text, because a merge patch takes null for a removal, and a damaged one harms only its run."""
    workspace: Fate = Fate()


class Memory(SeenMemory, frozen=True):
    """What the executor goes on from. No state: the run is as its record says."""

    writer: str = ""
    state: str = ""
    journal: tuple[Block, ...] = ()


class SeenStatus(Part, frozen=True):
    """The status, in short."""

    state: str = ""
    message: str = ""
    memory: SeenMemory = SeenMemory()


class Status(Part, frozen=True):
    """The status."""

    state: str = ""
    memory: Memory = Memory()


class Meta(Part, frozen=True):
    """Metadata without what may be large: kubectl keeps a whole object among the annotations."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    finalizers: tuple[str, ...] = ()


class SeenSpec(Part, frozen=True):
    """Which run it is."""

    pipeline_id: str = ""


class SeenRun(KubeObject, frozen=True):
    """A run as lists of runs need it."""

    metadata: Meta = Meta()  # type: ignore[assignment]  # as much of ObjectMeta as is needed
    spec: SeenSpec = SeenSpec()
    status: SeenStatus = SeenStatus()


class WholeRun(KubeObject, frozen=True):
    """A run with all that is kept of it."""

    metadata: Meta = Meta()  # type: ignore[assignment]  # as much of ObjectMeta as is needed
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    record: str = ""
    status: Status = Status()


_summary = msgspec.json.Decoder(Summary).decode
WATCHED = Kind(GROUP, VERSION, PLURAL, KIND, SeenRun)
WHOLE = Kind(GROUP, VERSION, PLURAL, KIND, WholeRun)


def summary_text(short: Summary) -> str:
    """A summary as it is kept."""
    return msgspec.json.encode(short).decode()


def read_summary(text: str) -> Summary | None:
    """What `summary_text` was given; None if it is empty or damaged."""
    try:
        return _summary(text) if text else None
    except msgspec.MsgspecError:
        return None


def stored_bytes(value: Any) -> int:
    """What a value takes in etcd: API servers write these three as six characters each."""
    text = msgspec.json.encode(value)
    return len(text) + 5 * sum(text.count(escaped) for escaped in (b"<", b">", b"&"))


def readable_status(definition: Definition, state: RunState, most: int = READABLE_BYTES) -> dict[str, Any]:
    """How the run stands, for people, in at most so many bytes: of a large one without its stages. None removes a field."""
    for cut in _CUTS:
        status = _readable(definition, state, cut)
        if stored_bytes(status) <= most:
            return status
    return {**status, "awaitingApproval": None, "stages": None}


def _readable(definition: Definition, state: RunState, most: int) -> dict[str, Any]:
    waiting = state.awaiting_approval()
    return {
        "state": state.status.capitalize(),
        "progress": f"{state.percentage}%",
        "stagesEnded": f"{sum(stage.ended for stage in state.stages.values())}/{len(state.stages)}",
        "message": shortened(_message(state, waiting), 1000) or None,
        "awaitingApproval": [shortened(stage_id, most) for stage_id in waiting] or None,
        "startedAt": _when(state.created_at),
        "endedAt": _when(state.ended_at),
        "stages": list(_stages(definition, state, most)),
    }


def _message(state: RunState, waiting: tuple[str, ...]) -> str:
    if state.ended:
        return state.error
    if state.cancellation is not None:
        return f"being cancelled: {state.cancellation.words}"
    return f"waits for approval: {', '.join(waiting)}" if waiting else ""


def _stages(definition: Definition, state: RunState, most: int) -> Iterator[dict[str, Any]]:
    for spec in definition.stages:
        stage = state.stages[spec.stage_id]
        shown = {
            "stageId": shortened(spec.stage_id, most),
            "state": stage.status.capitalize(),
            "attempt": stage.attempt or None,
            "workers": _workers(spec, stage),
            "message": shortened(stage.message, most) or None,
            "cause": stage.failure.cause if stage.failure is not None else None,
            "exitCode": stage.failure.exit_code if stage.failure is not None else None,
            "startedAt": _when(stage.started_at),
            "endedAt": _when(stage.ended_at),
        }
        yield {field: value for field, value in shown.items() if value is not None}


def _workers(spec: StageSpec, stage: StageState) -> str | None:
    if not stage.attempt:
        return None
    ended = stage.succeeded + stage.failed if stage.ended else attempt.ended(stage)
    return f"{ended}/{spec.workers}"


def _when(at: float | None) -> str | None:
    """The epoch itself is none: API servers take it for an empty time and refuse it."""
    return rfc3339(at) if at else None


def extract(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, or as much of it as there is room for: long texts are cut, and long lists but the stages."""
    shown: Any = dict(spec)
    for most in _CUTS:
        if stored_bytes(shown) <= READABLE_BYTES:
            return dict(shown)
        shown = {**_cut(spec, most), "pipelineId": spec.get("pipelineId", "")}
    if stored_bytes(shown) > READABLE_BYTES:
        del shown["stages"]
    return dict(shown)


def _cut(value: Any, most: int, name: str = "") -> Any:
    if isinstance(value, str):
        return shortened(value, most)
    if isinstance(value, list):
        return [_cut(item, most) for item in (value if name == "stages" else value[:_LISTED])]
    if isinstance(value, Mapping):
        few = list(value.items())[: _LISTED if name in _MAPS else None]
        return {_cut(key, most): _cut(item, most, key) for key, item in few}
    return value
