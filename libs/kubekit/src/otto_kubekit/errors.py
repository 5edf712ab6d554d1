"""What can go wrong between us and the Kubernetes API: one small tree.

    KubeError
    ├─ ConfigurationError     there is no usable kubeconfig, service account or credential
    ├─ ApiError               the API server answered, but not what was asked for: code, reason, message, details
    │  ├─ BadRequestError     400 and whatever else of 4xx stands nowhere below
    │  ├─ UnauthorizedError   401, also after the credentials were read again
    │  ├─ ForbiddenError      403; `quota` says that a ResourceQuota refused
    │  ├─ NotFoundError       404
    │  ├─ AlreadyExistsError  409 of a create
    │  ├─ ConflictError       409: the object has changed meanwhile; `quota` says that only the count of a quota has, so try again
    │  ├─ ExpiredError        410: too old a resource version or page; list again
    │  ├─ InvalidError        422; `details.causes` names the fields
    │  ├─ ThrottledError      429 for longer than the call's deadline; `retry_after` has the server's wish
    │  └─ ServerError         5xx
    ├─ UnreachableError       no answer: refused, reset, cut off, a failed TLS handshake or name lookup
    │  └─ UntrustedError      nothing was sent: the server's certificate is of no authority that we know
    ├─ DeadlineError          no answer within the call's deadline
    ├─ StalledError           an open stream has been silent for longer than is healthy
    ├─ FencedError            a change that must not be made now, because another replica may act; it was not sent
    └─ MalformedError         an answer that can't be read

After an error whose `maybe_done` is true a write may have happened or not; ask before doing it again, or make it repeatable.
"""

import msgspec


class Cause(msgspec.Struct, frozen=True, gc=False):
    """One field that the server did not accept."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """What a Status says about the object it is about."""

    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""
    causes: tuple[Cause, ...] = ()
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """The body of an answer that is an error, and of watch events of type ERROR."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


class KubeError(Exception):
    """Anything that this package raises on purpose."""

    maybe_done = False
    """Whether what was asked for may have happened nevertheless."""


class ConfigurationError(KubeError):
    """The cluster or the credentials can't be read from the given configuration."""


class ApiError(KubeError):
    """The API server's answer is an error."""

    def __init__(self, what: str, status: Status, retry_after: float | None = None) -> None:
        """`what` is method and path; `retry_after` are seconds, if the server named any."""
        super().__init__(f"{what}: {status.code} {status.reason}: {status.message}")
        self.what = what
        self.code = status.code
        self.reason = status.reason
        self.message = status.message
        self.details = status.details or Details()
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """The request itself is wrong."""


class UnauthorizedError(ApiError):
    """The server does not know who we are."""


class ForbiddenError(ApiError):
    """The server does not allow it."""

    @property
    def quota(self) -> bool:
        """Whether a ResourceQuota was exceeded. Its admission plug-in has no reason of its own, only these words."""
        return "exceeded quota" in self.message


class NotFoundError(ApiError):
    """There is no such object, or no such kind."""


class AlreadyExistsError(ApiError):
    """An object of this name is there already."""


class ConflictError(ApiError):
    """The object is not what the request took it for."""

    @property
    def quota(self) -> bool:
        """Whether the count of a ResourceQuota, not the object itself, was changed by somebody else at the same moment."""
        return self.details.kind == "resourcequotas" or "resourcequotas" in self.message


class ExpiredError(ApiError):
    """The server no longer has the resource version or the page that was asked for."""


class InvalidError(ApiError):
    """The object does not fit its kind."""


class ThrottledError(ApiError):
    """The server wants to be asked less, for longer than we may wait."""


class ServerError(ApiError):
    """The server failed."""

    maybe_done = True


class UnreachableError(KubeError):
    """There was no answer, or it broke off."""

    maybe_done = True


class UntrustedError(UnreachableError):
    """Nothing was sent: who answers has no certificate of an authority that we know."""

    maybe_done = False


class DeadlineError(KubeError):
    """There was no answer in time."""

    maybe_done = True


class UnsentError(DeadlineError):
    """The call's turn did not come in time, so many others were under way; nothing was sent."""

    maybe_done = False


class StalledError(KubeError):
    """A stream was silent for too long."""


class FencedError(KubeError):
    """We may change nothing now; the request was not sent."""


class MalformedError(KubeError):
    """An answer is not what it should be."""

    maybe_done = True


_BY_REASON: dict[str, type[ApiError]] = {"AlreadyExists": AlreadyExistsError}
_BY_CODE: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    422: InvalidError,
    429: ThrottledError,
}


def answered(what: str, code: int, body: bytes, retry_after: float | None = None) -> ApiError:
    """The error that an answer stands for. `body` is a Status, or text of whatever answered instead of the API server."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        status = Status(message=body[:500].decode(errors="replace").strip())
    status = msgspec.structs.replace(status, code=status.code or code)
    if retry_after is None and status.details and status.details.retry_after_seconds:
        retry_after = float(status.details.retry_after_seconds)
    kind = _BY_REASON.get(status.reason) or _BY_CODE.get(status.code) or (ServerError if status.code >= 500 else BadRequestError)
    return kind(what, status, retry_after)
