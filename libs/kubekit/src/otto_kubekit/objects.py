"""The objects that we read, as far as we read them.

Unknown fields are skipped and words stay plain text, so that a newer server breaks nothing. A field that is absent has its default.
Objects are not changed after they were read; who wants another state sends a patch.
"""

from datetime import datetime
from typing import Any

import msgspec


class Part(msgspec.Struct, rename="camel", frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A piece of an object: camelCase on the wire, read-only, everything optional. Base of our own kinds' pieces too."""


class OwnerReference(Part, frozen=True):
    """Whose object this is; it goes when its last owner goes."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Part, frozen=True):
    """Name, version and marks of an object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    generate_name: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class KubeObject(Part, frozen=True):
    """What all objects have. Base of every kind that we read."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()


class PartialObject(KubeObject, frozen=True):
    """An object of which only the metadata matters."""


class CustomObject(KubeObject, frozen=True):
    """An object of a kind that has no Struct of its own."""

    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class Condition(Part, frozen=True):
    """One thing that is true, false or unknown about an object."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class SecretKeySelector(Part, frozen=True):
    """One value of a secret."""

    name: str = ""
    key: str = ""
    optional: bool = False


class EnvVarSource(Part, frozen=True):
    """Where the value of a variable is taken from."""

    secret_key_ref: SecretKeySelector | None = None


class EnvVar(Part, frozen=True):
    """A variable of a container."""

    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class SecretReference(Part, frozen=True):
    """A whole secret."""

    name: str = ""
    optional: bool = False


class EnvFromSource(Part, frozen=True):
    """What makes a variable of each of its values."""

    prefix: str = ""
    secret_ref: SecretReference | None = None


class Container(Part, frozen=True):
    """A container as it was asked for."""

    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    restart_policy: str = ""
    """Of an init container: Always lets it run beside the others."""


class SchedulingGate(Part, frozen=True):
    """What holds a pod back from being scheduled."""

    name: str = ""


class PodSpec(Part, frozen=True):
    """What a pod was asked to be."""

    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    scheduling_gates: tuple[SchedulingGate, ...] = ()
    active_deadline_seconds: int | None = None
    termination_grace_period_seconds: int | None = None
    priority_class_name: str = ""
    runtime_class_name: str | None = None


class Waiting(Part, frozen=True):
    """Why a container does not run yet, or not again."""

    reason: str = ""
    message: str = ""


class Running(Part, frozen=True):
    """Since when a container runs."""

    started_at: datetime | None = None


class Terminated(Part, frozen=True):
    """How a container ended."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Part, frozen=True):
    """At most one of the three is there."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Part, frozen=True):
    """How a container is doing."""

    name: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str = msgspec.field(default="", name="containerID")


class PodStatus(Part, frozen=True):
    """How a pod is doing, in the cluster's words."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    nominated_node_name: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    pod_ip: str = msgspec.field(default="", name="podIP")
    start_time: datetime | None = None
    qos_class: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(KubeObject, frozen=True):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class PersistentVolumeClaimSpec(Part, frozen=True):
    """What a claim asks for."""

    storage_class_name: str | None = None
    volume_name: str = ""
    access_modes: tuple[str, ...] = ()


class PersistentVolumeClaimStatus(Part, frozen=True):
    """What a claim has got."""

    phase: str = ""
    capacity: dict[str, str] = {}
    access_modes: tuple[str, ...] = ()


class PersistentVolumeClaim(KubeObject, frozen=True):
    """A claim for storage."""

    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: PersistentVolumeClaimStatus = PersistentVolumeClaimStatus()


class Secret(KubeObject, frozen=True):
    """A secret; values are bytes (base64 on the wire)."""

    type: str = ""
    data: dict[str, bytes] = {}


class ConfigMap(KubeObject, frozen=True):
    """Text by key."""

    data: dict[str, str] = {}


class ContainerMetrics(Part, frozen=True):
    """What a container uses: quantities by resource."""

    name: str = ""
    usage: dict[str, str] = {}


class PodMetrics(KubeObject, frozen=True):
    """What the containers of a pod used at a moment (metrics.k8s.io); of CPU the average of a short time before it."""

    timestamp: datetime | None = None
    containers: tuple[ContainerMetrics, ...] = ()


class ObjectReference(Part, frozen=True):
    """Which object something is about."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class EventSeries(Part, frozen=True):
    """How often an event has been seen."""

    count: int = 0
    last_observed_time: datetime | None = None


class Event(KubeObject, frozen=True):
    """What some part of the cluster has to say about an object (core/v1)."""

    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    type: str = ""
    count: int = 0
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: EventSeries | None = None
    reporting_component: str = ""


class LeaseSpec(Part, frozen=True):
    """Who holds a lease, and for how long without a renewal."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None


class Lease(KubeObject, frozen=True):
    """A lease."""

    spec: LeaseSpec = LeaseSpec()


class UserInfo(Part, frozen=True):
    """Whom a token belongs to."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class TokenReviewStatus(Part, frozen=True):
    """What the server makes of a token."""

    authenticated: bool = False
    user: UserInfo = UserInfo()
    audiences: tuple[str, ...] = ()
    error: str = ""


class TokenReview(KubeObject, frozen=True):
    """The answer to the question whose token that is."""

    status: TokenReviewStatus = TokenReviewStatus()
