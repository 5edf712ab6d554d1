"""Why a pod does not run yet, in the cluster's own words, and how long that is borne."""

import enum
import re
from dataclasses import dataclass

from otto_kubekit.objects import ContainerStatus
from otto_scaler.backends.kubernetes.marks import CHECKOUT, WORKER
from otto_scaler.backends.kubernetes.pods import WorkerPod
from otto_scaler.worker import Cause


class Patience(enum.Enum):
    """How long it may go on."""

    NONE = "NONE"
    """It can't become better."""
    SHORT = "SHORT"
    """What is missing may be about to come: a Secret that is created at the same time. A claim is there before its pods, or is gone."""
    PULL = "PULL"
    """A registry may have hiccuped; the kubelet tries again by itself."""
    PENDING = "PENDING"
    """As long as a worker may be pending."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a worker from running."""

    cause: Cause
    """What it fails with when that has gone on for too long."""
    words: str
    patience: Patience


_CLAIM_GONE = re.compile(r'persistentvolumeclaim "[^"]+" (not found|is being deleted|bound to non-existent persistentvolume)')
_HOPELESS_IMAGE = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"})
_CONFIGURATION = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "PreCreateHookError",
        "PreStartHookError",
        "PostStartHookError",
        "RunContainerError",
    }
)


def trouble(pod: WorkerPod) -> Trouble:
    """What keeps a pod that does not run its worker yet from doing so."""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if (found := _of_container(status)) is not None:
            return found
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False" and scheduled.reason != "SchedulingGated":
        words = f"{scheduled.reason}: {scheduled.message}".strip(": ")
        # Claims are made before their pods, so it does not come any more.
        gone = _CLAIM_GONE.search(scheduled.message) is not None
        return Trouble(Cause.UNSCHEDULABLE, words, Patience.SHORT if gone else Patience.PENDING)
    if not pod.spec.node_name:
        gates = ", ".join(gate.name for gate in pod.spec.scheduling_gates)
        return Trouble(Cause.UNSCHEDULABLE, f"held by {gates}" if gates else "waits to be scheduled", Patience.PENDING)
    waiting = [s.state.waiting for s in (*pod.status.init_container_statuses, *pod.status.container_statuses) if s.state.waiting]
    words = next((f"{w.reason}: {w.message}".strip(": ") for w in waiting if w.reason not in {"", "PodInitializing"}), "")
    initialised = pod.condition("Initialized")
    if not words and initialised is not None and initialised.status == "False":
        words = initialised.message
    return Trouble(Cause.INTERNAL, words or f"its node {pod.spec.node_name} has not begun with it", Patience.PENDING)


def _of_container(status: ContainerStatus) -> Trouble | None:
    waiting = status.state.waiting
    if waiting is None:
        return None
    where = "" if status.name in {WORKER, CHECKOUT} else f"container {status.name}: "
    words = f"{where}{waiting.reason}: {waiting.message or status.image}".strip(": ")
    if waiting.reason in _HOPELESS_IMAGE:
        return Trouble(Cause.IMAGE_PULL, words, Patience.NONE)
    if waiting.reason in _IMAGE:
        return Trouble(Cause.IMAGE_PULL, words, Patience.PULL)
    if waiting.reason in _CONFIGURATION:
        return Trouble(Cause.REJECTED, words, Patience.SHORT)
    return None
