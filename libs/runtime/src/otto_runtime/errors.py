"""From exceptions to gRPC status, without ever telling a client the text of an exception that was not meant for it.

An error tree of a service stays free of gRPC: each class that a client may see has a class attribute `grpc_status` with the canonical name
of a status ("NOT_FOUND"), and its text is written for the client. A service lists the root of its tree in `Component.public_errors`.
Everything else becomes INTERNAL with an id that stands in our log.
"""

import secrets
from dataclasses import dataclass

import grpc

MAX_DETAILS_BYTES = 6_000
"""Bytes of status details. They travel percent-encoded in a header (a byte may take three), and clients refuse headers over 16 KiB."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a client gets to see of an error."""

    code: grpc.StatusCode
    details: str
    error_id: str = ""
    """Set when the error was not meant for the client: the id under which our log has it."""


def single(error: BaseException) -> BaseException:
    """The one exception inside nested groups of one (what a TaskGroup makes of it), or the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def shortened(text: str, limit: int = MAX_DETAILS_BYTES) -> str:
    """The text cut to `limit` UTF-8 bytes at a character's edge, with an ellipsis where it was cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"


def status_of(error: BaseException, public: tuple[type[Exception], ...]) -> Status:
    """The status a client gets for `error`: its own words if it is an instance of `public`, otherwise INTERNAL and an id."""
    error = single(error)
    if isinstance(error, public):
        name = getattr(error, "grpc_status", "INTERNAL")
        return Status(grpc.StatusCode[name], shortened(str(error)))
    if isinstance(error, TimeoutError):
        return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the service did not answer in time; repeat the call")
    error_id = secrets.token_hex(6)
    return Status(grpc.StatusCode.INTERNAL, f"internal error; the service's log has it under id {error_id}", error_id)
