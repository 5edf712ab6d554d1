"""What a worker is: its identity and name, what it was asked to be, and how it stands."""

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from otto_runtime import spans

NAME_SLUG_CHARACTERS = 30
LABEL_PREFIX = "ottoscaler.io/"


class State(enum.Enum):
    """The life of a worker; the values are the words of the contract."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        """Whether nothing follows any more."""
        return self in {State.SUCCEEDED, State.FAILED}


class Cause(enum.Enum):
    """Why a worker failed; names and order as in the contract's FailureCause."""

    UNSPECIFIED = "UNSPECIFIED"
    EXIT_CODE = "EXIT_CODE"
    OOM_KILLED = "OOM_KILLED"
    TIMEOUT = "TIMEOUT"
    EVICTED = "EVICTED"
    NODE_LOST = "NODE_LOST"
    DELETED = "DELETED"
    IMAGE_PULL = "IMAGE_PULL"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    QUOTA = "QUOTA"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a worker this one, and what is said about it; a backend can tell all of it of a worker it finds again."""

    name: str
    task_id: str
    index: int
    """Its number among the workers of its attempt, from 1."""
    count: int
    """How many workers its attempt has."""
    pipeline_id: str = ""
    stage_id: str = ""
    attempt: int = 1
    workspace: str = ""
    """The directory it shares with others; empty: one of its own."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    parent: str = ""
    """The W3C traceparent of what it is a part of: its stage, or the call that asked for it."""

    @property
    def traceparent(self) -> str:
        """That of its own span."""
        return spans.worker(self.parent, self.name)

    def is_same_worker(self, other: "Identity") -> bool:
        """Whether they are the same worker of the same attempt, and not two whose names happen to collide."""
        mine = (self.task_id, self.pipeline_id, self.stage_id, self.attempt, self.index)
        return mine == (other.task_id, other.pipeline_id, other.stage_id, other.attempt, other.index)


@dataclass(frozen=True, slots=True)
class SecretVariable:
    """The variable `name` has the value of `key` in `secret`."""

    name: str
    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class ExtraContainer:
    """A container beside the worker's own."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cpu_cores: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Owner:
    """The Kubernetes object that a worker belongs to, and goes with."""

    api_version: str
    kind: str
    name: str
    uid: str
    namespace: str = ""
    """Empty: that of the workers."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a workspace is to be where it is a volume; "" is as the settings say."""

    storage_class: str = ""
    size: str = ""
    access_mode: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a backend needs to run a worker. Checked already: a backend refuses only what it can't do itself."""

    identity: Identity
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """What was given and the OTTO_* variables but OTTO_WORKSPACE, which only the backend knows; no secrets."""
    secrets: tuple[SecretVariable, ...] = ()
    image: str = ""
    repository: str = ""
    commit: str = ""
    working_directory: str = ""
    cpu_cores: float = 0.0
    """0: no limit."""
    memory_bytes: int = 0
    """0: no limit."""
    timeout: float = 3600.0
    """Seconds from its start, the checkout included."""
    stop_grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    priority_class: str = ""
    service_account: str = ""
    extra_containers: tuple[ExtraContainer, ...] = ()
    owner: Owner | None = None
    workspace_optional: bool = False
    """Where workspaces can't be had, a directory of its own will do."""
    workspace_expected: bool = False
    """Others have worked in it before: one that is gone is not made anew."""
    workspace_unshared: bool = False
    """Nobody else works in it."""
    claim: Claim = Claim()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker used while it ran: cores, and bytes of memory."""

    cpu_average: float
    cpu_peak: float
    memory_average: int
    memory_peak: int


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Worker:
    """How a worker stands. A change makes a new one, so identity tells whether something changed."""

    identity: Identity
    uid: str
    """Tells it from an earlier one of the same name."""
    state: State
    created: int
    """Nanoseconds since the epoch, as all times here."""
    started: int = 0
    """0 before it runs."""
    ended: int = 0
    """0 before it ends."""
    held: bool = False
    """Created, but not to run before the backend is told to start it."""
    stopping: bool = False
    """Was asked to stop."""
    exit_code: int | None = None
    cause: Cause = Cause.UNSPECIFIED
    error: str = ""
    pending_reason: str = ""
    node: str = ""
    address: str = ""
    usage: Usage | None = None
    """Once it has ended; None where nobody measured it."""

    @property
    def name(self) -> str:
        """Unique among the workers that exist."""
        return self.identity.name

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.state.finished


def worker_name(task_id: str, pipeline_id: str, stage_id: str, attempt: int, index: int) -> str:
    """The name that worker has wherever and whenever it is asked for: a DNS label of at most 63 characters.

    The hash is taken over length-prefixed parts, so that ("a", "bc") and ("ab", "c") differ.
    """
    digest = _digest(pipeline_id, stage_id, task_id, str(attempt))
    return f"otto-{_slug(task_id, NAME_SLUG_CHARACTERS)}-{digest}-{index}"


def task_workspace(task_id: str) -> str:
    """The workspace that the workers of a plain task share when they are to share one."""
    return f"task-{_digest(task_id)}"


def label_value(text: str) -> str:
    """A Kubernetes label value for any text: what is left of it when cleaned, and a hash, so that two texts never share one."""
    slug = _slug(text, 40)
    return f"{slug}-{_digest(text)}" if slug else _digest(text)


def _digest(*parts: str) -> str:
    whole = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        whole.update(len(encoded).to_bytes(8, "big") + encoded)
    return whole.hexdigest()[:10]


def _slug(text: str, limit: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-")
