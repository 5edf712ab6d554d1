"""Answers that are errors, in the API server's words."""

from typing import Any


class Refusal(Exception):  # noqa: N818 - what the server says, not a failure of it
    """An answer other than 2xx."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after = retry_after

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        details = {**self.details, **({"retryAfterSeconds": self.retry_after} if self.retry_after is not None else {})}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            **({"details": details} if details else {}),
            "code": self.code,
        }


def not_found(title: str, plural: str, name: str) -> Refusal:
    """There is no such object."""
    return Refusal(404, "NotFound", f'{title} "{name}" not found', {"name": name, "kind": plural})


def exists(title: str, plural: str, name: str, going: bool) -> Refusal:
    """There is one already, perhaps on its way out."""
    words = f'{title} "{name}" already exists'
    return Refusal(409, "AlreadyExists", f"object is being deleted: {words}" if going else words, {"name": name, "kind": plural})


def modified(title: str, plural: str, name: str) -> Refusal:
    """Somebody else was faster."""
    message = (
        f'Operation cannot be fulfilled on {title} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return Refusal(409, "Conflict", message, {"name": name, "kind": plural})


def precondition(title: str, plural: str, name: str, what: str, wanted: str, there: str) -> Refusal:
    """It is not the object that was meant."""
    message = (
        f'Operation cannot be fulfilled on {title} "{name}": Precondition failed: '
        f"{what} in precondition: {wanted}, {what} in object meta: {there}"
    )
    return Refusal(409, "Conflict", message, {"name": name, "kind": plural})


def invalid(kind: str, name: str, field: str, reason: str, message: str) -> Refusal:
    """A field is not what it may be."""
    details = {"name": name, "kind": kind, "causes": [{"reason": reason, "message": message, "field": field}]}
    return Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {field}: {message}', details)


def expired(message: str) -> Refusal:
    """The server has forgotten what it is asked for."""
    return Refusal(410, "Expired", message)


def bad_request(message: str) -> Refusal:
    """The request makes no sense."""
    return Refusal(400, "BadRequest", message)


def node_refuses(words: str) -> Refusal:
    """What a kubelet answers with 400, as the API server hands it on."""
    cause = {"reason": "UnexpectedServerResponse", "message": words}
    return Refusal(400, "BadRequest", "the server rejected our request for an unknown reason", {"causes": [cause]})


def too_large() -> Refusal:
    """What etcd says of a request over its limit, handed on as it is."""
    return Refusal(500, "", "etcdserver: request is too large")
