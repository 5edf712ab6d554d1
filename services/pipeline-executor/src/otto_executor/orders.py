"""What the executor asks of whoever runs workers, and what it hears from there."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from otto_executor.definition import Definition
from otto_executor.retry import Failure, FailureCause
from otto_executor.stage import CHECKOUT, Claim, StageSpec, WorkerStatus
from otto_executor.usage import Usage
from otto_runtime import spans


@dataclass(frozen=True, slots=True)
class Owner:
    """The Kubernetes object that a run is kept in; what has it as its owner goes with it."""

    api_version: str
    kind: str
    name: str
    uid: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Order:
    """The workers of one attempt of a stage. The same order twice creates nothing twice."""

    pipeline_id: str
    stage: StageSpec
    attempt: int
    workspace: str
    """Empty: a directory of its own for each worker."""
    repository: str
    commit_sha: str
    checkout: bool
    """Whether the workers have to check the repository out; otherwise they are only told its name."""
    traceparent: str
    """W3C's, of the stage's span."""
    triggered_by: str
    owner: Owner | None = None
    claim: Claim | None = None
    """What the workspace is to be, the same for all stages, as the first worker makes it."""
    unshared: bool = False
    """Whether no other stage works in the workspace."""
    expected: bool = False
    """Whether another stage has worked in it."""

    @classmethod
    def of(cls, definition: Definition, stage: StageSpec, attempt: int) -> Self:
        """The workers of one attempt of a run's stage."""
        return cls(
            pipeline_id=definition.pipeline_id,
            stage=stage,
            attempt=attempt,
            workspace="" if stage.own_workspace else definition.workspace,
            repository=definition.repository,
            commit_sha=definition.commit_sha,
            checkout=stage.stage_id == CHECKOUT,
            traceparent=spans.stage(definition.traceparent, definition.pipeline_id, stage.stage_id),
            triggered_by=definition.triggered_by,
            unshared=sum(other.workers > 0 and not other.own_workspace for other in definition.stages) == 1,
            claim=next((other.claim for other in definition.stages if other.claim is not None), None),
        )


@dataclass(frozen=True, slots=True)
class Created:
    """All workers of the order exist, whatever has become of them since; `waiting` of them wait for room under a cap of `room`."""

    names: tuple[str, ...]
    waiting: int = 0
    room: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Not all workers of the order can be had; those in `names` exist."""

    failure: Failure
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """How a worker of a stage stands."""

    pipeline_id: str
    stage_id: str
    attempt: int
    index: int
    """From 1."""
    name: str
    status: WorkerStatus
    exit_code: int | None = None
    cause: FailureCause | None = None
    words: str = ""
    room: int = 0
    """While it waits for room: the cap on concurrent workers under which it waits; 0: it does not wait."""
    usage: Usage | None = None
    """Once it has ended, where it was measured."""


class Synced:
    """The watch has now reported every worker there is."""


SYNCED = Synced()


class Workers(Protocol):
    """The scaler, as far as the executor needs it. Every method raises WorkersUnavailableError when it can't be asked now."""

    async def start(self, order: Order) -> Created | Refused:
        """Has the workers created; they wait for capacity if need be. Idempotent. Raises NoRoomError while some of them can't even wait."""

    async def stop(self, pipeline_id: str, stage_id: str, reason: str) -> list[WorkerReport]:
        """Asks all unfinished workers of a stage to end and reports how the stage's workers stand then. Idempotent."""

    async def release(self, names: Sequence[str]) -> None:
        """How these ended workers ended is stored: they need not be kept for that. Idempotent."""

    async def delete_workspace(self, workspace: str) -> None:
        """Has a workspace deleted. Idempotent."""

    def watch(self) -> AsyncGenerator[WorkerReport | Synced]:
        """Every stage's worker there is, SYNCED, then every change. Ends or raises when it is interrupted: watch again."""


def task_id(pipeline_id: str, stage_id: str) -> str:
    """The task of a stage's workers. Escaped, so that two different pairs never give the same text."""

    def escaped(text: str) -> str:
        return text.replace("%", "%25").replace("/", "%2F")

    return f"{escaped(pipeline_id)}/{escaped(stage_id)}"
