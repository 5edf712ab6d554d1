"""What can go wrong in the scaler.

ScalerError
├── CallError                  clients may read the text
│   ├── InvalidRequestError    INVALID_ARGUMENT     names every field that is wrong
│   ├── NoRoomError            RESOURCE_EXHAUSTED   the cap on concurrent or queued workers
│   ├── NotReadyError          UNAVAILABLE          starting or stopping
│   ├── WatcherTooSlowError    RESOURCE_EXHAUSTED   a watcher's backlog is full
│   └── ExecutorCallError      as the executor said, or UNAVAILABLE when it can't be reached
└── BackendError               the backend can't do it now; the text is for clients
    ├── RefusedError           a worker can't be created, in words for the client
    ├── AwayError              it does not do it now, or does not answer: the same call may work later
    └── BackendUnusableError   the backend can't work at all; the text says why and what to do
"""

from otto_scaler.worker import Cause


class ScalerError(Exception):
    """The root."""


class CallError(ScalerError):
    """The root of what clients are told; the text is written for them."""

    grpc_status = "INTERNAL"


class InvalidRequestError(CallError):
    """The request can't be carried out as it is. `problems` pairs each field with what is wrong with it."""

    grpc_status = "INVALID_ARGUMENT"

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {words}" for field, words in problems))
        self.problems = problems


class NoRoomError(CallError):
    """There is no room for a single one of the workers."""

    grpc_status = "RESOURCE_EXHAUSTED"


class NotReadyError(CallError):
    """The workers are not known yet, or not any more: repeat the call."""

    grpc_status = "UNAVAILABLE"


class WatcherTooSlowError(CallError):
    """A watcher did not take its events in time and has to watch again."""

    grpc_status = "RESOURCE_EXHAUSTED"


class ExecutorCallError(CallError):
    """What the executor answered, unchanged; `grpc_status` is its status."""

    def __init__(self, status: str, details: str) -> None:
        super().__init__(details)
        self.grpc_status = status


class BackendError(ScalerError):
    """The root of what backends raise: it can't do that now. The text is written for clients."""


class RefusedError(BackendError):
    """The backend does not create this worker; the text is written for clients, `cause` is its type."""

    def __init__(self, text: str, cause: Cause = Cause.REJECTED) -> None:
        super().__init__(text)
        self.cause = cause


class AwayError(BackendError):
    """The backend does not do it now; the same call may work later, and does nothing twice. `answered`: it said so itself."""

    def __init__(self, text: str, *, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered


class BackendUnusableError(BackendError):
    """The backend can't be used; the text says why and what to do."""
