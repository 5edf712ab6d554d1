"""What went wrong with a call, as a person reads it, and whether the same can be asked again.

ServiceError         the service answered with an error, or could not be reached; `exit_code` says which ottoctl ends with
└── LostError        it was reached before, and not again within the user's patience
"""

import re

import grpc
import grpc.aio

from ottoctl import exit_codes

_BREAKS = ("RST_STREAM", "Stream removed", "GOAWAY", "Connection reset", "Socket closed")


_MOST_WORDS = 300
"""Characters of a reason in the middle of a sentence."""
_NOT_ACTED = ("otto-not-acted", "1")
"""Trailer of a refusal by one that is about to go: nothing of the call was done."""
_STOPPING = "the service is stopping"
"""In the words of what ends at a stop."""
_CORE = (
    "failed to connect", "dns resolution failed", "name resolution", "connection", "socket closed", "broken pipe", "goaway",
    "stream removed", "ping timeout", "keepalive", "cancelling all calls", "transport", "endpoint", "recvmsg", "end of tcp stream",
    "no route to host", "network is unreachable", "timed out", "timeout occurred", "rst_stream", "upstream", "empty address list",
    "handshake", "subchannel",
)  # fmt: skip
"""Words of gRPC's core and of proxies about a connection: nothing else in a status tells them from what the service itself says."""


class ServiceError(Exception):
    """What the service said, with a hint where there is one."""

    def __init__(self, text: str, exit_code: int = exit_codes.SERVICE_ERROR, code: str = "") -> None:
        """`code` is the name of the status, where it was one."""
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code


class LostError(ServiceError):
    """There was contact, then none for as long as the user wants to wait."""

    def __init__(self, address: str, patience: float, why: str) -> None:
        super().__init__(
            f"gave up after {patience:g} s without a connection to {address} ({why}). What was started goes on there. "
            "`ottoctl doctor` looks for the reason; --patience says how long to try",
            exit_codes.UNREACHABLE,
        )


def in_words(error: grpc.aio.AioRpcError, address: str) -> ServiceError:
    """A status as a person reads it."""
    code, details = error.code(), error.details() or ""
    if said_by_service(error):
        return ServiceError(f"Ottoscaler at {address} can't do that at the moment: {details}", exit_codes.SERVICE_ERROR, code.name)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceError(
            f"can't reach Ottoscaler at {address}. Is it running? `make serve` starts it; "
            f"--address or OTTO_ADDRESS names another one; `ottoctl doctor` looks for the reason. ({short(error)})",
            exit_codes.UNREACHABLE,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServiceError(
            f"Ottoscaler at {address} did not answer in time; `ottoctl doctor` looks for the reason", exit_codes.UNREACHABLE
        )
    usage = code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}
    text = details if details.startswith(f"{code.name}: ") else f"{code.name}: {details}"
    return ServiceError(text, exit_codes.USAGE if usage else exit_codes.SERVICE_ERROR, code.name)


def said_by_service(error: grpc.aio.AioRpcError) -> bool:
    """Whether a service that was reached says that it can't do it now: its disk is full, it is starting. One that is about to go, and
    says so, is as good as gone.
    """
    details = (error.details() or "").lower()
    if _STOPPING in details or _NOT_ACTED in tuple(error.trailing_metadata() or ()):
        return False
    return error.code() is grpc.StatusCode.UNAVAILABLE and bool(details) and not any(word in details for word in _CORE)


def broken(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection broke, so that the same can be asked again.

    CANCELLED was not by us, nobody would read it then: the server ended the call while stopping. A backend that is killed behind a proxy
    shows as INTERNAL with RST_STREAM.
    """
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return True
    return error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN} and any(word in (error.details() or "") for word in _BREAKS)


def never_sent(error: grpc.aio.AioRpcError) -> bool:
    """Whether no connection came about, so that nobody has seen the request."""
    details = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and ("failed to connect" in details or "DNS resolution failed" in details)


def short(error: grpc.aio.AioRpcError) -> str:
    """The cause at the end of what gRPC's core says, without its outer layers."""
    details = error.details() or error.code().name
    for pattern in (r"(Connection refused|Connection reset by peer|No route to host|Network is unreachable|timed out|Timeout occurred)",):
        if found := re.search(pattern, details, re.IGNORECASE):
            return found[1].lower()
    if "DNS resolution failed" in details:
        return "its name can't be resolved"
    if "ping timeout" in details or "keepalive" in details.lower():
        return "it does not answer any more"
    return details if len(details) <= _MOST_WORDS else details[: _MOST_WORDS - 1] + "…"
