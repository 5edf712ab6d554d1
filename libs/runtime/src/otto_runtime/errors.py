"""From exceptions to gRPC status, without ever telling a client the text of an exception that was not meant for it.

An error tree of a service stays free of gRPC: each class that a client may see has a class attribute `grpc_status` with the canonical name
of a status ("NOT_FOUND"), and its text is written for the client. A service lists the root of its tree in `Component.public_errors`.
Everything else becomes INTERNAL with an id that stands in our log.

    MalformedMessage      INVALID_ARGUMENT: the bytes of a request are not the message that the method takes
"""

import secrets
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from otto_runtime.tasks import leaves

MAX_DETAILS_BYTES = 7_000
"""Bytes of status details as they travel: percent-encoded in a trailer, where anything but printable ASCII takes three for one.
Clients refuse metadata over 8 KiB (grpc-java always; grpc-core with growing probability from there to 16 KiB)."""


class MalformedMessage(Exception):  # noqa: N818 - names what arrived, as the status does
    """The bytes of a request can't be read."""

    grpc_status = "INVALID_ARGUMENT"


@dataclass(frozen=True, slots=True)
class Status:
    """What a client gets to see of an error."""

    code: grpc.StatusCode
    details: str
    error_id: str = ""
    """Set when the error was not meant for the client: the id under which our log has it."""


def shortened(text: str, limit: int = MAX_DETAILS_BYTES) -> str:
    """The text cut at a character's edge so that it takes at most `limit` bytes on the wire, with an ellipsis where it was cut.

    Characters that UTF-8 can't express (lone surrogates, as file names have them) become `?`.
    """
    encoded = text.encode("utf-8", "replace")
    room = limit - 9  # for the ellipsis, three bytes
    size, fits = 0, 0
    for end, byte in enumerate(encoded, start=1):
        size += 1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3
        if size <= room:
            fits = end
        if size > limit:
            return encoded[:fits].decode("utf-8", "ignore") + "…"
    return encoded.decode()


def status_of(error: BaseException, public: tuple[type[Exception], ...]) -> Status:
    """The status a client gets for `error`: its own words if it is an instance of `public`, otherwise INTERNAL and an id.

    A group counts as public when all that is in it is: the first one's status, everybody's words. A TimeoutError of the service's own
    making is not public: the deadline of calls is kept by `calls`, which knows its own from others.
    """
    found = list(leaves(error))
    if found and all(isinstance(leaf, public) for leaf in found):
        name = getattr(found[0], "grpc_status", "INTERNAL")
        return Status(grpc.StatusCode[name], shortened("\n".join(dict.fromkeys(str(leaf) for leaf in found))))
    error_id = secrets.token_hex(6)
    return Status(grpc.StatusCode.INTERNAL, f"internal error; the service's log has it under id {error_id}", error_id)


def code_of(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    """The status of a handler that returned: OK unless it set another one."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if code and known.value[0] == code), grpc.StatusCode.OK)
