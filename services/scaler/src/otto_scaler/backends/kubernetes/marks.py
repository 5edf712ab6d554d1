"""What a pod says about its worker: labels to select by, cleaned, and annotations with the raw words; and the way back."""

from collections.abc import Mapping

from otto_kubekit.objects import ObjectMeta
from otto_runtime import spans
from otto_scaler.worker import LABEL_PREFIX, Cause, Identity, WorkerSpec

MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
INSTANCE = f"{LABEL_PREFIX}instance"
WORKER = "worker"
"""The component of worker pods, and the name of the worker's own container."""
WORKSPACE = "workspace"
"""The component of claims."""
CHECKOUT = "checkout"
"""The name of the container that checks a repository out before the worker's own runs."""
GATE = f"{LABEL_PREFIX}admission"
"""The scheduling gate of a pod that is not to run before it is started."""
DELETING = f"{LABEL_PREFIX}deleting"
"""A label of a claim that is to be deleted once nobody uses it."""

TIMEOUT = f"{LABEL_PREFIX}timeout"
"""Seconds."""
STARTED = f"{LABEL_PREFIX}admitted-at"
"""When a held worker was let run: RFC 3339."""
STOP_CAUSE = f"{LABEL_PREFIX}stop-cause"
STOP_REASON = f"{LABEL_PREFIX}stop-reason"
"""Why the worker was made to end, typed and in words; written in the same patch that ends it."""
MOST = 2**31 - 1
"""A larger number fits into no message: the worker would keep everybody from seeing any."""
REST_STOPPED = f"{LABEL_PREFIX}rest-stopped"
"""Which containers still ran when the worker's own had ended and they were stopped; written in the patch that stops them."""
_TASK_ID, _PIPELINE_ID, _STAGE_ID = (f"{LABEL_PREFIX}{what}-id" for what in ("task", "pipeline", "stage"))
_ATTEMPT, _INDEX, _COUNT, _WORKSPACE = (f"{LABEL_PREFIX}{what}" for what in ("attempt", "index", "count", "workspace"))
_PARENT = f"{LABEL_PREFIX}traceparent"
"""W3C's, of what the worker is a part of."""
_OWN = frozenset(
    {
        _PARENT,
        _TASK_ID,
        _PIPELINE_ID,
        _STAGE_ID,
        _ATTEMPT,
        _INDEX,
        _COUNT,
        _WORKSPACE,
        TIMEOUT,
        STARTED,
        STOP_CAUSE,
        STOP_REASON,
        REST_STOPPED,
    },
)
RESERVED_LABELS = frozenset({MANAGED_BY, COMPONENT})
"""Beside all that begin with LABEL_PREFIX."""


def selector(instance: str, component: str) -> str:
    """Selects what this installation has created, and nothing of another one."""
    return f"{INSTANCE}={instance},{COMPONENT}={component}"


def labels(spec: WorkerSpec, instance: str) -> dict[str, str]:
    """The labels of a worker's pod."""
    return {**spec.identity.labels, MANAGED_BY: "ottoscaler", COMPONENT: WORKER, INSTANCE: instance}


def annotations(spec: WorkerSpec) -> dict[str, str]:
    """The annotations of a worker's pod: its identity, which `identity` reads again, and what a later service has to know of the spec."""
    identity = spec.identity
    found = {f"{LABEL_PREFIX}{name}": value for name, value in identity.annotations.items()}
    found |= {_TASK_ID: identity.task_id, _ATTEMPT: str(identity.attempt), _INDEX: str(identity.index), _COUNT: str(identity.count)}
    optional = {_PIPELINE_ID: identity.pipeline_id, _STAGE_ID: identity.stage_id, _WORKSPACE: identity.workspace, _PARENT: identity.parent}
    found |= {name: value for name, value in optional.items() if value}
    return {**found, TIMEOUT: f"{spec.timeout:g}"}


def identity(metadata: ObjectMeta) -> Identity:
    """Which worker a pod is. Raises ValueError, naming what is missing, for one that is none of ours or was changed."""
    given = metadata.annotations
    return Identity(
        name=metadata.name,
        task_id=_text(given, _TASK_ID),
        index=_number(given, _INDEX),
        count=_number(given, _COUNT),
        pipeline_id=given.get(_PIPELINE_ID, ""),
        stage_id=given.get(_STAGE_ID, ""),
        attempt=_number(given, _ATTEMPT),
        workspace=given.get(_WORKSPACE, ""),
        labels=metadata.labels,
        parent=parent if spans.valid(parent := given.get(_PARENT, "")) else "",
        annotations={
            name.removeprefix(LABEL_PREFIX): value for name, value in given.items() if name.startswith(LABEL_PREFIX) and name not in _OWN
        },
    )


def timeout(metadata: ObjectMeta) -> float | None:
    """How many seconds the worker may run; None if that can't be read any more."""
    try:
        return float(metadata.annotations[TIMEOUT])
    except (KeyError, ValueError):
        return None


def stop(metadata: ObjectMeta) -> tuple[Cause, str] | None:
    """Why the worker was made to end; None if it was not."""
    words = metadata.annotations.get(STOP_CAUSE)
    if words is None:
        return None
    cause = Cause[words] if words in Cause.__members__ else Cause.CANCELLED
    return cause, metadata.annotations.get(STOP_REASON, "")


def rest_stopped(metadata: ObjectMeta) -> bool:
    """Whether only what still ran beside the ended worker was stopped."""
    return REST_STOPPED in metadata.annotations


def _text(given: Mapping[str, str], name: str) -> str:
    if not (value := given.get(name, "")):
        raise ValueError(f"it has no annotation {name}")
    return value


def _number(given: Mapping[str, str], name: str) -> int:
    value = _text(given, name)
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(MOST)) and 0 < int(value) <= MOST):
        raise ValueError(f"its annotation {name} is {value[:40]!r}, which is no number from 1 to {MOST}")
    return int(value)
