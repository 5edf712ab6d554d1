"""What the executor tells its clients when something can't be done.

ExecutorError
├── InvalidRequestError        INVALID_ARGUMENT      the request names something wrong; the text names every field
├── PipelineNotFoundError      NOT_FOUND             no such run
├── StageNotFoundError         NOT_FOUND             no such stage in that run
├── PipelineExistsError        ALREADY_EXISTS        stages were sent for a known id
├── NotAnApproverError         PERMISSION_DENIED     the user is not among the stage's approvers
├── NotApprovableError         FAILED_PRECONDITION   the stage needs no approval, was decided otherwise, or has ended
├── NotRepeatableError         FAILED_PRECONDITION   the run has not ended, or nothing of it failed, or its workspace is gone
├── TooManyRunsError           RESOURCE_EXHAUSTED    the cap on unfinished runs is reached
├── NotReadyError              UNAVAILABLE           starting or stopping; repeat
├── StoreUnavailableError      UNAVAILABLE           the memory of runs can't be read or written now; repeat
│   └── TooLargeToStoreError   UNAVAILABLE           it does not take what is to be written, which has become too large
├── RunTooLargeError           INVALID_ARGUMENT      the memory of runs can't hold so large a run
└── RunUnreadableError         DATA_LOSS             a kept run can't be understood; it is left as it is

StoreUnusableError             the memory of runs can't be opened at all: the service does not start
SaveConflictError              another process saved the same run meanwhile: this one has to let go of it
└── RunGoneError               somebody took the run out of the memory: its workers have to be stopped
WorkspaceGoneError             a workspace can't be taken over
WorkersUnavailableError        the scaler can't be asked now: ask again
└── NoRoomError                it can be asked, but has no room now
"""


class ExecutorError(Exception):
    """Root of what clients may read; the text is written for them."""

    grpc_status = "INTERNAL"


class InvalidRequestError(ExecutorError):
    """Something in the request is wrong."""

    grpc_status = "INVALID_ARGUMENT"


class PipelineNotFoundError(ExecutorError):
    """There is no run of that id."""

    grpc_status = "NOT_FOUND"

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(f"NOT_FOUND: there is no pipeline {pipeline_id!r}")


class StageNotFoundError(ExecutorError):
    """The run has no stage of that id."""

    grpc_status = "NOT_FOUND"

    def __init__(self, pipeline_id: str, stage_id: str) -> None:
        super().__init__(f"NOT_FOUND: pipeline {pipeline_id!r} has no stage {stage_id!r}")


class PipelineExistsError(ExecutorError):
    """Stages were sent for an id that is known already."""

    grpc_status = "ALREADY_EXISTS"

    def __init__(self, pipeline_id: str, state: str, *, ended: bool) -> None:
        word = "ALREADY_COMPLETED: " if ended else ""
        super().__init__(
            f"{word}pipeline {pipeline_id!r} exists already ({state}); "
            "to follow it send its pipeline_id without stages, to run it again choose another pipeline_id"
        )


class NotAnApproverError(ExecutorError):
    """The user may not decide about that stage."""

    grpc_status = "PERMISSION_DENIED"


class NotApprovableError(ExecutorError):
    """There is nothing to decide about that stage, or not any more."""

    grpc_status = "FAILED_PRECONDITION"


class NotRepeatableError(ExecutorError):
    """The run can't be repeated like this."""

    grpc_status = "FAILED_PRECONDITION"


class TooManyRunsError(ExecutorError):
    """The cap on unfinished runs is reached."""

    grpc_status = "RESOURCE_EXHAUSTED"


class NotReadyError(ExecutorError):
    """The service is starting or stopping."""

    grpc_status = "UNAVAILABLE"


class StoreUnavailableError(ExecutorError):
    """The memory of runs can't be read or written at the moment; `remedy` begins a sentence, `reason` is for our log only."""

    grpc_status = "UNAVAILABLE"
    maybe_done = True
    """Whether what was to be written may have been written all the same."""

    def __init__(self, words: str, reason: str, remedy: str = "Wait until it can") -> None:
        super().__init__(f"{words}. {remedy}, and repeat the call: nothing of it was done")
        self.words = words
        self.reason = reason
        self.remedy = remedy

    def again(self) -> "StoreUnavailableError":
        """Another one that says the same, for another caller."""
        return StoreUnavailableError(self.words, self.reason, self.remedy)


class TooLargeToStoreError(StoreUnavailableError):
    """The memory of runs takes nothing as large as what is to be written."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "the cluster does not take a PipelineRun as large as this pipeline's",
            reason,
            "Take annotations and labels off it, or let etcd take larger requests (--max-request-bytes)",
        )

    def again(self) -> "StoreUnavailableError":
        """See StoreUnavailableError."""
        return TooLargeToStoreError(self.reason)


class RunTooLargeError(ExecutorError):
    """The memory of runs can't hold so large a run."""

    grpc_status = "INVALID_ARGUMENT"


class RunUnreadableError(ExecutorError):
    """What is kept of a run can't be understood: it was damaged, or written by another version. `reason` is for our log only."""

    grpc_status = "DATA_LOSS"

    def __init__(self, pipeline_id: str, reason: str) -> None:
        super().__init__(
            f"what is kept of pipeline {pipeline_id!r} is damaged or was written by another version; it is left as it is and does not go "
            "on. To run it again choose another pipeline_id"
        )
        self.pipeline_id = pipeline_id
        self.reason = reason


class StoreUnusableError(Exception):
    """The memory of runs can't be opened; the text says why and what to do."""


class SaveConflictError(Exception):
    """Another process has saved the run since it was loaded here."""


class RunGoneError(SaveConflictError):
    """Somebody has taken the run out of the memory while it went on."""


class WorkspaceGoneError(Exception):
    """The run's workspace is gone, is being deleted, or was taken over."""


class WorkersUnavailableError(Exception):
    """The scaler can't be asked at the moment; `words` says what was seen."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class NoRoomError(WorkersUnavailableError):
    """The scaler has no room for the workers, nor a place to wait for it."""
