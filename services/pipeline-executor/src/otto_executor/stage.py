"""A stage: what it is to do, and how it stands."""

from dataclasses import dataclass, field
from enum import StrEnum

from otto_executor.approval import Approval
from otto_executor.retry import Failure, FailureCause, RetryPolicy
from otto_executor.usage import Usage

CHECKOUT = "otto.checkout"
"""The reserved id of the stage that checks the run's repository out."""


class StageType(StrEnum):
    """What a stage is for; only APPROVAL changes what happens."""

    UNSPECIFIED = "UNSPECIFIED"
    BUILD = "BUILD"
    TEST = "TEST"
    DEPLOY = "DEPLOY"
    SETUP = "SETUP"
    CLEANUP = "CLEANUP"
    NOTIFY = "NOTIFY"
    APPROVAL = "APPROVAL"
    CUSTOM = "CUSTOM"


class StageStatus(StrEnum):
    """What clients see of a stage, or of a pipeline."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"
    RETRYING = "RETRYING"


class RunCondition(StrEnum):
    """When a stage runs, once all its dependencies have ended."""

    ON_SUCCESS = "ON_SUCCESS"
    ON_FAILURE = "ON_FAILURE"
    ALWAYS = "ALWAYS"


class Phase(StrEnum):
    """What a stage waits for."""

    WAITING = "WAITING"
    """Its dependencies."""
    APPROVAL = "APPROVAL"
    """A person."""
    DELAY = "DELAY"
    """The end of a retry delay."""
    STARTING = "STARTING"
    """The scaler's answer that the workers of its attempt exist."""
    RUNNING = "RUNNING"
    """The end of its workers."""
    STOPPING = "STOPPING"
    """The end of workers that were asked to stop."""
    ENDED = "ENDED"
    """Nothing."""


class WorkerStatus(StrEnum):
    """How a worker stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether it can't change any more."""
        return self in {WorkerStatus.SUCCEEDED, WorkerStatus.FAILED}


@dataclass(frozen=True, slots=True)
class Secret:
    """The variable `name` has the value of `key` in the secret `secret`."""

    name: str
    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class ExtraContainer:
    """A container that runs beside each worker's own."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cpu: str = ""
    memory: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the run's workspace is to be where it is a volume; "" is the installation's."""

    storage_class: str = ""
    size: str = ""
    access_mode: str = ""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What a stage is to do; `timeout`, `approval_timeout` and `grace` are seconds, `grace` None is the scaler's default.

    `workers` is 0 for an approval that runs nothing. `approvers` None: no approval is needed.
    """

    stage_id: str
    name: str = ""
    type: StageType = StageType.UNSPECIFIED
    workers: int = 1
    depends_on: tuple[str, ...] = ()
    run_if: RunCondition = RunCondition.ON_SUCCESS
    ignore_errors: bool = False
    approvers: tuple[str, ...] | None = None
    timeout: float = 3600.0
    approval_timeout: float = 86400.0
    grace: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    working_directory: str = ""
    own_workspace: bool = False
    shared_workspace: bool = False
    """A shared one was asked for by name, so where there is none, one of its own will not do."""
    claim: Claim | None = None
    """What the shared one is to be, as this stage says."""
    cpu: str = ""
    memory: str = ""
    extra_containers: tuple[ExtraContainer, ...] = ()


@dataclass(slots=True)
class Worker:
    """A worker of the current attempt, as last heard of. `running_since` is when we first saw it run."""

    name: str
    status: WorkerStatus
    running_since: float | None = None
    exit_code: int | None = None
    cause: FailureCause | None = None
    words: str = ""
    room: int = 0
    """While it waits for room: the cap on concurrent workers under which it waits; 0: it does not wait."""


@dataclass(slots=True)
class StageState:
    """How a stage stands: all that has to survive a crash. Times are seconds since the epoch."""

    phase: Phase = Phase.WAITING
    status: StageStatus = StageStatus.PENDING
    message: str = ""
    percentage: int = 0
    attempt: int = 0
    workers: dict[int, Worker] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    confirmed_at: float | None = None
    """When the scaler said that the workers of this attempt exist."""
    started_at: float | None = None
    attempt_started_at: float | None = None
    ended_at: float | None = None
    failure: Failure | None = None
    retries: int = 0
    infrastructure_retries: int = 0
    wake_at: float | None = None
    """When the wait of APPROVAL, DELAY or (once the stop was confirmed) STOPPING is over."""
    stop_confirmed: bool = False
    stops: int = 0
    succeeded: int = 0
    """Workers of the last attempt that succeeded, once the stage has ended; before that `workers` tells."""
    failed: int = 0
    usage: Usage | None = None
    """What the workers of the last attempt that have ended used, as far as they were measured. Not by worker: a run has room for little."""
    approval: Approval | None = None
    kept_from: str = ""
    """The run in which the stage ran, if this one repeats that and keeps its result; empty: this one."""

    @property
    def ended(self) -> bool:
        """Whether it can't change any more."""
        return self.phase is Phase.ENDED
